"""A small, fast video autoencoder of 2-D convolutions with a one-frame memory, in the shape of TAEHV.

33 frames become 9 latent frames of 16 channels, 8×8 pixels to a cell, as with the Wan autoencoder: the first frame is
repeated to a group of four, and the three frames too many that come out first are dropped. Tensor names and shapes are
those of the public `taew2_1` weights, so those load too, as a fast decoder for the big models. Pixels are in [-1, 1] at
this class's border, and latents are those of the model (normalised: mean 0, deviation 1 unless the config says other).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.shapes import FRAME_STRIDE

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

LATENT_BOUND = 3.0
"""Latents are softly held inside ± this before decoding."""

SPACE_STAGES = 3
"""Halvings of height and width: 8 pixels to a latent cell."""


@dataclass(frozen=True)
class Encoded:
    """What `encode` returns, under the library's name."""

    latent_dist: "DiagonalGaussianDistribution"

    @classmethod
    def certain(cls, z: Float[Tensor, "b c t h w"]) -> "Encoded":
        """Latents as a distribution that has no width."""
        # Importing it imports every network of the library, half a second that nothing made from text alone needs.
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution  # noqa: PLC0415

        return cls(DiagonalGaussianDistribution(torch.cat([z, torch.zeros_like(z)], dim=1), deterministic=True))


@dataclass(frozen=True)
class Decoded:
    """What `decode` returns, under the library's name."""

    sample: Float[Tensor, "b 3 f h w"]


class SoftBound(nn.Module):
    """bound·tanh(x / bound)."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Values near zero unchanged, far ones held back."""
        return torch.tanh(x / LATENT_BOUND) * LATENT_BOUND


class MemoryBlock(nn.Module):
    """Residual block that sees each frame together with the frame before it (zeros before the first)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(2 * dim, dim), nn.ReLU(), _conv(dim, dim), nn.ReLU(), _conv(dim, dim))

    def forward(self, x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """All frames at once."""
        # Single frames are four-dimensional, as which PyTorch keeps their channels last where they are.
        frames, num_frames = rearrange(x, "b t c h w -> (b t) c h w"), x.shape[1]
        past = torch.zeros_like(frames)
        rearrange(past, "(b t) c h w -> b t c h w", t=num_frames)[:, 1:] = x[:, :-1]
        return _clip(F.relu(self.conv(torch.cat([frames, past], dim=1)) + frames), num_frames)


class TimePool(nn.Module):
    """`stride` frames to one."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(dim * stride, dim, 1, bias=False)

    def forward(self, x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t2 c h w"]:
        """Frames of each group side by side, mixed."""
        grouped = rearrange(x, "b (t s) c h w -> (b t) (s c) h w", s=self.stride)
        return rearrange(self.conv(grouped), "(b t) c h w -> b t c h w", b=x.shape[0])


class TimeGrow(nn.Module):
    """One frame to `stride`."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(dim, dim * stride, 1, bias=False)

    def forward(self, x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t2 c h w"]:
        """The frames of a group out of one."""
        grown = self.conv(rearrange(x, "b t c h w -> (b t) c h w"))
        if self.stride == 1 or grown.is_contiguous():
            return rearrange(grown, "(b t) (s c) h w -> b (t s) c h w", b=x.shape[0], s=self.stride)
        # Channels last stay last.
        frames = rearrange(grown, "(b t) (s c) h w -> b (t s) h w c", b=x.shape[0], s=self.stride)
        return rearrange(frames.contiguous(), "b t h w c -> b t c h w")


class FastAutoencoder(ModelMixin, ConfigMixin):
    """Autoencoder of frame-wise convolutions; about a fortieth of the arithmetic of the Wan decoder."""

    @register_to_config
    def __init__(
        self,
        z_dim: int = 16,
        encoder_dim: int = 64,
        decoder_dims: Sequence[int] = (256, 128, 64, 64),
        num_blocks: int = 3,
        latents_mean: Sequence[float] = (0.0,) * 16,
        latents_std: Sequence[float] = (1.0,) * 16,
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_encoder_layers(z_dim, encoder_dim, num_blocks))
        self.decoder = nn.Sequential(*_decoder_layers(z_dim, decoder_dims, num_blocks))

    def encode(self, x: Float[Tensor, "b 3 f h w"], /) -> Encoded:
        """Latents of a clip of 1 + 4·n frames in [-1, 1]; the distribution has no width."""
        frames = rearrange(x / 2 + 0.5, "b c f h w -> b f c h w")
        first = frames[:, :1].expand(-1, -frames.shape[1] % FRAME_STRIDE, -1, -1, -1)
        z = rearrange(_run(self.encoder, torch.cat([first, frames], dim=1)), "b t c h w -> b c t h w")
        return Encoded.certain(z)

    def decode(self, z: Float[Tensor, "b c t h w"], /) -> Decoded:
        """The 1 + 4·(t − 1) frames of a chunk's latents, in [-1, 1]."""
        frames = _run(self.decoder, rearrange(z, "b c t h w -> b t c h w"))[:, FRAME_STRIDE - 1 :]
        return Decoded(rearrange(frames * 2 - 1, "b f c h w -> b c f h w").clamp(-1, 1))


def _conv(num_in: int, num_out: int, *, bias: bool = True, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, 3, padding=1, stride=stride, bias=bias)


def _encoder_layers(z_dim: int, dim: int, num_blocks: int) -> list[nn.Module]:
    """Time is halved in the first two stages, space in all three."""
    layers: list[nn.Module] = [_conv(3, dim), nn.ReLU()]
    for stage in range(SPACE_STAGES):
        layers += [TimePool(dim, 2 if stage < 2 else 1), _conv(dim, dim, bias=False, stride=2)]
        layers += [MemoryBlock(dim) for _ in range(num_blocks)]
    return [*layers, _conv(dim, z_dim)]


def _decoder_layers(z_dim: int, dims: Sequence[int], num_blocks: int) -> list[nn.Module]:
    """Space is doubled in all three stages, time in the last two."""
    layers: list[nn.Module] = [SoftBound(), _conv(z_dim, dims[0]), nn.ReLU()]
    for stage in range(SPACE_STAGES):
        layers += [MemoryBlock(dims[stage]) for _ in range(num_blocks)]
        layers += [nn.Upsample(scale_factor=2), TimeGrow(dims[stage], 2 if stage > 0 else 1)]
        layers += [_conv(dims[stage], dims[stage + 1], bias=False)]
    return [*layers, nn.ReLU(), _conv(dims[-1], 3)]


def _run(layers: nn.Sequential, x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t2 c2 h2 w2"]:
    """Layers over frames: those that mix time take the clip, all others single frames."""
    for layer in layers:
        if isinstance(layer, MemoryBlock | TimePool | TimeGrow):
            x = layer(x)
        else:
            x = _clip(layer(rearrange(x, "b t c h w -> (b t) c h w")), x.shape[1])
    return x


def _clip(frames: Float[Tensor, "n c h w"], num_frames: int) -> Float[Tensor, "b t c h w"]:
    return rearrange(frames, "(b t) c h w -> b t c h w", t=num_frames)
