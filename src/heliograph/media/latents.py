"""Latents as a NumPy file, `float32 [t c h w]`, readable at any moment with what was written so far."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from heliograph.errors import OutputError
from heliograph.media.arrays import npy_header
from heliograph.media.target import GrowingFile, check_target


class LatentsFile:
    """A `.npy` file that latent frames are added to. The place is checked now, the file made with the first frames."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        if path.suffix.lower() != ".npy":
            raise OutputError(f"cannot write latents to {path}: the name must end in .npy")
        self.path = path
        self.num_frames = 0
        self._target = check_target(path, overwrite=overwrite)
        self._file: GrowingFile | None = None

    def write(self, latents: Float32[np.ndarray, "t c h w"]) -> None:
        """Add latent frames.

        Raises:
            OutputError: the disk is full or fails; says how many frames are in the file.
        """
        try:
            if self._file is None:
                self._file = GrowingFile(self._target)
                self._file.append(npy_header("<f4", (0, *latents.shape[1:])))
            # Frames first, then the number of them: a reader never expects more than there is.
            self._file.append(np.ascontiguousarray(latents).data)
            self._file.rewrite_start(npy_header("<f4", (self.num_frames + len(latents), *latents.shape[1:])))
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}; the {self.num_frames} latent frames before that "
                "are in it; free some space or choose another place"
            ) from error
        self.num_frames += len(latents)

    def close(self) -> None:
        """Leave the file as far as it goes. May be called again."""
        if self._file is not None:
            self._file.close()
