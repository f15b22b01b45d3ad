"""The steps of `eight_bit.py` in Triton, the scale of a row found on the way.

Kernels repeat lines of each other and of `fused.py`: a function called by a kernel cannot be checked in Triton's
interpreter. The one scale of a whole tensor takes a pass of its own.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from heliograph.kernels.eight_bit import FORMAT, LARGEST, SMALLEST_SCALE, EightBit
from heliograph.kernels.fused import NUMBERS_OF_WARP, SLICE, row_options, slice_options, strides_of
from heliograph.kernels.pieces import Pieces, num_tokens, pieces_of

EACH_OPTIONS: dict[str, Any] = {"BLOCK": SLICE, "num_warps": SLICE // NUMBERS_OF_WARP}
"""What a kernel is compiled for in which every number stands for itself."""

TOKENS_AT_ONCE = 4096
"""Tokens whose largest magnitudes are compared at once."""


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
    SLICES: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // num_tokens, row % num_tokens
    columns = tl.arange(0, BLOCK)
    sums = tl.zeros([BLOCK], tl.float32)
    for number in tl.static_range(SLICES):
        places = number * BLOCK + columns
        sums += tl.load(x + row * dim + places, mask=places < dim, other=0.0).to(tl.float32)
    mean = tl.sum(sums, axis=0) / dim
    squares = tl.zeros([BLOCK], tl.float32)
    for number in tl.static_range(SLICES):
        places = number * BLOCK + columns
        centred = tl.load(x + row * dim + places, mask=places < dim, other=mean).to(tl.float32) - mean
        squares += tl.where(places < dim, centred * centred, 0.0)
    factor = tl.rsqrt(tl.sum(squares, axis=0) / dim + eps)
    rows = sample * rows_of_sample + (token >= first).to(tl.int64) * rows_of_stretch
    most = tl.zeros([BLOCK], tl.float32)
    for number in tl.static_range(SLICES):
        places = number * BLOCK + columns
        inside = places < dim
        normed = (tl.load(x + row * dim + places, mask=inside, other=0.0).to(tl.float32) - mean) * factor
        moved = normed * (1.0 + tl.load(scale + rows + places, mask=inside, other=0.0))
        moved += tl.load(shift + rows + places, mask=inside, other=0.0)
        most = tl.maximum(most, tl.abs(tl.where(inside, moved, 0.0)))
    row_scale = tl.maximum(tl.max(most, axis=0) / largest, smallest)
    for number in tl.static_range(SLICES):
        places = number * BLOCK + columns
        inside = places < dim
        normed = (tl.load(x + row * dim + places, mask=inside, other=0.0).to(tl.float32) - mean) * factor
        moved = normed * (1.0 + tl.load(scale + rows + places, mask=inside, other=0.0))
        moved += tl.load(shift + rows + places, mask=inside, other=0.0)
        kept = tl.minimum(tl.maximum(moved / row_scale, -largest), largest)
        tl.store(out + row * dim + places, kept.to(out.dtype.element_ty), mask=inside)
    tl.store(scales + row, row_scale)


@triton.jit
@no_type_check
def _largest_kernel(
    x,
    largest,
    stride,
    width,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    values = tl.load(x + row * stride + columns, mask=columns < width, other=0.0).to(tl.float32)
    tl.store(largest + row, tl.max(tl.abs(values), axis=0))


@triton.jit
@no_type_check
def _tensor_scale_kernel(
    largest,
    scale,
    count,
    of_format,
    smallest,
    BLOCK: tl.constexpr,  # noqa: N803
):
    places = tl.arange(0, BLOCK)
    found = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, count, BLOCK):
        found = tl.maximum(found, tl.load(largest + start + places, mask=start + places < count, other=0.0))
    tl.store(scale, tl.maximum(tl.max(found, axis=0) / of_format, smallest))


@triton.jit
@no_type_check
def _quantise_heads_kernel(  # noqa: PLR0913, PLR0917
    x,
    scale,
    out,
    stride,
    width,
    num_tokens,
    num_all,
    first,
    of_format,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    place = row // num_tokens * num_all + first + row % num_tokens
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    factor = 1.0 / tl.load(scale)
    values = tl.load(x + row * stride + columns, mask=inside, other=0.0).to(tl.float32) * factor
    kept = tl.minimum(tl.maximum(values, -of_format), of_format)
    tl.store(out + place * width + columns, kept.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _widen_heads_kernel(
    values,
    scale,
    out,
    count,
    BLOCK: tl.constexpr,  # noqa: N803
):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    wide = tl.load(values + places, mask=inside).to(tl.float32) * tl.load(scale)
    tl.store(out + places, wide.to(out.dtype.element_ty), mask=inside)


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
    (b, n, dim), (out, scales) = x.shape, _empty(x)
    _modulate_quantise_kernel[(b * n,)](
        *(x, shift, scale, out, scales, n, lengths[0], dim, *strides_of(shift, lengths), eps, LARGEST, SMALLEST_SCALE),
        **slice_options(dim),
    )
    return EightBit(out, scales, x.dtype)


def tensor_scale(x: Pieces) -> Float[Tensor, "1 1 1 1"]:
    """`eight_bit.tensor_scale` in two kernels: the largest of every token, then of all; no number leaves the device."""
    pieces = pieces_of(x)
    device, counts = pieces[0].device, [piece.shape[0] * piece.shape[1] for piece in pieces]
    largest = torch.empty(sum(counts), dtype=torch.float32, device=device)
    scale = torch.empty(1, 1, 1, 1, dtype=torch.float32, device=device)
    for piece, count, found in zip(pieces, counts, largest.split(counts), strict=True):
        rows, stride = _by_tokens(piece)
        width = rows.shape[2] * rows.shape[3]
        _largest_kernel[(count,)](rows, found, stride, width, **row_options(width))
    options: dict[str, Any] = {"BLOCK": TOKENS_AT_ONCE, "num_warps": 8}
    _tensor_scale_kernel[(1,)](largest, scale, sum(counts), LARGEST, SMALLEST_SCALE, **options)
    return scale


def quantise_heads(x: Pieces, scale: Float[Tensor, "1 1 1 1"]) -> Tensor:
    """`eight_bit.quantise_heads` in one kernel for each piece, which are joined by it."""
    pieces = pieces_of(x)
    (b, _, k, e), n = pieces[0].shape, num_tokens(x)
    out, first = torch.empty((b, n, k, e), dtype=FORMAT, device=pieces[0].device), 0
    for piece in pieces:
        rows, stride = _by_tokens(piece)
        count = piece.shape[1]
        grid = (b * count, triton.cdiv(k * e, SLICE))
        _quantise_heads_kernel[grid](rows, scale, out, stride, k * e, count, n, first, LARGEST, **EACH_OPTIONS)
        first += count
    return out


def widen_heads(values: Tensor, scale: Float[Tensor, "1 1 1 1"], dtype: torch.dtype) -> Float[Tensor, "b n k e"]:
    """`eight_bit.widen_heads` in one kernel."""
    values = values.contiguous()
    out, count = torch.empty(values.shape, dtype=dtype, device=values.device), values.numel()
    _widen_heads_kernel[(triton.cdiv(count, SLICE),)](values, scale, out, count, **EACH_OPTIONS)
    return out


def _by_tokens(x: Float[Tensor, "b n k e"]) -> tuple[Float[Tensor, "b n k e"], int]:
    """The same with the heads of a token side by side, and how far apart tokens lie.

    The values of a packed product lie between its queries and keys: they are read where they are.
    """
    b, n, k, e = x.shape
    if x.stride(3) != 1 or x.stride(2) != e or (b > 1 and x.stride(0) != n * x.stride(1)):
        return x.contiguous(), k * e
    return x, x.stride(1)


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
