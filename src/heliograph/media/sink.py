"""Where frames go: the protocol, the choice by file name, and sinks that are no file."""

import queue
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from heliograph.errors import OutputError
from heliograph.media.arrays import NpySink
from heliograph.media.filesink import FileSink
from heliograph.media.gif import GifSink
from heliograph.media.mp4 import Mp4Sink
from heliograph.media.stills import SheetSink
from heliograph.media.target import check_target

KINDS: dict[str, type[FileSink]] = {".mp4": Mp4Sink, ".gif": GifSink, ".png": SheetSink, ".npy": NpySink}
"""The sink for each file name suffix."""


@runtime_checkable
class Sink(Protocol):
    """Takes the frames of one video, a few at a time, all of one size.

    Leaving it as a `with` block closes it, leaving by an exception aborts it.
    """

    @property
    def path(self) -> Path | None:
        """The file being written, as the user named it; `None` where there is none."""
        ...

    @property
    def num_frames(self) -> int:
        """Frames taken so far; for a file, frames that are safe."""
        ...

    def write(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Add frames. Raises OutputError where they cannot be written; the sink is then closed."""
        ...

    def close(self) -> None:
        """Complete the video. May be called again. Raises OutputError."""
        ...

    def abort(self) -> None:
        """Stop now; what was written stays and can be shown. May be called again. Raises OutputError."""
        ...

    def __enter__(self) -> "Sink": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_sink(path: str | Path, fps: int, *, overwrite: bool = False) -> FileSink:
    """The sink for a file: `.mp4` video, `.gif`, `.png` contact sheet or `.npy` array `uint8 [f h w 3]`.

    The place is checked now; the file is made with the first frame.

    Raises:
        OutputError: the suffix is none of these, the file exists and `overwrite` is off, or the folder is missing or
            cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in KINDS:
        given = f"ends in {suffix}" if suffix else "has no ending"
        raise OutputError(f"cannot write {path}: the name {given}; use one of {', '.join(KINDS)}")
    return KINDS[suffix](check_target(path, overwrite=overwrite), fps)


class BackgroundSink:
    """Runs another sink in a thread of its own, so that writing a chunk overlaps making the next.

    At most `max_chunks` writes wait; the next one blocks until there is room. Written arrays belong to the sink from
    then on and must not change.
    """

    def __init__(self, inner: Sink, max_chunks: int = 2) -> None:
        assert max_chunks >= 1, f"max_chunks={max_chunks} must be at least 1"
        self._inner = inner
        self._waiting: queue.Queue[UInt8[np.ndarray, "f h w 3"] | None] = queue.Queue(max_chunks)
        self._failure: Exception | None = None
        self._is_stopping = threading.Event()
        self._is_open = True
        # A sink that somebody forgot must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name="heliograph-sink", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path | None:
        """The inner sink's file."""
        return self._inner.path

    @property
    def num_frames(self) -> int:
        """Frames that the inner sink has taken; fewer than were given to `write` while some wait."""
        return self._inner.num_frames

    def write(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Hand over frames; blocks while `max_chunks` wait.

        Raises:
            OutputError: an earlier write failed in the inner sink; that error is the cause.
            RuntimeError: the same, for an error that is not the user's.
        """
        assert self._is_open, f"{self.path} is closed; nothing more can be written to it"
        self._check_failure()
        self._waiting.put(frames)

    def close(self) -> None:
        """Wait until all is written, then close the inner sink. May be called again. Raises as `write`."""
        if not self._is_open:
            return
        self._join()
        if self._failure is not None:
            self._inner.abort()
        self._check_failure()
        self._inner.close()

    def abort(self) -> None:
        """Let the chunk in work finish, drop those that wait, abort the inner sink. May be called again."""
        if not self._is_open:
            return
        self._is_stopping.set()
        self._join()
        self._inner.abort()

    def __enter__(self) -> "BackgroundSink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with suppress(OutputError):  # the first error is the one to report
                self.abort()

    def _run(self) -> None:
        """Write what comes until `None` does; after a failure or a stop, drop it, so that no writer waits for ever."""
        while (frames := self._waiting.get()) is not None:
            if self._failure is not None or self._is_stopping.is_set():
                continue
            try:
                self._inner.write(frames)
            except Exception as error:  # whatever it is, it is raised in the thread that writes
                self._failure = error

    def _join(self) -> None:
        self._is_open = False
        self._waiting.put(None)
        self._thread.join()

    def _check_failure(self) -> None:
        if isinstance(self._failure, OutputError):
            raise OutputError(str(self._failure)) from self._failure
        if self._failure is not None:
            raise RuntimeError(f"writing {self.path} failed: {self._failure}") from self._failure


class FrameCollector:
    """A sink that keeps the frames in memory, for the Python API."""

    path: Path | None = None

    def __init__(self) -> None:
        self.num_frames = 0
        self._chunks: list[UInt8[np.ndarray, "f h w 3"]] = []

    @property
    def frames(self) -> UInt8[np.ndarray, "f h w 3"]:
        """All frames as one array; of shape (0, 0, 0, 3) before the first."""
        if not self._chunks:
            return np.zeros((0, 0, 0, 3), np.uint8)
        if len(self._chunks) > 1:
            self._chunks = [np.concatenate(self._chunks)]
        return self._chunks[0]

    def write(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Keep a copy of the frames."""
        if self._chunks:
            assert frames.shape[1:] == self._chunks[0].shape[1:], (
                f"frames of {frames.shape[1:3]} (height, width) in a video of {self._chunks[0].shape[1:3]}"
            )
        self._chunks.append(frames.copy())
        self.num_frames += len(frames)

    def close(self) -> None:
        """Nothing is left to do; the frames stay."""

    def abort(self) -> None:
        """Nothing is left to do; the frames stay."""

    def __enter__(self) -> "FrameCollector":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
