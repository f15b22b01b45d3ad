"""Every attention kernel that can be had, on the shapes of the 14B model: seconds, rate, error, or why it cannot run.

python bench/gpu_attention.py attention.json
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from heliograph.bench.kernels import seconds_of
from heliograph.bench.report import machine_facts
from heliograph.engine.attention import by_library
from heliograph.media.target import write_whole

HEADS, WIDTH = 40, 128
SHAPES = ((2940, 2940), (4560, 4560), (11040, 11040), (8640, 11040), (8640, 512))
"""Queries and keys: self-attention on each level, with the history's keys kept, and to the text."""

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_torch(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's, one of its kernels."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = (x.abs().amax().float() / 448).reshape(1, 1, 1, 1)
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


class Frontend:
    """cuDNN by its own front end, in 16 bits or in 8."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, *, is_eight_bit: bool, out: torch.dtype) -> None:
        import cudnn  # noqa: PLC0415 - a package that may be missing

        self._handle = cudnn.create_handle()
        cudnn.set_stream(handle=self._handle, stream=torch.cuda.current_stream().cuda_stream)
        kind = cudnn.data_type
        graph = cudnn.pygraph(
            io_data_type=kind.FP8_E4M3 if is_eight_bit else kind.BFLOAT16,
            intermediate_data_type=kind.FLOAT,
            compute_data_type=kind.FLOAT,
            handle=self._handle,
        )
        self.scales: dict[Any, Tensor] = {}
        given = [x.transpose(1, 2) for x in (q, k, v)]
        if is_eight_bit:
            eight = [_scaled(x) for x in (q, k, v)]
            given = [x.transpose(1, 2) for x, _ in eight]
            one = torch.ones(1, 1, 1, 1, device=q.device)
            values = [*(scale for _, scale in eight), one / 256, one * 256, one]
        self.inputs = given
        nodes = [graph.tensor_like(x) for x in given]
        options = {"is_inference": True, "attn_scale": WIDTH**-0.5}
        out_kind = {torch.bfloat16: kind.BFLOAT16, torch.float8_e4m3fn: kind.FP8_E4M3}[out]
        self.out = torch.empty(q.shape, dtype=out, device=q.device)
        view = self.out.transpose(1, 2)
        pack: dict[Any, Tensor] = dict(zip(nodes, given, strict=True))
        if is_eight_bit:
            names = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")
            extra = {name: graph.tensor_like(x) for name, x in zip(names, values, strict=True)}
            result, _stats, amax_s, amax_o = graph.sdpa_fp8(
                q=nodes[0], k=nodes[1], v=nodes[2], **extra, use_causal_mask=False, **options
            )
            pack |= {extra[name]: x for name, x in zip(names, values, strict=True)}
            for node in (amax_s, amax_o):
                node.set_output(True).set_dim([1, 1, 1, 1]).set_stride([1, 1, 1, 1]).set_data_type(kind.FLOAT)
                pack[node] = torch.zeros(1, 1, 1, 1, device=q.device)
        else:
            result, _stats = graph.sdpa(q=nodes[0], k=nodes[1], v=nodes[2], use_causal_mask=False, **options)
        result.set_output(True).set_dim(list(view.shape)).set_stride(list(view.stride())).set_data_type(out_kind)
        pack[result] = view
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A])
        graph.check_support()
        graph.build_plans()
        self._graph, self._pack = graph, pack
        self._room = torch.empty(max(graph.get_workspace_size(), 1), dtype=torch.uint8, device=q.device)

    def __call__(self, *_: Tensor) -> Tensor:
        """Of the inputs that it was made with."""
        self._graph.execute(self._pack, self._room, handle=self._handle)
        return self.out


def sage(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """SageAttention 1, in Triton; it changes the keys it is given."""
    from sageattention import sageattn  # noqa: PLC0415 - a package that may be missing

    return sageattn(q, k.clone(), v, tensor_layout="NHD")


def rows_of(queries: int, keys: int, *, is_interleaved: bool) -> list[Tensor]:
    """Random queries, keys and values, `b n k e`; values as the product for all three leaves them, or on their own."""
    generator = torch.Generator("cuda").manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda").bfloat16()

    value = drawn(1, keys, 3, HEADS, WIDTH)[:, :, 2]
    rows = [drawn(1, queries, HEADS, WIDTH), drawn(1, keys, HEADS, WIDTH), value]
    return rows if is_interleaved else [x.contiguous() for x in rows]


def ways(rows: list[Tensor]) -> Iterator[tuple[str, Callable[[], Kernel]]]:
    """Kernels by name; made when they are asked for."""
    yield "torch flash", lambda: partial(by_torch, SDPBackend.FLASH_ATTENTION)
    yield "torch cudnn", lambda: partial(by_torch, SDPBackend.CUDNN_ATTENTION)
    yield "diffusers _native_cudnn", lambda: by_library("_native_cudnn")
    yield "diffusers native", lambda: by_library("native")
    yield "frontend bfloat16", lambda: Frontend(*rows, is_eight_bit=False, out=torch.bfloat16)
    yield "frontend float8 to bfloat16", lambda: Frontend(*rows, is_eight_bit=True, out=torch.bfloat16)
    yield "frontend float8 to float8", lambda: Frontend(*rows, is_eight_bit=True, out=torch.float8_e4m3fn)
    yield "sage 1", lambda: sage


def tried(make: Callable[[], Kernel], rows: list[Tensor], want: Tensor) -> dict[str, Any]:
    """Seconds, rate and error of one kernel; or what it said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            kernel = make()
            got = kernel(*rows)[:, :256].float()
            if got.isnan().any():
                return {"problem": "not a number"}
            error = float((got - want).norm() / want.norm())
            seconds = seconds_of(lambda: kernel(*rows), torch.device("cuda"))
        except Exception as fault:  # whatever a driver or a package may raise
            words = [str(each.message)[:300] for each in said]
            return {"problem": f"{type(fault).__name__}: {str(fault)[:600]}", "warnings": words}
    (_, queries, _, _), keys = rows[0].shape, rows[1].shape[1]
    return {"seconds": seconds, "flops_per_second": 4 * queries * keys * HEADS * WIDTH / seconds, "error": error}


@torch.no_grad()
def main() -> None:
    """Try all of them on all shapes."""
    file, found = Path(sys.argv[1]), []
    for queries, keys in SHAPES:
        for is_interleaved in (True, False):
            rows = rows_of(queries, keys, is_interleaved=is_interleaved)
            q, k, v = (x.float().transpose(1, 2) for x in (rows[0][:, :256], *rows[1:]))
            want = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            for name, make in ways(rows):
                result = tried(make, rows, want)
                found.append({"name": name, "queries": queries, "keys": keys, "interleaved": is_interleaved, **result})
                text = result.get("problem") or (
                    f"{1000 * result['seconds']:.3f} ms, {result['flops_per_second'] / 1e12:.0f} TFLOP/s, "
                    f"error {result['error']:.4f}"
                )
                words = " | ".join(result.get("warnings", []))
                print(
                    f"{queries:>6} x {keys:>6} {'inter' if is_interleaved else 'apart'} {name:<30}{text} {words}",
                    flush=True,
                )
            write_whole(
                file, json.dumps({**machine_facts(torch.device("cuda")), "kernels": found}, indent=2).encode() + b"\n"
            )


if __name__ == "__main__":
    main()
