"""How far light and dark lie apart in a frame."""

import cv2
import numpy as np
from jaxtyping import Float

from heliograph.evaluate.metrics.picture import Frames, grey


def contrast(frames: Frames) -> Float[np.ndarray, "f"]:
    """Standard deviation of luma over the pixels of each frame, in levels: 0 (one grey) to 127.5 (half black)."""
    return np.array([cv2.meanStdDev(picture)[1].item() for picture in grey(frames)], np.float64)
