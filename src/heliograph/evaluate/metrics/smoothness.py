"""How well every second frame can be foretold from its neighbours.

HeliosBench drops the odd frames, makes them again from the even ones on either side with a network (AMT-S), and
measures the difference. Here the odd frame is foretold by the plain blend of its neighbours, which needs no weights:
it is exact for a still picture and for a fade, and falls with motion, judder and flicker. The two are not comparable.
"""

import cv2
import numpy as np
from jaxtyping import Float

from heliograph.evaluate.metrics.picture import Frames, shrunk

BLEND_REACH = 2
"""Frames before the last of the three that one difference needs."""

MIN_DRIFT_FRAMES = 4
"""Fewest frames at each end that smoothness drift looks at, as in HeliosBench."""


def blend_errors(frames: Frames) -> Float[np.ndarray, "n"]:
    """For each three frames in a row, mean |middle − blend of the outer two| over pixels and channels, in levels.

    The n = max(0, f − 2) differences are taken at width 640 or below; the blend is rounded to whole levels.
    """
    pictures = shrunk(frames)
    errors = [
        float(cv2.absdiff(middle, cv2.addWeighted(before, 0.5, after, 0.5, 0.0)).mean())
        for before, middle, after in zip(pictures, pictures[1:], pictures[2:], strict=False)
    ]
    return np.array(errors, np.float64)


def smoothness(errors: Float[np.ndarray, "n"]) -> float:
    """(255 − d) / 255, where d is the mean over the odd frames that have a neighbour on either side; 1 is best.

    `errors` are those of `blend_errors` for a whole video: the first is that of frame 1.
    """
    return (255.0 - float(errors[::2].mean())) / 255.0


def smoothness_drift(errors: Float[np.ndarray, "n"]) -> float:
    """|smoothness of the first 15 % − smoothness of the last 15 %|, at least four frames each (HeliosBench)."""
    num_frames = len(errors) + BLEND_REACH
    part = max(MIN_DRIFT_FRAMES, int(0.15 * num_frames))
    inside = part - BLEND_REACH
    return abs(smoothness(errors[:inside]) - smoothness(errors[len(errors) - inside :]))
