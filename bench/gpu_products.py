"""Products of a block on every level, a few at a time and for a second on end: what power leaves of the rate."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from heliograph.bench.kernels import seconds_of
from heliograph.kernels import eight_bit
from heliograph.kernels.choice import eight_bit_product
from heliograph.kernels.cublas import linear_gelu

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
            small, packed = eight_bit.quantise(rows), eight_bit.quantise(weight[None])
            plain = partial(F.linear, rows, weight, bias)
            ways: dict[str, Callable[[], object]] = {
                "bfloat16": plain,
                "float8": partial(eight_bit_product(rows), small, packed.values[0], packed.scale[0, :, 0], bias),
            }
            if name == "up":
                ways["bfloat16, gelu apart"] = partial(_then_gelu, plain)
                if rows.is_cuda:
                    ways["bfloat16, gelu fused"] = partial(linear_gelu, rows, weight, bias)
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


def _then_gelu(product: Callable[[], Tensor]) -> Tensor:
    return F.gelu(product(), approximate="tanh")


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
