"""Which attention kernel runs: all that are installed are tried on the device, and the fastest right one is taken.

Names are diffusers', but for `cudnn` and `cudnn_fp8`. PyTorch's own kernel is always there and is what the others are
compared with.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from jaxtyping import Float
from torch import Tensor

from heliograph.errors import UserError
from heliograph.kernels import cudnn_attention
from heliograph.kernels.pieces import Pieces, joined, num_tokens
from heliograph.model.attention import Attend, Attention, attend_by_cudnn, use_kernel

OWN = "native"
"""PyTorch's own attention, whichever of its kernels it picks."""

CUDNN = "cudnn"
"""cuDNN's, called without the copies that the library makes for it."""

CUDNN_8_BIT = "cudnn_fp8"
"""cuDNN's in 8-bit floating point; attention to the text stays exact."""

FEWEST_KEYS_IN_8_BITS = 4096
"""Fewer keys are attended exactly. On an H200, 40 heads of 128: among 2,940 tokens 0.29 ms in 16 bits and 0.23 in 8,
without rounding, which takes half as long again; among 4,560 0.69 ms and, with rounding, 0.65; 11,040 4.1 and 3.0."""


def attend_in_8_bits(query: Float[Tensor, "b n k e"], key: Pieces, value: Pieces) -> Float[Tensor, "b n k e"]:
    """softmax(q·kᵀ/√e)·v by cuDNN: in 8 bits where there are many keys, else exact.

    Raises:
        RuntimeError: the device has no such kernel, or cuDNN does not take these sizes; says which.
    """
    cudnn_attention.check_device(query.device)
    if num_tokens(key) >= FEWEST_KEYS_IN_8_BITS:
        return cudnn_attention.attend(query, key, value)
    is_narrow = query.dtype in (torch.bfloat16, torch.float16)  # what cuDNN's exact kernel takes
    return (attend_by_cudnn if is_narrow else by_library(OWN))(query, joined(key), joined(value))


OWN_KERNELS: Mapping[str, Attend] = MappingProxyType({CUDNN: attend_by_cudnn, CUDNN_8_BIT: attend_in_8_bits})
"""Kernels that the library does not know by these names."""


@dataclass(frozen=True)
class Candidate:
    """A kernel: its name, the package that it is in (None: PyTorch), and the largest error against float32.

    Errors are relative to the largest value: 1 % covers rounding to bfloat16, 8-bit kernels have 10 % or 15. It is for
    CUDA devices of compute capability `least` or newer, as far as that is known before it is tried.
    """

    name: str
    package: str | None
    tolerance: float = 0.01
    least: tuple[int, int] = (0, 0)


EXACT_KERNELS = (
    Candidate(OWN, None),
    Candidate(CUDNN, None),
    Candidate("_native_cudnn", None),
    Candidate("_native_flash", None),
    Candidate("flash", "flash_attn"),
    Candidate("_flash_3", "flash_attn_interface"),
    # There is no local package that diffusers knows for version 4: this one is fetched by the package `kernels`.
    Candidate("flash_4_hub", "kernels"),
)
"""Kernels that round as PyTorch's do."""

ROUNDED_KERNELS = (
    # Weights and results are rounded as well: `attend_in_pytorch` is off by up to 9 % where kernels are tried.
    Candidate(CUDNN_8_BIT, cudnn_attention.PACKAGE, tolerance=0.15, least=cudnn_attention.LEAST_CAPABILITY),
    Candidate("_sage_qk_int8_pv_fp8_cuda_sm90", "sageattention", tolerance=0.1),
    Candidate("sage", "sageattention", tolerance=0.1),
)
"""Kernels that multiply in 8 bits."""

HOW_TO_INSTALL = {cudnn_attention.PACKAGE: "pip install 'heliograph[gpu]'"}
"""For packages whose name does not say what to install."""

LOCAL_KERNELS = tuple(kernel for kernel in (*EXACT_KERNELS, *ROUNDED_KERNELS) if kernel.package != "kernels")
"""All but what is fetched from the network, which is only tried when it is named."""

PROBE_SHAPE = (1, 4560, 40, 128)
"""Batch, tokens, heads, width of the 14B model's second level at 384 × 640."""


@dataclass(frozen=True)
class Probe:
    """What trying a kernel gave: seconds for one call, or why it cannot be used."""

    name: str
    seconds: float | None = None
    problem: str | None = None

    def __str__(self) -> str:
        """One clause for people."""
        return f"{self.name}: {self.problem or f'{1000 * (self.seconds or 0):.2f} ms'}"


def probe_all(
    candidates: Iterable[Candidate], device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> list[Probe]:
    """Try kernels on random queries, keys and values of `shape` (batch, tokens, heads, width), one after another.

    Values lie among queries and keys, as the product for all three leaves them.
    """
    generator, (b, n, k, e) = torch.Generator(device).manual_seed(0), shape
    query, key, value = torch.randn((b, n, 3, k, e), generator=generator, device=device).to(dtype).unbind(2)
    rows = [query.contiguous(), key.contiguous(), value]
    with torch.no_grad():
        query, key, value = (x.float() for x in rows)
        want = dispatch_attention_fn(query[:, :256], key, value, backend=AttentionBackendName(OWN))
        return [_probe(candidate, rows, want) for candidate in candidates]


def fastest(probes: Sequence[Probe]) -> Probe | None:
    """The fastest that works; None where none does."""
    return min((p for p in probes if p.seconds is not None), key=lambda p: p.seconds or 0.0, default=None)


def choose_attention(name: str, device: torch.device, dtype: torch.dtype, *, is_rounded: bool = False) -> str:
    """The kernel to run: `name` itself, or for "auto" the fastest that works; on a CPU there is only PyTorch's.

    Args:
        name: "auto", or a name of diffusers.
        device: where the model runs.
        dtype: in which format.
        is_rounded: whether to take one that multiplies in 8 bits.

    Raises:
        UserError: the kernel that was asked for, or every 8-bit one, cannot be used here; says why.
    """
    known = {candidate.name: candidate for candidate in (*EXACT_KERNELS, *ROUNDED_KERNELS)}
    if name != "auto" and name not in known:
        raise UserError(f"attention={name!r} is not known; use auto or one of {', '.join(known)}")
    if name == "auto" and not is_rounded and device.type != "cuda":
        return OWN
    asked = (known[name],) if name != "auto" else ROUNDED_KERNELS if is_rounded else EXACT_KERNELS
    # What fetches a kernel from the network is only tried when it is named.
    local = [candidate for candidate in asked if name != "auto" or candidate.package != "kernels"]
    probes = probe_all(local, device, dtype, PROBE_SHAPE if device.type == "cuda" else (1, 256, 2, 16))
    best = fastest(probes)
    if best is None:
        other = "--no-attention8" if is_rounded else "--attention native"
        raise UserError(f"no such attention kernel works here ({'; '.join(map(str, probes))}); use {other}")
    return best.name


def set_attention(transformer: torch.nn.Module, name: str) -> None:
    """Make every attention of the transformer use this kernel."""
    use_kernel(transformer, OWN_KERNELS.get(name))
    backend = None if name == OWN or name in OWN_KERNELS else AttentionBackendName(name)
    for module in transformer.modules():
        if isinstance(module, Attention):
            module.processor._attention_backend = backend


def attention_of(transformer: torch.nn.Module) -> str:
    """The name of the kernel that the transformer uses; several, where its layers differ."""
    ours = {kernel: name for name, kernel in OWN_KERNELS.items()}
    layers = [module for module in transformer.modules() if isinstance(module, Attention)]
    names = {
        str(layer.processor._attention_backend.value)
        if layer.processor._attention_backend is not None
        else OWN
        if layer.own_kernel is None
        else ours.get(layer.own_kernel, "products")
        for layer in layers
    }
    return ", ".join(sorted(names))


def lacking(package: str) -> str:
    """That a kernel's package is not installed, in words, with how to get it where the project has an extra for it."""
    return f"the package {package}" + (f" ({HOW_TO_INSTALL[package]})" if package in HOW_TO_INSTALL else "")


def by_library(name: str) -> Attend:
    """The kernel that diffusers knows by this name."""
    return partial(dispatch_attention_fn, backend=AttentionBackendName(name))


def _probe(candidate: Candidate, rows: list[Tensor], want: Float[Tensor, "b n k e"]) -> Probe:
    if candidate.package is not None and find_spec(candidate.package) is None:
        return Probe(candidate.name, problem=f"{lacking(candidate.package)} is not installed")
    attend = OWN_KERNELS.get(candidate.name) or by_library(candidate.name)
    try:
        # All rows, though some are compared: what kernels do depends on the size.
        error = _error(attend(*rows)[:, : want.shape[1]], want)
        if not error <= candidate.tolerance:
            return Probe(candidate.name, problem=f"its error is {error:.1%}")
        return Probe(candidate.name, seconds=_seconds(attend, rows))
    except Exception as fault:  # a kernel may fail in any way where it was not built for the device
        return Probe(
            candidate.name, problem=f"it fails ({type(fault).__name__}: {str(fault).strip().splitlines()[:1]})"
        )


def _error(got: Tensor, want: Float[Tensor, "b n k e"]) -> float:
    return float((got.float() - want).abs().max() / want.abs().max())


def _seconds(attend: Attend, rows: list[Tensor], rounds: int = 5) -> float:
    """The least time of a few calls, the first of which warms up."""
    attend(*rows)
    times = []
    for _ in range(rounds):
        _wait(rows[0].device)
        start = time.perf_counter()
        attend(*rows)
        _wait(rows[0].device)
        times.append(time.perf_counter() - start)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
