"""Matrix products on a CPU by oneDNN, with what follows them fused in: twice as fast as the default in float32.

PyTorch gives float32 products to MKL, which leaves AVX-512 unused on processors of other makers. oneDNN, which every
x86 build of PyTorch carries, does not; it is reached through the call that PyTorch's own compiler makes.
"""

from functools import cache
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_QUERIES = 512
"""Queries whose scores are held at a time, at most: those of some thousand keys stay in a core's cache."""


@cache
def fused_linear() -> Any:
    """oneDNN's linear layer with a function after it; None where this PyTorch has none."""
    if not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def linear(
    x: Float[Tensor, "... i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "... o"]:
    """x·Wᵀ + b, no gradient recorded. `x` is contiguous: oneDNN takes other layouts, a thousand times slower."""
    call = fused_linear()
    return F.linear(x, weight, bias) if call is None else call(x.contiguous(), weight, bias, "none", [], "")


def linear_gelu(
    x: Float[Tensor, "b n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "b n o"]:
    """gelu(x·Wᵀ + b) by the tanh formula, rounded once; as `linear`."""
    call = fused_linear()
    if call is None:
        return F.gelu(F.linear(x, weight, bias), approximate="tanh")
    return call(x.contiguous(), weight, bias, "gelu", [], "tanh")


def linear_silu(
    x: Float[Tensor, "b n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "b n o"]:
    """silu(x·Wᵀ + b), rounded once; as `linear`."""
    call = fused_linear()
    return F.silu(F.linear(x, weight, bias)) if call is None else call(x.contiguous(), weight, bias, "swish", [], "")


def attend(
    query: Float[Tensor, "b n k e"], key: Float[Tensor, "b m k e"], value: Float[Tensor, "b m k e"]
) -> Float[Tensor, "b n k e"]:
    """softmax(q·kᵀ/√e)·v for each head, in the dtype of the values, no gradient recorded.

    Scores have the precision of queries and keys, which may be float32 beside values in bfloat16.
    """
    if fused_linear() is None or torch.get_num_threads() > 1:  # threads would meet after each of many small products
        query, key = query.to(value.dtype), key.to(value.dtype)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    # Two products for each head, and all its scores between them: PyTorch's own kernel multiplies by MKL.
    scaled = (query * query.shape[-1] ** -0.5).transpose(1, 2).contiguous()
    keys, values = key.transpose(1, 2).contiguous(), value.permute(0, 2, 3, 1).contiguous()
    mixed = value.new_empty(query.shape)
    count = query.shape[1]
    size = -(-count // -(-count // _QUERIES))  # parts of about the same size
    for sample, head in product(range(query.shape[0]), range(query.shape[2])):
        for first in range(0, count, size):
            rows = slice(first, first + size)
            shares = linear(scaled[sample, head, rows], keys[sample, head], None).softmax(-1)
            mixed[sample, rows, head] = linear(shares.to(value.dtype), values[sample, head], None)
    return mixed


@cache
def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by itself; where it does not, float32 is faster."""
    if not hasattr(torch.cpu, "get_capabilities"):  # PyTorch 2.10 and older do not tell
        return False
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16") or known.get("amx_tile"))
