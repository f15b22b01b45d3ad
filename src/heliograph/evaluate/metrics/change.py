"""How much a frame differs from the one before it: over the whole picture, and where it differs most."""

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float

from heliograph.evaluate.metrics.picture import Frames

MEAN, LARGEST = 0, 1
"""Columns of `changes`."""

BLOCK = 16
"""Side in pixels of the blocks among which the one with the largest change is sought."""


def changes(frames: Frames) -> Float[np.ndarray, "n 2"]:
    """For each of the n = f − 1 pairs of frames mean |difference| in levels: of the picture, and of its worst block."""
    rows = [_change(*pair) for pair in pairwise(frames)]
    return np.array(rows, np.float64).reshape(-1, 2)


def _change(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    difference = cv2.absdiff(first, second)
    height, width = difference.shape[:2]
    grid = (max(1, width // BLOCK), max(1, height // BLOCK))
    blocks = cv2.resize(difference.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
    return float(difference.mean()), float(blocks.mean(axis=-1).max())
