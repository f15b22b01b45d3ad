"""The student's own sampling, run in training with gradient where it is wanted (Helios, staged backward simulation)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.config import Guidance
from heliograph.flow.pyramid import Pyramid
from heliograph.flow.solvers import FewStep
from heliograph.sample import Branches, Denoiser, Sampler, denoise_chunk
from heliograph.seeds import ChunkSeeds
from heliograph.train.draw import integers
from heliograph.train.network import Given


def simulate(
    denoiser: Denoiser, noise: Float[Tensor, "b c t h w"], given: Given, pyramid: Pyramid, seeds: ChunkSeeds
) -> Float[Tensor, "b c t h w"]:
    """The student's chunk, with gradient through the last step of each level alone (staged backward simulation).

    A level's input carries the gradient on to the level before only where the level has a single step. Nothing carries
    gradient where the caller has switched it off.
    """
    wants_gradient = torch.is_grad_enabled()
    sampler = Sampler(pyramid, FewStep(), Guidance(1.0))
    states = denoise_chunk(denoiser, noise, Branches(given), sampler, seeds)
    x = noise
    for level in pyramid.levels:
        for step in level.steps:
            with torch.set_grad_enabled(wants_gradient and step is level.steps[-1]):
                x = next(states)
    return x


def draw_exits(pyramid: Pyramid, generator: torch.Generator) -> tuple[int, ...]:
    """The step of each level at which the student is asked for the level's end."""
    return tuple(int(integers((), len(level.steps), generator, generator.device)) for level in pyramid.levels)


def stop_early(pyramid: Pyramid, exits: tuple[int, ...]) -> Pyramid:
    """The pyramid whose levels go from the step in `exits` straight to their end."""
    levels = [
        replace(level, steps=(*level.steps[:last], replace(level.steps[last], after=0.0)))
        for level, last in zip(pyramid.levels, exits, strict=True)
    ]
    return replace(pyramid, levels=tuple(levels))
