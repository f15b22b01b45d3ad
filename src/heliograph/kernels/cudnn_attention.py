"""Attention in 8-bit floating point (e4m3) by cuDNN, through its own front end; and what it computes, in PyTorch.

Queries, keys and values have one scale each for the whole tensor, found on the device. Nothing here makes the host wait
for it, and after the first call for a size nothing is set up any more, so that a CUDA graph can record what runs.
"""

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from heliograph.kernels import eight_bit
from heliograph.kernels.choice import kernels_for
from heliograph.kernels.eight_bit import FORMAT
from heliograph.kernels.pieces import Pieces, num_tokens

PACKAGE = "cudnn"
"""The module of `nvidia-cudnn-frontend`."""

LEAST_CAPABILITY = (9, 0)
"""Compute capability of the first devices for which cuDNN has this kernel: Hopper."""

WEIGHT_SCALE = 256.0
"""What the kernel multiplies exp(score - largest score) by, at most 1, before rounding it: a power of two below 448."""

_LOCK = threading.Lock()
"""A handle has one stream at a time: who sets it runs before another sets it."""


def attend(query: Float[Tensor, "b n k e"], key: Pieces, value: Pieces) -> Float[Tensor, "b n k e"]:
    """softmax(q·kᵀ/√e)·v of `attend_in_pytorch` on a GPU, in the dtype of `query`.

    Keys and values may lie in several tensors: they are joined as they are rounded.

    The first call for a size builds a plan, which takes a moment and is not possible while a CUDA graph is recorded.

    Raises:
        RuntimeError: the device is no GPU or too old a one, or cuDNN does not take these sizes; says which.
    """
    check_device(query.device)
    b, _, k, e = query.shape
    plan = plan_of(tuple(query.shape), (b, num_tokens(key), k, e), query.device)
    steps = kernels_for(query)
    scales = [steps.tensor_scale(x) for x in (query, key, value)]
    rows = [steps.quantise_heads(x, scale) for x, scale in zip((query, key, value), scales, strict=True)]
    out = torch.empty(query.shape, dtype=FORMAT, device=query.device)
    plan.run(rows, scales, out)
    # Outputs are averages of values: what the values were divided by keeps them within the format, too.
    return steps.widen_heads(out, scales[2], query.dtype)


def attend_in_pytorch(query: Float[Tensor, "b n k e"], key: Pieces, value: Pieces) -> Float[Tensor, "b n k e"]:
    """softmax(q·kᵀ/√e)·v with queries, keys, values, weights and results in 8 bits, all scores in memory: slow.

    Weights are rounded before they are divided by their sum, and the sum is of weights that are not rounded, as in the
    kernel; that one rounds them against the largest score so far, which moves a weight by a power of e at most.
    """
    scales = [eight_bit.tensor_scale(x) for x in (query, key, value)]
    rows = [eight_bit.quantise_heads(x, scale) for x, scale in zip((query, key, value), scales, strict=True)]
    q, k, v = (rearrange(x.float(), "b n k e -> b k n e") for x in rows)
    scores = (q @ k.transpose(-1, -2)) * (scales[0] * scales[1] * query.shape[-1] ** -0.5)
    weights = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    rounded = (weights * WEIGHT_SCALE).to(FORMAT).float() / WEIGHT_SCALE
    # In units of the values' scale the result is within the format.
    mixed = ((rounded @ v) / weights.sum(dim=-1, keepdim=True)).clamp(-eight_bit.LARGEST, eight_bit.LARGEST)
    return eight_bit.widen_heads(rearrange(mixed.to(FORMAT), "b k n e -> b n k e"), scales[2], query.dtype)


@dataclass(frozen=True)
class Plan:
    """A graph of cuDNN's for one size, with the places of what it reads and writes, and what is the same each time."""

    graph: Any
    handle: Any
    rows: tuple[Any, ...]
    scales: tuple[Any, ...]
    inverse_scale: Any
    out: Any
    kept: dict[Any, Tensor]
    workspace_bytes: int

    def run(self, rows: list[Tensor], scales: list[Tensor], out: Tensor) -> None:
        """Attention of 8-bit queries, keys and values (b n k e, contiguous), each with its scale, into `out`.

        It goes to the stream that is current, and its workspace comes from where PyTorch takes memory at the moment: a
        graph that is being recorded gets both right.
        """
        given = {node: x.transpose(1, 2) for node, x in zip(self.rows, rows, strict=True)}
        given |= dict(zip(self.scales, scales, strict=True))
        # The result is divided by the values' scale.
        given |= {self.inverse_scale: scales[2].reciprocal(), self.out: out.transpose(1, 2), **self.kept}
        room = torch.empty(self.workspace_bytes, dtype=torch.uint8, device=out.device)
        with _LOCK, torch.cuda.device(out.device):
            _package().set_stream(handle=self.handle, stream=torch.cuda.current_stream(out.device).cuda_stream)
            self.graph.execute(given, room, handle=self.handle)


# Kept for good: a recorded CUDA graph goes on to use a plan's kernels and constants. A plan depends on nothing but
# sizes, because all that it reads and writes is contiguous.
@cache
def plan_of(queries: tuple[int, ...], keys: tuple[int, ...], device: torch.device) -> Plan:
    """The plan for queries and keys of these shapes (b n k e) on a GPU; made once.

    Raises:
        RuntimeError: cuDNN does not take them, or a CUDA graph is being recorded; says which.
    """
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(f"8-bit attention of queries {queries} has to run once before a CUDA graph records it")
    try:
        with torch.cuda.device(device):
            return _build(queries, keys, device)
    except Exception as fault:  # its own errors and those of what it loads, by many names
        reason = (str(fault).strip().splitlines() or [""])[0]
        raise RuntimeError(
            f"cuDNN has no 8-bit attention for queries {queries} and keys {keys} here "
            f"({type(fault).__name__}: {reason}); use --no-attention8"
        ) from fault


def _build(queries: tuple[int, ...], keys: tuple[int, ...], device: torch.device) -> Plan:
    package, handle = _package(), handle_of(device)
    kind = package.data_type
    with _LOCK:
        package.set_stream(handle=handle, stream=torch.cuda.current_stream(device).cuda_stream)
        graph = package.pygraph(
            io_data_type=kind.FP8_E4M3,
            intermediate_data_type=kind.FLOAT,
            compute_data_type=kind.FLOAT,
            handle=handle,
        )
        q, k, v = (_heads(graph, shape, kind.FP8_E4M3) for shape in (queries, keys, keys))
        names = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")
        numbers = {name: graph.tensor(dim=[1] * 4, stride=[1] * 4, data_type=kind.FLOAT) for name in names}
        out, _, *largest = graph.sdpa_fp8(
            q=q, k=k, v=v, **numbers, use_causal_mask=False, is_inference=True, attn_scale=queries[3] ** -0.5
        )
        # Where weights and results are largest has to be written somewhere; nobody reads it.
        for node in largest:
            node.set_output(True).set_dim([1] * 4).set_stride([1] * 4).set_data_type(kind.FLOAT)
        dim, stride = _layout(queries)
        out.set_output(True).set_dim(dim).set_stride(stride).set_data_type(kind.FP8_E4M3)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([package.heur_mode.A])
        graph.check_support()
        graph.build_plans()
        size = graph.get_workspace_size()
    kept = {
        numbers["descale_s"]: _number(1 / WEIGHT_SCALE, device),
        numbers["scale_s"]: _number(WEIGHT_SCALE, device),
        **{node: _number(0.0, device) for node in largest},
    }
    scales = (numbers["descale_q"], numbers["descale_k"], numbers["descale_v"])
    return Plan(graph, handle, (q, k, v), scales, numbers["scale_o"], out, kept, max(size, 1))


@cache
def handle_of(device: torch.device) -> Any:
    """cuDNN's handle for a GPU, which is the current one; made once."""
    return _package().create_handle()


@cache
def check_device(device: torch.device) -> None:
    """Nothing, on a GPU that has the kernel.

    Raises:
        RuntimeError: it is no GPU, or too old; says which.
    """
    if device.type != "cuda":
        raise RuntimeError(f"8-bit attention by cuDNN needs a CUDA device, not {device.type}")
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        needed, given = ("{}.{}".format(*each) for each in (LEAST_CAPABILITY, capability))
        raise RuntimeError(f"8-bit attention by cuDNN needs compute capability {needed}, this device has {given}")


def _package() -> Any:
    import cudnn  # noqa: PLC0415 # pyright: ignore[reportMissingImports] - a package that may be missing

    return cudnn


def _layout(shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Extents and strides of b k n e, as a view of contiguous b n k e."""
    b, n, k, e = shape
    return [b, k, n, e], [n * k * e, e, k * e, 1]


def _heads(graph: Any, shape: tuple[int, ...], kind: Any) -> Any:
    dim, stride = _layout(shape)
    return graph.tensor(dim=dim, stride=stride, data_type=kind)


def _number(value: float, device: torch.device) -> Float[Tensor, "1 1 1 1"]:
    return torch.full((1, 1, 1, 1), value, dtype=torch.float32, device=device)
