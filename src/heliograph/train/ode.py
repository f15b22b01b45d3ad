"""Stage 3, first half: the student learns to reach the end of each pyramid level in one step (Helios, ODE regression).

The teacher walks its many steps, and its path passes exactly through the few positions at which the student will be
asked. From each of these the student is to see where the teacher's level ended.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.config import Guidance, SamplerConfig
from heliograph.errors import UserError
from heliograph.flow.path import to_x0
from heliograph.flow.pyramid import Level, Pyramid, build_pyramid
from heliograph.flow.schedule import Step
from heliograph.flow.solvers import Solver, make_solver
from heliograph.memory import History
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.presets import DISTILLED, MID
from heliograph.rollout import Conditioning, next_turn
from heliograph.sample import Denoiser, Sampler, denoise_chunk
from heliograph.seeds import RequestSeeds, RolloutSeeds
from heliograph.shapes import CHUNK_LATENTS
from heliograph.train.draw import integers
from heliograph.train.network import Given, VelocityOf, denoise
from heliograph.train.objective import per_sample
from heliograph.train.stage import Loss, Optimiser, StudentStage

TEACHER = replace(MID, guidance=Guidance(5.0))
"""The teacher's sampler: that of Helios-Mid with plain guidance."""

SAME_POSITION = 1e-6
"""Positions nearer to one another than this are one."""


@dataclass(frozen=True)
class LevelTrail:
    """A teacher's path on one pyramid level at the student's positions.

    `states` are the latents at these k positions and, last, at the end of the level (noisy but for the last level);
    `remaining` and `timesteps` are the positions on the level's line and what the network is told there.
    """

    states: Float[Tensor, "k b c t h w"]
    remaining: Float[Tensor, " k2"]
    timesteps: Float[Tensor, " k2"]


@dataclass(frozen=True)
class OdePairs:
    """Teacher paths of several chunks of a rollout, chunk by chunk and level by level, and the text they are under.

    `remembered` are the chunks that the next ones were made after: the teacher's own, or a student's
    (`followed_trails`), where some chunks may have no paths. All prompts of a batch began from text alone.
    """

    text: Float[Tensor, "b l d"]
    chunks: tuple[tuple[LevelTrail, ...], ...]
    remembered: tuple[Float[Tensor, "b c t h w"], ...]

    @classmethod
    def of_teacher(cls, text: Float[Tensor, "b l d"], chunks: tuple[tuple[LevelTrail, ...], ...]) -> "OdePairs":
        """Paths of a teacher that remembers what it made itself."""
        return cls(text, chunks, tuple(trails[-1].states[-1] for trails in chunks))

    @classmethod
    def join(cls, pairs: "list[OdePairs]") -> "OdePairs":
        """One batch of several; they were made with the same plan."""
        trails = [
            tuple(
                replace(same[0], states=torch.cat([trail.states for trail in same], dim=1))
                for same in zip(*levels, strict=True)
            )
            for levels in zip(*(pair.chunks for pair in pairs), strict=True)
        ]
        remembered = tuple(torch.cat(same) for same in zip(*(pair.remembered for pair in pairs), strict=True))
        return cls(torch.cat([pair.text for pair in pairs]), tuple(trails), remembered)

    def row(self, row: int) -> "OdePairs":
        """The paths of one prompt of a batch."""
        chunks = tuple(
            tuple(replace(trail, states=trail.states[:, row : row + 1]) for trail in trails) for trails in self.chunks
        )
        remembered = tuple(latents[row : row + 1] for latents in self.remembered)
        return OdePairs(self.text[row : row + 1], chunks, remembered)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything under names, for a safetensors file."""
        named = {
            f"{chunk}.{level}.{name}": value.contiguous()
            for chunk, trails in enumerate(self.chunks)
            for level, trail in enumerate(trails)
            for name, value in vars(trail).items()
        }
        remembered = {
            f"{chunk}.remembered": latents.contiguous()
            for chunk, (latents, trails) in enumerate(zip(self.remembered, self.chunks, strict=True))
            if not trails or not torch.equal(latents, trails[-1].states[-1])
        }
        return {"text": self.text.contiguous(), **named, **remembered}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "OdePairs":
        """What `to_tensors` gave; where it names no chunk that is remembered, that is the teacher's own."""
        names = (key.split(".") for key in tensors)
        places = sorted({(int(name[0]), int(name[1])) for name in names if len(name) == 3})
        trails = {
            (chunk, level): LevelTrail(*(tensors[f"{chunk}.{level}.{name}"] for name in LevelTrail.__annotations__))
            for chunk, level in places
        }
        walked = {
            chunk: tuple(trails[place] for place in same) for chunk, same in groupby(places, key=lambda place: place[0])
        }
        others = {int(key.split(".")[0]) for key in tensors if key.endswith(".remembered")}
        chunks = tuple(walked.get(chunk, ()) for chunk in range(1 + max(walked.keys() | others)))
        remembered = [
            tensors[key] if (key := f"{chunk}.remembered") in tensors else own[-1].states[-1]
            for chunk, own in enumerate(chunks)
        ]
        return cls(tensors["text"], chunks, tuple(remembered))


@dataclass(frozen=True)
class OdePlan:
    """How pairs are made: the teacher's sampler, the student's, how many chunks of a video, and of which of them.

    The teacher walks every `every`-th chunk, the first included; the others a student has to make.
    Only solver, steps and guidance are the teacher's own: both must be told the same timesteps at the same positions,
    so the schedule is the student's.
    """

    teacher: SamplerConfig = TEACHER
    student: SamplerConfig = DISTILLED
    num_chunks: int = 5
    every: int = 1

    def __post_init__(self) -> None:
        if self.teacher.schedule.borders != self.student.schedule.borders:
            raise UserError("teacher and student divide the noise levels differently; distil one trained multiscale")
        if self.num_chunks < 1:
            raise UserError(f"num_chunks={self.num_chunks} makes no pairs; use 1 or more (the recipe is 5)")
        if self.every < 1:
            raise UserError(f"every={self.every} makes no pairs; use 1 for every chunk, or more")


@dataclass(frozen=True)
class OdeConfig:
    """How the regression trains: chunks of a video in one step, the weight of the loss, and the updates."""

    num_chunks: int = 3
    weight: float = 80.0
    optimiser: Optimiser = field(
        default_factory=lambda: Optimiser(2e-6, betas=(0.0, 0.999), weight_decay=1e-3, max_grad_norm=1.0)
    )


@dataclass(frozen=True)
class Student:
    """A student whose own chunks are remembered: its network, what that is conditioned on, and its sampler."""

    denoiser: Denoiser
    conditioning: Conditioning
    sampler: SamplerConfig


@torch.no_grad()
def teacher_trails(
    denoiser: Denoiser, history: History, conditioning: Conditioning, plan: OdePlan, seeds: RolloutSeeds
) -> Iterator[tuple[LevelTrail, ...]]:
    """The teacher's rollout from `history`, chunk after chunk, as trails of every level."""
    for _ in range(plan.num_chunks):
        trails = _next_trails(denoiser, history, conditioning, plan, seeds)
        history = history.push(trails[-1].states[-1])
        yield trails


@torch.no_grad()
def followed_trails(
    denoiser: Denoiser,
    history: History,
    conditioning: Conditioning,
    plan: OdePlan,
    seeds: RolloutSeeds,
    student: Student,
) -> Iterator[tuple[tuple[LevelTrail, ...], Float[Tensor, "b c t h w"]]]:
    """The student's rollout from `history`: its chunks, and the trails by which the teacher would have gone on instead.

    A student that was shown its teacher's chunks alone meets others as soon as it goes on from its own. Here it is told
    what to make of those (Ross et al. 2011, arXiv 1011.0686). Both begin every chunk from the same noise. Chunks that
    the teacher does not walk (`OdePlan.every`) have no trails and cost the student's few steps alone.
    """
    for chunk in range(plan.num_chunks):
        is_walked = chunk % plan.every == 0
        trails = _next_trails(denoiser, history, conditioning, plan, seeds) if is_walked else ()
        turn = next_turn(student.denoiser, history, student.conditioning, student.sampler, seeds)
        history = turn.history
        yield trails, turn.latents


def prompt_seeds(seed: int, prompt: str, device: torch.device | str = "cpu") -> RequestSeeds:
    """Seeds of a prompt's own, so that no two pairs begin from the same noise."""
    drawn = torch.randint(2**62, (), generator=RequestSeeds(seed).generator(f"ode/{prompt}"))
    return RequestSeeds(int(drawn), device)


def merged_pyramid(plan: OdePlan, chunk: int, height: int, width: int) -> Pyramid:
    """The teacher's steps with the student's positions among them, both on the student's schedule."""
    own = replace(plan.student.schedule, solver=plan.teacher.schedule.solver)
    teacher = build_pyramid(own, plan.teacher.steps_for(chunk), height, width)
    student = build_pyramid(plan.student.schedule, plan.student.steps_for(chunk), height, width)
    levels = zip(teacher.levels, student.levels, strict=True)
    return replace(teacher, levels=tuple(replace(a, steps=_merge(a, b)) for a, b in levels))


class Recorder:
    """A solver that also remembers the latents that enter each step, and those that leave each level."""

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self._levels: list[dict[float, Tensor]] = []

    def start(self, x: Tensor) -> Any:
        """State at the start of a level."""
        self._levels.append({})
        return self._solver.start(x)

    def step(self, state: Any, x: Tensor, velocity: Tensor, step: Step) -> tuple[Tensor, Any]:
        """The solver's step."""
        result, state = self._solver.step(state, x, velocity, step)
        self._levels[-1] |= {step.remaining: x, step.after: result}
        return result, state

    def trails(self, pyramid: Pyramid) -> tuple[LevelTrail, ...]:
        """What was remembered at the steps of `pyramid` and at the end of each of its levels."""
        return tuple(_trail(states, level) for states, level in zip(self._levels, pyramid.levels, strict=True))


@dataclass(frozen=True)
class OdeStage(StudentStage):
    """Stage 3, first half; its batches are `OdePairs`."""

    transformer: HeliosTransformer3DModel
    config: OdeConfig

    def loss(self, group: str, batch: OdePairs, step: int, generator: torch.Generator) -> Loss:
        """Regression to the level ends of some chunks, each after what was remembered when they were made."""
        _, b, c, t, h, w = batch.chunks[0][-1].states.shape
        walked = [chunk for chunk, trails in enumerate(batch.chunks) if trails]
        order = torch.randperm(len(walked), generator=generator, device=generator.device).tolist()
        chosen = [walked[place] for place in order[: self.config.num_chunks]]
        history = History.empty((b, c, h, w), self.memory, batch.text.device)
        student = partial(denoise, self.transformer)
        terms: list[Tensor] = []
        for chunk, trails in enumerate(batch.chunks):
            if chunk in chosen:
                given = Given(batch.text, history.tiers(t))
                terms += [trail_loss(student, trail, given, generator) for trail in trails]
            history = history.push(batch.remembered[chunk])
        mean = torch.stack(terms).mean()
        return Loss(self.config.weight * mean, {"ode": mean.detach()}, group)


def trail_loss(
    velocity_of: VelocityOf, trail: LevelTrail, given: Given, generator: torch.Generator
) -> Float[Tensor, ""]:
    """½·mean of (x − remaining·v − end)², each sample from a position of its own."""
    end = trail.states[-1]
    pick = integers((end.shape[0],), len(trail.remaining), generator, end.device)
    x = trail.states[pick, torch.arange(len(pick), device=pick.device)]
    velocity = velocity_of(x, trail.timesteps.to(end.device)[pick], given)
    seen = to_x0(x, velocity, per_sample(trail.remaining.to(end.device)[pick]))
    return 0.5 * (seen - end).square().mean()


def _next_trails(
    denoiser: Denoiser, history: History, conditioning: Conditioning, plan: OdePlan, seeds: RolloutSeeds
) -> tuple[LevelTrail, ...]:
    """The teacher's trails of the chunk that follows `history`."""
    chunk = history.num_chunks
    b, c, _, h, w = history.latents.shape
    chunk_seeds = seeds.for_chunk(chunk)
    noise = chunk_seeds.noise((b, c, CHUNK_LATENTS, h, w))
    wanted = build_pyramid(plan.student.schedule, plan.student.steps_for(chunk), h, w)
    recorder = Recorder(make_solver(plan.teacher.schedule.solver))
    sampler = Sampler(merged_pyramid(plan, chunk, h, w), recorder, plan.teacher.guidance)
    branches = conditioning(history.tiers(CHUNK_LATENTS), chunk)
    for _ in denoise_chunk(denoiser, noise, branches, sampler, chunk_seeds):
        pass
    return recorder.trails(wanted)


def _merge(teacher: Level, student: Level) -> tuple[Step, ...]:
    """Steps through the positions of both, from high to low."""
    timesteps = {step.remaining: step.timestep for step in student.steps}
    for step in teacher.steps:
        if all(abs(step.remaining - known) > SAME_POSITION for known in timesteps):
            timesteps[step.remaining] = step.timestep
    positions = sorted(timesteps, reverse=True)
    ends = [*positions[1:], 0.0]
    return tuple(
        Step(i, start, end, timesteps[start]) for i, (start, end) in enumerate(zip(positions, ends, strict=True))
    )


def _trail(states: dict[float, Tensor], level: Level) -> LevelTrail:
    remaining = [step.remaining for step in level.steps]
    return LevelTrail(
        torch.stack([states[position] for position in (*remaining, 0.0)]),
        torch.tensor(remaining),
        torch.tensor([step.timestep for step in level.steps]),
    )
