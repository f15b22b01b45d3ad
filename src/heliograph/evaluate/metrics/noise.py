"""How grainy a frame is, after Immerkær, "Fast noise variance estimation" (1996)."""

import math

import cv2
import numpy as np
from jaxtyping import Float

from heliograph.evaluate.metrics.picture import Frames, grey

MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"""The difference of two Laplacians: blind to ramps and to straight edges along the axes."""


def noise(frames: Frames) -> Float[np.ndarray, "f"]:
    """Standard deviation of white noise on luma, in levels: √(π/2) · mean |picture ∗ MASK| / 6.

    Fine texture counts as noise; what matters is its change over time. At the video's own size.
    """
    return np.array([_spread(picture) for picture in grey(frames)], np.float64)


def _spread(picture: np.ndarray) -> float:
    """The mask weighs white noise by √36 = 6; the mean of |x| of a normal x is √(2/π) of its deviation."""
    answer = cv2.filter2D(picture, cv2.CV_32F, MASK)
    inner = answer[1:-1, 1:-1] if min(answer.shape) > 2 else answer
    return math.sqrt(math.pi / 2) * float(np.abs(inner).mean()) / 6
