"""What each switch of fast mode does to the embedded model's scores, and to its speed on this machine.

python bench/switches.py docs/benchmarks/switches.json --prompts 20 --frames /tmp/exact.npy

Called again it goes on: variants that are in the file are not made again. `--frames` keeps the exact run's frames.

Every variant makes the same held-out prompts from the same seeds; the checkers read the videos. `difference` is the
mean distance of its frames from those of the exact run, in levels of 255. On a CPU 8-bit products are emulated, which
costs time: the seconds of those variants say nothing about a GPU. 8-bit attention is emulated for every chunk token and
every history token, on all levels; a GPU's kernel takes it only where there are many keys.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heliograph.config import EXACT, SpeedConfig
from heliograph.doctor import this_cpu
from heliograph.embedded.score import ScorePlan, heldout_prompts, read_all
from heliograph.kernels.cudnn_attention import attend_in_pytorch
from heliograph.media.target import write_whole
from heliograph.model.attention import SelfAttention
from heliograph.model.denoiser import TransformerDenoiser
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.pipeline import HeliosPipeline
from heliograph.revision import revision
from heliograph.shapes import CHUNK_FRAMES

VARIANTS: Mapping[str, SpeedConfig] = {
    "exact": EXACT,
    "history reused in a level": SpeedConfig(history_reuse="level"),
    "history reused in a chunk": SpeedConfig(history_reuse="chunk"),
    "fp8": SpeedConfig(fp8=True),
    "fp8, history reused in a level": SpeedConfig(fp8=True, history_reuse="level"),
    "8-bit attention": SpeedConfig(attention8=True),
    "all three, as in fast mode": SpeedConfig(fp8=True, history_reuse="level", attention8=True),
}


def loaded(model: str, speed: SpeedConfig) -> HeliosPipeline:
    """The model on the CPU, with 8-bit attention emulated where `speed` has it."""
    pipe = HeliosPipeline.from_pretrained(model, device="cpu", speed=replace(speed, attention8=None))
    if speed.attention8:
        denoiser = pipe.engine.denoiser
        assert isinstance(denoiser, TransformerDenoiser)
        transformer = denoiser.transformer
        assert isinstance(transformer, HeliosTransformer3DModel)
        transformer.lean = None  # it has an attention of its own
        for module in transformer.modules():
            if isinstance(module, SelfAttention):
                module.own_kernel = attend_in_pytorch
    return pipe


def run(model: str, speed: SpeedConfig, plan: ScorePlan, frames: Path) -> dict[str, Any]:
    """The scores of one variant, and how far its frames are from those in the file, which the first one writes."""
    pipe = loaded(model, speed)
    prompts, clips = heldout_prompts(plan.num_prompts), []
    started = time.process_time()
    for number, prompt in enumerate(prompts):
        clips.append(pipe(prompt.text, num_frames=plan.num_chunks * CHUNK_FRAMES, seed=number).frames)
    seconds = (time.process_time() - started) / (plan.num_prompts * plan.num_chunks)
    if not frames.exists():
        np.save(frames, np.stack(clips))
    exact = np.load(frames)
    scores = read_all(prompts, clips, seconds)
    apart = [np.abs(a.astype(np.int16) - b).mean() for a, b in zip(clips, exact, strict=True)]
    return {
        "shares": dict(scores.shares),
        "counts": dict(scores.counts),
        "cpu_seconds_per_chunk": seconds,
        "difference": float(np.mean(apart)),
        "worst_difference": float(np.max(apart)),
    }


def main() -> None:
    """Measure all variants, writing after each, so that what was measured is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--chunks", type=int, default=3)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument(
        "--variants", type=int, default=len(VARIANTS), help="Make this many that are missing, and stop."
    )
    arguments = parser.parse_args()
    plan = ScorePlan(arguments.prompts, arguments.chunks)
    done = json.loads(arguments.results.read_text())["variants"] if arguments.results.exists() else {}
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "commit": revision(),
        "device": this_cpu().name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "model": arguments.model,
        "prompts": plan.num_prompts,
        "chunks": plan.num_chunks,
        "variants": done,
    }
    for name in [name for name in VARIANTS if name not in done][: arguments.variants]:
        report["variants"][name] = run(arguments.model, VARIANTS[name], plan, arguments.frames)
        write_whole(arguments.results, json.dumps(report, indent=2).encode() + b"\n")
        print(name, json.dumps(report["variants"][name]), flush=True)


if __name__ == "__main__":
    main()
