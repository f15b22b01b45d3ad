"""What the linear code's decoder learns: cells from the latents around them, then pixels from the pixels around them.

`CellDecoder` works on cells, not on pixels: few large products, which a CPU does best, and every pixel of a cell has an
output of its own. What it cannot do is let the edges of cells meet, or tell the sampler's errors from what was meant:
`PixelRefiner` looks at the painted picture in tiles of 4 × 4 pixels, across cells.
"""

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.shapes import FRAME_STRIDE

TILE = 4
"""Side in pixels of what the refiner sees as one position, with all colours and the four frames of a latent."""


class CellDecoder(nn.Module):
    """What the linear reconstruction of each cell lacks, from the 5 × 5 × 3 cells around it; zero before training.

    A linear part and a part with two hidden layers; the latent frames before and after are zero at a chunk's ends.
    """

    def __init__(self, z_dim: int, dim: int, num_values: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(3 * z_dim, num_values, 3, padding=1)
        self.enter = nn.Conv2d(3 * z_dim, dim, 3, padding=1)
        self.middle = nn.Conv2d(dim, dim, 3, padding=1)
        self.leave = nn.Conv2d(dim, num_values, 1, bias=False)
        nn.init.kaiming_normal_(self.enter.weight, nonlinearity="relu")
        for layer in (self.linear, self.middle, self.leave):
            nn.init.zeros_(layer.weight)
        for layer in (self.linear, self.middle):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def around(self, z: Float[Tensor, "b c t h w"]) -> Float[Tensor, "n c3 h w"]:
        """Each latent frame with the one before and the one after it, frame by frame."""
        before, after = F.pad(z, (0, 0, 0, 0, 1, 0))[:, :, :-1], F.pad(z, (0, 0, 0, 0, 0, 1))[:, :, 1:]
        return rearrange(torch.cat([z, before, after], dim=1), "b c t h w -> (b t) c h w")

    def hidden(self, cells: Float[Tensor, "n c3 h w"]) -> Float[Tensor, "n d h w"]:
        """What `leave` reads."""
        x = F.silu(self.enter(cells))
        return x + F.silu(self.middle(x))

    def forward(self, z: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t h w n"]:
        """Patches to add, for normalised latents."""
        cells = self.around(z)
        out = self.linear(cells) + self.leave(self.hidden(cells))
        return rearrange(out, "(b t) n h w -> b t h w n", b=z.shape[0])


class PixelRefiner(nn.Module):
    """What a painted picture lacks, from the pixels around a tile and the latents around its cell.

    Zero before training. The four frames of a latent are seen together, and none before or after them.
    """

    def __init__(self, z_dim: int, dim: int, stride: int, num_layers: int = 2) -> None:
        """A network of width `dim` for cells of `stride` pixels a side."""
        super().__init__()
        num_values = FRAME_STRIDE * 3 * TILE**2
        self.enter = nn.Conv2d(num_values, dim, 3, padding=1)
        self.context = nn.Conv2d(3 * z_dim, dim, 3, padding=1, bias=False)
        self.place = nn.Parameter(torch.zeros(dim, stride // TILE, stride // TILE))  # where in its cell a tile lies
        self.middle = nn.ModuleList([nn.Conv2d(dim, dim, 3, padding=1) for _ in range(num_layers)])
        self.leave = nn.Conv2d(dim, num_values, 3, padding=1)
        for layer in (self.enter, *self.middle):
            nn.init.kaiming_normal_(layer.get_parameter("weight"), nonlinearity="relu")
        for parameter in (self.context.weight, self.leave.weight, self.leave.get_parameter("bias")):
            nn.init.zeros_(parameter)

    def forward(
        self, frames: Float[Tensor, "b 3 f H W"], cells: Float[Tensor, "n c3 h w"]
    ) -> Float[Tensor, "b 3 f H W"]:
        """Refined frames, in the dtype they came in.

        Args:
            frames: four of each latent frame, painted cell by cell, not clamped.
            cells: what `CellDecoder.around` gives for their latents.
        """
        groups = rearrange(frames, "b c (t s) h w -> (b t) (s c) h w", s=FRAME_STRIDE)
        return rearrange(self.refine(groups, cells), "(b t) (s c) h w -> b c (t s) h w", b=len(frames), s=FRAME_STRIDE)

    def refine(
        self, groups: Float[Tensor, "g values H W"], cells: Float[Tensor, "g c3 h w"]
    ) -> Float[Tensor, "g values H W"]:
        """The same for some latent frames, their four frames and colours as channels."""
        tiles = F.pixel_unshuffle(groups, TILE).contiguous(memory_format=torch.channels_last)
        return groups + F.pixel_shuffle(self.correction(tiles, cells), TILE)

    def correction(
        self, tiles: Float[Tensor, "g values Y X"], cells: Float[Tensor, "g c3 h w"]
    ) -> Float[Tensor, "g values Y X"]:
        """What to add to each tile, its pixels as channels; computed in the dtype of the weights."""
        dtype = self.leave.weight.dtype
        tiles, (h, w) = tiles.to(dtype), cells.shape[-2:]
        context = F.interpolate(self.context(cells.to(dtype)), size=tiles.shape[-2:], mode="nearest")
        hidden = F.silu(self.enter(tiles) + context + self.place.tile(1, h, w))
        for layer in self.middle:
            hidden = hidden + 0.5 * F.silu(layer(hidden))
        return self.leave(hidden)


def channels_last(refiner: PixelRefiner) -> PixelRefiner:
    """The same network with the channels of a tile side by side in memory, which a CPU convolves quickest."""
    return cast(PixelRefiner, refiner.to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]
