"""Scores on disk: one JSON line for each video and metric, written as they come, so that a run can go on."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heliograph.errors import OutputError
from heliograph.evaluate import drift
from heliograph.evaluate.catalogue import BY_NAME, METRICS, VERSION, Read
from heliograph.evaluate.videos import Shape


@dataclass(frozen=True)
class Stamp:
    """What a score belongs to. A file that was changed since has another stamp.

    Attributes:
        folder: as the user named it.
        video: name in the folder.
        num_bytes, changed_ns: of the file.
        chunk_frames: frames between borders, for the seams.
        version: of the metrics' definitions.
    """

    folder: str
    video: str
    num_bytes: int
    changed_ns: int
    chunk_frames: int
    version: int = VERSION

    @classmethod
    def of(cls, folder: Path, name: str, chunk_frames: int) -> "Stamp":
        """Of a file as it is now. One that is gone counts as empty; reading it then says what is wrong."""
        try:
            found = (folder / name).stat()
        except OSError:
            return cls(str(folder), name, 0, 0, chunk_frames)
        return cls(str(folder), name, found.st_size, found.st_mtime_ns, chunk_frames)


@dataclass(frozen=True)
class Score:
    """One metric of one video.

    Attributes:
        value: the number, or None where it is not measured.
        reason: why it is not; empty where it is.
        curve: the metric over time, for plots; empty where it has none.
        source: what it depends on besides the video: weights, or what was asked for; empty where nothing.
    """

    metric: str
    value: float | None
    reason: str = ""
    curve: tuple[float, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Scored:
    """A video with its scores by metric; or, where it could not be read, why not."""

    stamp: Stamp
    shape: Shape | None
    scores: Mapping[str, Score]
    refusal: str = ""


def score_metric(name: str, read: Read, shape: Shape, chunk_frames: int) -> Score:
    """One metric from the series of a video."""
    metric = BY_NAME[name]
    if shape.num_frames < metric.min_frames:
        return Score(name, None, f"has {shape.num_frames} of the {metric.min_frames} frames that are needed")
    try:
        value = metric.score(read, chunk_frames)
    except ValueError as error:
        return Score(name, None, str(error))
    if not math.isfinite(value):
        return Score(name, None, f"came out as {value}")
    return Score(name, value, curve=tuple(drift.curve(metric.curve(read))) if metric.curve else ())


def missing(scored: Scored | None) -> list[str]:
    """Metrics of a video that have no score yet; a video that was refused is tried again."""
    found = scored.scores if scored else {}
    return [metric.name for metric in METRICS if metric.name not in found]


class ScoreFile:
    """The lines of an evaluation. A line that was cut off, as by a crash, is passed over and made again."""

    def __init__(self, path: Path) -> None:
        """Read what is there.

        Raises:
            OutputError: the file cannot be read or written.
        """
        self.path = path
        self._found: dict[Stamp, Scored] = {}
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            self._file = path.open("a", encoding="utf-8")
            if text and not text.endswith("\n"):
                self._file.write("\n")
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({error.strerror}); choose another --output") from error
        for line in text.splitlines():
            self._take(line)

    def get(self, stamp: Stamp) -> Scored | None:
        """What is known of a video."""
        return self._found.get(stamp)

    def add(self, stamp: Stamp, shape: Shape, scores: Iterable[Score]) -> None:
        """Write some scores of a video; they are on their way to the disk when this returns."""
        self._write({**asdict(stamp), "shape": asdict(shape), **asdict(score)} for score in scores)

    def refuse(self, stamp: Stamp, reason: str) -> None:
        """Write that a video cannot be read, unless that is known."""
        known = self.get(stamp)
        if known is not None and known.refusal == reason:
            return
        self._write([{**asdict(stamp), "refusal": reason}])

    def close(self) -> None:
        """Wait for the disk."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, values: Iterable[Mapping[str, Any]]) -> None:
        for value in values:
            line = json.dumps(value, ensure_ascii=False)
            try:
                self._file.write(line + "\n")
                self._file.flush()
            except OSError as error:
                raise OutputError(f"{self.path} cannot be written ({error.strerror}); free some space") from error
            self._take(line)

    def _take(self, line: str) -> None:
        try:
            value = json.loads(line)
            stamp = Stamp(**{name: value[name] for name in Stamp.__dataclass_fields__})
            if "refusal" in value:
                self._found[stamp] = Scored(stamp, None, {}, value["refusal"])
                return
            curve, source = tuple(value["curve"]), value.get("source", "")
            score = Score(value["metric"], value["value"], value["reason"], curve, source)
            shape = Shape(**value["shape"])
        except (ValueError, TypeError, KeyError):
            return
        before = self._found.get(stamp)
        self._found[stamp] = Scored(stamp, shape, {**(before.scores if before else {}), score.metric: score})
