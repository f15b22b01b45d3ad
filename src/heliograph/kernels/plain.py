"""The memory-bound steps of block and decoder in plain PyTorch: these define what the fused kernels must give.

A token sequence is made of stretches (history, chunk), `lengths` tokens each; modulation has one row for each stretch,
which is never expanded to every token. Statistics, modulation and gates are float32; results have the dtype of `x`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "b n d"]
StretchRows = Float[Tensor, "b2 s d"]
Table = Float[Tensor, "n half"]


def layer_norm(x: Float[Tensor, "b n d"], eps: float) -> Float[Tensor, "b n d"]:
    """Zero mean and unit variance per token, in float32."""
    return F.layer_norm(x.float(), (x.shape[-1],), eps=eps)


def affine_norm(
    x: Float[Tensor, "b n d"], weight: Float[Tensor, " d"], bias: Float[Tensor, " d"], eps: float
) -> Float[Tensor, "b n d"]:
    """LN(x)·w + b of every token."""
    return F.layer_norm(x.float(), (x.shape[-1],), weight.float(), bias.float(), eps).to(x.dtype)


def modulate(
    x: Float[Tensor, "b n d"],
    shift: Float[Tensor, "b2 s d"],
    scale: Float[Tensor, "b2 s d"],
    lengths: Sequence[int],
    eps: float,
) -> Float[Tensor, "b n d"]:
    """LN(x)·(1 + scale) + shift, each stretch by its own row."""
    pieces = x.split(list(lengths), dim=1)
    done = [
        (layer_norm(piece, eps) * (1 + scale[:, i, None]) + shift[:, i, None]).to(x.dtype)
        for i, piece in enumerate(pieces)
    ]
    return done[0] if len(done) == 1 else torch.cat(done, dim=1)


def add_gated(
    x: Float[Tensor, "b n d"], update: Float[Tensor, "b n d"], gate: Float[Tensor, "b2 s d"], lengths: Sequence[int]
) -> Float[Tensor, "b n d"]:
    """x + update·gate, each stretch by its own gate."""
    pieces = zip(x.split(list(lengths), dim=1), update.split(list(lengths), dim=1), strict=True)
    done = [(piece.float() + change.float() * gate[:, i, None]).to(x.dtype) for i, (piece, change) in enumerate(pieces)]
    return done[0] if len(done) == 1 else torch.cat(done, dim=1)


def norm_rotate(
    x: Float[Tensor, "b n d"],
    weight: Float[Tensor, " d"],
    cos: Float[Tensor, "n half"],
    sin: Float[Tensor, "n half"],
    eps: float,
) -> Float[Tensor, "b n k e"]:
    """RMS norm over the whole width, heads of 2·half channels, each pair of channels turned by its token's angle."""
    normed = F.rms_norm(x, (x.shape[-1],), weight, eps)
    return rotate(rearrange(normed, "b n (k e) -> b n k e", e=2 * cos.shape[-1]), cos, sin)


def rotate(
    x: Float[Tensor, "b n k e"], cos: Float[Tensor, "n half"], sin: Float[Tensor, "n half"]
) -> Float[Tensor, "b n k e"]:
    """Turn each pair of channels (2j, 2j+1) by its token's angle; product in float32, result in the dtype of `x`."""
    even, odd = rearrange(x, "b n k (e pair) -> pair b n k e", pair=2)
    cos, sin = cos[:, None], sin[:, None]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def norm_silu(
    x: Float[Tensor, "b c t h w"],
    gamma: Float[Tensor, " c"],
    past: Float[Tensor, "b c p h w"],
    bias: Float[Tensor, " c"] | None = None,
) -> Float[Tensor, "b c p+t h w"]:
    """What a causal convolution of the decoder reads: `past` frames of it, then SiLU(√c·gamma·y / ‖y‖) of each cell.

    y is `x`, or x + `bias` where the convolution that made `x` left its bias out. The norm is over channels. Statistics
    and activation are float32 or wider, the result has the dtype of `x`.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    normed = F.normalize(_widened(x, bias), dim=1) * (x.shape[1] ** 0.5 * gamma.to(wide)[:, None, None, None])
    return torch.cat([past, F.silu(normed).to(x.dtype)], dim=2)


def add_bias(
    x: Float[Tensor, "b c t h w"], bias: Float[Tensor, " c"], other: Float[Tensor, "b c t h w"] | None = None
) -> Float[Tensor, "b c t h w"]:
    """x + bias, and + `other` where it is given: how a convolution that left its bias out, or a residual block, ends.

    Summed in float32 or wider, in the dtype of `x`.
    """
    summed = _widened(x, bias)
    return (summed if other is None else summed.add_(other)).to(x.dtype)


def _widened(x: Float[Tensor, "b c t h w"], bias: Float[Tensor, " c"] | None) -> Float[Tensor, "b c t h w"]:
    """A copy in float32 or wider, with the bias of every channel."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
    return wide if bias is None else wide.add_(bias[:, None, None, None])


def enlarge(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """Every cell four times: twice the height and the width."""
    return F.interpolate(x, scale_factor=2, mode="nearest-exact")
