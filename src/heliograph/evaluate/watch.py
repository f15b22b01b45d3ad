"""Metrics that look at whole pictures instead of numbers read from them: their description, and how they watch a video.

A watcher is asked for each video; what watches is given the frames in order, once, and answers at the end.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from heliograph.evaluate.scores import Score, Scored
from heliograph.evaluate.videos import Shape, Video

Pieces = Iterable[tuple[UInt8[np.ndarray, "_ h w 3"], int]]
"""Frames of a video, some at a time, and how many of each piece belong to the one before."""


@runtime_checkable
class Watch(Protocol):
    """Looks at one video."""

    def push(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """The next frames, in order."""
        ...

    def scores(self) -> list[Score]:
        """What was found, after the last frame."""
        ...


@runtime_checkable
class Watcher(Protocol):
    """Gives some metrics of any video."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its metrics."""
        ...

    @property
    def title(self) -> str:
        """What network it is, for the report; "" for none."""
        ...

    def source(self, video: Video) -> str | None:
        """What its scores depend on besides the video and `chunk_frames`: scores of another source are made again.

        None where it has nothing to say of the video.
        """
        ...

    def watch(self, video: Video, shape: Shape, chunk_frames: int) -> Watch:
        """Begin with a video that it has something to say of."""
        ...


@dataclass(frozen=True)
class Due:
    """What still has to look at a video, with what its scores depend on."""

    watch: Watch
    source: str


def due_watchers(watchers: Sequence[Watcher], video: Video, scored: Scored | None) -> list[Watcher]:
    """The watchers that have something left to say of a video, or said it of other weights."""
    known = scored.scores if scored else {}

    def is_due(watcher: Watcher) -> bool:
        source = watcher.source(video)
        if source is None:
            return False
        return any(name not in known or known[name].source != source for name in watcher.names)

    return [watcher for watcher in watchers if is_due(watcher)]


def passing(pieces: Pieces, due: Sequence[Due]) -> Iterator[tuple[UInt8[np.ndarray, "_ h w 3"], int]]:
    """The same pieces, shown to all that watch on the way."""
    for frames, num_old in pieces:
        for one in due:
            one.watch.push(frames[num_old:])
        yield frames, num_old
