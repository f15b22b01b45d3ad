"""A video as a strip of very small grey pictures, by which its frames are recognised."""

import cv2
import numpy as np
from jaxtyping import UInt8

from heliograph.evaluate.metrics.picture import Frames, grey

WIDTH, HEIGHT = 32, 18
"""Size of one; 576 bytes a frame, so that an hour of video takes 50 MB."""

Thumbnails = UInt8[np.ndarray, "f 18 32"]
"""One for each frame."""


def thumbnails(frames: Frames) -> Thumbnails:
    """Luma of each frame averaged over a grid of 32 by 18 cells, whatever the frame's shape."""
    made = np.empty((len(frames), HEIGHT, WIDTH), np.uint8)
    for index, picture in enumerate(grey(frames)):
        cv2.resize(picture, (WIDTH, HEIGHT), dst=made[index], interpolation=cv2.INTER_AREA)
    return made
