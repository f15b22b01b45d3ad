"""Scores of many videos in few numbers: means with intervals, HeliosBench's ratings, the worst clips, comparisons."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heliograph.evaluate.described import Described
from heliograph.evaluate.every import EVERY
from heliograph.evaluate.frechet import Distance
from heliograph.evaluate.heliosbench import CORRECTED, REFERENCE, RULES, Scorecard, long_scorecard
from heliograph.evaluate.scores import Scored
from heliograph.evaluate.statistics import Interval, PairedTest, holm, interval, paired_test, share_interval
from heliograph.evaluate.videos import Video
from heliograph.evaluate.wanted import bench_id

NUM_WORST = 6
"""Clips that a report shows."""


@dataclass(frozen=True)
class Judged:
    """A video and what was found."""

    video: Video
    scored: Scored


@dataclass(frozen=True)
class Made:
    """How the videos of a folder were made: settings, and frames per second from prompt to file, None if unknown."""

    settings: Mapping[str, Any]
    frames_per_second: float | None


@dataclass(frozen=True)
class Folder:
    """All videos of one folder.

    Attributes:
        name: as the report shows it.
        videos: those that were scored.
        refused: those that could not be read.
        distance: from true clips of the procedural world, where the prompts are of it.
        made: what its videos were made with and how fast, where they were made here.
    """

    name: str
    videos: tuple[Judged, ...]
    refused: tuple[Judged, ...]
    distance: Distance | None = None
    made: Made | None = None

    def values(self, metric: str) -> list[float]:
        """The metric of every video that has it, in the order of the videos."""
        return [value for judged in self.videos if (value := value_of(judged, metric)) is not None]

    def mean(self, metric: str) -> Interval | None:
        """Its mean over videos; None where no video has it. What is right or wrong has the interval of a share."""
        values = self.values(metric)
        if values and metric.endswith(" right"):
            return share_interval(round(sum(values)), len(values))
        return interval(values) if values else None


@dataclass(frozen=True)
class Worst:
    """A clip that is among the worst.

    Attributes:
        badness: mean over its metrics of the share of clips that are better, 0 to 1.
        faults: the metrics in which it is worst, worst first, with its value.
    """

    judged: Judged
    badness: float
    faults: tuple[tuple[Described, float], ...]


@dataclass(frozen=True)
class Compared:
    """One metric of two folders over the videos that both have, second minus first.

    `other` is the number of the second folder; `p_together` is `p` made fit for all metrics and folders of a report.
    """

    other: int
    metric: Described
    test: PairedTest
    p_together: float | None


def value_of(judged: Judged, metric: str) -> float | None:
    """One number of one video, or None where it is not measured."""
    score = judged.scored.scores.get(metric)
    return None if score is None else score.value


def reasons(folder: Folder, metric: str) -> Mapping[str, int]:
    """Why videos do not have a metric, and how many."""
    found: dict[str, int] = {}
    for judged in folder.videos:
        score = judged.scored.scores.get(metric)
        if score is not None and score.value is None:
            found[score.reason] = found.get(score.reason, 0) + 1
    return found


def heliosbench(folder: Folder) -> tuple[Scorecard, Scorecard]:
    """The long rules as the reference computes them, and put right; what needs a network may not be measured."""
    raw = {rule.name: found.mean for rule in RULES if (found := folder.mean(metric_of(rule.name)))}
    signed, component = folder.mean("signed motion"), folder.mean("component motion")
    return (
        long_scorecard(raw if signed is None else {**raw, "motion amplitude": signed.mean}, REFERENCE),
        long_scorecard(raw if component is None else {**raw, "motion amplitude": component.mean}, CORRECTED),
    )


def metric_of(rule: str) -> str:
    """The metric's name here of one of HeliosBench's: `drift smoothness` is `motion smoothness drift`."""
    if not rule.startswith("drift "):
        return rule
    subject = rule.removeprefix("drift ")
    return f"{'motion ' if subject == 'smoothness' else ''}{subject} drift"


def worst_clips(folder: Folder) -> list[Worst]:
    """The clips that fare worst among those of the folder, over all metrics that have a good and a bad way."""
    shares: list[dict[str, float]] = [{} for _ in folder.videos]
    for metric in EVERY:
        if not metric.better:
            continue
        sign = 1 if metric.better == "low" else -1
        known = [
            (i, sign * v) for i, judged in enumerate(folder.videos) if (v := value_of(judged, metric.name)) is not None
        ]
        for index, value in known:
            shares[index][metric.name] = sum(other < value for _, other in known) / max(1, len(known) - 1)
    found = [_worst(judged, share) for judged, share in zip(folder.videos, shares, strict=True)]
    return sorted(found, key=lambda worst: -worst.badness)[:NUM_WORST]


def compare(folders: Sequence[Folder]) -> list[Compared]:
    """Paired tests of every metric between the first folder and each other, over the videos that both have.

    Empty where they share none. The chances are made fit for all tests of the report together.
    """
    tests = [
        (other, metric, test)
        for other, second in enumerate(folders[1:], start=1)
        for metric, test in _tests(pair_up(folders[0].videos, second.videos))
    ]
    chances = iter(holm([test.p for *_, test in tests if test.p is not None]))
    return [Compared(other, metric, test, None if test.p is None else next(chances)) for other, metric, test in tests]


def _tests(pairs: Sequence[tuple[Judged, Judged]]) -> Iterator[tuple[Described, PairedTest]]:
    for metric in EVERY:
        both = [(value_of(one, metric.name), value_of(other, metric.name)) for one, other in pairs]
        known = [(one, other) for one, other in both if one is not None and other is not None]
        if known:
            yield metric, paired_test([one for one, _ in known], [other for _, other in known])


def pair_up(first: Sequence[Judged], second: Sequence[Judged]) -> list[tuple[Judged, Judged]]:
    """Videos of the same prompt: the same HeliosBench id, or else the same name."""
    others = {pair_key(judged): judged for judged in second}
    return [(judged, others[key]) for judged in first if (key := pair_key(judged)) in others]


def pair_key(judged: Judged) -> str:
    """What two videos of the same prompt have in common."""
    return name_key(judged.video)


def name_key(video: Video) -> str:
    """A HeliosBench id, or else the name."""
    number = bench_id(video.path)
    return f"id {number}" if number is not None else video.name


def _worst(judged: Judged, shares: Mapping[str, float]) -> Worst:
    ranked = sorted((m for m in EVERY if shares.get(m.name, 0) > 0.5), key=lambda metric: -shares[metric.name])
    faults = [(metric, value) for metric in ranked if (value := value_of(judged, metric.name)) is not None]
    return Worst(judged, float(np.mean(list(shares.values()))) if shares else 0.0, tuple(faults[:4]))
