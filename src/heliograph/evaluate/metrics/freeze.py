"""A video that stands still: frames that repeat the one before them."""

import numpy as np
from jaxtyping import Bool, Float

from heliograph.evaluate.metrics.change import LARGEST

STILL = 2.0
"""Largest mean change of any block, in levels, of a frame that repeats the one before; coding noise stays below."""


def frozen_fraction(changes: Float[np.ndarray, "n 2"]) -> float:
    """Share of the steps from frame to frame in which nothing moved, 0 to 1."""
    return float(_is_still(changes).mean())


def longest_freeze(changes: Float[np.ndarray, "n 2"]) -> float:
    """Most steps in a row in which nothing moved, in frames."""
    longest = run = 0
    for is_still in _is_still(changes):
        run = run + 1 if is_still else 0
        longest = max(longest, run)
    return float(longest)


def _is_still(changes: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, "n"]:
    return changes[:, LARGEST] < STILL
