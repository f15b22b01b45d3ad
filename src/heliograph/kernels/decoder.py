"""The decoder's norm and SiLU as one Triton kernel, which writes straight behind the past frames of the convolution.

Features are channels-last: the channels of a cell lie side by side, and one program handles some cells.
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
    out,
    num_cells,
    cells_of_sample,
    cells_of_past,
    channels,
    root,
    CELLS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    cells = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    columns = tl.arange(0, BLOCK)
    inside = (cells < num_cells)[:, None] & (columns < channels)[None, :]
    values = tl.load(x + cells[:, None] * channels + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(values * values, axis=1)), 1e-12)
    weight = tl.load(gamma + columns, mask=columns < channels, other=0.0) * root
    normed = values / length[:, None] * weight[None, :]
    active = normed * tl.sigmoid(normed)
    # Every sample has its past frames in front of its new ones.
    places = cells + (cells // cells_of_sample + 1) * cells_of_past
    tl.store(out + places[:, None] * channels + columns[None, :], active.to(out.dtype.element_ty), mask=inside)


def norm_silu(
    x: Float[Tensor, "b c t h w"], gamma: Float[Tensor, " c"], past: Float[Tensor, "b c p h w"]
) -> Float[Tensor, "b c p+t h w"]:
    """`plain.norm_silu` in one kernel and a copy of the past; the result is channels-last."""
    x = x.contiguous(memory_format=torch.channels_last_3d)
    (b, c, t, h, w), p = x.shape, past.shape[2]
    out = torch.empty((b, c, p + t, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
    out[:, :, :p] = past
    block: Any = triton.next_power_of_2(c)
    cells: Any = max(1, TILE // block)
    num_cells = b * t * h * w
    _norm_silu_kernel[(triton.cdiv(num_cells, cells),)](
        x, gamma.float(), out, num_cells, t * h * w, p * h * w, c, c**0.5, CELLS=cells, BLOCK=block
    )
    return out
