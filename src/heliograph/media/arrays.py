"""Frames as a NumPy file, `uint8 [f h w 3]`, exact and without compression."""

import io
from contextlib import suppress

import numpy as np
from jaxtyping import UInt8

from heliograph.media.filesink import FileSink
from heliograph.media.target import GrowingFile, Target


class NpySink(FileSink):
    """A `.npy` file that `numpy.load` reads at any moment, with the frames written so far."""

    def __init__(self, target: Target, fps: int) -> None:
        super().__init__(target, fps)
        self._file: GrowingFile | None = None

    def _append(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        height, width = frames.shape[1:3]
        if self._file is None:
            self._file = GrowingFile(self._target)
            self._file.append(npy_header("|u1", (0, height, width, 3)))
        # Frames first, then the number of them: a reader never expects more than there is.
        self._file.append(np.ascontiguousarray(frames).data)
        self._file.rewrite_start(npy_header("|u1", (self.num_frames + len(frames), height, width, 3)))

    def _finish(self) -> None:
        if self._file is not None:
            self._file.close()

    def _stop(self) -> None:
        self._finish()

    def _rescue(self) -> bool:
        with suppress(OSError):
            self._finish()
        if self._file is not None and self.num_frames == 0:
            self._target.file.unlink(missing_ok=True)
        return self.num_frames > 0


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The start of the file; NumPy leaves room in it for the first axis to grow, so its length is always the same."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()
