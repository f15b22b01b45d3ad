"""A matrix product on a GPU by cuBLAS with its GELU fused in: one pass less over the widest tensor of a block."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def linear_gelu(
    x: Float[Tensor, "b n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"]
) -> Float[Tensor, "b n o"]:
    """gelu(x·Wᵀ + b) by the tanh formula, in half precision on a CUDA device; rounded once, after the GELU.

    Elsewhere PyTorch's call has the exact GELU, so this is not for CPUs.
    """
    assert x.is_cuda, x.device
    # PyTorch has no public name for it.
    wide = torch._addmm_activation(  # pyright: ignore[reportPrivateImportUsage]
        bias, x.flatten(0, 1), weight.T, use_gelu=True
    )
    return wide.unflatten(0, x.shape[:2])


def fuses_gelu(x: Tensor, layer: nn.Module) -> bool:
    """Whether `linear_gelu` stands for this layer and its GELU: a plain one, no gradient, nothing that is compiled."""
    if type(layer) is not nn.Linear or layer.bias is None or layer.weight.dtype != x.dtype:
        return False
    has_kernel = x.is_cuda and x.dtype in (torch.bfloat16, torch.float16)
    return has_kernel and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
