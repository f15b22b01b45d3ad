"""How steep the edges of a frame are."""

import cv2
import numpy as np
from jaxtyping import Float

from heliograph.evaluate.metrics.picture import Frames, grey


def sharpness(frames: Frames) -> Float[np.ndarray, "f"]:
    """Mean length of the luma gradient, in levels per pixel, at the video's own size; 0 for one grey.

    The gradient is Sobel's, divided by 8, so that a ramp of one level per pixel has sharpness 1. Noise counts as
    edges: read it together with `noise`. Videos of different sizes cannot be compared by it.
    """
    return np.array([_steepness(picture) for picture in grey(frames)], np.float64)


def _steepness(picture: np.ndarray) -> float:
    across = cv2.Sobel(picture, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    down = cv2.Sobel(picture, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    return cv2.mean(cv2.magnitude(across, down))[0]
