"""Chunks to fragments of one video size, each at its place in the video."""

import numpy as np
from jaxtyping import UInt8

from heliograph.media.mp4 import FragmentEncoder
from heliograph.serve.fragments import retimed, ticks_per_frame
from heliograph.shapes import CHUNK_FRAMES, FPS

SEQUENCE_STRIDE = 64
"""Numbers kept for the `moof` boxes of one chunk; an encoder may begin a fragment at a cut inside it."""


class ChunkCoder:
    """Encodes chunks of one size; the same frames at the same place give the same bytes, in any process.

    Attributes:
        header: what a player must see before any fragment.
        mime_type: what a browser's media source is opened with.
    """

    def __init__(self, height: int, width: int) -> None:
        self._encoder = FragmentEncoder(height, width, FPS)
        self.header = self._encoder.header
        self.mime_type = self._encoder.mime_type
        self._ticks = ticks_per_frame(self.header)

    def encode(self, frames: UInt8[np.ndarray, "f h w 3"], place: int) -> bytes:
        """The fragment of the chunk with this index. One thread at a time."""
        self._encoder.num_frames = 0
        return self.placed(self._encoder.encode(frames), place * CHUNK_FRAMES)

    def placed(self, fragment: bytes, first_frame: int) -> bytes:
        """The same fragment after `first_frame` frames of a stream. Any thread."""
        return retimed(fragment, first_frame, 1 + first_frame // CHUNK_FRAMES * SEQUENCE_STRIDE, self._ticks)
