"""What the machine can do, and single kernels beside it: copies, products, attention, and the fused steps of a row."""

import shutil
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_products import product_rows
from gpu_state import Bench

from heliograph.bench.kernels import RELEASED, SMALL, Timing, seconds_of, time_kernels
from heliograph.bench.report import machine_facts
from heliograph.bench.roofline import rates_of
from heliograph.engine.attention import LOCAL_KERNELS, PROBE_SHAPE, probe_all
from heliograph.kernels import fused


def facts(bench: Bench) -> None:
    """Name, versions, memory, bandwidth of copies, rate of a large product, and what every attention kernel does."""
    is_gpu = bench.device.type == "cuda"
    size, numbers = (8192, 2**30) if is_gpu else (256, 2**20)
    x, y = (torch.randn(size, size, device=bench.device).bfloat16() for _ in range(2))
    source = torch.empty(numbers, dtype=torch.bfloat16, device=bench.device).normal_()
    target = torch.empty_like(source)
    product = seconds_of(lambda: x @ y, bench.device)
    copy = seconds_of(lambda: target.copy_(source), bench.device, rounds=5)
    values: dict[str, Any] = {
        **machine_facts(bench.device),
        "c_compiler": next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None),  # Triton takes both
        "has_python_headers": (Path(sysconfig.get_path("include")) / "Python.h").exists(),
        "matmul_size": size,
        "matmul_flops_per_second": 2 * size**3 / product,
        "copy_bytes_per_second": 2 * 2 * numbers / copy,
    }
    if is_gpu:
        free, total = torch.cuda.mem_get_info(bench.device)
        here = torch.empty(numbers // 4, dtype=torch.bfloat16, pin_memory=True)
        part = source[: numbers // 4]
        for way, run in (
            ("to_host", lambda: here.copy_(part, non_blocking=True)),
            ("to_device", lambda: part.copy_(here, non_blocking=True)),
        ):
            values[f"{way}_bytes_per_second"] = 2 * here.numel() / seconds_of(run, bench.device, rounds=5)
        values |= {
            "free_bytes": free,
            "total_bytes": total,
            "capability": torch.cuda.get_device_capability(bench.device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
        probes = probe_all(LOCAL_KERNELS, bench.device, torch.bfloat16, PROBE_SHAPE)
        values["attention"] = {probe.name: probe.problem or probe.seconds for probe in probes}
        for probe in probes:
            bench.say(f"attention {probe}")
    bench.write("facts", values)
    rate, speed = values["matmul_flops_per_second"] / 1e12, values["copy_bytes_per_second"] / 1e9
    bench.say(f"{values['device']}, torch {values['torch']}: {rate:.1f} TFLOP/s in bfloat16, copies {speed:.0f} GB/s")


def products(bench: Bench) -> None:
    """Rates of a block's products, in a burst and for long."""
    is_gpu = bench.device.type == "cuda"
    net = (RELEASED if bench.shape == "14b" else SMALL).net
    rows = []
    for row in product_rows(bench.device, net.dim, net.ffn_dim, 0.25 if is_gpu else 0.01):
        rows.append(row)
        rate, steady = row["flops_per_second"] / 1e12, row["flops_per_second_steady"] / 1e12
        bench.say(
            f"{row['product']:<5}{row['tokens']:>6} {row['way']:<22}{1000 * row['seconds']:7.3f} ms, "
            f"{rate:.0f} TFLOP/s, steady {steady:.0f}"
        )
        bench.write("products", {**machine_facts(bench.device), "rows": rows})


def kernels(bench: Bench) -> None:
    """Single kernels on the real shapes, and the fused ones with other numbers of warps."""
    machine = machine_facts(bench.device)
    rates = rates_of(str(machine["device"]))
    shapes = RELEASED if bench.shape == "14b" else SMALL
    timings: list[Timing] = []
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        for timing in time_kernels(shapes, bench.device, torch.bfloat16, rates):
            timings.append(timing)
            bench.say(timing.line())
            bench.write("kernels", {**machine, "timings": [each.as_json() for each in timings]})


@torch.no_grad()
def steps(bench: Bench) -> None:
    """The fused steps of a row, in slices of several sizes; beside the time that moving their bytes takes."""
    from heliograph.kernels import fused_eight_bit  # noqa: PLC0415 - needs Triton, which the rest does not

    net = (RELEASED if bench.shape == "14b" else SMALL).net
    tokens, device = (11040 if bench.device.type == "cuda" else 8), bench.device
    x, wide = (torch.randn(1, tokens, n, device=device).bfloat16() for n in (net.dim, net.ffn_dim))
    table, angles = torch.randn(1, 2, net.dim, device=device), torch.randn(tokens, net.head_dim // 2, device=device)
    lengths, weight = (tokens // 4, tokens - tokens // 4), torch.ones(net.dim, device=device).bfloat16()
    modulation = (x, table, table, lengths, 1e-6)
    in_slices = (
        ("modulate", 4 * x.numel(), partial(fused.modulate, *modulation)),
        ("norm_rotate", 4 * x.numel(), partial(fused.norm_rotate, x, weight, angles, angles, 1e-6)),
        ("modulate_quantise", 3 * x.numel(), partial(fused_eight_bit.modulate_quantise, *modulation)),
    )
    at_once = (
        ("add_gated", 6 * x.numel(), partial(fused.add_gated, x, x, table, lengths)),
        ("quantise", 3 * x.numel(), partial(fused_eight_bit.quantise, x)),
        ("gelu_quantise", 3 * wide.numel(), partial(fused_eight_bit.gelu_quantise, wide)),
    )
    machine, usual, rows = machine_facts(device), fused.SLICE, []
    rates = rates_of(str(machine["device"]))

    def measure(named: tuple[str, int, Callable[[], object]], way: str) -> None:
        name, num_bytes, run = named
        seconds, floor = seconds_of(run, device), num_bytes / rates.bandwidth if rates else 0.0
        rows.append({"step": name, "way": way, "bytes": num_bytes, "seconds": seconds, "floor_seconds": floor})
        bench.say(f"{name:<20}{way:<24}{1000 * seconds:8.3f} ms, moving its bytes takes {1000 * floor:.3f}")
        bench.write("steps", {**machine, "tokens": tokens, "rows": rows})

    try:
        for size in (512, 1024, 2048):
            fused.SLICE = size
            for named in in_slices:
                measure(named, f"slices of {size}")
    finally:
        fused.SLICE = usual
    for named in at_once:
        measure(named, "a row at once")
