"""How much moves: dense optical flow after Farneback (2003) between frames that follow each other.

The flow is in pixels per frame of a picture 640 pixels wide. HeliosBench averages the signed components, so that
opposite motions cancel: a pan of (1, -1) counts 0 and one of (1, 0) counts 0.5. Here are that form, the same average
without the signs, and the length of the vectors, which is what a person would call motion.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from heliograph.evaluate.metrics.picture import FLOW_WIDTH, Frames, grey, shrunk

LENGTH, SIGNED, COMPONENT = 0, 1, 2
"""Columns of `flow_means`."""

GRID_WIDTH = 16
"""Columns of the coarse grid on which HeliosBench averages the flow."""


def flow_means(frames: Frames) -> Float[np.ndarray, "n 3"]:
    """Means over the picture for each of the n = f − 1 pairs of frames, in pixels per frame at width 640.

    With (u, v) the flow: the mean of √(u² + v²); the mean of (u + v)/2 over an area-averaged grid 16 wide, as
    HeliosBench has it; the mean of (|u| + |v|)/2.
    """
    pictures = grey(shrunk(frames))
    # The library works on a pair with one core, and lets others run meanwhile.
    with ThreadPoolExecutor(max(1, cv2.getNumThreads())) as pool:
        rows = list(pool.map(lambda pair: _means(flow(*pair)), pairwise(pictures)))
    # Narrower videos are not enlarged; their motion is given as it would be at that width.
    return np.array(rows, np.float64).reshape(-1, 3) * (FLOW_WIDTH / pictures.shape[2])


def flow(first: UInt8[np.ndarray, "h w"], second: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 2"]:
    """Where each pixel of `first` has gone in `second`, (right, down) in pixels; HeliosBench's settings."""
    start = np.zeros((*first.shape, 2), np.float32)
    return cv2.calcOpticalFlowFarneback(first, second, start, 0.5, 3, 15, 3, 5, 1.2, 0)


def motion(means: Float[np.ndarray, "n 3"]) -> float:
    """Mean length of motion, pixels per frame at width 640; 0 is a still picture."""
    return float(means[:, LENGTH].mean())


def signed_motion(means: Float[np.ndarray, "n 3"]) -> float:
    """HeliosBench's motion amplitude: the absolute value of the mean of signed components, pixels per frame."""
    return abs(float(means[:, SIGNED].mean()))


def component_motion(means: Float[np.ndarray, "n 3"]) -> float:
    """Mean absolute component, pixels per frame: equals HeliosBench's form for a pan down and to the right.

    It is on the scale of HeliosBench's thresholds, and motions do not cancel.
    """
    return float(means[:, COMPONENT].mean())


def _means(field: Float[np.ndarray, "h w 2"]) -> tuple[float, float, float]:
    height, width = field.shape[:2]
    grid = cv2.resize(field, (GRID_WIDTH, max(1, round(GRID_WIDTH * height / width))), interpolation=cv2.INTER_AREA)
    length = cv2.magnitude(field[..., 0], field[..., 1])
    return float(length.mean()), float(grid.mean()), float(np.abs(field).mean())
