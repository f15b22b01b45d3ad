"""The denoising loop: noise to one chunk of latents, level by level (Helios, pyramid sampling).

Base, Mid and Distilled are this one loop: a pyramid with one level is ordinary flow sampling, few-step sampling is a
solver. Training calls the same generator.
"""

from collections.abc import Generator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.config import Guidance, SamplerConfig
from heliograph.flow.guidance import cfg_zero_star, classifier_free
from heliograph.flow.pyramid import BLOCK, Pyramid, build_pyramid, jump, shrink_noise
from heliograph.flow.solvers import Solver, make_solver
from heliograph.seeds import ChunkSeeds

Latents = Float[Tensor, "b c t h w"]


@runtime_checkable
class Denoiser(Protocol):
    """Anything that returns velocity: `x` float32, the timestep a plain number in [0, 1000], velocity float32."""

    def __call__(self, x: Tensor, timestep: float, condition: Any) -> Tensor:
        """Velocity at `x`."""
        ...


@dataclass(frozen=True)
class Branches:
    """What the chunk is conditioned on: under the prompt and, when guidance is on, under the negative prompt.

    `both`, where there is one, is a batch of two that stands for the prompt and the negative prompt, in this order:
    for a network that is small, one pass of two is quicker than two passes. Where there is a `second_thread`, it makes
    the pass under the negative prompt beside the other one.
    """

    prompt: Any
    negative: Any | None = None
    both: Any | None = None
    second_thread: Executor | None = None


@dataclass(frozen=True)
class Sampler:
    """All that decides how noise becomes a chunk: the pyramid, the solver and guidance."""

    pyramid: Pyramid
    solver: Solver
    guidance: Guidance


def make_sampler(config: SamplerConfig, chunk: int, height: int, width: int) -> Sampler:
    """The sampler for the chunk of this index, of `height` × `width` latent cells."""
    pyramid = build_pyramid(config.schedule, config.steps_for(chunk), height, width)
    return Sampler(pyramid, make_solver(config.schedule.solver), config.guidance)


def denoise_chunk(
    denoiser: Denoiser,
    noise: Float[Tensor, "b c t h w"],
    branches: Branches,
    sampler: Sampler,
    seeds: ChunkSeeds,
) -> Generator[Tensor, Tensor | None, None]:
    """Yield the latents after every step (float32, of the level's size); the last ones are the chunk.

    Latents that the caller sends in answer take the place of those yielded.
    Gradient mode belongs to the caller: distillation runs `next()` under `no_grad` until the step it wants.
    """
    pyramid, solver = sampler.pyramid, sampler.solver
    x = shrink_noise(noise, len(pyramid.levels))
    for level in pyramid.levels:
        if level.jump is not None:
            z = seeds.block(level.index, (*x.shape, BLOCK))
            x = jump(x, z, level.jump, pyramid.gamma)
        guidance = sampler.guidance.on_level(level.index)
        state = solver.start(x)
        for step in level.steps:
            if level.index == 0 and step.index < zero_init_steps(sampler.guidance):
                velocity = torch.zeros_like(x)
            else:
                velocity = guided_velocity(denoiser, x, step.timestep, branches, guidance)
            x, state = solver.step(state, x, velocity, step)
            sent = yield x
            x = x if sent is None else sent


def guided_velocity(
    denoiser: Denoiser, x: Tensor, timestep: float, branches: Branches, guidance: Guidance
) -> Float[Tensor, "b c t h w"]:
    """Velocity under the prompt, weighed against the negative prompt where guidance is on."""
    if not guidance.is_on:
        return denoiser(x, timestep, branches.prompt)
    combine = cfg_zero_star if guidance.method == "cfg_zero_star" else classifier_free
    if branches.both is not None:
        conditional, unconditional = denoiser(torch.cat([x, x]), timestep, branches.both).chunk(2)
        return combine(conditional, unconditional, guidance.scale)
    assert branches.negative is not None, "guidance is on, but there is no negative prompt to weigh against"
    if branches.second_thread is not None:
        beside = branches.second_thread.submit(_without_gradients, denoiser, x, timestep, branches.negative)
        try:
            conditional = denoiser(x, timestep, branches.prompt)
        finally:  # nothing is left at work behind an error
            unconditional = beside.result()
    else:
        conditional = denoiser(x, timestep, branches.prompt)
        unconditional = denoiser(x, timestep, branches.negative)
    return combine(conditional, unconditional, guidance.scale)


def _without_gradients(denoiser: Denoiser, x: Tensor, timestep: float, condition: Any) -> Tensor:
    """A pass in a thread, which begins with gradients on, whatever its caller has."""
    with torch.no_grad():
        return denoiser(x, timestep, condition)


def zero_init_steps(guidance: Guidance) -> int:
    """First steps of a chunk whose velocity is zero: CFG-Zero* alone has them, and the network need not be asked."""
    return guidance.zero_init_steps if guidance.is_on and guidance.method == "cfg_zero_star" else 0
