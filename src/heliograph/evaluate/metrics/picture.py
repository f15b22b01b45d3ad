"""What every metric begins with: frames made grey, and frames brought to one width."""

import cv2
import numpy as np
from jaxtyping import UInt8

FLOW_WIDTH = 640
"""Width in pixels at which motion and smoothness are measured, as in HeliosBench, whatever the video's own."""

Frames = UInt8[np.ndarray, "f h w 3"]
"""Frames of a video, RGB."""


def grey(frames: Frames) -> UInt8[np.ndarray, "f h w"]:
    """Luma of each pixel, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded."""
    made = np.empty(frames.shape[:3], np.uint8)
    for index, frame in enumerate(frames):
        cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY, dst=made[index])
    return made


def at_width(frames: Frames, width: int = FLOW_WIDTH) -> UInt8[np.ndarray, "f h2 w2 3"]:
    """The frames made `width` pixels wide, their height the nearest even number that keeps the shape.

    Pixels are averaged where the picture shrinks, and interpolated linearly where it grows.
    """
    height = even_height(*frames.shape[1:3], width=width)
    if frames.shape[1:3] == (height, width):
        return frames
    how = cv2.INTER_AREA if frames.shape[2] > width else cv2.INTER_LINEAR
    made = np.empty((len(frames), height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        cv2.resize(frame, (width, height), dst=made[index], interpolation=how)
    return made


def even_height(height: int, width_now: int, *, width: int) -> int:
    """The even height that a picture of `height` by `width_now` pixels gets at `width`; at least 2."""
    return max(2, 2 * round(height * width / width_now / 2))
