"""Products of a block on every level, a few at a time and for a second on end: what power leaves of the rate."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from heliograph.bench.kernels import seconds_of
from heliograph.kernels import eight_bit

LEVELS = (2940, 4560, 11040)
"""Tokens of a sequence on each level."""


@torch.no_grad()
def product_rows(device: torch.device, dim: int, wide: int, seconds: float) -> Iterator[dict[str, Any]]:
    """One row for every product: its rate for 20 calls, and for calls that go on for `seconds`."""
    for tokens in LEVELS:
        x, y = (torch.randn(1, tokens, n, device=device).bfloat16() for n in (dim, wide))
        for name, rows, outputs in (("out", x, dim), ("qkv", x, 3 * dim), ("up", x, wide), ("down", y, dim)):
            width = rows.shape[-1]
            weight = torch.randn(outputs, width, device=device).bfloat16() * width**-0.5
            bias = torch.randn(outputs, device=device).bfloat16()
            brought, small = eight_bit.quantise(rows), eight_bit.quantise(weight[None])
            flat = rows[0]

            def plain(rows: Any = rows, weight: Any = weight, bias: Any = bias) -> object:
                return F.linear(rows, weight, bias)

            def eight(brought: Any = brought, small: Any = small, bias: Any = bias) -> object:
                return eight_bit.multiply_on_gpu(brought, small.values[0], small.scale[0, :, 0], bias)

            def apart(plain: Any = plain) -> object:
                return F.gelu(plain(), approximate="tanh")

            def fused(flat: Any = flat, weight: Any = weight, bias: Any = bias) -> object:
                return torch._addmm_activation(bias, flat, weight.T, use_gelu=True)

            ways: dict[str, Callable[[], object]] = {"bfloat16": plain, "float8": eight}
            if name == "up":
                ways |= {"bfloat16, gelu apart": apart, "bfloat16, gelu fused": fused}
            for way, run in ways.items():
                short, long = seconds_of(run, device), _steady(run, device, seconds)
                flops = 2 * tokens * width * outputs
                yield {
                    "product": name,
                    "tokens": tokens,
                    "way": way,
                    "seconds": short,
                    "seconds_steady": long,
                    "flops_per_second": flops / short,
                    "flops_per_second_steady": flops / long,
                }


def _steady(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of one call where calls follow one another for so long; of the last half of them."""
    calls = max(4, int(seconds / seconds_of(run, device, rounds=3)))
    times = []
    for _ in range(2):
        start = time.perf_counter()
        for _ in range(calls // 2):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) / (calls // 2))
    return times[-1]
