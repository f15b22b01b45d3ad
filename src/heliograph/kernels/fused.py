"""The steps of `plain.py`, each one Triton kernel whose inputs and result pass through memory once.

One program handles one token. Where it needs the token's row more than once it reads it again, a slice at a time: by
then the row lies in the cache next to the unit, while one kept in registers would leave room for two programs where
dozens hide each other's waiting. The row of modulation is chosen by comparing the token's index with the length of the
first stretch, so there may be two stretches at most (history and chunk). There is no backward pass.

Kernels are left out of type checks at run time, which would put another function, with other globals, in their place.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

MAX_STRETCHES = 2
"""Stretches that the kernels tell apart."""

SLICE = 1024
"""Numbers of a row that are handled at a time."""

NUMBERS_OF_WARP = 256
"""Numbers that a warp handles at a time: 16 bytes of half precision for each of 32 threads."""


@triton.jit
@no_type_check
def _modulate_kernel(  # noqa: PLR0913, PLR0917 - a kernel has no other way to be told
    x,
    shift,
    scale,
    out,
    num_tokens,
    first,
    dim,
    rows_of_sample,
    rows_of_stretch,
    eps,
    base,
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
    for number in tl.static_range(SLICES):
        places = number * BLOCK + columns
        inside = places < dim
        normed = (tl.load(x + row * dim + places, mask=inside, other=0.0).to(tl.float32) - mean) * factor
        scales = tl.load(scale + rows + places, mask=inside, other=0.0).to(tl.float32)
        shifts = tl.load(shift + rows + places, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * dim + places, (normed * (base + scales) + shifts).to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _add_gated_kernel(  # noqa: PLR0913, PLR0917
    x,
    update,
    gate,
    out,
    num_tokens,
    first,
    dim,
    rows_of_sample,
    rows_of_stretch,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    sample, token = row // num_tokens, row % num_tokens
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    place = sample * rows_of_sample + (token >= first).to(tl.int64) * rows_of_stretch + columns
    gates = tl.load(gate + place, mask=inside, other=0.0)
    values = tl.load(x + row * dim + columns, mask=inside, other=0.0).to(tl.float32)
    changes = tl.load(update + row * dim + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * dim + columns, (values + changes * gates).to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _norm_rotate_kernel(  # noqa: PLR0913, PLR0917
    x,
    weight,
    cos,
    sin,
    out,
    num_tokens,
    row_stride,
    dim,
    eps,
    HALF: tl.constexpr,  # noqa: N803
    SLICES: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    columns, pairs = tl.arange(0, BLOCK), tl.arange(0, BLOCK // 2)
    squares = tl.zeros([BLOCK], tl.float32)
    for number in tl.static_range(SLICES):
        places = number * BLOCK + columns
        values = tl.load(x + row * row_stride + places, mask=places < dim, other=0.0).to(tl.float32)
        squares += values * values
    factor = tl.rsqrt(tl.sum(squares, axis=0) / dim + eps)
    kind = out.dtype.element_ty
    angles = (row % num_tokens) * HALF
    for number in tl.static_range(SLICES):
        places = number * BLOCK + columns
        inside = places < dim
        values = tl.load(x + row * row_stride + places, mask=inside, other=0.0).to(tl.float32)
        weights = tl.load(weight + places, mask=inside, other=0.0).to(tl.float32)
        # Rounded between norm and rotation, where the plain version is. Pairs are read side by side and taken apart
        # here: loads of every other number take several times as long.
        even, odd = tl.split(tl.reshape((values * factor * weights).to(kind).to(tl.float32), (BLOCK // 2, 2)))
        turned_by = number * (BLOCK // 2) + pairs
        c = tl.load(cos + angles + turned_by % HALF, mask=2 * turned_by < dim, other=0.0)
        s = tl.load(sin + angles + turned_by % HALF, mask=2 * turned_by < dim, other=0.0)
        turned = tl.interleave(even * c - odd * s, even * s + odd * c)
        tl.store(out + row * dim + places, turned.to(kind), mask=inside)


def affine_norm(
    x: Float[Tensor, "b n d"], weight: Float[Tensor, " d"], bias: Float[Tensor, " d"], eps: float
) -> Float[Tensor, "b n d"]:
    """`plain.affine_norm` in one kernel, that of modulation: one row for all tokens, its scale the weight itself."""
    x = x.contiguous()
    out, (b, n, dim) = torch.empty_like(x), x.shape
    _modulate_kernel[(b * n,)](x, bias, weight, out, n, n, dim, 0, 0, eps, 0.0, **slice_options(dim))
    return out


def modulate(
    x: Float[Tensor, "b n d"],
    shift: Float[Tensor, "b2 s d"],
    scale: Float[Tensor, "b2 s d"],
    lengths: Sequence[int],
    eps: float,
) -> Float[Tensor, "b n d"]:
    """`plain.modulate` in one kernel."""
    x, shift, scale = x.contiguous(), shift.contiguous(), scale.contiguous()
    out, dim = torch.empty_like(x), x.shape[2]
    places = strides_of(shift, lengths)
    _modulate_kernel[(x.shape[0] * x.shape[1],)](
        x, shift, scale, out, x.shape[1], lengths[0], dim, *places, eps, 1.0, **slice_options(dim)
    )
    return out


def add_gated(
    x: Float[Tensor, "b n d"], update: Float[Tensor, "b n d"], gate: Float[Tensor, "b2 s d"], lengths: Sequence[int]
) -> Float[Tensor, "b n d"]:
    """`plain.add_gated` in one kernel."""
    x, update, gate = x.contiguous(), update.contiguous(), gate.contiguous()
    out, dim = torch.empty_like(x), x.shape[2]
    places = strides_of(gate, lengths)
    _add_gated_kernel[(x.shape[0] * x.shape[1],)](
        x, update, gate, out, x.shape[1], lengths[0], dim, *places, **row_options(dim)
    )
    return out


def norm_rotate(
    x: Float[Tensor, "b n d"],
    weight: Float[Tensor, " d"],
    cos: Float[Tensor, "n half"],
    sin: Float[Tensor, "n half"],
    eps: float,
) -> Float[Tensor, "b n k e"]:
    """`plain.norm_rotate` in one kernel."""
    weight, cos, sin, (b, n, dim), half = weight.contiguous(), cos.contiguous(), sin.contiguous(), x.shape, cos.shape[1]
    # The queries of a packed product lie between its keys and values: their rows are read where they are.
    if x.stride(2) != 1 or (b > 1 and x.stride(0) != n * x.stride(1)):
        x = x.contiguous()
    out = torch.empty((b, n, dim), dtype=x.dtype, device=x.device)
    _norm_rotate_kernel[(b * n,)](x, weight, cos, sin, out, n, x.stride(1), dim, eps, HALF=half, **slice_options(dim))
    return out.view(b, n, dim // (2 * half), 2 * half)


def warps_for(width: int) -> Any:
    """Warps that share a row, 4 to 16: a thread holds about 32 numbers of a wide one, so that all stay in registers."""
    return min(max(width // 1024, 4), 16)


def row_options(width: int) -> dict[str, Any]:
    """What a kernel is compiled for that handles rows of `width` numbers."""
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": warps_for(block)}


def slice_options(width: int) -> dict[str, Any]:
    """What a kernel is compiled for that takes rows of `width` numbers in slices."""
    block = min(triton.next_power_of_2(width), SLICE)
    return {"SLICES": triton.cdiv(width, block), "BLOCK": block, "num_warps": max(1, block // NUMBERS_OF_WARP)}


def strides_of(rows: Float[Tensor, "b2 s d"], lengths: Sequence[int]) -> tuple[int, int]:
    """How far apart the rows of two samples and of two stretches lie; 0 where all share one."""
    b, s, dim = rows.shape
    assert s == len(lengths) <= MAX_STRETCHES, (s, lengths)
    return (s * dim if b > 1 else 0), (dim if s > 1 else 0)
