"""Which version of the memory-bound steps runs: the fused one on a GPU that samples, the plain one everywhere else."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from heliograph.kernels import plain


@dataclass(frozen=True)
class Kernels:
    """One version of the three steps, with the arguments of `plain.py`."""

    name: str
    modulate: Callable[..., Tensor]
    add_gated: Callable[..., Tensor]
    norm_rotate: Callable[..., Tensor]


PLAIN = Kernels("plain", plain.modulate, plain.add_gated, plain.norm_rotate)


def kernels_for(x: Tensor, num_stretches: int = 1) -> Kernels:
    """The version for a tensor: fused on a CUDA device, where no gradient is recorded and Triton is installed."""
    if not x.is_cuda or torch.is_grad_enabled() or num_stretches > 2 or torch.compiler.is_compiling():
        return PLAIN
    return fused_kernels() or PLAIN


@cache
def fused_kernels() -> Kernels | None:
    """The Triton version; None where Triton is not installed."""
    if find_spec("triton") is None:
        return None
    from heliograph.kernels import fused  # noqa: PLC0415 - importing it needs Triton

    return Kernels("triton", fused.modulate, fused.add_gated, fused.norm_rotate)
