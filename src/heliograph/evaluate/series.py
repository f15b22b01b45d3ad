"""What is read from the frames, number by number, while a video passes by once; metrics are computed from it after."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8

from heliograph.evaluate.metrics.change import changes
from heliograph.evaluate.metrics.colour import brightness, saturation, warmth
from heliograph.evaluate.metrics.contrast import contrast
from heliograph.evaluate.metrics.motion import flow_means
from heliograph.evaluate.metrics.noise import noise
from heliograph.evaluate.metrics.sharpness import sharpness
from heliograph.evaluate.metrics.smoothness import BLEND_REACH, blend_errors
from heliograph.evaluate.metrics.thumbnails import thumbnails

Values = Shaped[np.ndarray, "..."]
"""One row for each frame, each pair of frames, or each three."""


@dataclass(frozen=True)
class Series:
    """Something that is read from frames in order.

    Attributes:
        reach: frames before a frame that its row needs; so many rows fewer than frames come out.
        read: rows of some frames in a row.
    """

    reach: int
    read: Callable[[UInt8[np.ndarray, "f h w 3"]], Values]


ALL: Mapping[str, Series] = {
    "brightness": Series(0, brightness),
    "saturation": Series(0, saturation),
    "warmth": Series(0, warmth),
    "contrast": Series(0, contrast),
    "sharpness": Series(0, sharpness),
    "noise": Series(0, noise),
    "thumbnails": Series(0, thumbnails),
    "changes": Series(1, changes),
    "flow": Series(1, flow_means),
    "blend": Series(BLEND_REACH, blend_errors),
}
"""Every series by name."""


def lookback(names: Iterable[str]) -> int:
    """Frames before a piece of a video that these series need."""
    return max((ALL[name].reach for name in names), default=0)


def read_series(pieces: Iterable[tuple[UInt8[np.ndarray, "_ h w 3"], int]], names: Iterable[str]) -> dict[str, Values]:
    """These series of a whole video, from its pieces and how many frames of each belong to the one before.

    The same as of all frames at once; a video that is too short for a series has no row of it.
    """
    rows: dict[str, list[Values]] = {name: [] for name in names}
    for frames, num_old in pieces:
        for name, found in rows.items():
            found.append(ALL[name].read(frames[max(0, num_old - ALL[name].reach) :]))
    return {name: np.concatenate(found) for name, found in rows.items()}
