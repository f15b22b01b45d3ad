"""The loop: what a step is made of, that a run goes on exactly, and what it says when something is wrong."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from heliograph.data.clips import DataError
from heliograph.data.loader import Drawing
from heliograph.errors import CheckpointError, UserError
from heliograph.train.ema import EmaConfig, decay_at
from heliograph.train.journal import Board, MetricsFile, Ticker, clock
from heliograph.train.loop import DivergedError, LoopConfig, Trainer, Watchers
from heliograph.train.stage import Batch, Loss, Optimiser, ParameterGroup
from tests.train.workers import ALONE, Case, WaveSource, make_stage, run_steps

ADAM = Optimiser(0.1, weight_decay=0.0, max_grad_norm=1e9)


@dataclass(frozen=True)
class Line:
    """A stage of two numbers: the student follows the mean of its chunks, the critic follows the student."""

    weights: Mapping[str, nn.Parameter]
    every: int = 1
    optimiser: Optimiser = ADAM
    poison: int = -1

    def trainable(self) -> Mapping[str, ParameterGroup]:
        def group(name: str) -> ParameterGroup:
            o = self.optimiser
            return ParameterGroup({name: self.weights[name]}, o.learning_rate, o.betas, o.weight_decay, o.max_grad_norm)

        return {"student": group("student"), "critic": group("critic")}

    def losses(self, step: int) -> tuple[str, ...]:
        return ("student", "critic") if step % self.every == 0 else ("critic",)

    def loss(self, group: str, batch: Batch, step: int, generator: torch.Generator) -> Loss:
        target = batch.chunk.mean() + torch.randn((), generator=generator)
        if group == "critic":
            target = self.weights["student"].detach().mean()
        total = (self.weights[group] - target).square().sum()
        if step == self.poison:
            total = total * math.nan
        return Loss(total, {"target": target.detach()}, group)

    def after_step(self, step: int) -> None:
        pass


def line(**changes: object) -> Line:
    return Line({name: nn.Parameter(torch.tensor(2.0)) for name in ("student", "critic")}, **changes)  # type: ignore[arg-type]


def trainer(stage: Line, folder: Path, ema: EmaConfig | None = None, **config: object) -> Trainer:
    loop = LoopConfig(**{"max_steps": 10, "checkpoint_every": 4, "log_every": 1, **config})  # type: ignore[arg-type]
    return Trainer(stage, WaveSource(Drawing(2, 19, 2)), loop, ema, ALONE, folder)


def state_of(run: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in run._tensors().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Notes:
    """Keeps the figures."""

    def __init__(self) -> None:
        self.rows: dict[int, Mapping[str, float]] = {}

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        self.rows[step] = figures


def test_a_step_updates_the_groups_it_names_in_order(tmp_path: Path) -> None:
    run = trainer(line(every=2), tmp_path)
    first, second = run.take_step(), run.take_step()
    assert "loss/student" in first and "loss/student" not in second and "loss/critic" in second
    # the critic's target was the student after its update: 2 ± the learning rate
    assert first["critic/target"] == pytest.approx(
        2.0 - 0.1 * math.copysign(1, 2.0 - first["student/target"]), abs=1e-5
    )


def test_each_group_has_a_draw_of_its_own(tmp_path: Path) -> None:
    seen: dict[str, Tensor] = {}

    @dataclass(frozen=True)
    class Watching(Line):
        def loss(self, group: str, batch: Batch, step: int, generator: torch.Generator) -> Loss:
            seen[group] = batch.chunk
            return super().loss(group, batch, step, generator)

    trainer(Watching(line().weights), tmp_path).take_step()
    draws = WaveSource(Drawing(2, 19, 2)).batch(0)
    assert torch.equal(seen["student"], draws[0].chunk) and torch.equal(seen["critic"], draws[1].chunk)


def test_accumulated_parts_are_one_larger_batch(tmp_path: Path) -> None:
    gradients = []
    for accumulation in (1, 2):
        run = trainer(line(), tmp_path, accumulation=accumulation)
        gradients.append(run.take_step())
        run.loader.close()
    # parts draw other numbers than one another, so the mean of two differs from the first alone
    assert gradients[0]["student/target"] != gradients[1]["student/target"]
    two = gradients[1]
    assert two["gradient/student"] == pytest.approx(2 * abs(2.0 - two["student/target"]), rel=1e-5)


def test_the_gradient_is_clipped_to_its_limit(tmp_path: Path) -> None:
    plain = replace(ADAM, max_grad_norm=1e9, betas=(0.0, 0.0), learning_rate=1.0)
    stage = line(optimiser=replace(plain, max_grad_norm=0.5))
    run = trainer(stage, tmp_path)
    figures = run.take_step()
    moment = run.updates["student"].moments("student")["exp_avg_sq"]
    assert figures["gradient/student"] > 0.5 and float(moment.sqrt()) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "factors"),
    [
        ({"rate": "constant", "warmup_steps": 2}, [1, 1, 1, 1]),
        ({"rate": "warmup", "warmup_steps": 2}, [0.5, 1, 1, 1]),
        ({"rate": "cosine", "warmup_steps": 0, "max_steps": 4}, [1, 0.8535534, 0.5, 0.1464466]),
        ({"rate": "cosine", "warmup_steps": 2, "max_steps": 4}, [0.5, 1, 1, 0.5]),
    ],
)
def test_the_learning_rate_follows_its_shape(config: dict[str, object], factors: list[float], tmp_path: Path) -> None:
    run = trainer(line(), tmp_path, **config)
    assert [run.config.rate_at(step) for step in range(4)] == pytest.approx(factors)
    assert run.take_step()["rate/student"] == pytest.approx(0.1 * factors[0])
    run.loader.close()


@pytest.mark.parametrize("case", [Case("adapter", ema=EmaConfig(start=1), rate="cosine", max_steps=9), Case("whole")])
def test_a_resumed_run_goes_on_bit_for_bit(case: Case, tmp_path: Path) -> None:
    straight = case.trainer(ALONE, tmp_path / "straight")
    stopped = case.trainer(ALONE, tmp_path / "stopped")
    for _ in range(3):
        assert straight.take_step() == stopped.take_step()
    stopped.save()
    resumed = case.trainer(ALONE, tmp_path / "stopped")
    assert resumed.resume() and resumed.step == 3
    assert same(state_of(resumed), state_of(straight))
    for _ in range(2):
        assert resumed.take_step() == straight.take_step()
    assert same(state_of(resumed), state_of(straight))


def test_steps_do_not_depend_on_randomness_outside(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = run_steps(Case(steps=1), ALONE, tmp_path)
    torch.manual_seed(2)
    assert one["figures"] == run_steps(Case(steps=1), ALONE, tmp_path)["figures"]


def test_bfloat16_computes_near_float32_and_trains_float32_weights(tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        stage = make_stage("adapter", "replicate", ALONE)
        config = LoopConfig(5, precision=precision)  # type: ignore[arg-type]
        trainer = Trainer(stage, WaveSource(), config, None, ALONE, tmp_path / precision)
        losses[precision] = [trainer.take_step()["loss/student"] for _ in range(3)]
        trainer.loader.close()
        assert all(p.dtype == torch.float32 for p in trainer.groups["student"].parameters.values())
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02) and losses["bfloat16"] != losses["float32"]


def test_there_is_nothing_to_resume_at_first(tmp_path: Path) -> None:
    assert not trainer(line(), tmp_path).resume()


def test_the_average_is_of_the_students_updates_once_it_starts(tmp_path: Path) -> None:
    run = trainer(line(every=3), tmp_path, EmaConfig(start=2))
    assert run.ema is not None
    calls = []
    for _ in range(8):
        run.take_step()
        calls.append(run.ema.num_calls)
    assert calls == [1, 2, 2, 3, 3, 3, 4, 4]  # steps 0 and 1, then those that update the student: 3 and 6
    assert decay_at(3, run.ema.config) == 0 < decay_at(4, run.ema.config)


def test_checkpoints_come_when_they_are_due_and_the_newest_stay(tmp_path: Path) -> None:
    run = trainer(line(), tmp_path, max_steps=10, checkpoint_every=2, keep_checkpoints=2)
    run.run()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000008", "step-00000010"]


def test_figures_are_means_over_the_steps_since_the_last(tmp_path: Path) -> None:
    single, triple = Notes(), Notes()
    trainer(line(every=2), tmp_path / "a", max_steps=6).run(Watchers([single]))
    trainer(line(every=2), tmp_path / "b", max_steps=6, log_every=3).run(Watchers([triple]))
    assert list(triple.rows) == [3, 6]
    students = [single.rows[step]["loss/student"] for step in (1, 3)]
    assert triple.rows[3]["loss/student"] == pytest.approx(sum(students) / 2)


def test_samples_are_of_the_averaged_weights(tmp_path: Path) -> None:
    stage, seen = line(), []
    run = trainer(stage, tmp_path, EmaConfig(start=0, cap=0.9), max_steps=4, sample_every=4)
    run.run(Watchers(on_sample=lambda step: seen.append((step, float(stage.weights["student"].detach())))))
    assert run.ema is not None
    assert seen == [(4, float(run.ema.averages["student"]))] and seen[0][1] != float(stage.weights["student"].detach())


def test_a_stop_is_after_a_whole_step_with_a_checkpoint(tmp_path: Path) -> None:
    run = trainer(line(), tmp_path)
    with pytest.raises(KeyboardInterrupt, match="after step 3"):
        run.run(Watchers(wants_stop=lambda: run.step == 3))
    again = trainer(line(), tmp_path)
    assert again.resume() and again.step == 3


def test_a_loss_that_is_no_number_stops_before_anything_is_updated(tmp_path: Path) -> None:
    stage = line(poison=2)
    run = trainer(stage, tmp_path)
    run.take_step()
    run.take_step()
    before = state_of(run)
    with pytest.raises(DivergedError, match="diverged at step 2: loss/student"):
        run.take_step()
    assert same(before, state_of(run))


def test_other_data_are_refused_on_resume(tmp_path: Path) -> None:
    run = trainer(line(), tmp_path)
    run.save()
    other = Trainer(line(), WaveSource(name="other waves"), run.config, None, ALONE, tmp_path)
    with pytest.raises(DataError, match="waves then, other waves now"):
        other.resume()


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    Case("adapter").trainer(ALONE, tmp_path).save()
    with pytest.raises(CheckpointError, match=r"another network.*missing: .*not part of this run: .*lora"):
        Case("whole").trainer(ALONE, tmp_path).resume()


def test_a_larger_network_of_the_same_names_is_refused(tmp_path: Path) -> None:
    trainer(line(), tmp_path).save()
    wide = Line({name: nn.Parameter(torch.zeros(2)) for name in ("student", "critic")})
    with pytest.raises(CheckpointError, match=r"of another shape: .*student"):
        trainer(wide, tmp_path).resume()


def test_an_average_cannot_appear_in_the_middle_of_a_run(tmp_path: Path) -> None:
    trainer(line(), tmp_path).save()
    with pytest.raises(CheckpointError, match="missing: ema/student"):
        trainer(line(), tmp_path, EmaConfig()).resume()


@pytest.mark.parametrize(
    "change", [{"max_steps": 0}, {"accumulation": 0}, {"warmup_steps": -1}, {"rate": "warmup"}, {"log_every": 0}]
)
def test_a_loop_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UserError):
        LoopConfig(**{"max_steps": 5, **change})  # type: ignore[arg-type]


def test_lines_of_steps_that_are_made_again_go(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, 0)
    for step in (1, 2, 3):
        file.record(step, {"loss/student": 1.0 / step, "odd": math.inf})
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 4, "loss')
    MetricsFile(tmp_path, 2).record(3, {"loss/student": 9.0})
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss/student"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert rows[0]["odd"] is None


def test_tensorboard_shows_the_figures_and_those_of_steps_made_again_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Board(tmp_path, 0)
    for step in (1, 2, 3):
        first.record(step, {"loss/student": 1.0 / step})
    first.close()
    again = Board(tmp_path, 2)
    again.record(3, {"loss/student": 9.0, "rate/student": 0.5})
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/student")] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert [(event.step, event.value) for event in events.Scalars("rate/student")] == [(3, 0.5)]


def test_the_progress_line_says_loss_speed_memory_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    ticker = Ticker(100, 40, samples_per_step=8, device=torch.device("cpu"))
    ticker.record(50, {"loss/student": 0.25, "rate/student": 1e-4})
    ticker.close()
    line = capsys.readouterr().err.strip()
    assert line.startswith("step 50/100 · loss/student 0.25 · ") and "rate" not in line
    assert "samples/s" in line and " GB · " in line and line.endswith("left")
    assert [clock(seconds) for seconds in (0.0, 59.6, 3661.0)] == ["0:00", "1:00", "1:01:01"]
