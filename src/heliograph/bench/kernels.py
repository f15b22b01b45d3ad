"""Single kernels on the shapes of a model's forward and decode, each beside the least time that the machine allows."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from heliograph.bench.roofline import Rates, chunk_tokens
from heliograph.engine.attention import LOCAL_KERNELS, probe_all
from heliograph.engine.needs import NetworkSizes, Workload
from heliograph.kernels import eight_bit
from heliograph.kernels.choice import PLAIN, Kernels, eight_bit_product, fused_kernels

LEVELS = 3


@dataclass(frozen=True)
class Shapes:
    """What is timed: a transformer, a chunk, and the decoder's channels at full resolution."""

    net: NetworkSizes
    work: Workload
    channels: int


RELEASED = Shapes(NetworkSizes(), Workload(384, 640), 96)
SMALL = Shapes(NetworkSizes(num_heads=2, head_dim=24, ffn_dim=96, num_layers=4), Workload(64, 64), 8)
"""To try this where there is no GPU; its times mean nothing."""


@dataclass(frozen=True)
class Timing:
    """One kernel on one shape: seconds, the operations and bytes that it must do, and the least seconds for these."""

    kernel: str
    shape: str
    seconds: float | None
    flops: float = 0.0
    num_bytes: float = 0.0
    floor_seconds: float | None = None
    problem: str | None = None

    def line(self) -> str:
        """A row of the table."""
        if self.seconds is None:
            return f"{self.kernel:<34}{self.shape:<34}{self.problem}"
        rate = (
            f"{self.flops / self.seconds / 1e12:8.1f} TFLOP/s"
            if self.flops
            else f"{self.num_bytes / self.seconds / 1e9:8.0f} GB/s   "
        )
        share = (
            "" if self.floor_seconds is None else f"{100 * self.floor_seconds / self.seconds:6.0f} % of the roofline"
        )
        return f"{self.kernel:<34}{self.shape:<34}{1000 * self.seconds:10.3f} ms{rate:>18}{share}"

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def time_kernels(shapes: Shapes, device: torch.device, dtype: torch.dtype, rates: Rates | None) -> Iterator[Timing]:
    """Time one after another, so that what is measured is there if the rest cannot be."""
    with torch.no_grad():
        yield from _products(shapes, device, dtype, rates)
        yield from _attentions(shapes, device, dtype, rates)
        yield from _block_steps(shapes, device, dtype, rates)
        yield from _convolutions(shapes, device, rates)


def _lengths(shapes: Shapes) -> list[int]:
    history = shapes.work.history_tokens
    return [history + chunk_tokens(shapes.work, level, LEVELS) for level in range(LEVELS)]


def _products(shapes: Shapes, device: torch.device, dtype: torch.dtype, rates: Rates | None) -> Iterator[Timing]:
    """The four products of a block on each level, in 16 bits and in 8."""
    d, f = shapes.net.dim, shapes.net.ffn_dim
    for n in _lengths(shapes):
        for rows, columns in ((3 * d, d), (d, d), (f, d), (d, f)):
            x, weight = _normal((1, n, columns), device, dtype), _normal((rows, columns), device, dtype)
            flops = 2.0 * n * rows * columns
            name = f"{n} x {columns} -> {rows}"
            yield _timed(
                "product", name, partial(F.linear, x, weight), device, flops=flops, rate=rates and rates.matmul
            )
            small, packed = eight_bit.quantise(x), eight_bit.quantise(weight[None])
            multiply = eight_bit_product(small.values)
            run = partial(multiply, small, packed.values[0], packed.scale[0, :, 0], None)
            yield _timed("product, 8-bit", name, run, device, flops=flops, rate=rates and rates.matmul_8bit)


def _attentions(shapes: Shapes, device: torch.device, dtype: torch.dtype, rates: Rates | None) -> Iterator[Timing]:
    heads, width = shapes.net.num_heads, shapes.net.head_dim
    for n in _lengths(shapes):
        flops = 4.0 * n * n * heads * width
        for probe in probe_all(LOCAL_KERNELS, device, dtype, (1, n, heads, width)):
            floor = flops / rates.attention if rates else None
            yield Timing(f"attention {probe.name}", f"{n} tokens", probe.seconds, flops, 0.0, floor, probe.problem)


def _block_steps(shapes: Shapes, device: torch.device, dtype: torch.dtype, rates: Rates | None) -> Iterator[Timing]:
    """The memory-bound steps, plain and fused, on the last level; bytes are what a fused one must move."""
    d, n, past = shapes.net.dim, _lengths(shapes)[-1], shapes.work.history_tokens
    x, update = _normal((1, n, d), device, dtype), _normal((1, n, d), device, dtype)
    rows = _normal((1, 2, d), device, torch.float32)
    angles = _normal((n, shapes.net.head_dim // 2), device, torch.float32)
    weight, lengths, one = _normal((d,), device, dtype), (past, n - past), float(n * d * dtype.itemsize)
    cells = (1, shapes.channels, 4, shapes.work.height, shapes.work.width)
    layout = torch.channels_last_3d
    features = _normal(cells, device, torch.float16).contiguous(memory_format=layout)
    before = features[:, :, :2].contiguous(memory_format=layout)
    gamma = _normal((shapes.channels,), device, torch.float16)
    moved = 2.0 * features.numel() * 2

    def steps(version: Kernels) -> dict[str, tuple[Callable[[], object], float]]:
        return {
            "norm before text": (partial(version.affine_norm, x, weight, weight, 1e-6), 2 * one),
            "norm and modulation": (partial(version.modulate, x, rows, rows, lengths, 1e-6), 2 * one),
            "gated sum": (partial(version.add_gated, x, update, rows, lengths), 3 * one),
            "norm and rotation": (partial(version.norm_rotate, x, weight, angles, angles, 1e-6), 2 * one),
            "norm, modulation, 8 bits": (partial(version.modulate_quantise, x, rows, rows, lengths, 1e-6), 1.5 * one),
            "GELU, 8 bits": (partial(version.gelu_quantise, x), 1.5 * one),
            "decoder's norm and SiLU": (partial(version.norm_silu, features, gamma, before), moved),
            "decoder's bias and residual": (partial(version.add_bias, features, gamma, features), 1.5 * moved),
            "decoder's enlargement": (partial(version.enlarge, features[0].movedim(1, 0)), 2.5 * moved),
        }

    fused = fused_kernels() if device.type == "cuda" else None
    for version in (PLAIN, *([fused] if fused else [])):
        for name, (run, num_bytes) in steps(version).items():
            shape = "x".join(map(str, cells)) if "decoder" in name else f"{n} x {d}"
            yield _timed(
                f"{name}, {version.name}", shape, run, device, num_bytes=num_bytes, rate=rates and rates.bandwidth
            )


def _convolutions(shapes: Shapes, device: torch.device, rates: Rates | None) -> Iterator[Timing]:
    """The decoder's 3×3×3 convolutions, with 1 and with 8 latent frames, in float32, bfloat16 and float16."""
    c, h, w = shapes.channels, shapes.work.height, shapes.work.width
    places = [(4 * c, 1, 8), (4 * c, 2, 4), (2 * c, 4, 2), (c, 4, 1)]
    for channels, frames, shrink in places:
        for latents in (1, 8):
            size = (1, channels, frames * latents + 2, h // shrink, w // shrink)
            flops = 54.0 * channels**2 * frames * latents * size[3] * size[4]
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                layout = torch.channels_last_3d
                x = _normal(size, device, dtype).contiguous(memory_format=layout)
                weight = _normal((channels, channels, 3, 3, 3), device, dtype).contiguous(memory_format=layout)
                run = partial(F.conv3d, x, weight, padding=(0, 1, 1))
                name, shape = f"convolution {str(dtype).removeprefix('torch.')}", "x".join(map(str, size[1:]))
                yield _timed(name, shape, run, device, flops=flops, rate=rates and rates.convolution)


def _normal(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Random numbers: zeros run faster than numbers ever do."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def _timed(
    kernel: str,
    shape: str,
    run: Callable[[], object],
    device: torch.device,
    *,
    flops: float = 0.0,
    num_bytes: float = 0.0,
    rate: float | None,
) -> Timing:
    floor = None if rate is None else (flops or num_bytes) / rate
    try:
        return Timing(kernel, shape, seconds_of(run, device), flops, num_bytes, floor)
    except RuntimeError as error:
        return Timing(kernel, shape, None, flops, num_bytes, floor, str(error).strip().splitlines()[0])


def seconds_of(run: Callable[[], object], device: torch.device, rounds: int = 20) -> float:
    """The median of some calls after two that warm up; on a GPU between events there, on a CPU of three."""
    for _ in range(2):
        run()
    if device.type != "cuda":
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(rounds)]
    for begun, ended in pairs:
        begun.record()
        run()
        ended.record()
    torch.cuda.synchronize(device)
    return statistics.median(begun.elapsed_time(ended) / 1000 for begun, ended in pairs)
