"""Matrix products on a CPU by oneDNN, with what follows them fused in: twice as fast as the default in float32.

PyTorch gives float32 products to MKL, which leaves AVX-512 unused on processors of other makers. oneDNN, which every
x86 build of PyTorch carries, does not; it is reached through the call that PyTorch's own compiler makes.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@cache
def fused_linear() -> Any:
    """oneDNN's linear layer with a function after it; None where this PyTorch has none."""
    if not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def linear(
    x: Float[Tensor, "b n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "b n o"]:
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


@cache
def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by itself; where it does not, float32 is faster."""
    if not hasattr(torch.cpu, "get_capabilities"):  # PyTorch 2.10 and older do not tell
        return False
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16") or known.get("amx_tile"))
