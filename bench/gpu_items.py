"""What a session on a GPU measures, item by item, the most worth first; each writes its own files."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch._inductor.config as inductor
from gpu_errors import errors
from gpu_singles import facts, kernels, products, steps
from gpu_state import ONE, TWO, Bench, at, other
from safetensors.torch import save_file

from heliograph.autoencoder import FastAutoencoder
from heliograph.bench.report import machine_facts
from heliograph.bench.run import make_ours, timed
from heliograph.bench.subject import SHAPES, Subject
from heliograph.bench.theirs import MakeTheirs
from heliograph.config import SpeedConfig


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
    """Ours beside diffusers compiled; a size is compiled when it is first met."""
    with _compiling():
        bench.measure("compiled-111", bench.exact, bench.compiled_theirs)


def compiled_222(bench: Bench) -> None:
    """The same at the released schedule, whose sizes are those of `compiled`."""
    with _compiling():
        bench.measure("compiled-222", at(bench.exact, TWO), bench.compiled_theirs)


@contextmanager
def _compiling() -> Iterator[None]:
    """Compile without trying out Triton for products: none was faster than cuBLAS' on any of these shapes.

    It takes minutes, and what is chosen is the same without (docs/benchmarks/README.md).
    """
    was_searching = torch.backends.cudnn.benchmark
    try:
        with inductor.patch(max_autotune_gemm_backends="ATEN"):
            yield
    finally:
        torch.backends.cudnn.benchmark = was_searching


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
    Item("c", "compiled-222", 75, compiled_222),
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
