"""Brightness of the whole picture that goes up and down from frame to frame."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def flicker(brightness: Float[np.ndarray, "f"], cuts: Sequence[int] = ()) -> float:
    """Mean |b(t−1) − 2 b(t) + b(t+1)| / 4 in levels, b being mean luma: the amplitude of a flicker from frame to frame.

    Steady light and steady fades count 0, and light that alternates between b − a and b + a counts a. Three frames that
    lie on both sides of a cut are left out.

    Raises:
        ValueError: no three frames in a row belong to one scene.
    """
    bends = np.abs(np.diff(brightness, n=2)) / 4
    kept = np.ones(len(bends), bool)
    for cut in cuts:
        kept[max(0, cut - 2) : cut] = False
    if not kept.any():
        raise ValueError("no three frames in a row belong to one scene")
    return float(bends[kept].mean())
