"""Every metric that needs no weights: its name, its unit, which way is good, and how it follows from the series."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from heliograph.evaluate.described import Described
from heliograph.evaluate.drift import drift
from heliograph.evaluate.metrics.change import MEAN
from heliograph.evaluate.metrics.cuts import find_cuts
from heliograph.evaluate.metrics.flicker import flicker
from heliograph.evaluate.metrics.freeze import frozen_fraction, longest_freeze
from heliograph.evaluate.metrics.loops import MIN_PERIOD, find_loop
from heliograph.evaluate.metrics.motion import LENGTH, component_motion, motion, signed_motion
from heliograph.evaluate.metrics.seams import seam_ratio, steps
from heliograph.evaluate.metrics.smoothness import MIN_DRIFT_FRAMES, smoothness, smoothness_drift
from heliograph.evaluate.series import Values

VERSION = 1
"""Raised whenever a metric's definition changes: scores of another version are made again."""

Read = Mapping[str, Values]
"""The series of one video by name."""

OverTime = Float[np.ndarray, "n"]


@dataclass(frozen=True)
class Metric(Described):
    """A number for a whole video that needs no weights and no knowledge of what was asked for.

    Attributes:
        needs: names of the series it is computed from.
        min_frames: fewest frames of a video that has it.
        score: the number, from the series and the frames of a chunk. A ValueError says why a video has none.
        curve: the metric over time, where there is one to show.
    """

    needs: tuple[str, ...]
    min_frames: int
    score: Callable[[Read, int], float]
    curve: Callable[[Read], OverTime] | None = None


PROPERTIES: tuple[tuple[str, str, float, str], ...] = (
    ("brightness", "levels", 0.05, "Mean luma."),
    ("contrast", "levels", 0.05, "Standard deviation of luma over the picture."),
    ("saturation", "levels", 0.05, "Mean of the largest minus the smallest of R, G and B."),
    ("warmth", "levels", 0.05, "Mean of red minus mean of blue."),
    ("sharpness", "levels/px", 0.02, "Mean luma gradient at the video's own size; noise counts, too."),
    ("noise", "levels", 0.02, "White noise on luma after Immerkær; fine texture counts, too."),
)
"""Properties of a frame: name, unit, the step too small to see (for seams), and what it is."""


def _of_property(name: str, unit: str, meaning: str) -> Metric:
    return Metric(
        name,
        unit,
        "picture",
        "",
        meaning,
        (name,),
        1,
        lambda read, _: float(read[name].mean()),
        lambda read: read[name],
    )


def _drift_of(name: str, unit: str) -> Metric:
    meaning = f"How far {name} of the last 15 % lies from that of the first 15 %."
    return Metric(f"{name} drift", unit, "drift", "low", meaning, (name,), 2, lambda read, _: drift(read[name]))


def _seam_of(name: str, floor: float, series: str, jumps: Callable[[Values], OverTime]) -> Metric:
    meaning = f"The usual jump of {name} at chunk borders over that inside chunks; 1 is no seam, 2 twice the jump."
    return Metric(
        f"{name} seam",
        "×",
        "seams",
        "low",
        meaning,
        (series,),
        3,
        lambda read, n: seam_ratio(jumps(read[series]), n, floor),
    )


def _length(read: Read) -> OverTime:
    return read["flow"][:, LENGTH]


METRICS: tuple[Metric, ...] = (
    Metric(
        *("motion", "px/frame", "motion", "", "Mean length of optical flow at width 640; 0 is a still picture."),
        *(("flow",), 2, lambda read, _: motion(read["flow"]), _length),
    ),
    Metric(
        *("signed motion", "px/frame", "motion", "", "HeliosBench's motion amplitude: opposite motions cancel."),
        *(("flow",), 2, lambda read, _: signed_motion(read["flow"])),
    ),
    Metric(
        *("component motion", "px/frame", "motion", "", "The same without signs: the corrected motion amplitude."),
        *(("flow",), 2, lambda read, _: component_motion(read["flow"])),
    ),
    Metric(
        *(
            "blend smoothness",
            "",
            "motion",
            "high",
            "Odd frames foretold by the blend of their neighbours; 1 is exact.",
        ),
        *(("blend",), 3, lambda read, _: smoothness(read["blend"])),
        lambda read: (255 - read["blend"]) / 255,
    ),
    Metric(
        *("flicker", "levels", "faults", "low", "Amplitude of brightness that goes up and down from frame to frame."),
        *(("brightness", "thumbnails"), 3),
        lambda read, _: flicker(read["brightness"], find_cuts(read["thumbnails"])),
    ),
    Metric(
        *("frozen", "fraction", "faults", "low", "Share of the steps from frame to frame in which nothing moved."),
        *(("changes",), 2, lambda read, _: frozen_fraction(read["changes"])),
    ),
    Metric(
        *("longest freeze", "frames", "faults", "low", "Most steps in a row in which nothing moved."),
        *(("changes",), 2, lambda read, _: longest_freeze(read["changes"])),
    ),
    Metric(
        *("loop", "", "faults", "low", "How exactly the video comes back to what it showed; 1 repeats."),
        *(("thumbnails",), 4 * MIN_PERIOD, lambda read, _: find_loop(read["thumbnails"]).score),
    ),
    Metric(
        *(
            "loop period",
            "frames",
            "faults",
            "",
            "After how many frames it comes back the most; 0 where it never does.",
        ),
        *(("thumbnails",), 4 * MIN_PERIOD, lambda read, _: float(find_loop(read["thumbnails"]).period)),
    ),
    Metric(
        *("scene cuts", "cuts", "faults", "low", "Frames that begin a new scene; dissolves are not counted."),
        *(("thumbnails",), 2, lambda read, _: float(len(find_cuts(read["thumbnails"])))),
    ),
    *(_of_property(name, unit, meaning) for name, unit, _, meaning in PROPERTIES),
    *(_drift_of(name, unit) for name, unit, _, _ in PROPERTIES),
    Metric(
        *("motion drift", "px/frame", "drift", "low", "How far motion of the last 15 % lies from that of the first."),
        *(("flow",), 3, lambda read, _: drift(_length(read))),
    ),
    Metric(
        *(
            "blend smoothness drift",
            "",
            "drift",
            "low",
            "How far blend smoothness of the last 15 % lies from the first.",
        ),
        *(("blend",), 2 * MIN_DRIFT_FRAMES, lambda read, _: smoothness_drift(read["blend"])),
    ),
    *(_seam_of(name, floor, name, steps) for name, _, floor, _ in PROPERTIES),
    _seam_of("picture", 0.2, "changes", lambda rows: rows[:, MEAN]),
    _seam_of("motion", 0.05, "flow", lambda rows: rows[:, LENGTH]),
)
"""All of them, in the order of the report."""

BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
