"""Scores of a model on held-out prompts of its mix: what the checkers read back from the videos, as shares."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8

from heliograph.data.diorama.caption import Prompt, describe
from heliograph.data.diorama.record import is_heldout
from heliograph.data.diorama.render import render
from heliograph.data.world import unit_pixels
from heliograph.embedded.mix import mixed_record
from heliograph.evaluate.truth import Reader
from heliograph.pipeline import HeliosPipeline
from heliograph.shapes import CHUNK_FRAMES
from heliograph.vae import LatentCodec, to_uint8

FIRST_SEED = 7 * 10**6
"""Seeds of scoring prompts."""

Clip = UInt8[np.ndarray, "f h w 3"]


@dataclass(frozen=True)
class ScorePlan:
    """How videos are made for scoring: their number, length, and sampling; None takes the model's own values."""

    num_prompts: int = 40
    num_chunks: int = 3
    steps: tuple[int, ...] | None = None
    first_chunk_steps: tuple[int, ...] | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True)
class Scores:
    """Shares of prompts that each attribute was right for, among those it could be judged for; and how many these are.

    `seconds_per_chunk` is the mean time to make and decode one, with the threads of this run.
    """

    shares: Mapping[str, float]
    counts: Mapping[str, int]
    seconds_per_chunk: float


def heldout_prompts(count: int) -> list[Prompt]:
    """The first of the held-out prompts."""
    return [heldout_prompt(number) for number in range(count)]


def heldout_prompt(number: int) -> Prompt:
    """A held-out combination of the mix, in held-out words and patterns, every attribute named."""
    seed = FIRST_SEED + number
    record = mixed_record(seed, "heldout")
    assert is_heldout(record.scene, record.kind, record.colour)
    return Prompt(describe(record, seed, "heldout").text, record)


def score(pipeline: HeliosPipeline, plan: ScorePlan, sheet: Path | None = None) -> Scores:
    """Make the videos and read them; `sheet` takes a picture of three frames of each."""
    prompts, clips, started = heldout_prompts(plan.num_prompts), [], time.perf_counter()
    for number, prompt in enumerate(prompts):
        video = pipeline(
            prompt.text,
            num_frames=plan.num_chunks * CHUNK_FRAMES,
            seed=number,
            steps=plan.steps,
            first_chunk_steps=plan.first_chunk_steps,
            guidance_scale=plan.guidance_scale,
        )
        clips.append(video.frames)
    seconds = (time.perf_counter() - started) / (len(prompts) * plan.num_chunks)
    if sheet is not None:
        write_sheet(sheet, clips)
    return read_all(prompts, clips, seconds)


def ceiling(codec: LatentCodec, plan: ScorePlan, size: tuple[int, int]) -> Scores:
    """The same of true clips of the world through the autoencoder alone: what no model above it can beat."""
    prompts, clips, started = heldout_prompts(plan.num_prompts), [], time.perf_counter()
    for prompt in prompts:
        frames = unit_pixels(render([prompt.record], [0], plan.num_chunks * CHUNK_FRAMES, *size).frames[0])
        chunks = [codec.decode_chunk(codec.encode_chunk(chunk)) for chunk in frames.split(CHUNK_FRAMES, dim=2)]
        clips.append(to_uint8(torch.cat(chunks, dim=2))[0].numpy())
    return read_all(prompts, clips, (time.perf_counter() - started) / (len(prompts) * plan.num_chunks))


def read_all(prompts: Sequence[Prompt], clips: Sequence[Clip], seconds: float) -> Scores:
    """What the checkers say of the clips of some prompts."""
    reader = Reader()
    right: dict[str, list[bool]] = {}
    for prompt, clip in zip(prompts, clips, strict=True):
        for name, value in reader.check(clip, prompt.record).items():
            right.setdefault(name, []).append(value)
    shares = {name: sum(values) / len(values) for name, values in sorted(right.items())}
    return Scores(shares, {name: len(values) for name, values in sorted(right.items())}, seconds)


def write_sheet(file: Path, clips: Sequence[Clip]) -> None:
    """A contact sheet: a column for each clip, its first, middle and last frame below each other."""
    from PIL import Image  # noqa: PLC0415 - only here

    columns = [np.concatenate([clip[len(clip) * i // 7] for i in (0, 3, 6)]) for clip in clips]
    per_row = 10
    blank = np.zeros_like(columns[0])
    columns += [blank] * (-len(columns) % per_row)
    grid = np.stack(columns).reshape(math.ceil(len(columns) / per_row), per_row, *columns[0].shape)
    picture = Image.fromarray(rearrange(grid, "r n h w c -> (r h) (n w) c"))
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, optimize=True)


def as_entry(plan: ScorePlan, scores: Scores) -> dict[str, Any]:
    """Scores and how they were made, to store under a name."""
    return {"plan": asdict(plan), **asdict(scores)}
