"""Stage 2, `multiscale`: most denoising moves to small pictures (Helios, Pyramid Unified Predictor Corrector).

Every pyramid level is a straight line from a starting point, which the level before hands over, to an end. The model
learns the slope of all lines in one packed pass; each level counts alike, however few its tokens.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from heliograph.config import ScheduleConfig
from heliograph.errors import UserError
from heliograph.flow.path import interpolate, velocity
from heliograph.flow.pyramid import enlarge, shrink, shrink_noise
from heliograph.flow.schedule import SIGMA_MAX, LevelRange, level_ranges
from heliograph.model.packed import Part
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.presets import PYRAMID_BORDERS
from heliograph.train.corrupt import PastConfig, shown_past, tiers_of
from heliograph.train.draw import integers, normal
from heliograph.train.network import Given, denoise_packed, text_of
from heliograph.train.objective import per_sample, velocity_loss
from heliograph.train.stage import Batch, Loss, Optimiser, StudentStage

Latents = Float[Tensor, "b c t h w"]


@dataclass(frozen=True)
class Openings:
    """A second look at how videos begin: the first chunks of a batch from text alone, where text decides most.

    The coarsest levels, as many as `emphasis` has weights, are seen once more, at points of the first `first_share` of
    each line, and their losses are added with these weights. What a caption says of where things begin shows nowhere
    else: later the past says it, and later on the line the chunk itself.
    """

    emphasis: tuple[float, ...]
    first_share: float = 0.3

    def __post_init__(self) -> None:
        if not self.emphasis or min(self.emphasis) <= 0 or not 0 < self.first_share <= 1:
            raise UserError(f"{self} needs a positive weight for each level it looks at, and a share above 0, up to 1")


@dataclass(frozen=True)
class MultiscaleConfig:
    """How stage 2 trains: the pyramid, how often each level stands in a pack, the past, and the updates.

    `emphasis` multiplies the loss of each level, coarse to fine. The recipe counts all alike; where training is short,
    most of that loss is texture, and the coarse levels decide where things are. `first_share` of each line, from its
    start, is where points are drawn from: 1 in the recipe; less looks at what is decided first. `openings` is not of
    the recipe either, nor is `lead`, how often the first latent frame counts of a chunk that follows something: it
    shows a single picture, where the past left off, and is a ninth of the loss.
    """

    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig("unipc", PYRAMID_BORDERS, 1 / 3, "exponential")
    )
    repeats: tuple[int, ...] = (1, 2, 1)
    past: PastConfig = field(default_factory=PastConfig)
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(1e-4))
    emphasis: tuple[float, ...] = (1.0, 1.0, 1.0)
    first_share: float = 1.0
    openings: Openings | None = None
    lead: float = 1.0

    def __post_init__(self) -> None:
        if self.lead <= 0:
            raise UserError(f"lead={self.lead} is no weight; use more than 0 (the recipe is 1)")
        if self.openings is not None and len(self.openings.emphasis) > self.schedule.num_levels:
            raise UserError(f"{self.openings} looks at more than the {self.schedule.num_levels} levels that there are")
        if len(self.emphasis) != self.schedule.num_levels or min(self.emphasis) <= 0:
            raise UserError(f"emphasis={self.emphasis} does not name a positive weight for each level")
        if not 0 < self.first_share <= 1:
            raise UserError(f"first_share={self.first_share}; use more than 0, and 1 at most")
        if len(self.repeats) != self.schedule.num_levels or min(self.repeats) < 1:
            raise UserError(
                f"repeats={self.repeats} do not name a positive count for each of {self.schedule.num_levels} levels"
            )


@dataclass(frozen=True)
class LevelLine:
    """The straight line of one pyramid level in latents: from `start` (remaining 1) to `end` (remaining 0)."""

    start: Float[Tensor, "b c t h w"]
    end: Float[Tensor, "b c t h w"]

    @property
    def slope(self) -> Float[Tensor, "b c t h w"]:
        """Start minus end: the velocity of the level."""
        return velocity(self.end, self.start)

    def at(self, remaining: Float[Tensor, " b"]) -> Float[Tensor, "b c t h w"]:
        """The point of each sample's own `remaining`."""
        return interpolate(self.end, self.start, per_sample(remaining))


@dataclass(frozen=True)
class MultiscaleStage(StudentStage):
    """Stage 2."""

    transformer: HeliosTransformer3DModel
    config: MultiscaleConfig

    def loss(self, group: str, batch: Batch, step: int, generator: torch.Generator) -> Loss:
        """Flow matching on the lines of all levels, in one pass."""
        past = shown_past(batch, self.config.past, generator)
        tiers = tiers_of(past, self.memory, batch.chunk.shape[2], batch.number)
        given = Given(text_of(batch, self.text_encoder), tiers)
        noise = normal(tuple(batch.chunk.shape), generator, batch.chunk.device)
        ranges = level_ranges(self.config.schedule)
        lines = level_lines(batch.chunk, noise, ranges)
        levels = [level for level, count in enumerate(self.config.repeats) for _ in range(count)]

        share = self.config.first_share
        parts = [draw_part(lines[i], ranges[i], self.config.schedule, generator, share) for i in levels]
        predicted = denoise_packed(self.transformer, parts, given)
        weights = level_weights(cell_weights(batch, past, self.config.lead), len(ranges))
        losses = [velocity_loss(v, lines[i].slope, weights[i]) for i, v in zip(levels, predicted, strict=True)]
        total = torch.stack([self.config.emphasis[i] * loss for i, loss in zip(levels, losses, strict=True)]).mean()
        flow = total.detach()
        figures = {f"level_{i}": _mean_of(losses, levels, i) for i in range(len(ranges))}
        if self.config.openings is not None:
            rows = opening_rows(batch)
            # Named in every batch, with nothing to add in some: figures are averaged over processes one by one.
            opening = total.new_zeros(())
            if rows.numel():
                opening = self._opening_loss(self.config.openings, batch.chunk[rows], given.text[rows], generator)
            total, figures["opening"] = total + opening, opening.detach()
        return Loss(total, {"flow": flow, **figures}, group)

    def _opening_loss(
        self, openings: Openings, chunk: Latents, text: Float[Tensor, "b l d"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Flow matching at the starts of the coarse lines, with noise of its own and nothing remembered."""
        b, c, t, h, w = chunk.shape
        nothing = chunk.new_zeros(b, c, self.memory.num_frames + 1, h, w)
        given = Given(text, tiers_of(nothing, self.memory, t))
        ranges = level_ranges(self.config.schedule)
        lines = level_lines(chunk, normal((b, c, t, h, w), generator, chunk.device), ranges)
        seen = range(len(openings.emphasis))
        parts = [draw_part(lines[i], ranges[i], self.config.schedule, generator, openings.first_share) for i in seen]
        predicted = denoise_packed(self.transformer, parts, given)
        losses = [velocity_loss(v, lines[i].slope, None) for i, v in zip(seen, predicted, strict=True)]
        return torch.stack([weight * loss for weight, loss in zip(openings.emphasis, losses, strict=True)]).sum()


def opening_rows(batch: Batch) -> Int[Tensor, " b2"]:
    """Which samples of a batch are first chunks: nothing came before them."""
    return (batch.history.flatten(1) == 0).all(dim=1).nonzero()[:, 0]


def cell_weights(batch: Batch, past: Float[Tensor, "b c p h w"], lead: float) -> Float[Tensor, "b 1 t h w"] | None:
    """How much each latent cell counts: as the batch says, and `lead` times where a chunk goes on from a past.

    None where all count alike.
    """
    if lead == 1:
        return batch.weight
    b, _, t, h, w = batch.chunk.shape
    weights = batch.chunk.new_ones(b, 1, t, h, w)
    weights[past.flatten(1).any(dim=1), :, 0] = lead
    return weights if batch.weight is None else weights * batch.weight


def level_lines(x0: Latents, noise: Latents, ranges: tuple[LevelRange, ...]) -> tuple[LevelLine, ...]:
    """The line of every level, coarse to fine, for a clean chunk and one noise of full size.

    Both ends of a level share their noise, so that signal and noise change along a straight line. A level starts from
    the enlarged end of the level before in signal, the coarsest from noise alone.
    """
    count = len(ranges)
    clean = [x0]
    while len(clean) < count:
        clean.insert(0, shrink(clean[0]))
    noises = [shrink_noise(noise, count - i) for i in range(count)]
    starts = [noises[0]] + [
        interpolate(enlarge(clean[i - 1]), noises[i], ranges[i].sigma_start) for i in range(1, count)
    ]
    ends = [interpolate(clean[i], noises[i], ranges[i].sigma_end) for i in range(count)]
    return tuple(LevelLine(start, end) for start, end in zip(starts, ends, strict=True))


def draw_part(
    line: LevelLine, stretch: LevelRange, schedule: ScheduleConfig, generator: torch.Generator, first_share: float = 1.0
) -> Part:
    """A point of the line for each sample, uniform, and the timestep of it, a fraction, that the network is told.

    Points lie in the first `first_share` of the line.
    """
    device = line.end.device
    count = max(1, round(first_share * schedule.num_train_timesteps))
    index = integers((line.end.shape[0],), count, generator, device)
    remaining, timestep = level_position(index, stretch, schedule.num_train_timesteps)
    return Part(line.at(remaining), timestep)


def level_position(
    index: Int[Tensor, " b"], stretch: LevelRange, count: int
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Position on the level's line and timestep of the training indices 0 … count − 1, float32.

    Positions fall from 0.999 to just above 0, timesteps evenly over the level's stretch: the table that samplers read.
    """
    progress = index.double()
    remaining = SIGMA_MAX * (1 - progress / count)
    timestep = stretch.timestep_max + (stretch.timestep_last - stretch.timestep_max) * progress / (count - 1)
    return remaining.float(), timestep.float()


def level_weights(
    weight: Float[Tensor, "b 1 t h w"] | None, count: int
) -> list[Float[Tensor, "b 1 t h2 w2"]] | list[None]:
    """The weight of each latent cell at each level, coarse to fine: the mean of the cells it stands for."""
    if weight is None:
        return [None] * count
    weights = [weight]
    while len(weights) < count:
        weights.insert(0, shrink(weights[0]))
    return weights


def _mean_of(losses: list[Tensor], levels: list[int], level: int) -> Float[Tensor, ""]:
    """Mean loss of one level, for the log."""
    return torch.stack([loss.detach() for loss, i in zip(losses, levels, strict=True) if i == level]).mean()
