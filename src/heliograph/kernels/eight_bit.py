"""Numbers in 8-bit floating point (e4m3) with a scale, in plain PyTorch: what the fused kernels must give.

What is multiplied has a scale for each row: a row is divided by its largest magnitude over 448, the largest number of
the format, so that nothing overflows and a row of small numbers keeps as many digits as one of large ones. What is
attended has one scale for the whole tensor, which is all that the attention kernel takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from heliograph.kernels.pieces import Pieces, joined, pieces_of
from heliograph.kernels.plain import modulate

FORMAT = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number of the format."""

SMALLEST_SCALE = 1e-12
"""Rows and tensors of zeros are divided by this."""


@dataclass(frozen=True)
class EightBit:
    """Tokens as `values`·`scale`; they stand for a tensor of `dtype` and may be cut along tokens as one."""

    values: Tensor
    scale: Float[Tensor, "b n 1"]
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        """Batch, tokens, width."""
        return self.values.shape

    def __getitem__(self, index: Any) -> "EightBit":
        """Some of the samples and tokens."""
        return EightBit(self.values[index], self.scale[index], self.dtype)

    def widened(self) -> Float[Tensor, "b n d"]:
        """The numbers that these rows stand for, float32."""
        return self.values.float() * self.scale


def quantise(x: Float[Tensor, "b n d"], dtype: torch.dtype | None = None) -> EightBit:
    """Rows in 8 bits, standing for `dtype` (None: that of `x`)."""
    wide = x.float()
    scale = (wide.abs().amax(dim=-1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE)
    values = (wide / scale).clamp(-LARGEST, LARGEST).to(FORMAT)
    return EightBit(values, scale, dtype or x.dtype)


def modulate_quantise(
    x: Float[Tensor, "b n d"],
    shift: Float[Tensor, "b2 s d"],
    scale: Float[Tensor, "b2 s d"],
    lengths: Sequence[int],
    eps: float,
) -> EightBit:
    """`plain.modulate`, its float32 result in 8 bits without being rounded in between."""
    return quantise(modulate(x.float(), shift, scale, lengths, eps), x.dtype)


def gelu_quantise(x: Float[Tensor, "b n d"]) -> EightBit:
    """GELU (tanh form) in float32, in 8 bits."""
    return quantise(F.gelu(x.float(), approximate="tanh"), x.dtype)


def tensor_scale(x: Pieces) -> Float[Tensor, "1 1 1 1"]:
    """The one scale of a tensor, float32, where the tensor is: its largest magnitude over that of the format."""
    largest = torch.stack([piece.abs().amax() for piece in pieces_of(x)]).amax()
    return (largest.float() / LARGEST).clamp_min(SMALLEST_SCALE).reshape(1, 1, 1, 1)


def quantise_heads(x: Pieces, scale: Float[Tensor, "1 1 1 1"]) -> Tensor:
    """x / scale in 8 bits (b n k e), rounded to the nearest number of the format; contiguous, wherever `x` lay."""
    wide = joined(x).float() * scale.reciprocal()
    return wide.clamp(-LARGEST, LARGEST).to(FORMAT).contiguous()


def widen_heads(values: Tensor, scale: Float[Tensor, "1 1 1 1"], dtype: torch.dtype) -> Float[Tensor, "b n k e"]:
    """The numbers that 8-bit `values` (b n k e) with one scale stand for, in another dtype."""
    return (values.float() * scale).to(dtype)


def multiply(
    rows: EightBit, weight: Tensor, scale: Float[Tensor, " d2"], bias: Float[Tensor, " d2"] | None
) -> Float[Tensor, "b n d2"]:
    """x·Wᵀ + b for 8-bit `rows` and a `weight` [d2, d] with a scale for each row, in the dtype that the rows stand for.

    Products of 8-bit numbers are exact in float32, so a GPU's 8-bit product differs by the order of sums only.
    """
    product = (rows.values.float() @ weight.float().T) * rows.scale * scale
    return (product if bias is None else product + bias.float()).to(rows.dtype)


def multiply_on_gpu(
    rows: EightBit, weight: Tensor, scale: Float[Tensor, " d2"], bias: Float[Tensor, " d2"] | None
) -> Float[Tensor, "b n d2"]:
    """`multiply` on tensor cores (compute capability 8.9 or newer), whose result is bfloat16."""
    b, n, d = rows.shape
    out = torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage] - PyTorch has no public name for it
        rows.values.reshape(b * n, d),
        weight.T,
        scale_a=rows.scale.reshape(b * n, 1),
        scale_b=scale[None],
        bias=None if bias is None else bias.bfloat16(),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return out.view(b, n, -1).to(rows.dtype)
