"""Which version of the memory-bound steps runs: the fused one on a GPU that samples, the plain one everywhere else."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from heliograph.kernels import eight_bit, plain
from heliograph.kernels.eight_bit import EightBit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernels:
    """One version of the steps, with the arguments of `plain.py`."""

    name: str
    affine_norm: Callable[..., Tensor]
    modulate: Callable[..., Tensor]
    add_gated: Callable[..., Tensor]
    norm_rotate: Callable[..., Tensor]
    norm_silu: Callable[..., Tensor]
    add_bias: Callable[..., Tensor]
    enlarge: Callable[..., Tensor]
    quantise: Callable[..., EightBit]
    modulate_quantise: Callable[..., EightBit]
    gelu_quantise: Callable[..., EightBit]
    tensor_scale: Callable[..., Tensor]
    quantise_heads: Callable[..., Tensor]
    widen_heads: Callable[..., Tensor]


PLAIN = Kernels(
    "plain",
    *(plain.affine_norm, plain.modulate, plain.add_gated, plain.norm_rotate),
    *(plain.norm_silu, plain.add_bias, plain.enlarge),
    *(eight_bit.quantise, eight_bit.modulate_quantise, eight_bit.gelu_quantise),
    *(eight_bit.tensor_scale, eight_bit.quantise_heads, eight_bit.widen_heads),
)


def kernels_for(x: Tensor, num_stretches: int = 1) -> Kernels:
    """The version for a tensor: fused on a CUDA device, where no gradient is recorded and Triton is installed."""
    if not x.is_cuda or torch.is_grad_enabled() or num_stretches > 2 or torch.compiler.is_compiling():
        return PLAIN
    return launched_kernels() or PLAIN


@cache
def launched_kernels() -> Kernels | None:
    """The Triton version where it can be launched, which takes a C compiler besides Triton; None elsewhere."""
    found = fused_kernels()
    if found is None:
        return None
    x = torch.zeros(1, 1, 16, device="cuda")
    try:
        found.add_gated(x, x, x, (1,))
    except Exception as error:  # its compiler and its driver raise what they like
        reason = (str(error).strip().splitlines() or [""])[0]
        logger.warning("Triton does not work here (%s: %s): steps run unfused, slower", type(error).__name__, reason)
        return None
    return found


@cache
def fused_kernels() -> Kernels | None:
    """The Triton version; None where Triton is not installed."""
    if find_spec("triton") is None:
        return None
    from heliograph.kernels import decoder, fused, fused_eight_bit  # noqa: PLC0415 - importing them needs Triton

    return Kernels(
        "triton",
        *(fused.affine_norm, fused.modulate, fused.add_gated, fused.norm_rotate),
        *(decoder.norm_silu, decoder.add_bias, decoder.enlarge),
        *(fused_eight_bit.quantise, fused_eight_bit.modulate_quantise, fused_eight_bit.gelu_quantise),
        *(fused_eight_bit.tensor_scale, fused_eight_bit.quantise_heads, fused_eight_bit.widen_heads),
    )


def eight_bit_product(x: Tensor) -> Callable[..., Tensor]:
    """How 8-bit rows are multiplied where `x` is: on tensor cores that know the format, else emulated exactly."""
    if x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 9):
        return eight_bit.multiply_on_gpu
    return eight_bit.multiply
