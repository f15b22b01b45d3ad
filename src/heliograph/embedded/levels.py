"""What each pyramid level gets wrong, and what each tier of the past tells it: errors of velocity on held-out clips.

A model that makes no mistakes would still have some: noise hides detail, and a video may go on in more than one way.
So the numbers say nothing by themselves. What falls where more of the past is shown was learnt from the past.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from heliograph.checkpoint import NATIVE_FILE, read_json
from heliograph.config import MemoryConfig
from heliograph.data.diorama.caption import Prompt
from heliograph.data.world_cache import CacheInfo, code_digest, encode_clips
from heliograph.embedded.score import heldout_prompts
from heliograph.evaluate.statistics import interval
from heliograph.flow.schedule import level_ranges
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.text import TextEncoder
from heliograph.train.build import open_beside
from heliograph.train.corrupt import tiers_of
from heliograph.train.multiscale import LevelLine, MultiscaleConfig, level_lines, level_position, level_weights
from heliograph.train.network import Given, denoise
from heliograph.train.start import StartPoint, load_start
from heliograph.vae import LatentCodec

MEMORY, SCHEDULE = MemoryConfig(), MultiscaleConfig().schedule

PASTS = {
    "nothing": 0,
    "the newest frame": MEMORY.short,
    "three frames": MEMORY.short + MEMORY.mid,
    "all": MEMORY.num_frames,
}
"""Latent frames that are remembered: none, the short tier, with the middle one, with the long one. The anchor stays."""

CHUNK = 3
"""Number of the chunk whose velocities are asked for: the first that has a whole past, and a frame to spare."""

VISIBLE_SHARE = 0.02
"""How much of a cell a subject must cover for the cells around it to count as near."""


@dataclass(frozen=True)
class LevelsPlan:
    """How many clips, at how many points of each level's line, and how many clips at once."""

    num_clips: int = 64
    num_points: int = 8
    batch_size: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Clips:
    """Chunk number 3 of some clips, what came before it, its caption as an embedding, and the cells near a subject."""

    chunk: Float[Tensor, "b c t h w"]
    past: Float[Tensor, "b c p h w"]
    text: Float[Tensor, "b l d"]
    near: Float[Tensor, "b 1 t h w"]


def level_errors(model: Path, plan: LevelsPlan, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Mean squared error of the velocity by past and level, near subjects and elsewhere; `model` is undistilled.

    Each is a mean over clips with its 95 % bootstrap interval; all pasts meet the same noise.
    """
    network = load_start(StartPoint(str(model)), torch.float32)
    beside = open_beside(str(model), torch.device("cpu"))
    codec, encoder = beside.codec(), beside.text(torch.float32)
    size = read_json(model / NATIVE_FILE)
    info = CacheInfo(plan.num_clips, CHUNK + 1, size["height"], size["width"], code_digest(codec))
    prompts = heldout_prompts(plan.num_clips)
    found: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in PASTS}
    for first in range(0, plan.num_clips, plan.batch_size):
        clips = _clips(prompts[first : first + plan.batch_size], info, codec, encoder)
        for name, count in PASTS.items():
            generator = torch.Generator().manual_seed(plan.seed * 2**32 + first)
            found[name] += errors_of(network, clips, count, plan.num_points, generator)
        tell(f"{len(found['all'])}/{plan.num_clips} clips")
    levels = range(SCHEDULE.num_levels)
    errors = {
        name: [
            {
                where: vars(interval([clip[level][side] for clip in rows if not math.isnan(clip[level][side])]))
                for side, where in enumerate(("near", "elsewhere"))
            }
            for level in levels
        ]
        for name, rows in found.items()
    }
    return {"num": plan.num_clips, "num_points": plan.num_points, "errors": errors}


@torch.no_grad()
def errors_of(
    network: HeliosTransformer3DModel, clips: Clips, num_past: int, num_points: int, generator: torch.Generator
) -> list[list[tuple[float, float]]]:
    """For each clip and level the errors near subjects and elsewhere, the mean over points evenly along the line.

    Where a clip has no such cells, not a number.
    """
    noise = torch.randn(clips.chunk.shape, generator=generator)
    given = Given(clips.text, tiers_of(shown(clips.past, num_past), MEMORY))
    ranges = level_ranges(SCHEDULE)
    lines, near, sums = level_lines(clips.chunk, noise, ranges), level_weights(clips.near, len(ranges)), []
    indices = ((torch.arange(num_points) + 0.5) / num_points * SCHEDULE.num_train_timesteps).long()
    for line, stretch, weight in zip(lines, ranges, near, strict=True):
        assert weight is not None
        remaining, timesteps = level_position(indices, stretch, SCHEDULE.num_train_timesteps)
        squares = [_square_error(network, line, r, float(t), given) for r, t in zip(remaining, timesteps, strict=True)]
        error = torch.stack(squares).mean(dim=0)
        sums.append(torch.stack([_weighted_mean(error, weight), _weighted_mean(error, 1 - weight)], dim=1))
    return [[(float(level[0]), float(level[1])) for level in clip] for clip in torch.stack(sums, dim=1)]


def shown(past: Float[Tensor, "b c p h w"], num_past: int) -> Float[Tensor, "b c p h w"]:
    """The anchor (first) and the newest `num_past` frames; for 0 nothing at all."""
    kept = past.clone()
    kept[:, :, 1 : past.shape[2] - num_past] = 0
    return kept if num_past else torch.zeros_like(past)


def near_subjects(shares: Float[Tensor, "b t h w"]) -> Float[Tensor, "b 1 t h w"]:
    """1 for cells that show a subject and those beside them, in space and time; `shares` as in the cache."""
    return F.max_pool3d((shares[:, None] > VISIBLE_SHARE).float(), 3, stride=1, padding=1)


def _square_error(
    network: HeliosTransformer3DModel, line: LevelLine, remaining: Tensor, timestep: float, given: Given
) -> Float[Tensor, "b 1 t h w"]:
    point = line.at(remaining.expand(line.end.shape[0]))
    return (denoise(network, point, timestep, given) - line.slope).square().mean(dim=1, keepdim=True)


def _weighted_mean(error: Float[Tensor, "b 1 t h w"], weight: Float[Tensor, "b 1 t h w"]) -> Float[Tensor, " b"]:
    return (error * weight).sum(dim=(1, 2, 3, 4)) / weight.sum(dim=(1, 2, 3, 4))


def _clips(prompts: Sequence[Prompt], info: CacheInfo, codec: LatentCodec, encoder: TextEncoder) -> Clips:
    rows = [encode_clips([prompt.record], [0], info, codec) for prompt in prompts]
    latents, anchors, shares = (torch.cat(column) for column in zip(*rows, strict=True))
    frames = rearrange(latents[:, :CHUNK], "b n c t h w -> b c (n t) h w")
    past = torch.cat([anchors, frames[:, :, -MEMORY.num_frames :]], dim=2)
    text = encoder.encode([prompt.text for prompt in prompts]).embedding
    return Clips(latents[:, CHUNK], past, text, near_subjects(shares[:, CHUNK]))
