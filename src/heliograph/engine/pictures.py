"""From the latents of a chunk to its frames on the host: decoded, made into bytes on the device, and sent over."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from heliograph.transfer import Pending, ToHost
from heliograph.vae import LatentCodec, to_uint8

logger = logging.getLogger(__name__)


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

    @torch.no_grad()
    def begin(self, index: int, latents: Float[Tensor, "1 c 9 h2 w2"]) -> "PendingChunk":
        """Give decoding to the device; nothing is waited for."""
        return PendingChunk(self, index, latents, self._send(latents))

    def again(self, latents: Float[Tensor, "1 c 9 h2 w2"]) -> UInt8[np.ndarray, "33 h w 3"]:
        """Decode in the autoencoder's own precision, now and from now on: half precision ran out of range."""
        logger.warning("decoding in half precision ran out of range; it goes on in the autoencoder's own precision")
        self.codec.decoder = None
        return self._send(latents).wait()[0]

    def _send(self, latents: Float[Tensor, "1 c 9 h2 w2"]) -> Pending:
        frames = self.codec.decode_chunk(latents)
        return self._to_host.send(to_uint8(frames)[0], frames.isfinite().all())


@dataclass(frozen=True)
class PendingChunk:
    """A chunk whose frames are being made."""

    pictures: Pictures
    index: int
    latents: Float[Tensor, "1 c 9 h2 w2"]
    frames: Pending

    def wait(self) -> Chunk:
        """The chunk, once its frames have arrived."""
        frames, is_finite = self.frames.wait()
        if not is_finite and self.pictures.codec.decoder is not None:
            frames = self.pictures.again(self.latents)
        return Chunk(self.index, frames, self.latents)
