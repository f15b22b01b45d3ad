"""What lies between the decoder's convolutions, each one Triton kernel: norm and SiLU, bias and residual, enlargement.

Features are channels-last: the channels of a cell lie side by side, and one program handles some cells. Convolutions
leave their bias out, which cuDNN would add in a pass of its own, and the next kernel adds it. The norm writes straight
behind the past frames of the convolution that follows.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

TILE = 4096
"""Numbers that one program handles, about."""


@triton.jit
@no_type_check
def _norm_silu_kernel(  # noqa: PLR0913, PLR0917 - a kernel has no other way to be told
    x,
    gamma,
    bias,
    out,
    num_cells,
    cells_of_sample,
    cells_of_past,
    channels,
    root,
    HAS_BIAS: tl.constexpr,  # noqa: N803
    CELLS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    cells = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    columns = tl.arange(0, BLOCK)
    inside = (cells < num_cells)[:, None] & (columns < channels)[None, :]
    values = tl.load(x + cells[:, None] * channels + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        values += tl.load(bias + columns, mask=columns < channels, other=0.0).to(tl.float32)[None, :]
    length = tl.maximum(tl.sqrt(tl.sum(values * values, axis=1)), 1e-12)
    weight = tl.load(gamma + columns, mask=columns < channels, other=0.0).to(tl.float32) * root
    normed = values / length[:, None] * weight[None, :]
    active = normed * tl.sigmoid(normed)
    # Every sample has its past frames in front of its new ones.
    places = cells + (cells // cells_of_sample + 1) * cells_of_past
    tl.store(out + places[:, None] * channels + columns[None, :], active.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _add_bias_kernel(  # noqa: PLR0913, PLR0917
    x,
    bias,
    other,
    out,
    num_cells,
    channels,
    HAS_OTHER: tl.constexpr,  # noqa: N803
    CELLS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    cells = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    columns = tl.arange(0, BLOCK)
    inside = (cells < num_cells)[:, None] & (columns < channels)[None, :]
    places = cells[:, None] * channels + columns[None, :]
    values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    values += tl.load(bias + columns, mask=columns < channels, other=0.0).to(tl.float32)[None, :]
    if HAS_OTHER:
        values += tl.load(other + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + places, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _enlarge_kernel(
    x,
    out,
    num_cells,
    height,
    width,
    channels,
    CELLS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    cells = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)  # of the result
    columns = tl.arange(0, BLOCK)
    inside = (cells < num_cells)[:, None] & (columns < channels)[None, :]
    column, row = cells % (2 * width), cells // (2 * width)  # rows of all frames, counted through
    source = (row // (2 * height) * height + row % (2 * height) // 2) * width + column // 2
    values = tl.load(x + source[:, None] * channels + columns[None, :], mask=inside, other=0.0)
    tl.store(out + cells[:, None] * channels + columns[None, :], values, mask=inside)


def norm_silu(
    x: Float[Tensor, "b c t h w"],
    gamma: Float[Tensor, " c"],
    past: Float[Tensor, "b c p h w"],
    bias: Float[Tensor, " c"] | None = None,
) -> Float[Tensor, "b c p+t h w"]:
    """`plain.norm_silu` in one kernel and a copy of the past; the result is channels-last."""
    x = x.contiguous(memory_format=torch.channels_last_3d)
    (b, c, t, h, w), p = x.shape, past.shape[2]
    out = torch.empty((b, c, p + t, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    out[:, :, :p] = past
    num_cells = b * t * h * w
    grid, sizes = _tiles(num_cells, c)
    places = (num_cells, t * h * w, p * h * w)
    added = x if bias is None else bias
    _norm_silu_kernel[grid](x, gamma, added, out, *places, c, c**0.5, bias is not None, **sizes)
    return out


def add_bias(
    x: Float[Tensor, "b c t h w"], bias: Float[Tensor, " c"], other: Float[Tensor, "b c t h w"] | None = None
) -> Float[Tensor, "b c t h w"]:
    """`plain.add_bias` in one kernel; the result is channels-last."""
    x = x.contiguous(memory_format=torch.channels_last_3d)
    added = x if other is None else other.contiguous(memory_format=torch.channels_last_3d)
    out, num_cells = torch.empty_like(x), x.numel() // x.shape[1]
    grid, sizes = _tiles(num_cells, x.shape[1])
    _add_bias_kernel[grid](x, bias, added, out, num_cells, x.shape[1], other is not None, **sizes)
    return out


def enlarge(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """`plain.enlarge` in one kernel; the result is channels-last."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, c, h, w = x.shape
    out = torch.empty((n, c, 2 * h, 2 * w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    num_cells = 4 * n * h * w
    grid, sizes = _tiles(num_cells, c)
    _enlarge_kernel[grid](x, out, num_cells, h, w, c, **sizes)
    return out


def _tiles(num_cells: int, channels: int) -> tuple[tuple[int], dict[str, Any]]:
    """How many programs there are, and the sizes of what each handles."""
    block = triton.next_power_of_2(channels)
    cells = max(1, TILE // block)
    return (triton.cdiv(num_cells, cells),), {"CELLS": cells, "BLOCK": block}
