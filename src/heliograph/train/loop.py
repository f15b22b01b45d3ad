"""The loop that runs every stage: batch, loss, gradient, update, average, checkpoint.

A step is defined by its number alone: which batches it takes, what it draws, how large the learning rate is. So a run
that was stopped goes on exactly as it would have, and the number of processes changes nothing but the speed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from heliograph.data.clips import DataError
from heliograph.data.loader import Loader, Source
from heliograph.errors import UserError
from heliograph.seeds import RequestSeeds
from heliograph.train.checkpoint import Checkpoints, Tensors
from heliograph.train.ema import Ema, EmaConfig, local_part
from heliograph.train.journal import Recorder
from heliograph.train.lora import whole_tensor
from heliograph.train.parallel import LossRunner, Parallel
from heliograph.train.stage import Loss, ParameterGroup, Stage
from heliograph.train.updates import Updates

RateShape = Literal["constant", "warmup", "cosine"]
Precision = Literal["float32", "bfloat16"]

STUDENT = "student"
"""The group whose parameters are averaged and sampled from."""


class DivergedError(UserError):
    """The loss or the gradient is no longer a number."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how a stage runs.

    Attributes:
        max_steps: steps in all, those before a resume included.
        accumulation: batches per process that make up one step.
        rate: the learning rate over time: constant, a linear start over `warmup_steps` and then constant, or the same
            start and then half a cosine down to 0 at `max_steps`.
        precision: what autocast computes in; parameters that are trained are float32.
        checkpoint_every, sample_every, log_every: steps; samples at 0 never.
        keep_checkpoints: how many of the newest stay.
        seed: of everything the stage draws.
    """

    max_steps: int
    accumulation: int = 1
    rate: RateShape = "constant"
    warmup_steps: int = 0
    precision: Precision = "float32"
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    sample_every: int = 0
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        positive = (self.max_steps, self.accumulation, self.checkpoint_every, self.keep_checkpoints, self.log_every)
        if min(positive) < 1 or min(self.warmup_steps, self.sample_every, self.seed) < 0:
            raise UserError(f"{self} has a count that is too small; steps and intervals are 1 or more")
        if self.rate == "warmup" and self.warmup_steps < 1:
            raise UserError("rate='warmup' needs warmup_steps; give 1 or more, or use rate='constant'")

    def rate_at(self, step: int) -> float:
        """Factor on every learning rate at `step` (from 0)."""
        if self.rate == "constant":
            return 1.0
        if self.rate == "warmup":
            return min(1.0, (step + 1) / self.warmup_steps)
        return cosine_rate(step, self.warmup_steps, self.max_steps)


def cosine_rate(step: int, warmup_steps: int, max_steps: int) -> float:
    """Factor on a learning rate at `step` (from 0): a linear start, then half a cosine down to 0 at `max_steps`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@dataclass(frozen=True)
class Watchers:
    """Who is told and asked along the way; each may be left out.

    `recorders` get figures every `log_every` steps, means over these; `on_sample` is called every `sample_every` steps
    with the number of finished steps, the averaged weights in place; `wants_stop` is asked after each step.
    """

    recorders: Sequence[Recorder] = ()
    on_sample: Callable[[int], None] | None = None
    wants_stop: Callable[[], bool] = lambda: False


class Trainer:
    """A stage with its optimisers, averages and data, from wherever the run was left."""

    def __init__(
        self,
        stage: Stage,
        source: Source,
        config: LoopConfig,
        ema: EmaConfig | None,
        parallel: Parallel,
        folder: Path,
    ) -> None:
        """Set everything up for step 0; nothing is written yet.

        Args:
            stage: its networks placed (`Parallel.place`) and ready to train.
            source: batches by number; each has as many draws as the stage has groups, or one for all.
            ema: how the student's weights are averaged, if they are.
            folder: checkpoints go in `folder/checkpoints`.
        """
        self.stage, self.config, self.parallel = stage, config, parallel
        self.groups = dict(stage.trainable())
        assert all(group.parameters for group in self.groups.values()), f"nothing to train in {list(self.groups)}"
        self.updates = {name: Updates(group) for name, group in self.groups.items()}
        self.ema = Ema(self.groups[STUDENT].parameters, ema, parallel.mesh()) if ema else None
        self.loader = Loader(source, parallel.rank, parallel.world)
        self.checkpoints = Checkpoints(folder / "checkpoints", parallel, config.keep_checkpoints)
        self.step = 0
        self._run = LossRunner(stage, parallel)
        self._seeds = RequestSeeds(config.seed)

    def resume(self) -> bool:
        """Go on from the newest checkpoint; False where there is none.

        Raises:
            CheckpointError: it is damaged, or of another network.
            DataError: the run was trained on other data.
        """
        newest = self.checkpoints.newest()
        if newest is None:
            return False
        used, now = newest.state["data"], self.loader.source.fingerprint()
        if used != now:
            raise DataError(f"the run was trained on other data: {used} then, {now} now; give the same --data")
        tensors = self._tensors()
        self.checkpoints.load(newest, tensors)
        self._adopt(tensors)
        self.loader.restore(newest.state["loader"])
        self.step = newest.step
        if self.ema:
            self.ema.num_calls = newest.state["ema_calls"]
        return True

    def run(self, watchers: Watchers | None = None) -> None:
        """Train up to `max_steps`, with a checkpoint every so often and one at the end.

        Raises:
            DivergedError: a loss or gradient is not finite; the weights before it are those of the last checkpoint.
            OutputError: the disk is full or fails.
            KeyboardInterrupt: asked to stop; a checkpoint of the last finished step is stored.
        """
        watchers = watchers or Watchers()
        since: list[dict[str, float]] = []
        try:
            while self.step < self.config.max_steps:
                since.append(self.take_step())
                is_last = self.step == self.config.max_steps
                is_stopped = self.parallel.agree(wish=watchers.wants_stop())
                if self.step % self.config.log_every == 0 or is_last:
                    for recorder in watchers.recorders:
                        recorder.record(self.step, _means(since))
                    since.clear()
                if self.step % self.config.checkpoint_every == 0 or is_last or is_stopped:
                    self.save()
                if is_stopped and not is_last:
                    raise KeyboardInterrupt(f"stopped after step {self.step}; go on with --resume")
                if watchers.on_sample and self.config.sample_every and self.step % self.config.sample_every == 0:
                    self._sample(watchers.on_sample)
        finally:
            self.loader.close()

    def take_step(self) -> dict[str, float]:
        """One step: every group that it updates, in order; then averages. Returns its figures, means over processes.

        Raises:
            DivergedError: a loss or gradient is not finite; nothing was updated by it.
        """
        parts = [_to_device(self.loader.next(), self.parallel.device) for _ in range(self.config.accumulation)]
        names = self.stage.losses(self.step)
        figures: dict[str, float] = {}
        for name in names:
            figures |= self._update(name, parts)
        self.stage.after_step(self.step)
        # Before the average starts it is a copy of every step; then it counts the student's own updates.
        if self.ema and (STUDENT in names or self.step < self.ema.config.start):
            self.ema.update()
        self.step += 1
        return figures

    def save(self) -> Path:
        """Store a checkpoint of where the run is."""
        state = {
            "data": self.loader.source.fingerprint(),
            "loader": self.loader.state(),
            "ema_calls": self.ema.num_calls if self.ema else 0,
        }
        return self.checkpoints.save(self.step, self._tensors(), state)

    def _update(self, name: str, parts: list[Any]) -> dict[str, float]:
        """Gradient and update of one group."""
        group = self.groups[name]
        draw = list(self.groups).index(name)
        losses = []
        for number, draws in enumerate(parts):
            # Numbered over all processes: each part of a step draws its own numbers, whoever computes it.
            part = number * self.parallel.world + self.parallel.rank
            generator = self._seeds.generator_on(self.parallel.device, f"loss/{self.step}/{name}/{part}")
            with self._run.accumulating(more_follow=number + 1 < len(parts)):
                with torch.autocast(
                    self.parallel.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
                ):
                    loss = self._run(name, draws[draw % len(draws)], self.step, generator)
                (loss.total / len(parts)).backward()
            losses.append(loss)
        figures = self._figures(name, losses)
        norm = _total_norm(group)
        self._check_finite(name, figures, norm)
        _clip(group, norm)
        rate = self.updates[name].step(self.config.rate_at(self.step))
        for each in self.updates.values():  # a critic's loss may have reached the student's parameters too
            each.zero_grad()
        return figures | {f"gradient/{name}": norm, f"rate/{name}": rate}

    def _figures(self, name: str, losses: list[Loss]) -> dict[str, float]:
        """Loss and its parts, means over the parts of the step and over processes."""
        names = [f"loss/{name}", *(f"{name}/{part}" for part in losses[0].parts)]
        rows = [
            torch.stack([loss.total.detach().float(), *(v.float() for v in loss.parts.values())]) for loss in losses
        ]
        return dict(zip(names, self.parallel.mean(torch.stack(rows).mean(dim=0)).tolist(), strict=True))

    def _check_finite(self, name: str, figures: Mapping[str, float], norm: float) -> None:
        values = {**figures, f"gradient/{name}": norm}
        wrong = [figure for figure, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise DivergedError(
                f"training diverged at step {self.step}: {', '.join(wrong)} is not a number; nothing was updated by "
                "it. Go on from the last checkpoint with a lower learning rate, or look at the data of this step"
            )

    def _sample(self, on_sample: Callable[[int], None]) -> None:
        if self.ema is None:
            on_sample(self.step)
            return
        with self.ema.applied():
            on_sample(self.step)

    def _tensors(self) -> Tensors:
        """Everything that changes, by name: trained parameters, the optimisers' moments, averages."""
        tensors: Tensors = {}
        for name, group in self.groups.items():
            for key, parameter in group.parameters.items():
                tensors[f"weights/{name}/{key}"] = parameter.detach()
                moments = self.updates[name].moments(key)
                tensors |= {f"{moment}/{name}/{key}": value for moment, value in moments.items()}
        if self.ema:
            tensors |= {f"ema/{key}": average for key, average in self.ema.averages.items()}
        return tensors

    def _adopt(self, tensors: Tensors) -> None:
        """Use what was loaded; weights and averages were filled in place."""
        for name, group in self.groups.items():
            updates = self.updates[name]
            for key in group.parameters:
                updates.adopt(key, {m: tensors[f"{m}/{name}/{key}"] for m in updates.moment_names(key)})


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the steps that have it: not every step updates every group."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: fmean(row[name] for row in rows if name in row) for name in names}


def _total_norm(group: ParameterGroup) -> float:
    """Norm of the group's gradient, over all of its parts on all processes; 0 where there is none."""
    gradients = [p.grad for p in group.parameters.values() if p.grad is not None]
    sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    return math.hypot(*(float(whole_tensor(get_total_norm(part))) for part in (sharded, whole) if part))


@torch.no_grad()
def _clip(group: ParameterGroup, norm: float) -> None:
    """Scale the gradient so that its norm is at most the group's limit."""
    factor = min(1.0, group.max_grad_norm / (norm + 1e-6))
    for parameter in group.parameters.values():
        if parameter.grad is not None and factor < 1:
            local_part(parameter.grad).mul_(factor)


def _to_device(value: Any, device: torch.device) -> Any:
    """Every tensor of a batch, however it is nested, on the device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple | list):
        return type(value)(_to_device(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        moved = {field.name: _to_device(getattr(value, field.name), device) for field in fields(value)}
        return replace(cast(Any, value), **moved)
    return value
