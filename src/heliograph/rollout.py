"""The rollout: chunk after chunk, for ever, each from noise and the history of those before it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from heliograph.config import SamplerConfig
from heliograph.memory import History, Tiers
from heliograph.sample import Branches, Denoiser, denoise_chunk, make_sampler
from heliograph.seeds import RolloutSeeds
from heliograph.shapes import CHUNK_LATENTS

Conditioning = Callable[[Tiers, int], Branches]
"""From the tiers and the index of a chunk to what the denoiser is conditioned on."""

StepReport = Callable[[int, int], None]
"""Called after each sampling step with (steps done in this chunk, steps of this chunk)."""


@dataclass(frozen=True)
class Turn:
    """One chunk of latents (float32) and the history after it: all one must store to go on from here."""

    index: int
    latents: Float[Tensor, "b c t h w"]
    history: History


def rollout(
    denoiser: Denoiser,
    history: History,
    conditioning: Conditioning,
    sampler: SamplerConfig,
    seeds: RolloutSeeds,
    on_step: StepReport | None = None,
) -> Iterator[Turn]:
    """Chunk after chunk, from `history` on, for ever. The caller stops it by no longer asking."""
    while True:
        turn = next_turn(denoiser, history, conditioning, sampler, seeds, on_step)
        history = turn.history
        yield turn


def next_turn(
    denoiser: Denoiser,
    history: History,
    conditioning: Conditioning,
    sampler: SamplerConfig,
    seeds: RolloutSeeds,
    on_step: StepReport | None = None,
) -> Turn:
    """The chunk that follows `history`. The same history, seeds and conditioning give the same chunk, bit for bit."""
    index = history.num_chunks
    b, c, _, h, w = history.latents.shape
    chunk_seeds = seeds.for_chunk(index)
    noise = chunk_seeds.noise((b, c, CHUNK_LATENTS, h, w))
    branches = conditioning(history.tiers(CHUNK_LATENTS), index)
    plan = make_sampler(sampler, index, h, w)
    states = denoise_chunk(denoiser, noise, branches, plan, chunk_seeds)
    latents = noise
    for done in range(1, plan.pyramid.num_calls + 1):
        latents = next(states)
        if on_step is not None:
            on_step(done, plan.pyramid.num_calls)
    return Turn(index, latents, history.push(latents))
