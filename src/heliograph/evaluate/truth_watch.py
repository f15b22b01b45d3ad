"""Ground truth as metrics: whether a clip of the procedural world shows what its prompt asked for, and keeps to it.

Only videos whose prompts come with a record (`wanted.Wanted.record`) have these.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from heliograph.data.diorama.record import Record
from heliograph.evaluate.described import Described
from heliograph.evaluate.scores import Score
from heliograph.evaluate.sight import GRID
from heliograph.evaluate.truth import MIN_FRAMES, Reader
from heliograph.evaluate.videos import Shape, Video

LONGEST = 1980
"""Frames that are read, from the beginning: 82 seconds, 40 MB at the height at which clips are read."""

ATTRIBUTES = ("scene", "time", "kind", "colour", "count", "size", "pan", "direction", "motion", "speed")
"""What the checkers read, in the order of the report."""

LOOKS = ("kind", "colour")
"""What makes a subject the same one later on."""

TRUTH: tuple[Described, ...] = (
    Described("prompt following", "", "truth", "high", "Share of what the prompt asks for that is read back rightly."),
    *(
        Described(f"{name} right", "", "truth", "high", f"Whether the {name} that was asked for is read back.")
        for name in ATTRIBUTES
    ),
    Described(
        "identity", "", "truth", "high", "How far later chunks show the kind and colour of the first one's subject."
    ),
)


class TruthWatcher:
    """Reads clips of the world with `truth.Reader`."""

    title = ""

    def __init__(self) -> None:
        self.names = tuple(metric.name for metric in TRUTH)
        self._reader = Reader()

    def source(self, video: Video) -> str | None:
        """The record; None for videos of anything but the world."""
        return None if video.record is None else " ".join(str(value) for value in vars(video.record).values())

    def watch(self, video: Video, shape: Shape, chunk_frames: int) -> "TruthWatch":
        """Begin with a clip of the world."""
        assert video.record is not None, f"{video.name} has no record"
        return TruthWatch(self._reader, video.record, chunk_frames)


class TruthWatch:
    """Keeps a small picture of every frame and reads them all at the end."""

    def __init__(self, reader: Reader, record: Record, chunk_frames: int) -> None:
        self._reader, self._record, self._chunk_frames = reader, record, chunk_frames
        self._small: list[UInt8[np.ndarray, "g v 3"]] = []

    def push(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Keep them at the height at which clips are read."""
        self._small += small(frames[: max(0, LONGEST - len(self._small))])

    def scores(self) -> list[Score]:
        """Every attribute that can be judged as 0 or 1, their mean, and identity."""
        clip = np.stack(self._small)
        if len(clip) < MIN_FRAMES or min(clip.shape[1:3]) < 32:
            reason = f"has {len(clip)} frames of {clip.shape[2]}×{clip.shape[1]}; {MIN_FRAMES} of 32×32 are needed"
            return [Score(metric.name, None, reason) for metric in TRUTH]
        right = self._reader.check(clip, self._record)
        following = Score("prompt following", float(np.mean(list(right.values()))))
        return [following, *(_judged(name, right) for name in ATTRIBUTES), self._identity(clip)]

    def _identity(self, clip: UInt8[np.ndarray, "f g v 3"]) -> Score:
        pieces = [clip[at : at + self._chunk_frames] for at in range(0, len(clip), self._chunk_frames)]
        whole = [piece for piece in pieces if len(piece) >= MIN_FRAMES]
        if len(whole) < 2:
            return Score("identity", None, f"has no second chunk of {MIN_FRAMES} frames or more")
        return Score("identity", identity(whole, self._reader, self._record))


def identity(pieces: Sequence[UInt8[np.ndarray, "f g v 3"]], reader: Reader, record: Record) -> float:
    """How far later pieces of a clip keep the first one's subject: the share of kind and colour read alike, 0 to 1.

    Where the first piece shows no subject, that of the first piece with one counts. Without any it is 0.
    """
    readings = [reader.read(piece, record) for piece in pieces]
    looks = [tuple(reading[name].value for name in LOOKS) for reading in readings]
    first = next((index for index, look in enumerate(looks) if None not in look), None)
    if first is None:
        return 0.0
    later = [look for index, look in enumerate(looks) if index != first]
    return float(np.mean([[one == other for one, other in zip(look, looks[first], strict=True)] for look in later]))


def small(frames: UInt8[np.ndarray, "f h w 3"]) -> list[UInt8[np.ndarray, "g v 3"]]:
    """Each frame averaged down to the height at which clips are read; frames that are no higher stay as they are."""
    height, width = frames.shape[1:3]
    if height <= GRID:
        return [frame.copy() for frame in frames]
    size = (max(1, round(GRID * width / height)), GRID)
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]


def _judged(name: str, right: dict[str, bool]) -> Score:
    if name not in right:
        return Score(f"{name} right", None, "cannot be judged for this prompt and length")
    return Score(f"{name} right", float(right[name]))
