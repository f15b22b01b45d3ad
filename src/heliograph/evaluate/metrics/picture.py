"""What every metric begins with: frames made grey, and large frames made as small as HeliosBench looks at them."""

import cv2
import numpy as np
from jaxtyping import UInt8

FLOW_WIDTH = 640
"""Width in pixels at which HeliosBench measures motion and smoothness."""

Frames = UInt8[np.ndarray, "f h w 3"]
"""Frames of a video, RGB."""


def grey(frames: Frames) -> UInt8[np.ndarray, "f h w"]:
    """Luma of each pixel, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded."""
    made = np.empty(frames.shape[:3], np.uint8)
    for index, frame in enumerate(frames):
        cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY, dst=made[index])
    return made


def shrunk(frames: Frames, width: int = FLOW_WIDTH) -> UInt8[np.ndarray, "f h2 w2 3"]:
    """Wider frames averaged down to `width` pixels, their height the nearest even number that keeps the shape.

    Frames that are no wider stay as they are. HeliosBench enlarges those; what an enlarged picture shows is too smooth
    for optical flow, which then finds a part of the motion only.
    """
    if frames.shape[2] <= width:
        return frames
    height = max(2, 2 * round(frames.shape[1] * width / frames.shape[2] / 2))
    made = np.empty((len(frames), height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        cv2.resize(frame, (width, height), dst=made[index], interpolation=cv2.INTER_AREA)
    return made
