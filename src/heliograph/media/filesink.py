"""What every sink that writes one file shares: sizes, counts, errors and the order of closing."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import UInt8

from heliograph.errors import OutputError
from heliograph.media.target import Target
from heliograph.shapes import CHUNK_FRAMES


class FileSink(ABC):
    """A `Sink` that writes to `target`; a kind of file fills in the four steps at the end of this class.

    No frame written means no file, and one that was there before stays. Leaving the `with` block closes, leaving it by
    an exception aborts.

    Attributes:
        path: the file, as the user named it.
        num_frames: frames taken so far.
        fps: frames per second of the video.
    """

    def __init__(self, target: Target, fps: int) -> None:
        assert fps >= 1, f"fps={fps} must be at least 1"
        self.path: Path = target.path
        self.fps = fps
        self.num_frames = 0
        self._target = target
        self._size: tuple[int, int] | None = None
        self._is_open = True

    def write(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Add frames to the video; they are not kept after this returns.

        Raises:
            OutputError: the disk is full or fails; says what was written. The sink is closed then.
        """
        assert self._is_open, f"{self.path} is closed; nothing more can be written to it"
        size = frames.shape[1:3]
        self._size = self._size or size
        assert size == self._size, f"frames of {size} (height, width) in a video of {self._size}"
        # However much comes at once, memory stays that of a chunk.
        for start in range(0, len(frames), CHUNK_FRAMES):
            piece = frames[start : start + CHUNK_FRAMES]
            self._guarded(lambda piece=piece: self._append(piece))
            self.num_frames += len(piece)

    def close(self) -> None:
        """Complete the file. May be called again.

        Raises:
            OutputError: the disk is full or fails; says what was written.
        """
        self._end(self._finish)

    def abort(self) -> None:
        """Stop now, without the last touches; what was written stays and can be shown. May be called again.

        Raises:
            OutputError: the disk is full or fails; says what was written.
        """
        self._end(self._stop)

    def __enter__(self) -> "FileSink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with suppress(OutputError):  # the first error is the one to report
                self.abort()

    def _end(self, step: Callable[[], None]) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self.num_frames == 0:  # perhaps a first write was interrupted
            self._rescue()
            return
        try:
            self._guarded(step)
        except KeyboardInterrupt:  # the user does not want to wait for the last touches either
            self._rescue()
            raise

    def _guarded(self, step: Callable[[], None]) -> None:
        """Do a step; a failing disk closes the sink and is reported with what is left."""
        try:
            step()
        except OSError as error:
            self._is_open = False
            raise OutputError(self._report(error, kept=self._rescue())) from error

    def _report(self, error: OSError, *, kept: bool) -> str:
        left = f"the {self.num_frames} frames ({self.num_frames / self.fps:.2f} seconds) before that are in it"
        return (
            f"cannot write {self.path}: {error.strerror or error}; "
            f"{left if kept else 'no file was left'}; free some space or choose another place"
        )

    @abstractmethod
    def _append(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Add 1 to `CHUNK_FRAMES` frames, all of the size of the first. May raise OSError."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete the file, if a frame was written. May raise OSError."""

    @abstractmethod
    def _stop(self) -> None:
        """Leave a file that can be shown, quickly, if a frame was written. May raise OSError."""

    @abstractmethod
    def _rescue(self) -> bool:
        """Remove what is half made; say whether a file with the frames so far is left. Raises nothing."""
