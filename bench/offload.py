"""Streamed blocks on a real device: right numbers, peak memory beside what `doctor` says, seconds for a step.

python bench/offload.py results.json                    # blocks of the released width, ten of them, on cuda
python bench/offload.py results.json --small --device cpu   # tries that everything runs

Writes a model with random weights (14 GB for the released width) into a temporary folder.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from heliograph.bench.clock import MemoryWatch, now
from heliograph.bench.report import machine_facts
from heliograph.checkpoint import ModelFolder, open_model
from heliograph.config import EXACT, MemoryConfig
from heliograph.engine.machine import this_machine
from heliograph.engine.needs import Workload, needs_of
from heliograph.engine.placement import plans_for
from heliograph.engine.plan import Plan
from heliograph.engine.tuning import tuned_transformer
from heliograph.media.target import write_whole
from heliograph.memory import History
from heliograph.model.denoiser import Condition, TransformerDenoiser
from heliograph.tiny import TinySizes, write_random_tiny

WIDE = TinySizes(num_layers=10, num_heads=40, head_dim=128, rope_dim=(44, 42, 42), ffn_dim=13824, text_dim=4096)
NARROW = TinySizes(num_layers=6)


def steps(folder: ModelFolder, plan: Plan, size: tuple[int, int], count: int) -> Iterator[tuple[torch.Tensor, float]]:
    """Velocities and seconds of some steps after one history, at the last level."""
    device = torch.device(plan.device)
    denoiser = TransformerDenoiser(tuned_transformer(folder, plan, EXACT), device)
    h, w = size[0] // 8, size[1] // 8
    generator = torch.Generator().manual_seed(0)
    history = History(torch.randn(1, 16, 19, h, w, generator=generator).to(device), None, 1, MemoryConfig())
    text = torch.randn(1, 512, int(folder.transformer_config["text_dim"]), generator=generator)
    condition = Condition(denoiser.prompt(text), denoiser.context(history.tiers(9)))
    x = torch.randn(1, 16, 9, h, w, generator=generator).to(device)
    for number in range(count):
        start = now(device)
        with torch.no_grad():
            velocity = denoiser(x, 900.0 - number, condition)
        yield velocity.cpu(), now(device) - start


def measured(folder: ModelFolder, plan: Plan, size: tuple[int, int], want: list[torch.Tensor]) -> dict[str, Any]:
    """One way of running: whether it equals `want` (filled by the first), memory at its highest, seconds for a step."""
    device = torch.device(plan.device)
    start = time.perf_counter()
    with MemoryWatch(device) as memory:
        results = list(steps(folder, plan, size, 4))
    velocities = [velocity for velocity, _ in results]
    if not want:
        want.extend(velocities)
    return {
        "way": plan.way,
        "resident_blocks": plan.resident_blocks,
        "equals_whole": all(torch.equal(a, b) for a, b in zip(velocities, want, strict=True)),
        "largest_difference": max(float((a - b).abs().max()) for a, b in zip(velocities, want, strict=True)),
        "step_seconds": [seconds for _, seconds in results],
        "load_and_run_seconds": time.perf_counter() - start,
        "peak_device_bytes": memory.device_bytes,
        "peak_host_bytes": memory.host_bytes,
        "planned_device_bytes": plan.device_bytes,
        "planned_host_bytes": plan.host_bytes,
    }


def ways(folder: ModelFolder, size: tuple[int, int], device: str) -> list[Plan]:
    """Whole, and each streamed way with no more than two blocks resident, with the planner's own figures where it has
    them."""
    needs = needs_of(folder, Workload(*size))
    known = {plan.way: plan for plan in plans_for(needs, this_machine(folder.path), torch.bfloat16)}
    blocks = needs.transformer.num_blocks
    whole = Plan("whole", device, device, torch.bfloat16, blocks, 0, 0)
    streamed = [
        Plan(way, device, device, torch.bfloat16, resident, plan.device_bytes, plan.host_bytes)
        for way in ("blocks offloaded", "blocks on disk")
        for resident in (0, 2)
        for plan in (known.get(way, whole),)
    ]
    return [whole, *streamed]


def main() -> None:
    """Measure every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    size = (64, 64) if arguments.small else (384, 640)
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        **machine_facts(torch.device(arguments.device)),
        "size": size,
        "ways": [],
    }
    want: list[torch.Tensor] = []
    with TemporaryDirectory(prefix="heliograph-offload-") as place:
        write_random_tiny(Path(place) / "model", sizes=NARROW if arguments.small else WIDE)
        folder = open_model(str(Path(place) / "model"))
        for plan in ways(folder, size, arguments.device):
            report["ways"].append(measured(folder, plan, size, want))
            write_whole(arguments.results, json.dumps(report, indent=2).encode() + b"\n")
            print(json.dumps(report["ways"][-1]), flush=True)


if __name__ == "__main__":
    main()
