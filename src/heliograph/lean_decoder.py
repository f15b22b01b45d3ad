"""`LinearAutoencoder.decode` as a CPU does it best: large matrix products, cells and channels side by side in memory.

What the network adds is a correction, so on a processor that multiplies bfloat16 it is computed in that; the linear
reconstruction, which is most of the picture, stays float32. Frames do not come back into the rollout, so latents are
the same either way. The plain modules of `linear_autoencoder.py` define the result.
"""

import copy

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from heliograph.cell_decoder import TILE, PixelRefiner, channels_last
from heliograph.kernels.onednn import has_fast_bfloat16, linear, linear_silu
from heliograph.linear_autoencoder import LinearAutoencoder, from_patches, grown
from heliograph.shapes import FRAME_STRIDE


class LeanDecoder:
    """Decodes what a `LinearAutoencoder` on a CPU has encoded, for showing: no gradients."""

    def __init__(self, autoencoder: LinearAutoencoder) -> None:
        """Of an autoencoder that has a network; its weights are copied."""
        network = autoencoder.decoder
        assert network is not None, "without a network the autoencoder's own decode is as fast"
        self._autoencoder = autoencoder
        kind = torch.bfloat16 if has_fast_bfloat16() else torch.float32
        convs = {name: network.get_submodule(name) for name in ("linear", "enter", "middle", "leave")}
        weights = {name: _rows(conv.get_parameter("weight")).to(kind) for name, conv in convs.items()}
        bias = {name: conv.get_parameter("bias").detach().to(kind) for name, conv in convs.items() if name != "leave"}
        # Both read the same cells: one product.
        self._first = torch.cat([weights["linear"], weights["enter"]]), torch.cat([bias["linear"], bias["enter"]])
        self._middle, self._leave = (weights["middle"], bias["middle"]), weights["leave"]
        self._basis, self._mean = (
            grown(each.detach(), autoencoder.detail).contiguous() for each in (autoencoder.basis, autoencoder.mean)
        )
        self._network, self._refiner = network, None
        if autoencoder.refiner is not None:
            self._refiner = channels_last(copy.deepcopy(autoencoder.refiner).to(kind))
        self._kind = kind

    @property
    def dtype(self) -> torch.dtype:
        """What the network's correction is computed in."""
        return self._kind

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "b c t h w"], /) -> Float[Tensor, "b 3 f H W"]:
        """The 1 + 4·(t − 1) frames of a chunk's latents, in [-1, 1]."""
        patches = self._patches(z)
        if self._refiner is None:
            frames = from_patches(patches, self._autoencoder.stride)
        else:
            frames = self._refined(self._refiner, patches, z)
        return frames[:, :, FRAME_STRIDE - 1 :].clamp(-1, 1)

    def _refined(
        self, refiner: PixelRefiner, patches: Float[Tensor, "b t h w n"], z: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b 3 f H W"]:
        """Refined frames: patches become tiles, and tiles frames, with one copy each."""
        side, count = {"y": TILE, "x": TILE, "s": FRAME_STRIDE, "c": 3}, self._autoencoder.stride // TILE
        tiles = rearrange(patches, "b t h w (s c i y j x) -> (b t) (h i) (w j) (s c y x)", i=count, j=count, **side)
        cells = self._network.around(self._autoencoder.normalised(z))
        tiles += refiner.correction(tiles.movedim(-1, 1), cells).movedim(1, -1)
        return rearrange(tiles, "(b t) h w (s c y x) -> b c (t s) (h y) (w x)", b=len(z), **side)

    def _patches(self, z: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t h w n"]:
        """The pixels of each cell."""
        b, _, t, h, w = z.shape
        cells = rearrange(_with_neighbours(self._autoencoder.normalised(z).to(self._kind)), "b c t h w -> (b t) h w c")
        both = linear(_around(cells), *self._first)
        base, hidden = both.split([self._leave.shape[0], self._leave.shape[1]], dim=-1)
        hidden = F.silu(hidden)
        grid = hidden.unflatten(1, (h, w))
        hidden = hidden + linear_silu(_around(grid), *self._middle)
        patches = torch.addmm(self._mean, rearrange(z, "b c t h w -> (b t h w) c"), self._basis)
        patches += base.reshape(patches.shape)
        patches += linear(hidden, self._leave, None).view(patches.shape)
        return patches.view(b, t, h, w, -1)


def _with_neighbours(z: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c3 t h w"]:
    """Each latent frame, the one before it and the one after it; zero at the ends."""
    padded = F.pad(z, (0, 0, 0, 0, 1, 1))
    return torch.cat([z, padded[:, :, :-2], padded[:, :, 2:]], dim=1)


def _around(cells: Float[Tensor, "n h w c"]) -> Float[Tensor, "n cells c9"]:
    """Each cell with its eight neighbours, row by row, zero outside the picture."""
    padded = F.pad(cells, (0, 0, 1, 1, 1, 1))
    n, h, w, c = cells.shape
    s = padded.stride()
    windows = padded.as_strided((n, h, w, 3, 3, c), (s[0], s[1], s[2], s[1], s[2], s[3]))
    return windows.reshape(n, h * w, 9 * c)


def _rows(weight: Float[Tensor, "o i y x"]) -> Float[Tensor, "o yxi"]:
    """A convolution's kernel as a matrix for what `_around` gives."""
    return rearrange(weight.detach(), "o i y x -> o (y x i)").contiguous()
