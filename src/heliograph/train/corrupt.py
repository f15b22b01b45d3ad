"""What the model is shown of the past in training (Helios, unified history injection and easy anti-drifting).

Representation control makes one network a text-, image- and video-to-video model: the start is told by which remembered
frames are zero. Corruption degrades the frames that are left, so that the model learns to distrust its own memory.

`past` is the anchor frame and then the history, oldest first: `b c p h w` with p = 1 + remembered frames. Every
function here is pure, treats each sample on its own, and leaves a frame that is zero exactly zero: zero means "there is
nothing".
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from heliograph.config import MemoryConfig
from heliograph.errors import UserError
from heliograph.flow.path import interpolate
from heliograph.memory import History, Tiers
from heliograph.shapes import CHUNK_LATENTS
from heliograph.train.draw import integers, normal, uniform
from heliograph.train.stage import Batch

NEWEST_SPLIT = 2
"""Frames of the newest remembered chunk that are degraded apart from the rest of it."""


@dataclass(frozen=True)
class StartMix:
    """How often a sample becomes a start: chances of `text`, else `image`, else a shortened `clip`; else all is kept.

    `text` keeps nothing, `image` the anchor and the newest frame, `clip` the anchor and the newest 0, 1, 2 … chunks.
    """

    text: float = 0.4
    image: float = 0.1
    clip: float = 0.4

    def __post_init__(self) -> None:
        if not all(0 <= chance <= 1 for chance in (self.text, self.image, self.clip)):
            raise UserError(f"{self} has a chance outside 0 to 1; the recipe is 0.4, 0.1, 0.4")


@dataclass(frozen=True)
class Corruption:
    """How a history is degraded: `noise`, `blur` and `exposure` are the shares of samples; the others stay clean.

    `max_sigma` is the largest noise level of a frame; `min_size` the smallest fraction that height and width are
    shrunk to; `factors` the range of exposure, around 1.
    """

    noise: float = 0.8
    blur: float = 0.1
    exposure: float = 0.0
    max_sigma: float = 1 / 3
    min_size: float = 0.9
    factors: tuple[float, float] = (0.3, 1.7)

    @property
    def clean(self) -> float:
        """Share of samples that are left as they are."""
        return 1 - self.noise - self.blur - self.exposure

    def __post_init__(self) -> None:
        if min(self.noise, self.blur, self.exposure) < 0 or self.clean < -1e-9:
            raise UserError(f"{self} has shares that are negative or add up to more than 1; the rest stays clean")
        if not 0 <= self.max_sigma <= 1 or not 0 < self.min_size <= 1:
            raise UserError(f"max_sigma={self.max_sigma}, min_size={self.min_size} must lie between 0 and 1")
        if not 0 <= self.factors[0] <= 1 <= self.factors[1]:
            raise UserError(f"factors={self.factors} must be a range around 1, for example (0.3, 1.7)")


NO_CORRUPTION = Corruption(noise=0.0, blur=0.0, exposure=0.0)
"""Every history stays clean."""


@dataclass(frozen=True)
class PastConfig:
    """What the model is shown of the past: how often as a start, and how degraded."""

    starts: StartMix = field(default_factory=StartMix)
    corruption: Corruption = field(default_factory=Corruption)


def shown_past(batch: Batch, config: PastConfig, generator: torch.Generator) -> Float[Tensor, "b c p h w"]:
    """The past of a batch as the model is to see it in this step."""
    past = torch.cat([batch.anchor, batch.history], dim=2)
    kept = keep_frames(config.starts, past.shape[0], past.shape[2], generator).to(past.device)
    return corrupt(past * rearrange(kept, "b p -> b 1 p 1 1"), config.corruption, generator)


def tiers_of(
    past: Float[Tensor, "b c p h w"], memory: MemoryConfig, chunk_latents: int = CHUNK_LATENTS, number: int = 0
) -> Tiers:
    """The past of chunk `number` of a clip in the tiers that the transformer reads.

    Raises:
        UserError: the data hold another number of frames than the model remembers.
    """
    if past.shape[2] != memory.num_frames + 1:
        raise UserError(
            f"the data hold {past.shape[2] - 1} frames of history, but the model remembers {memory.num_frames}; "
            "prepare them for this model"
        )
    return History(past[:, :, 1:], past[:, :, :1], number, memory).tiers(chunk_latents)


def keep_frames(mix: StartMix, count: int, num_past: int, generator: torch.Generator) -> Bool[Tensor, "b p"]:
    """Which of `num_past` frames each of `count` samples keeps; the branches exclude each other."""
    device, history = generator.device, num_past - 1
    chance = uniform((3, count), generator, device)
    windows = integers((count,), history // CHUNK_LATENTS + 1, generator, device)
    is_text = chance[0] < mix.text
    is_image = ~is_text & (chance[1] < mix.image)
    is_clip = ~is_text & ~is_image & (chance[2] < mix.clip)

    # What is older than whole chunks goes first, then whole chunks.
    dropped = torch.where(is_clip, history % CHUNK_LATENTS + CHUNK_LATENTS * windows, 0)
    dropped = torch.where(is_image, history - 1, dropped)
    dropped = torch.where(is_text, history, dropped)
    kept = torch.arange(history, device=device) >= dropped[:, None]
    return torch.cat([~is_text[:, None], kept], dim=1)


def corrupt(
    past: Float[Tensor, "b c p h w"], corruption: Corruption, generator: torch.Generator
) -> Float[Tensor, "b c p h w"]:
    """Each sample left clean, or degraded in one of three ways. Whether it stays clean is decided first."""
    ways: tuple[tuple[float, Callable[[Tensor], Tensor]], ...] = (
        (corruption.noise, lambda x: add_noise(x, corruption.max_sigma, generator)),
        (corruption.blur, lambda x: blur(x, corruption.min_size, generator)),
        (corruption.exposure, lambda x: expose(x, corruption.factors, generator)),
    )
    position = uniform((past.shape[0],), generator, past.device)
    result, low = past.clone(), corruption.clean
    for share, degrade in ways:
        rows = (position >= low) & (position < low + share)
        if share > 0 and rows.any():
            result[rows] = degrade(past[rows])
        low += share
    return result


def add_noise(
    past: Float[Tensor, "b c p h w"], max_sigma: float, generator: torch.Generator
) -> Float[Tensor, "b c p h w"]:
    """(1 − σ)·x + σ·ε with a σ of its own for every frame, uniform in [0, max_sigma); the anchor too."""
    sigma = uniform((past.shape[0], 1, past.shape[2], 1, 1), generator, past.device, 0.0, max_sigma)
    noisy = interpolate(past, normal(tuple(past.shape), generator, past.device), sigma)
    return torch.where(_is_there(past), noisy, past)


def blur(past: Float[Tensor, "b c p h w"], min_size: float, generator: torch.Generator) -> Float[Tensor, "b c p h w"]:
    """Shrunk and enlarged again, each group of frames by a fraction of its own, uniform in [min_size, 1)."""
    (h, w), groups = past.shape[3:], frame_groups(past.shape[2])
    lengths = torch.tensor(groups, device=past.device)
    fractions = (
        uniform((len(past), len(groups)), generator, past.device, min_size).repeat_interleave(lengths, dim=1).double()
    )
    sizes = torch.stack([(fractions * side).round().long() for side in (h, w)], dim=-1)
    frames = rearrange(past, "b c p h w -> b p c h w")
    blurred = torch.empty_like(frames)
    # Fractions are many and sizes few: all frames that become equally small go together.
    for size in sizes.flatten(0, 1).unique(dim=0):
        rows = (sizes == size).all(dim=-1)
        blurred[rows] = _resample(frames[rows], (int(size[0]), int(size[1])))
    return rearrange(blurred, "b p c h w -> b c p h w")


def expose(
    past: Float[Tensor, "b c p h w"], factors: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, "b c p h w"]:
    """m + f·(x − m), m the mean over channels of every cell; f for each group of frames, below or above 1 alike often.

    The anchor stays as it is: it is what colours can be judged by.
    """
    (b, _, p, _, _), (low, high) = past.shape, factors
    groups = torch.tensor(frame_groups(p), device=past.device)
    below = uniform((b, len(groups)), generator, past.device, low)
    above = uniform((b, len(groups)), generator, past.device, 1.0, high)
    is_below = uniform((b, len(groups)), generator, past.device) < 0.5
    factor = torch.where(is_below, below, above).repeat_interleave(groups, dim=1)
    factor[:, 0] = 1
    mean = reduce(past, "b c p h w -> b 1 p h w", "mean")
    return past + (rearrange(factor, "b p -> b 1 p 1 1") - 1) * (past - mean)


def frame_groups(num_past: int) -> list[int]:
    """Lengths of what is degraded alike: the anchor, what is older than whole chunks, chunks, the newest one in two."""
    windows, tail = divmod(num_past - 1, CHUNK_LATENTS)
    newest = [NEWEST_SPLIT, CHUNK_LATENTS - NEWEST_SPLIT] if windows else []
    groups = [1, tail, *[CHUNK_LATENTS] * (windows - 1), *newest]
    return [length for length in groups if length]


def _is_there(past: Float[Tensor, "b c p h w"]) -> Bool[Tensor, "b 1 p 1 1"]:
    """Which frames are not zero, sample by sample."""
    return reduce(past.abs(), "b c p h w -> b 1 p 1 1", "max") > 0


def _resample(frames: Float[Tensor, "n c h w"], small: tuple[int, int]) -> Float[Tensor, "n c h w"]:
    """Bilinear, antialiased resize to the size `small`, and back."""
    for size in (small, (frames.shape[2], frames.shape[3])):
        frames = F.interpolate(frames, size=size, mode="bilinear", antialias=True)
    return frames
