"""An autoencoder whose code is linear: 4 frames × 8 × 8 pixels × 3 colours to 16 numbers, by principal components.

The code is found in closed form (`heliograph.embedded.code`) and never trained, so latents can be made before anything
has learned to decode them well: `decode` adds to the linear reconstruction what two small networks say
(`cell_decoder.py`). 33 frames become 9 latent frames as with every
autoencoder here: the first frame is repeated to a group of four.

With 16 pixels a cell (`scale_factor_spatial`) the code is that of the picture at half its size, and the network paints
the rest in: four times the pixels for the same latents, so for the same work of the transformer.
"""

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.autoencoder import Decoded, Encoded
from heliograph.cell_decoder import CellDecoder, PixelRefiner
from heliograph.shapes import FRAME_STRIDE, LATENT_STRIDE

PATCH_VALUES = FRAME_STRIDE * 3 * LATENT_STRIDE**2
"""Numbers that one cell of the code stands for, before any of them is several pixels."""


class LinearAutoencoder(ModelMixin, ConfigMixin):
    """Principal components of patches, and networks that add what they lack."""

    @register_to_config
    def __init__(
        self,
        z_dim: int = 16,
        decoder_dim: int = 384,
        latents_mean: Sequence[float] = (0.0,) * 16,
        latents_std: Sequence[float] = (1.0,) * 16,
        scale_factor_spatial: int = LATENT_STRIDE,
        refiner_dim: int = 0,
    ) -> None:
        """Networks of width `decoder_dim` and `refiner_dim`, or none at 0; the code is to be filled in.

        `scale_factor_spatial` is the side of a cell in pixels, a multiple of 8.

        `basis` has the principal components as rows, orthonormal; `mean` is the mean patch. Deviations enter the
        config as `latents_std`; they need not be the true ones (the embedded model takes their square roots, so that
        the first components, which hold the coarse of a picture, stay larger than the last).
        """
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(PATCH_VALUES), requires_grad=False)
        self.basis = nn.Parameter(torch.eye(PATCH_VALUES)[:z_dim].clone(), requires_grad=False)
        self.detail = scale_factor_spatial // LATENT_STRIDE
        self.decoder = CellDecoder(z_dim, decoder_dim, PATCH_VALUES * self.detail**2) if decoder_dim else None
        self.refiner = PixelRefiner(z_dim, refiner_dim, scale_factor_spatial) if decoder_dim and refiner_dim else None

    @property
    def stride(self) -> int:
        """Side of a cell in pixels."""
        return LATENT_STRIDE * self.detail

    def encode(self, x: Float[Tensor, "b 3 f h w"], /) -> Encoded:
        """Latents of a clip of 1 + 4·n frames in [-1, 1]; the distribution has no width."""
        x = smaller(x, self.detail)
        first = x[:, :, :1].expand(-1, -1, -x.shape[2] % FRAME_STRIDE, -1, -1)
        z = rearrange((to_patches(torch.cat([first, x], dim=2)) - self.mean) @ self.basis.T, "b t h w c -> b c t h w")
        return Encoded.certain(z)

    def decode(self, z: Float[Tensor, "b c t h w"], /) -> Decoded:
        """The 1 + 4·(t − 1) frames of a chunk's latents, in [-1, 1]."""
        return Decoded(self.reconstruct(z)[:, :, FRAME_STRIDE - 1 :].clamp(-1, 1))

    def reconstruct(self, z: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 f H W"]:
        """Four frames for every latent frame, not clamped."""
        painted = self.painted(z)
        if self.decoder is None or self.refiner is None:
            return painted
        return self.refiner(painted, self.decoder.around(self.normalised(z)))

    def painted(self, z: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 f H W"]:
        """What cells say, side by side: what the refiner is given."""
        patches = self.unrefined(z)
        if self.decoder is not None:
            patches = patches + self.decoder(self.normalised(z))
        return from_patches(patches, self.stride)

    def unrefined(self, z: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t h w n"]:
        """What the code alone says of each cell; several pixels are alike where it is of a smaller picture."""
        return rearrange(z, "b c t h w -> b t h w c") @ grown(self.basis, self.detail) + grown(self.mean, self.detail)

    def normalised(self, z: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Latents as the transformer knows them."""
        shift, scale = (
            rearrange(torch.tensor(values, device=z.device, dtype=z.dtype), "c -> 1 c 1 1 1")
            for values in (self.config["latents_mean"], self.config["latents_std"])
        )
        return (z - shift) / scale


def to_patches(x: Float[Tensor, "b 3 f H W"], stride: int = LATENT_STRIDE) -> Float[Tensor, "b t h w n"]:
    """The pixels of four frames in each cell of `stride` × `stride`, side by side."""
    side = {"y": stride, "x": stride, "s": FRAME_STRIDE}
    return rearrange(x, "b c (t s) (h y) (w x) -> b t h w (s c y x)", **side)


def from_patches(patches: Float[Tensor, "b t h w n"], stride: int = LATENT_STRIDE) -> Float[Tensor, "b 3 f H W"]:
    """`to_patches`, backwards."""
    side = {"y": stride, "x": stride, "s": FRAME_STRIDE}
    return rearrange(patches, "b t h w (s c y x) -> b c (t s) (h y) (w x)", **side)


def smaller(x: Float[Tensor, "b 3 f H W"], factor: int) -> Float[Tensor, "b 3 f h w"]:
    """Height and width divided by `factor`; every pixel is the mean of those it stands for."""
    return reduce(x, "b c f (h y) (w x) -> b c f h w", "mean", y=factor, x=factor)


def grown(patches: Float[Tensor, "... n"], detail: int) -> Float[Tensor, "... m"]:
    """Patches of cells of 8 × 8 with every pixel `detail` × `detail` times."""
    planes = rearrange(patches, "... (p y x) -> ... p y x", y=LATENT_STRIDE, x=LATENT_STRIDE)
    return repeat(planes, "... p y x -> ... (p y i x j)", i=detail, j=detail)


def balanced_std(std: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """What to divide components of deviation `std` by, so that theirs are √std up to a factor, of mean square 1."""
    return std.sqrt() * math.sqrt(float(std.mean()))
