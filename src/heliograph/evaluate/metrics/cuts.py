"""Where one scene ends and the next begins between two frames."""

import numpy as np
from jaxtyping import Float

from heliograph.evaluate.metrics.thumbnails import Thumbnails

UNLIKE = 0.5
"""Unlikeness from which two frames may belong to different scenes."""

STANDS_OUT = 2.0
"""How many times the unlikeness of a cut is that of any step near it."""

NEAR = 3
"""Steps on either side that a cut must stand out from: flashes, noise and fast motion do not."""

FLAT = 1.0
"""Standard deviation, in levels, under which a picture has no structure to compare."""


def find_cuts(pictures: Thumbnails) -> list[int]:
    """Numbers of the frames that begin a new scene. Dissolves, fades and flashes of up to three frames are no cuts."""
    steps = unlikeness(pictures)
    return [index + 1 for index, step in enumerate(steps) if step > UNLIKE and step > STANDS_OUT * _near(steps, index)]


def unlikeness(pictures: Thumbnails) -> Float[np.ndarray, "n"]:
    """1 − correlation of luma between each frame and the next: 0 the same picture, 1 unrelated, 2 a negative.

    Brightness and contrast do not count. Two pictures without structure are alike; one alone is unrelated.
    """
    rows = pictures.reshape(len(pictures), -1).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    spread = rows.std(axis=1)
    is_flat = spread < FLAT
    units = rows / np.where(is_flat, 1.0, spread)[:, None]
    correlation = (units[:-1] * units[1:]).mean(axis=1)
    flat_before, flat_after = is_flat[:-1], is_flat[1:]
    return 1.0 - np.where(flat_before | flat_after, flat_before & flat_after, correlation)


def _near(steps: Float[np.ndarray, "n"], index: int) -> float:
    """The largest unlikeness among the steps about `index`, itself left out; 0 if there are none."""
    others = [*steps[max(0, index - NEAR) : index], *steps[index + 1 : index + 1 + NEAR]]
    return max(others, default=0.0)
