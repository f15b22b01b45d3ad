"""Latents to tokens and back: the chunk's patch embedding and the three tier patches (multi-term patchification).

A long token stands for 4×8×8 latent cells, a mid token for 2×4×4, a short or chunk token for 1×2×2, so 19 remembered
frames and the anchor cost 2400 tokens at 384×640 instead of 19,200.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.memory import Tier, Tiers
from heliograph.model.rope import (
    Rotary,
    RotaryConfig,
    flatten_table,
    pad_to_multiple,
    pool_table,
    rotary_table,
)

Patch = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """Token grid of a stream: frames, rows, columns."""

    t: int
    h: int
    w: int


class PatchConv(nn.Conv3d):
    """A convolution whose kernel is its stride; in float32 on a CPU the matrix product that it is, which is faster.

    Half precision is left to the library, so that it is rounded where the library rounds it.
    """

    def forward(self, x: Float[Tensor, "b c t2 h2 w2"]) -> Float[Tensor, "b d t h w"]:
        """One token for each patch; all axes are whole multiples of the kernel."""
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        i, j, k = self.kernel_size
        t, h, w = x.shape[2] // i, x.shape[3] // j, x.shape[4] // k
        patches = rearrange(x, "b c (t i) (h j) (w k) -> b (t h w) (c i j k)", i=i, j=j, k=k)
        tokens = F.linear(patches, self.weight.flatten(1), self.bias)
        return rearrange(tokens, "b (t h w) d -> b d t h w", t=t, h=h, w=w)


def patch_conv(channels: int, dim: int, patch: Patch, factor: int) -> PatchConv:
    """The convolution that turns `factor`·patch cells into one token: kernel and stride alike."""
    kernel = (patch[0] * factor, patch[1] * factor, patch[2] * factor)
    return PatchConv(channels, dim, kernel_size=kernel, stride=kernel)


def to_tokens(conv: nn.Module, latents: Float[Tensor, "b c t h w"]) -> tuple[Float[Tensor, "b n d"], Grid]:
    """Tokens of `latents`, time slowest, and their grid. Edges repeat the last cell up to a whole patch.

    `conv` is a `patch_conv`, or an adapter around one.
    """
    base = getattr(conv, "base_layer", conv)
    assert isinstance(base, nn.Conv3d), base
    t, h, w = base.kernel_size
    tokens = conv(pad_to_multiple(latents, (t, h, w)))
    return rearrange(tokens, "b d t h w -> b (t h w) d"), Grid(*tokens.shape[2:])


def from_tokens(tokens: Float[Tensor, "b n q"], grid: Grid, patch: Patch) -> Float[Tensor, "b c t h w"]:
    """Latents from output tokens of t·y·x·c values each, the channel fastest."""
    return rearrange(
        tokens,
        "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)",
        **{"t": grid.t, "h": grid.h, "w": grid.w, "pt": patch[0], "ph": patch[1], "pw": patch[2]},
    )


def history_rotary(tiers: Tiers, patch: Patch, config: RotaryConfig) -> Rotary:
    """Rotary table of all history tokens in sequence order: long, mid, short.

    Mid and long tables are built on the short tier's grid and pooled, so that each token carries the mean rotation of
    the short tokens it stands for.
    """
    _, _, _, height, width = tiers.short.latents.shape
    rows, columns = height // patch[1], width // patch[2]
    return Rotary.join(
        [
            _tier_rotary(tier, rows, columns, factor, config)
            for tier, factor in ((tiers.long, 4), (tiers.mid, 2), (tiers.short, 1))
        ]
    )


def _tier_rotary(tier: Tier, rows: int, columns: int, factor: int, config: RotaryConfig) -> Rotary:
    table = rotary_table(tier.frames, rows, columns, config, tier.latents.device)
    return flatten_table(pool_table(table, factor))


def enlarge_patch(weight: Float[Tensor, "d c t h w"], factor: int) -> Float[Tensor, "d c t2 h2 w2"]:
    """Kernel of a tier patch from the pretrained patch embedding: repeated along t, h, w, divided by factor³.

    A token made with it equals the short token of the input after `factor`³ average pooling.
    """
    grown = repeat(weight, "d c t h w -> d c (t a) (h b) (w e)", a=factor, b=factor, e=factor)
    return grown / factor**3


@torch.no_grad()
def init_tier_patches(embedding: nn.Conv3d, short: nn.Conv3d, mid: nn.Conv3d, long: nn.Conv3d) -> None:
    """Start the three tier patches from the patch embedding; call it after the pretrained weights are loaded."""
    for conv, factor in ((short, 1), (mid, 2), (long, 4)):
        conv.weight.copy_(enlarge_patch(embedding.weight, factor))
        assert conv.bias is not None and embedding.bias is not None
        conv.bias.copy_(embedding.bias)
