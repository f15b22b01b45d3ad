"""From the latents of a chunk to its frames on the host: decoded, made into bytes on the device, and sent over."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from heliograph.transfer import Pending, ToHost
from heliograph.vae import LatentCodec, to_uint8

logger = logging.getLogger(__name__)

Finish = Callable[[Float[Tensor, "1 3 33 H W"]], Float[Tensor, "1 3 33 H W"]]
"""A last change to decoded frames."""


@dataclass(frozen=True)
class Chunk:
    """One turn of the model: 33 frames, and the float32 latents they were decoded from, on the model's device."""

    index: int
    frames: UInt8[np.ndarray, "33 h w 3"]
    latents: Float[Tensor, "1 c 9 h2 w2"]


class Pictures:
    """Turns chunks of latents into frames with one codec; shared by all sessions of an engine."""

    def __init__(self, codec: LatentCodec) -> None:
        self.codec = codec
        self._to_host = ToHost(codec.device)
        # A CPU decodes in a thread of its own: on a second core, beside the sampling of the next chunk.
        is_cpu = codec.device.type == "cpu"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="heliograph-decode") if is_cpu else None

    @torch.no_grad()
    def begin(self, index: int, latents: Float[Tensor, "1 c 9 h2 w2"], finish: Finish | None = None) -> "PendingChunk":
        """Give decoding to the device; nothing is waited for. `finish` may still change the frames, in [-1, 1]."""
        pending = (
            self._decoded(latents, finish)
            if self._thread is None
            else self._thread.submit(self._decoded, latents, finish)
        )
        return PendingChunk(self, index, latents, finish, pending, is_final=self.codec.decoder is None)

    @torch.no_grad()
    def _decoded(self, latents: Float[Tensor, "1 c 9 h2 w2"], finish: Finish | None) -> Pending:
        frames = self.codec.decode_chunk(latents)
        if finish is not None:
            frames = finish(frames)
        return self._to_host.send(to_uint8(frames)[0], frames.isfinite().all())

    def begin_again(self, chunk: "PendingChunk") -> "PendingChunk":
        """Decode in the autoencoder's own precision, now and from now on: half precision ran out of range."""
        logger.warning("decoding in half precision ran out of range; it goes on in the autoencoder's own precision")
        self.codec.decoder = None
        return self.begin(chunk.index, chunk.latents, chunk.finish)


@dataclass(frozen=True)
class PendingChunk:
    """A chunk whose frames are being made; `is_final` where there is no other way to decode it."""

    pictures: Pictures
    index: int
    latents: Float[Tensor, "1 c 9 h2 w2"]
    finish: Finish | None
    frames: Pending | Future[Pending]
    is_final: bool

    def wait(self) -> Chunk:
        """The chunk, once its frames have arrived."""
        pending = self.frames.result() if isinstance(self.frames, Future) else self.frames
        frames, is_finite = pending.wait()
        if not (is_finite or self.is_final):
            return self.pictures.begin_again(self).wait()
        return Chunk(self.index, frames, self.latents)
