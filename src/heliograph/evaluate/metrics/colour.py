"""Brightness and colour of a frame as three averages; all in levels of 8 bits."""

import cv2
import numpy as np
from jaxtyping import Float

from heliograph.evaluate.metrics.picture import Frames

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in luma (ITU-R BT.601)."""


def brightness(frames: Frames) -> Float[np.ndarray, "f"]:
    """Mean luma of each frame, 0 (black) to 255 (white)."""
    return _mean_colours(frames) @ LUMA


def warmth(frames: Frames) -> Float[np.ndarray, "f"]:
    """Mean of red minus mean of blue of each frame, -255 (blue) to 255 (red); 0 for greys."""
    means = _mean_colours(frames)
    return means[:, 0] - means[:, 2]


def saturation(frames: Frames) -> Float[np.ndarray, "f"]:
    """Mean over the pixels of the largest minus the smallest of R, G, B: 0 for greys, 255 for pure colours."""
    return np.array([_spread(frame) for frame in frames], np.float64)


def _mean_colours(frames: Frames) -> Float[np.ndarray, "f 3"]:
    return np.array([cv2.mean(frame)[:3] for frame in frames], np.float64).reshape(-1, 3)


def _spread(frame: np.ndarray) -> float:
    red, green, blue = cv2.split(frame)
    high, low = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    return cv2.mean(cv2.subtract(high, low))[0]
