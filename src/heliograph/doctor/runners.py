"""How long a chunk takes with each way of running a small model on the CPU: measured here, on random weights."""

import time
from typing import cast

import torch
from torch import nn

from heliograph.checkpoint import ModelFolder, native_memory, native_sampler
from heliograph.config import Runner, SpeedConfig
from heliograph.doctor.parts import RunnerTime
from heliograph.engine.needs import ModelNeeds
from heliograph.engine.plan import Plan
from heliograph.engine.threads import SMALL_PARAMETERS
from heliograph.engine.tuning import guidance_thread, tune, tuned_denoiser
from heliograph.memory import History, Tiers
from heliograph.model.denoiser import Condition
from heliograph.model.openvino import has_openvino
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.rollout import next_turn
from heliograph.sample import Branches
from heliograph.seeds import RequestSeeds

CHUNKS = 12
"""Chunks that are timed; the least of them counts, since whatever else runs here can only add."""

MOST_TOKENS = 2000
"""Chunks of more tokens take too long to try out while somebody waits for a report."""

TEXT_TOKENS = 32
"""Length of the text that stands in for a prompt."""


def times_runners(plan: Plan, needs: ModelNeeds) -> bool:
    """Whether there is a choice to measure: a small model and small pictures on a CPU, and OpenVINO installed."""
    is_small = needs.num_parameters < SMALL_PARAMETERS and needs.work.num_tokens <= MOST_TOKENS
    return plan.device == "cpu" and is_small and has_openvino()


def timed_runners(folder: ModelFolder, plan: Plan, needs: ModelNeeds) -> tuple[RunnerTime, ...]:
    """The transformer's part of a chunk at the model's schedule, by the usual runner and by OpenVINO."""
    before = torch.get_num_threads()
    torch.set_num_threads(plan.num_threads or before)
    try:
        return tuple(_timed(folder, plan, needs, runner) for runner in ("eager", "openvino"))
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def _timed(folder: ModelFolder, plan: Plan, needs: ModelNeeds, runner: Runner) -> RunnerTime:
    transformer = cast(HeliosTransformer3DModel, HeliosTransformer3DModel.from_config(dict(folder.transformer_config)))
    nn.Module.to(transformer, plan.dtype).eval()  # the library's own warns of parts that stay float32 when loaded
    speed = SpeedConfig(runner=runner)
    tune(transformer, plan, speed)
    denoiser = tuned_denoiser(transformer, plan, speed)
    embedding = torch.zeros(1, TEXT_TOKENS, transformer.config["text_dim"])
    seeds, sampler = RequestSeeds(0), native_sampler(folder)
    one, two = denoiser.prompt(embedding), denoiser.prompt(torch.cat([embedding, embedding]))
    thread = guidance_thread(transformer)

    def branches(tiers: Tiers, _: int) -> Branches:
        context = denoiser.context(tiers)  # branches run as they do in an engine
        both = Condition(two, context) if thread is None else None
        return Branches(Condition(one, context), Condition(one, context), both, thread)

    stride = needs.work.stride
    cells = needs.work.height // stride, needs.work.width // stride
    history = History.empty((1, transformer.config["in_channels"], *cells), native_memory(folder.path))
    seconds: list[float] = []
    for _ in range(1 + CHUNKS):
        started = time.perf_counter()
        history = next_turn(denoiser, history, branches, sampler, seeds).history
        seconds.append(time.perf_counter() - started)
    return RunnerTime(runner, max(0.0, seconds[0] - min(seconds)), min(seconds[1:]))
