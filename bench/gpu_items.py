"""What a session on a GPU measures, item by item, the most worth first; each writes its own files."""

import json
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch._inductor.config as inductor
from gpu_products import product_rows
from gpu_state import ONE, TWO, Bench
from safetensors.torch import save_file
from torch import Tensor

from heliograph.autoencoder import FastAutoencoder
from heliograph.bench.kernels import RELEASED, SMALL, Timing, seconds_of, time_kernels
from heliograph.bench.report import machine_facts
from heliograph.bench.roofline import rates_of
from heliograph.bench.run import make_ours, timed
from heliograph.bench.subject import SHAPES, RandomTexts, Subject, approximated, random_transformer
from heliograph.bench.theirs import MakeTheirs, their_transformer
from heliograph.config import EXACT, MemoryConfig, SpeedConfig
from heliograph.engine.attention import LOCAL_KERNELS, PROBE_SHAPE, probe_all
from heliograph.engine.plan import Plan
from heliograph.engine.tuning import approximate, tune, tuned_denoiser
from heliograph.kernels import fused
from heliograph.memory import History, Tier, Tiers
from heliograph.model.denoiser import Condition, TransformerDenoiser
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.request import chosen_sampler

ERROR_BLOCKS = 4
"""Blocks of the network that is compared with float32: the width and the lengths are those of the shape."""


def at(subject: Subject, steps: tuple[int, ...], first: tuple[int, ...] | None = None) -> Subject:
    """The same with other steps on each level, and other ones (None: twice as many) for the first chunk."""
    return replace(subject, sampler=chosen_sampler(subject.engine.sampler, steps, first))


def twin(network: HeliosTransformer3DModel) -> HeliosTransformer3DModel:
    """The same tensors in modules of their own: what is put in the place of a module there stays there."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return deepcopy(network, shared)


def plan_of(network: HeliosTransformer3DModel, device: torch.device) -> Plan:
    """Everything on the device."""
    return Plan("whole", str(device), str(device), torch.bfloat16, len(network.blocks), 0, 0)


def other(subject: Subject, speed: SpeedConfig) -> Subject:
    """A twin of the subject that runs as `speed` says."""
    network = twin(subject.transformer)
    denoiser = tuned_denoiser(network, plan_of(network, subject.device), replace(speed, fp8=False, history_reuse="off"))
    return approximated(replace(subject, engine=replace(subject.engine, denoiser=denoiser)), speed)


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


def exact(bench: Bench) -> None:
    """Ours beside diffusers as PyTorch runs it by itself."""
    bench.measure("exact-111", bench.exact, ("diffusers", MakeTheirs(bench.exact)))


def exact_222(bench: Bench) -> None:
    """Ours at the released schedule."""
    bench.measure("exact-222", at(bench.exact, TWO))


def first(bench: Bench) -> None:
    """The first frames where the first chunk gets no more steps than the others."""
    bench.measure("first-111", at(bench.exact, ONE, ONE))


def compiled(bench: Bench) -> None:
    """Ours beside diffusers compiled, at both schedules; a size is compiled when it is first met."""
    was_searching = torch.backends.cudnn.benchmark
    # No product by Triton was faster than cuBLAS' on any of these shapes (docs/benchmarks/README.md), and trying them
    # out takes minutes: what is chosen is the same without.
    inductor.max_autotune_gemm_backends = "ATEN"
    try:
        theirs = MakeTheirs(bench.exact, bench.compiling)
        name = f"diffusers compiled {bench.compiling}"
        bench.measure("compiled-111", bench.exact, (name, theirs))
        bench.measure("compiled-222", at(bench.exact, TWO), (name, theirs))
    finally:
        torch.backends.cudnn.benchmark = was_searching


@torch.no_grad()
def errors(bench: Bench) -> None:
    """How far ours and theirs, both in bfloat16, are from float32 in one forward on each level; and decodes."""
    device, shape = bench.device, SHAPES[bench.shape]
    network = random_transformer({**shape.transformer, "num_layers": ERROR_BLOCKS}, device, torch.bfloat16)
    plan = plan_of(network, device)
    tune(network, plan, EXACT)
    theirs = their_transformer(network, device)
    wide = deepcopy(theirs).float()
    rounded = twin(network)
    approximate(rounded, plan, SpeedConfig(fp8=True))
    ways = {
        "eager": TransformerDenoiser(network, device),
        "default runner": tuned_denoiser(network, plan, EXACT),
        "fp8": TransformerDenoiser(rounded, device),
    }
    tiers, text, (height, width) = *_inputs(bench, network), (side // 8 for side in shape.size)
    conditions = {name: Condition(way.prompt(text), way.context(tiers)) for name, way in ways.items()}
    rows = []
    for level in range(3):
        size, timestep = (1, 16, 9, height >> (2 - level), width >> (2 - level)), 900.0 - 300 * level
        x = torch.randn(size, generator=torch.Generator().manual_seed(level)).to(device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            want = _called(wide, x, timestep, text, tiers, torch.float32)
        got = {name: way(x, timestep, conditions[name]) for name, way in ways.items()}
        again = ways["default runner"](x, timestep, conditions["default runner"])
        got["diffusers"] = _called(theirs, x, timestep, text, tiers, torch.bfloat16)
        row: dict[str, Any] = {name: _error(each, want) for name, each in got.items()}
        row["runner_equals_eager"] = torch.equal(got["default runner"], got["eager"])
        row["replay_equals_first_call"] = torch.equal(again, got["default runner"])
        row["is_no_worse_than_diffusers"] = row["default runner"] <= row["diffusers"]
        rows.append({"timestep": timestep, "size": size, **row})
        bench.say(f"errors level {level}: " + ", ".join(f"{k} {v:.3g}" for k, v in row.items()))
    values: dict[str, Any] = {**machine_facts(device), "blocks": ERROR_BLOCKS, "relative_errors": rows}
    bench.write("errors", values)
    values["decode"] = _decode_error(bench)
    bench.write("errors", values)
    bench.say(f"errors decode: {values['decode']}")


def _inputs(bench: Bench, network: HeliosTransformer3DModel) -> tuple[Tiers, Tensor]:
    """A full history of random latents and a text of full length."""
    height, width = (side // 8 for side in SHAPES[bench.shape].size)
    generator = torch.Generator().manual_seed(7)
    latents, anchor = (torch.randn(1, 16, count, height, width, generator=generator) for count in (19, 1))
    history = History(latents.to(bench.device), anchor.to(bench.device), 3, MemoryConfig())
    texts = RandomTexts(network.config["text_dim"], torch.bfloat16, bench.device)
    return history.tiers(9), texts.encode([""]).embedding


def _called(network: Any, x: Tensor, timestep: float, text: Tensor, tiers: Tiers, dtype: torch.dtype) -> Tensor:
    """Their network's velocity for inputs that were rounded to bfloat16 once, as ours are."""

    def brought(latents: Tensor) -> Tensor:
        return latents.bfloat16().to(dtype)

    def named(name: str, tier: Tier) -> dict[str, Tensor]:
        frames = torch.tensor([tier.frames], device=x.device)
        return {f"indices_latents_history_{name}": frames, f"latents_history_{name}": brought(tier.latents)}

    return network(
        hidden_states=brought(x),
        timestep=torch.tensor([int(timestep)], device=x.device),
        encoder_hidden_states=text.to(dtype),
        indices_hidden_states=torch.tensor([tiers.chunk_frames], device=x.device),
        **named("short", tiers.short),
        **named("mid", tiers.mid),
        **named("long", tiers.long),
        return_dict=False,
    )[0].float()


def _error(got: Tensor, want: Tensor) -> float:
    """Root mean square of the difference over that of what is wanted."""
    return float((got - want).square().mean().sqrt() / want.square().mean().sqrt())


def _decode_error(bench: Bench) -> dict[str, Any]:
    """Of the decoder that runs by itself, and of the library's in the precision that it runs in, against float32."""
    codec, (height, width) = bench.exact.engine.codec, SHAPES[bench.shape].size
    z = torch.randn(1, 16, 9, height // 8, width // 8, generator=torch.Generator().manual_seed(1)).to(bench.device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        want = codec.autoencoder.decode(z).sample
    got = {"library": codec.autoencoder.decode(z).sample}
    if codec.decoder is not None:
        got[type(codec.decoder).__name__] = codec.decoder.decode(z).float()
    return {
        name: {"relative_error": _error(frames, want), "is_finite": bool(frames.isfinite().all())}
        for name, frames in got.items()
    }


def fp8(bench: Bench) -> None:
    """Products in 8-bit floating point alone, at both schedules."""
    subject = other(bench.exact, SpeedConfig(fp8=True))
    bench.measure("fp8-111", subject)
    bench.measure("fp8-222", at(subject, TWO))


def eight_bit(bench: Bench) -> None:
    """Products and attention in 8-bit floating point, at both schedules."""
    subject = other(bench.exact, SpeedConfig(fp8=True, attention8=True))
    bench.measure("fp8-attention8-111", subject)
    bench.measure("fp8-attention8-222", at(subject, TWO))


def profile(bench: Bench) -> None:
    """Where the device's time goes in two chunks of ours."""
    _profile(bench, "profile", bench.exact)


def _profile(bench: Bench, name: str, subject: Subject) -> None:
    """Seconds of every kernel in two chunks, and of the whole with and without the profiler."""
    plain = [timed(make_ours, subject, 2).seconds for _ in range(2)][-1]
    is_gpu = bench.device.type == "cuda"
    activities = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activities.CUDA] if is_gpu else [activities.CPU]) as profiler:
        watched = timed(make_ours, subject, 2).seconds
    attribute = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    found = [(getattr(event, attribute) / 1e6, event.count, event.key) for event in profiler.key_averages()]
    rows = [{"seconds": s, "calls": n, "name": key} for s, n, key in sorted(found, reverse=True)[:60] if s > 0]
    busy = sum(seconds for seconds, _, _ in found)
    totals = {"chunks": 2, "seconds": plain, "seconds_profiled": watched, "busy_seconds": busy}
    bench.write(name, {**machine_facts(bench.device), "steps": subject.sampler.steps, **totals, "rows": rows})
    bench.say(f"{name}: {plain:.3f} s, with the profiler {watched:.3f} s, of which kernels run {busy:.3f} s")
    for row in rows[:16]:
        bench.say(f"{name} {1000 * row['seconds']:9.1f} ms {row['calls']:>6} calls  {row['name'][:90]}")


def fast(bench: Bench) -> None:
    """Everything that is approximated, at both schedules: 8-bit attention where a kernel is installed and works."""
    with _small_decoder() as file:
        subject = other(bench.exact, SpeedConfig(mode="fast", history_reuse="chunk", decoder=file))
    bench.measure("fast-111", subject)
    bench.measure("fast-222", at(subject, TWO))
    _profile(bench, "profile-fast", subject)


def reuse(bench: Bench) -> None:
    """The history's keys and values kept through a chunk, alone."""
    bench.measure("reuse-111", other(bench.exact, SpeedConfig(history_reuse="chunk")))


def decoder(bench: Bench) -> None:
    """The small decoder alone, with random weights."""
    with _small_decoder() as file:
        subject = other(bench.exact, SpeedConfig(decoder=file))
    bench.measure("decoder-111", subject)


@contextmanager
def _small_decoder() -> Iterator[Path]:
    """A file with random weights of taew2_1's shape, there while they are read."""
    with TemporaryDirectory(prefix="heliograph-session-") as place:
        file = Path(place) / "random_taew.safetensors"
        save_file(FastAutoencoder().state_dict(), file)
        yield file


def runner(bench: Bench, name: Any) -> None:
    """Kernels launched one by one, from recordings, or compiled."""
    bench.measure(f"runner-{name}", other(bench.exact, SpeedConfig(runner=name)))


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


def offload(bench: Bench) -> None:
    """Blocks that come from host memory and from disk; `bench/offload.py` in this process."""
    import offload as streams  # noqa: PLC0415 - beside this file

    from heliograph.checkpoint import open_model  # noqa: PLC0415
    from heliograph.tiny import write_random_tiny  # noqa: PLC0415

    is_small, want, found = bench.shape != "14b", [], []
    size = SHAPES["small"].size if is_small else SHAPES["14b"].size
    with TemporaryDirectory(prefix="heliograph-offload-") as place:
        write_random_tiny(Path(place) / "model", sizes=streams.NARROW if is_small else streams.WIDE)
        folder = open_model(str(Path(place) / "model"))
        for plan in streams.ways(folder, size, str(bench.device)):
            found.append(streams.measured(folder, plan, size, want))
            bench.write("offload", {**machine_facts(bench.device), "size": size, "ways": found})
            bench.say(f"offload {json.dumps(found[-1])}")


@dataclass(frozen=True)
class Item:
    """Something to measure: its letter in the order of worth, its name, and the seconds that it may need on a GPU."""

    letter: str
    name: str
    seconds: float
    run: Callable[[Bench], None]


ITEMS = (
    Item("a", "facts", 6, facts),
    Item("a", "products", 12, products),
    Item("b", "exact", 70, exact),
    Item("b", "errors", 20, errors),
    Item("b", "exact-222", 15, exact_222),
    Item("b", "first", 15, first),
    Item("c", "compiled", 120, compiled),
    Item("d", "fp8", 30, fp8),
    Item("d", "fp8-attention8", 25, eight_bit),
    Item("d", "profile", 12, profile),
    Item("e", "fast", 30, fast),
    Item("e", "reuse", 20, reuse),
    Item("e", "decoder", 25, decoder),
    Item("f", "runner-eager", 15, partial(runner, name="eager")),
    Item("f", "runner-graph", 20, partial(runner, name="graph")),
    Item("f", "runner-compile", 60, partial(runner, name="compile")),
    Item("g", "steps", 15, steps),
    Item("g", "kernels", 40, kernels),
    Item("i", "offload", 150, offload),
)
"""All items, the most worth first."""
