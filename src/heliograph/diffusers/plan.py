"""What a call decides before its first step: schedule, steps, guidance, memory and the number of chunks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from heliograph.config import MemoryConfig, SamplerConfig, ScheduleConfig
from heliograph.errors import UserError
from heliograph.flow.pyramid import Level, Pyramid
from heliograph.flow.schedule import Step, shift_sigma, token_shift
from heliograph.presets import schedule_for
from heliograph.sample import Sampler, make_sampler
from heliograph.shapes import CHUNK_LATENTS, FRAME_STRIDE, PATCH

MAX_STEPS = 1000


@dataclass(frozen=True)
class MemoryInput:
    """The memory options of a call: tier sizes in any order, whether there is an anchor, and the length of a chunk.

    `skips_first_chunk` takes the anchor from the second chunk; no chunk is left out. `chunk_latents` are the latent
    frames of a chunk.
    """

    history_sizes: Sequence[int]
    keeps_anchor: bool
    skips_first_chunk: bool
    chunk_latents: int

    def __post_init__(self) -> None:
        if len(self.history_sizes) != 3:
            raise UserError(f"history_sizes={list(self.history_sizes)} must be three sizes; the models use [16, 2, 1]")
        if self.chunk_latents < 1:
            raise UserError(
                f"num_latent_frames_per_chunk={self.chunk_latents} is not positive; the models use {CHUNK_LATENTS}"
            )

    @property
    def chunk_frames(self) -> int:
        """Pixel frames of a chunk: one for its first latent frame, four for each other."""
        return 1 + (self.chunk_latents - 1) * FRAME_STRIDE

    def config(self) -> MemoryConfig:
        """The tiers, the largest compressed most. Without an anchor the short tier remembers a frame more instead."""
        long, mid, short = sorted(self.history_sizes, reverse=True)
        return MemoryConfig(long, mid, short if self.keeps_anchor else short + 1, self.keeps_anchor)


@dataclass(frozen=True)
class Plan:
    """How the chunks of a call are made. `sigmas` replace the schedule's own noise levels, before the shift."""

    sampler: SamplerConfig
    memory: MemoryConfig
    skips_first_chunk: bool
    num_chunks: int
    chunk_latents: int
    sigmas: tuple[float, ...] | None = None

    def sampler_for(self, chunk: int, height: int, width: int, *, is_guided: bool) -> Sampler:
        """The sampler of the chunk with this index, of `height` × `width` latent cells."""
        sampler = make_sampler(self.sampler, chunk, height, width)
        if not is_guided:
            sampler = replace(sampler, guidance=replace(sampler.guidance, scale=1.0))
        if self.sigmas is None:
            return sampler
        num_tokens = CHUNK_LATENTS * height * width // PATCH**2
        level = Level(0, None, custom_steps(self.sampler.schedule, self.sigmas, num_tokens))
        return replace(sampler, pyramid=Pyramid((level,), sampler.pyramid.gamma))


def make_plan(
    sampler: SamplerConfig, memory: MemoryInput, num_frames: int, sigmas: tuple[float, ...] | None = None
) -> Plan:
    """The plan of a video of at least `num_frames` frames, in whole chunks and never less than one."""
    return Plan(
        sampler=replace(sampler, schedule=for_chunk_length(sampler.schedule, memory.chunk_latents)),
        memory=memory.config(),
        skips_first_chunk=memory.skips_first_chunk,
        num_chunks=max(1, math.ceil(num_frames / memory.chunk_frames)),
        chunk_latents=memory.chunk_latents,
        sigmas=sigmas,
    )


def scheduler_schedule(scheduler: Any) -> ScheduleConfig:
    """The schedule that a scheduler of the library stands for; its code is not run.

    Raises:
        CheckpointError: it is no Helios scheduler, or has an option that no solver here implements.
    """
    return schedule_for({**scheduler.config, "_class_name": type(scheduler).__name__})


def for_chunk_length(schedule: ScheduleConfig, chunk_latents: int) -> ScheduleConfig:
    """The schedule for chunks of `chunk_latents` latent frames instead of 9.

    The shift is base + a·(n − base_tokens) of a chunk's n tokens. Chunks of T frames have T/9 of the tokens that the
    pyramid counts with, so a becomes a·T/9 while base − a·base_tokens stays.
    """
    if chunk_latents == CHUNK_LATENTS:
        return schedule
    span = schedule.max_tokens - schedule.base_tokens
    slope = (schedule.max_shift - schedule.base_shift) / span
    scaled = slope * chunk_latents / CHUNK_LATENTS
    base_shift = schedule.base_shift + (scaled - slope) * schedule.base_tokens
    return replace(schedule, base_shift=base_shift, max_shift=base_shift + scaled * span)


def custom_steps(schedule: ScheduleConfig, sigmas: Sequence[float], num_tokens: int) -> tuple[Step, ...]:
    """Steps at the given noise levels, shifted as the schedule's own are where it shifts by size; then down to 0."""
    shift = 1.0 if schedule.time_shift == "constant" else token_shift(schedule, num_tokens)
    levels = [shift_sigma(sigma, shift) for sigma in sigmas]
    ends = [*levels[1:], 0.0]
    scale = schedule.num_train_timesteps
    return tuple(Step(i, a, b, a * scale) for i, (a, b) in enumerate(zip(levels, ends, strict=True)))


def check_sigmas(sigmas: Iterable[float]) -> tuple[float, ...]:
    """The noise levels as plain numbers.

    Raises:
        UserError: they do not fall from below 1 to above 0.
    """
    values = tuple(float(sigma) for sigma in sigmas)
    falls = all(a > b for a, b in zip((1.0, *values), (*values, 0.0), strict=True))
    if not falls or not 1 <= len(values) <= MAX_STEPS:
        raise UserError(f"sigmas={list(values)[:8]} must fall from below 1 to above 0, for example [0.999, 0.7, 0.3]")
    return values
