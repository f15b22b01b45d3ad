"""The steps of `eight_bit.py`, each one Triton kernel: read once, written once, the scale of a row found on the way.

The end of both kernels is the same four lines: a function called by a kernel cannot be checked in Triton's interpreter.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from heliograph.kernels.eight_bit import FORMAT, LARGEST, SMALLEST_SCALE, EightBit
from heliograph.kernels.fused import piece_options, row_options


@triton.jit
@no_type_check
def _quantise_kernel(
    x,
    out,
    scales,
    dim,
    largest,
    smallest,
    HAS_GELU: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    values = tl.load(x + row * dim + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_GELU:
        # (1 + tanh(u)) / 2 = sigmoid(2u), u = √(2/π)·(x + 0.044715·x³)
        values = values * tl.sigmoid(1.5957691216057308 * (values + 0.044715 * values * values * values))
    row_scale = tl.maximum(tl.max(tl.abs(tl.where(inside, values, 0.0)), axis=0) / largest, smallest)
    kept = tl.minimum(tl.maximum(values / row_scale, -largest), largest)
    tl.store(out + row * dim + columns, kept.to(out.dtype.element_ty), mask=inside)
    tl.store(scales + row, row_scale)


@triton.jit
@no_type_check
def _modulate_quantise_kernel(  # noqa: PLR0913, PLR0917
    x,
    shift,
    scale,
    out,
    scales,
    num_tokens,
    first,
    dim,
    rows_of_sample,
    rows_of_stretch,
    eps,
    largest,
    smallest,
    PIECES: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // num_tokens, row % num_tokens
    columns = tl.arange(0, BLOCK)
    sums = tl.zeros([BLOCK], tl.float32)
    for piece in tl.static_range(PIECES):
        places = piece * BLOCK + columns
        sums += tl.load(x + row * dim + places, mask=places < dim, other=0.0).to(tl.float32)
    mean = tl.sum(sums, axis=0) / dim
    squares = tl.zeros([BLOCK], tl.float32)
    for piece in tl.static_range(PIECES):
        places = piece * BLOCK + columns
        centred = tl.load(x + row * dim + places, mask=places < dim, other=mean).to(tl.float32) - mean
        squares += tl.where(places < dim, centred * centred, 0.0)
    factor = tl.rsqrt(tl.sum(squares, axis=0) / dim + eps)
    rows = sample * rows_of_sample + (token >= first).to(tl.int64) * rows_of_stretch
    most = tl.zeros([BLOCK], tl.float32)
    for piece in tl.static_range(PIECES):
        places = piece * BLOCK + columns
        inside = places < dim
        normed = (tl.load(x + row * dim + places, mask=inside, other=0.0).to(tl.float32) - mean) * factor
        moved = normed * (1.0 + tl.load(scale + rows + places, mask=inside, other=0.0))
        moved += tl.load(shift + rows + places, mask=inside, other=0.0)
        most = tl.maximum(most, tl.abs(tl.where(inside, moved, 0.0)))
    row_scale = tl.maximum(tl.max(most, axis=0) / largest, smallest)
    for piece in tl.static_range(PIECES):
        places = piece * BLOCK + columns
        inside = places < dim
        normed = (tl.load(x + row * dim + places, mask=inside, other=0.0).to(tl.float32) - mean) * factor
        moved = normed * (1.0 + tl.load(scale + rows + places, mask=inside, other=0.0))
        moved += tl.load(shift + rows + places, mask=inside, other=0.0)
        kept = tl.minimum(tl.maximum(moved / row_scale, -largest), largest)
        tl.store(out + row * dim + places, kept.to(out.dtype.element_ty), mask=inside)
    tl.store(scales + row, row_scale)


def quantise(x: Float[Tensor, "b n d"], dtype: torch.dtype | None = None) -> EightBit:
    """`eight_bit.quantise` in one kernel."""
    return _by_rows(x, dtype or x.dtype, has_gelu=False)


def gelu_quantise(x: Float[Tensor, "b n d"]) -> EightBit:
    """`eight_bit.gelu_quantise` in one kernel."""
    return _by_rows(x, x.dtype, has_gelu=True)


def modulate_quantise(
    x: Float[Tensor, "b n d"],
    shift: Float[Tensor, "b2 s d"],
    scale: Float[Tensor, "b2 s d"],
    lengths: Sequence[int],
    eps: float,
) -> EightBit:
    """`eight_bit.modulate_quantise` in one kernel."""
    x, shift, scale = x.contiguous(), shift.contiguous(), scale.contiguous()
    (b, n, dim), (b2, s, _) = x.shape, shift.shape
    out, scales = _empty(x)
    places = (s * dim if b2 > 1 else 0), (dim if s > 1 else 0)
    _modulate_quantise_kernel[(b * n,)](
        *(x, shift, scale, out, scales, n, lengths[0], dim, *places, eps, LARGEST, SMALLEST_SCALE),
        **piece_options(dim),
    )
    return EightBit(out, scales, x.dtype)


def _by_rows(x: Float[Tensor, "b n d"], dtype: torch.dtype, *, has_gelu: Any) -> EightBit:
    x = x.contiguous()
    out, scales = _empty(x)
    dim = x.shape[2]
    _quantise_kernel[(x.shape[0] * x.shape[1],)](
        x, out, scales, dim, LARGEST, SMALLEST_SCALE, HAS_GELU=has_gelu, **row_options(dim)
    )
    return EightBit(out, scales, dtype)


def _empty(x: Float[Tensor, "b n d"]) -> tuple[Tensor, Float[Tensor, "b n 1"]]:
    scales = torch.empty((*x.shape[:2], 1), dtype=torch.float32, device=x.device)
    return torch.empty_like(x, dtype=FORMAT), scales
