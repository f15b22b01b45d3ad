"""The autoencoder of a pipeline: on the device where it computes, for chunks of any length."""

from typing import Any

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.errors import UserError
from heliograph.seeds import Generators
from heliograph.shapes import FRAME_STRIDE
from heliograph.vae import LatentCodec


class PlacedAutoencoder:
    """An autoencoder that computes on `device`, wherever its weights wait until they are used (offload)."""

    def __init__(self, autoencoder: nn.Module, device: torch.device) -> None:
        self._autoencoder: Any = autoencoder
        self._device = device

    @property
    def config(self) -> Any:
        """The values of its `config.json`."""
        return self._autoencoder.config

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        return self._autoencoder.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    def encode(self, x: Tensor, /) -> Any:
        """Posterior of a video."""
        return self._autoencoder.encode(x)

    def decode(self, z: Tensor, /) -> Any:
        """Video of latents that are not normalised."""
        return self._autoencoder.decode(z)


class ChunkCodec(LatentCodec):
    """The codec for chunks of `chunk_latents` latent frames instead of the 9 that the models were trained on."""

    def __init__(self, autoencoder: PlacedAutoencoder, chunk_latents: int) -> None:
        super().__init__(autoencoder)
        self.chunk_frames = 1 + (chunk_latents - 1) * FRAME_STRIDE

    @torch.no_grad()
    def decode_chunk(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 f H W"]:
        """The frames of one chunk, in [-1, 1]."""
        mean, inverse_std = self._statistics()
        return self.autoencoder.decode(latents.to(mean) / inverse_std + mean).sample.float()

    def encode_still(self, image: Float[Tensor, "b 3 H W"], generator: Generators = None) -> Float[Tensor, "b c 1 h w"]:
        """The last latent frame of a chunk that shows only this picture."""
        return self._encode(repeat(image, "b c h w -> b c f h w", f=self.chunk_frames), generator)[:, :, -1:]

    def encode_video(
        self, frames: Float[Tensor, "b 3 f H W"], generator: Generators = None
    ) -> tuple[Float[Tensor, "b c 1 h w"], Float[Tensor, "b c t h w"]]:
        """(anchor, latents): the latent of frame 0 alone, and those of the last whole chunks, each on its own.

        Raises:
            UserError: the video is shorter than a chunk.
        """
        num_frames = frames.shape[2]
        if num_frames < self.chunk_frames:
            raise UserError(f"the video has {num_frames} frames, a start needs at least {self.chunk_frames}; give more")
        anchor = self.encode_image(frames[:, :, 0], generator)
        used = frames[:, :, num_frames % self.chunk_frames :]
        return anchor, torch.cat([self._encode(c, generator) for c in used.split(self.chunk_frames, dim=2)], dim=2)


def make_codec(autoencoder: nn.Module, device: torch.device, chunk_latents: int) -> ChunkCodec:
    """The codec of a pipeline that computes on `device`."""
    return ChunkCodec(PlacedAutoencoder(autoencoder, device), chunk_latents)
