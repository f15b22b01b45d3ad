"""Does each idea of the paper earn its place? The same model trained on with one idea left out, measured beside it.

Every arm makes the same videos: same prompts, same seeds. So arms are compared video by video.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from heliograph.embedded.endurance import KEPT, METRICS, measured
from heliograph.embedded.score import ScorePlan, heldout_prompts, score
from heliograph.evaluate.truth import Reader
from heliograph.pipeline import HeliosPipeline


@dataclass(frozen=True)
class ArmPlan:
    """How videos are sampled, the number of long ones and their length in chunks, and of short ones that are read.

    `trained_steps` is how long the arm was trained, for the page.
    """

    steps: tuple[int, ...]
    guidance_scale: float
    trained_steps: int
    num_videos: int = 8
    num_chunks: int = 87
    num_prompts: int = 40


def measure_arm(pipeline: HeliosPipeline, plan: ArmPlan, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Every metric of each long video, what its moments show as asked, and shares of short videos that are right."""
    reader, rows, making = Reader(), [], 0.0
    for number, prompt in enumerate(heldout_prompts(plan.num_videos)):
        session = pipeline.session(prompt.text, seed=number, steps=plan.steps, guidance_scale=plan.guidance_scale)
        started = time.perf_counter()
        frames = np.concatenate([session.next_chunk().frames for _ in range(plan.num_chunks)])
        making += time.perf_counter() - started
        rows.append(measured(frames, prompt.record, reader))
        tell(f"{number + 1}/{plan.num_videos} long videos")
    scores = score(pipeline, ScorePlan(plan.num_prompts, steps=plan.steps, guidance_scale=plan.guidance_scale))
    return {
        "steps": list(plan.steps),
        "guidance_scale": plan.guidance_scale,
        "trained_steps": plan.trained_steps,
        "num_chunks": plan.num_chunks,
        "metrics": {name: [row["metrics"][name] for row in rows] for name in METRICS},
        "kept": {name: [list(map(bool, row["kept"][name])) for row in rows] for name in KEPT},
        "shares": dict(scores.shares),
        "counts": dict(scores.counts),
        "seconds_per_chunk": making / (plan.num_videos * plan.num_chunks),
    }
