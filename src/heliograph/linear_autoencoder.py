"""An autoencoder whose code is linear: 4 frames × 8 × 8 pixels × 3 colours to 16 numbers, by principal components.

The code is found in closed form (`heliograph.embedded.code`) and never trained, so latents can be made before anything
has learned to decode them well: `decode` adds what a small network of 2-D convolutions with a one-frame memory makes of
the latents to the linear reconstruction. 33 frames become 9 latent frames as with every autoencoder here: the first
frame is repeated to a group of four.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.autoencoder import Decoded, Encoded, TimeGrow
from heliograph.shapes import FRAME_STRIDE, LATENT_STRIDE

PATCH_VALUES = FRAME_STRIDE * 3 * LATENT_STRIDE**2
"""Numbers that one cell of the code stands for."""

BRANCH = 0.3
"""What a residual branch counts; together with He initialisation it keeps the signal's size over depth."""


@dataclass(frozen=True)
class DecoderSizes:
    """Channels and blocks of the decoder's network at the resolution of the latents, twice and four times that."""

    dims: tuple[int, ...]
    blocks: tuple[int, ...]


class SmoothMemoryBlock(nn.Module):
    """Residual block that sees each frame together with the frame before it (zeros before the first)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second, self.third = _conv(2 * dim, dim), _conv(dim, dim), _conv(dim, dim)

    def forward(self, x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """All frames at once."""
        past = F.pad(x[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        both = rearrange(torch.cat([x, past], dim=2), "b t c h w -> (b t) c h w")
        hidden = self.third(F.silu(self.second(F.silu(self.first(F.silu(both))))))
        return x + BRANCH * rearrange(hidden, "(b t) c h w -> b t c h w", b=x.shape[0])


class ResidualDecoder(nn.Module):
    """What the linear reconstruction lacks, from the latents; zero before training."""

    def __init__(self, z_dim: int, sizes: DecoderSizes) -> None:
        super().__init__()
        dims = sizes.dims
        self.enter = _conv(z_dim, dims[0])
        self.stages = nn.ModuleList(
            nn.Sequential(*(SmoothMemoryBlock(dim) for _ in range(count)))
            for dim, count in zip(dims, sizes.blocks, strict=True)
        )
        self.grow = nn.ModuleList(TimeGrow(dim, 2) for dim in dims[:-1])
        self.widen = nn.ModuleList(_conv(*pair) for pair in pairwise(dims))
        self.leave = _conv(dims[-1], 3 * 4)
        nn.init.zeros_(self.leave.weight)

    def forward(self, z: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b f 3 h8 w8"]:
        """Frames, four for every latent frame."""
        x = _each(self.enter, z)
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number < len(self.grow):
                x = _each(self.widen[number], self.grow[number](_each(_double, x)))
        return _each(lambda frames: F.pixel_shuffle(self.leave(F.silu(frames)), 2), x)


class LinearAutoencoder(ModelMixin, ConfigMixin):
    """Principal components of patches, and a network that refines their reconstruction."""

    @register_to_config
    def __init__(
        self,
        z_dim: int = 16,
        decoder_dims: Sequence[int] = (96, 64, 32),
        num_blocks: Sequence[int] = (2, 2, 1),
        latents_mean: Sequence[float] = (0.0,) * 16,
        latents_std: Sequence[float] = (1.0,) * 16,
    ) -> None:
        """A network of three resolutions, or none where `decoder_dims` is empty; the code is to be filled in.

        `basis` has the principal components as rows, orthonormal; `mean` is the mean patch. Deviations enter the
        config as `latents_std`; they need not be the true ones (the embedded model takes their square roots, so that
        the first components, which hold the coarse of a picture, stay larger than the last).
        """
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(PATCH_VALUES), requires_grad=False)
        self.basis = nn.Parameter(torch.eye(PATCH_VALUES)[:z_dim].clone(), requires_grad=False)
        sizes = DecoderSizes(tuple(decoder_dims), tuple(num_blocks))
        self.decoder = ResidualDecoder(z_dim, sizes) if sizes.dims else None

    def encode(self, x: Float[Tensor, "b 3 f h w"], /) -> Encoded:
        """Latents of a clip of 1 + 4·n frames in [-1, 1]; the distribution has no width."""
        first = x[:, :, :1].expand(-1, -1, -x.shape[2] % FRAME_STRIDE, -1, -1)
        z = rearrange((to_patches(torch.cat([first, x], dim=2)) - self.mean) @ self.basis.T, "b t h w c -> b c t h w")
        return Encoded(DiagonalGaussianDistribution(torch.cat([z, torch.zeros_like(z)], dim=1), deterministic=True))

    def decode(self, z: Float[Tensor, "b c t h w"], /) -> Decoded:
        """The 1 + 4·(t − 1) frames of a chunk's latents, in [-1, 1]."""
        return Decoded(self.reconstruct(z)[:, :, FRAME_STRIDE - 1 :].clamp(-1, 1))

    def reconstruct(self, z: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 f h8 w8"]:
        """Four frames for every latent frame, not clamped: what the decoder is trained on."""
        linear = from_patches(rearrange(z, "b c t h w -> b t h w c") @ self.basis + self.mean)
        if self.decoder is None:
            return linear
        shift, scale = (
            torch.tensor(values, device=z.device, dtype=z.dtype)
            for values in (self.config["latents_mean"], self.config["latents_std"])
        )
        normal = (rearrange(z, "b c t h w -> b t h w c") - shift) / scale
        return linear + rearrange(self.decoder(rearrange(normal, "b t h w c -> b t c h w")), "b f c h w -> b c f h w")


def to_patches(x: Float[Tensor, "b 3 f h8 w8"]) -> Float[Tensor, "b t h w n"]:
    """The pixels of four frames in each cell of 8 × 8, side by side."""
    side = {"y": LATENT_STRIDE, "x": LATENT_STRIDE, "s": FRAME_STRIDE}
    return rearrange(x, "b c (t s) (h y) (w x) -> b t h w (s c y x)", **side)


def from_patches(patches: Float[Tensor, "b t h w n"]) -> Float[Tensor, "b 3 f h8 w8"]:
    """`to_patches`, backwards."""
    side = {"y": LATENT_STRIDE, "x": LATENT_STRIDE, "s": FRAME_STRIDE}
    return rearrange(patches, "b t h w (s c y x) -> b c (t s) (h y) (w x)", **side)


def balanced_std(std: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """What to divide components of deviation `std` by, so that theirs are √std up to a factor, of mean square 1."""
    return std.sqrt() * math.sqrt(float(std.mean()))


def _conv(num_in: int, num_out: int) -> nn.Conv2d:
    layer = nn.Conv2d(num_in, num_out, 3, padding=1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _double(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _each(layer: Callable[[Tensor], Tensor], x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c2 h2 w2"]:
    """A layer over single frames."""
    return rearrange(layer(rearrange(x, "b t c h w -> (b t) c h w")), "(b t) c h w -> b t c h w", b=x.shape[0])
