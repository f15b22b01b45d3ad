"""How a property of the frames changes from the beginning of a video to its end (HeliosBench's definition)."""

import math

import numpy as np
from jaxtyping import Float

PORTION = 0.15
"""Share of the video that each end is."""

CURVE_POINTS = 60
"""Points of a curve over time, at most."""


def portion(num_frames: int) -> int:
    """Frames of each end: max(1, ⌊0.15 n⌋)."""
    return max(1, int(PORTION * num_frames))


def drift(values: Float[np.ndarray, "f"]) -> float:
    """|mean over the first 15 % − mean over the last 15 %|, in the unit of the values; 0 is best."""
    part = portion(len(values))
    return abs(float(values[:part].mean()) - float(values[-part:].mean()))


def scattered_drift(stretches: Float[np.ndarray, "n"]) -> float:
    """The drift to expect of a video whose stretches come in random order: one that does not drift, only changes.

    With k stretches at each end and s² their variance, the difference of two such means has the variance 2 s²/k, and
    for a normal distribution the mean size 2 s/√(π k). 0 for fewer than two stretches.
    """
    if len(stretches) < 2:
        return 0.0
    return 2 * float(np.std(stretches, ddof=1)) / math.sqrt(math.pi * portion(len(stretches)))


def curve(values: Float[np.ndarray, "f"]) -> list[float]:
    """The values over time as means of at most `CURVE_POINTS` equal stretches."""
    return [float(stretch.mean()) for stretch in np.array_split(values, min(CURVE_POINTS, len(values)))]
