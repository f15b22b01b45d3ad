"""The verb `train`: a preset, data and a folder to a trained model.

OUTPUT/run.json       the resolved configuration
OUTPUT/metrics.jsonl  figures of the steps       OUTPUT/tensorboard/  the same for TensorBoard, where it is installed
OUTPUT/samples/       contact sheets             OUTPUT/checkpoints/  to go on from
OUTPUT/model/         the result, when the last step is done
"""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import UMT5EncoderModel

from heliograph.data.loader import ShardSource, Source
from heliograph.errors import OutputError, UserError
from heliograph.media.lock import hold_folder
from heliograph.media.target import write_whole
from heliograph.presets import SAMPLERS
from heliograph.train.build import (
    STUDENT_ADAPTER,
    Beside,
    Built,
    build_stage,
    check_geometry,
    frozen_dtype,
    open_beside,
    open_data,
)
from heliograph.train.distill import DistillConfig
from heliograph.train.export import Result, export_model
from heliograph.train.idle import IdlePlace
from heliograph.train.journal import Board, MetricsFile, Recorder, Ticker, has_board
from heliograph.train.loop import Trainer, Watchers
from heliograph.train.parallel import Layout, Parallel, joined
from heliograph.train.plan import TrainPlan, make_plan, this_device
from heliograph.train.presets import NEGATIVE_PROMPT, training_preset
from heliograph.train.recipe import StageConfig, TrainConfig
from heliograph.train.samples import ContactSheets, SamplePlan

RUN_FILE = "run.json"

FREE_FIELDS = ("max_steps", "checkpoint_every", "keep_checkpoints", "sample_every", "log_every")
"""Fields of the loop's configuration that a resumed run may change: they do not change what a step computes."""


@dataclass(frozen=True)
class TrainOptions:
    """The options of the command line, as given; None keeps the preset's value."""

    preset: str
    data: tuple[str, ...]
    shares: tuple[float, ...]
    output: Path | None
    resume: bool
    start: str | None
    scores: str | None
    device: str
    compiles: bool
    layout: Layout | None
    idle: IdlePlace | None
    max_steps: int | None
    batch_size: int | None
    accumulation: int | None
    learning_rate: float | None
    seed: int | None
    checkpoint_every: int | None
    sample_every: int | None
    log_every: int | None
    size: tuple[int, int] | None
    quiet: bool


def resolved(options: TrainOptions) -> TrainConfig:
    """The preset with the options in their places.

    Raises:
        UserError: there is no such preset, or a value is out of range.
    """
    config = training_preset(options.preset)
    names = ("max_steps", "accumulation", "seed", "checkpoint_every", "sample_every", "log_every")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    changes: dict[str, Any] = {"loop": replace(config.loop, **given)}
    if options.batch_size is not None:
        changes["batch_size"] = options.batch_size
    if options.size is not None:
        changes["size"] = options.size
    if options.start is not None:
        changes["start"] = replace(config.start, model=options.start, subfolder="transformer")
    if options.scores is not None:
        if config.scores is None:
            raise UserError(f"{config.name} has no teacher and critic; leave --scores out")
        changes["scores"] = replace(config.scores, model=options.scores, subfolder="transformer")
    if options.layout is not None:
        changes["scores_layout" if isinstance(config.stage, DistillConfig) else "layout"] = options.layout
    if options.idle is not None:
        changes["idle"] = options.idle
    if options.learning_rate is not None:
        changes["stage"] = _with_rate(config.stage, options.learning_rate)
    return replace(config, **changes)


def plan_train(options: TrainOptions, world: int) -> TrainPlan:
    """What the run would cost on `world` devices like the one here; nothing is loaded."""
    return make_plan(resolved(options), world, this_device(options.device, world))


def run_train(options: TrainOptions) -> Path | None:
    """Train, and write the result; returns the model folder in the first process, None in the others.

    Raises:
        UserError: the message says what was wrong, what was given and what to do.
        KeyboardInterrupt: stopped; a checkpoint is stored.
    """
    config = resolved(options)
    if options.output is None:
        raise UserError("no place for the run: give --output DIR")
    with joined(options.device) as parallel:
        return train(config, options, options.output, parallel)


def train(config: TrainConfig, options: TrainOptions, output: Path, parallel: Parallel) -> Path | None:
    """`run_train` in a process that has found its place."""
    with claimed(output, config, parallel, resume=options.resume):
        beside = open_beside(config.start.model, parallel.device)
        source = open_data(options.data, options.shares, config, beside)
        texts = _embeddings(config, beside)
        encoder = cast(UMT5EncoderModel, beside.text(torch.float32).encoder) if config.trains_text else None
        built = build_stage(config, parallel, texts[0], encoder)
        if options.compiles:
            # Small networks are bound by memory: step by step, the embedded one moves some 3 GB for every example.
            built.student.compile_repeated_blocks()
        if isinstance(source, ShardSource):
            for folder in source.folders:
                check_geometry(folder, built.student)
        trainer = Trainer(built.stage, source, config.loop, config.ema, parallel, output)
        if options.resume:
            trainer.resume()
        if parallel.is_first:  # only now: what cannot begin is no run to go on with
            write_whole(output / RUN_FILE, json.dumps(_plain(config), indent=2).encode() + b"\n")
        sheets = _sheets(config, built, beside, texts, output, parallel)
        with _stop_on_signal() as wants_stop, _recorders(trainer, options, output) as recorders:
            trainer.run(Watchers(recorders, sheets, wants_stop))
        return _export(trainer, config, built, beside, output)


@contextmanager
def claimed(output: Path, config: TrainConfig, parallel: Parallel, *, resume: bool) -> Iterator[None]:
    """The output folder taken for a run, or made sure that it holds the run that is to go on; nobody else writes it.

    Raises:
        OutputError: it cannot be written, or another run is writing it.
        UserError: it holds a run and `resume` is off, or another run than this.
    """
    file = output / RUN_FILE
    if file.exists():
        if not resume:
            raise UserError(f"{output} holds a run already; go on with --resume, or choose another --output")
        _check_same_run(file, _plain(config))
    parallel.wait()  # until all have looked: the first one will write the file
    if not parallel.is_first:
        yield
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be made ({error.strerror}); choose another --output") from error
    with hold_folder(output):
        yield


def _plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON has it."""
    return json.loads(json.dumps(asdict(config)))


def _check_same_run(file: Path, values: dict[str, Any]) -> None:
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); choose another --output") from error
    differing = [name for name in values if _without_free(there.get(name)) != _without_free(values[name])]
    if differing:
        shown = "; ".join(f"{name} was {there.get(name)}, is now {values[name]}" for name in differing)
        raise UserError(f"{file.parent} holds another run: {shown[:600]}. Give the same options, or another --output")


def _without_free(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in FREE_FIELDS} if isinstance(value, dict) else value


def _with_rate(stage: StageConfig, rate: float) -> StageConfig:
    """The stage with another learning rate for the student."""
    if isinstance(stage, DistillConfig):
        return replace(stage, student_optimiser=replace(stage.student_optimiser, learning_rate=rate))
    return replace(stage, optimiser=replace(stage.optimiser, learning_rate=rate))


def _embeddings(config: TrainConfig, beside: Beside) -> list[torch.Tensor]:
    """Embeddings of the negative prompt and of the prompts of samples; the encoder is gone afterwards."""
    encoder = beside.text(frozen_dtype(config))
    return [encoder.encode([prompt]).embedding.float() for prompt in (NEGATIVE_PROMPT, *config.prompts)]


def _sheets(
    config: TrainConfig, built: Built, beside: Beside, texts: list[torch.Tensor], output: Path, parallel: Parallel
) -> ContactSheets | None:
    if not config.loop.sample_every:
        return None
    plan = SamplePlan(
        texts=texts[1:],
        negative=texts[0],
        sampler=SAMPLERS[config.kind],
        memory=config.memory,
        size=config.size,
        precision=frozen_dtype(config),
    )
    return ContactSheets(built.student, beside.codec(), plan, output / "samples", parallel)


@contextmanager
def _recorders(trainer: Trainer, options: TrainOptions, output: Path) -> Iterator[list[Recorder]]:
    """Who is told the figures: nobody but in the first process."""
    if not trainer.parallel.is_first:
        yield []
        return
    with ExitStack() as open_ones:
        recorders: list[Recorder] = [MetricsFile(output, trainer.step)]
        if has_board():
            recorders.append(open_ones.enter_context(closing(Board(output, trainer.step))))
        if not options.quiet:
            samples = samples_per_step(trainer)
            ticker = Ticker(trainer.config.max_steps, trainer.step, samples, trainer.parallel.device)
            recorders.append(open_ones.enter_context(closing(ticker)))
        yield recorders


def samples_per_step(trainer: Trainer) -> int:
    """Examples that all processes together take in one step."""
    source: Source = trainer.loader.source
    return source.drawing.batch_size * trainer.config.accumulation * trainer.parallel.world


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C or being told to terminate asks for a stop after the step under way; a second time, at once."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _export(trainer: Trainer, config: TrainConfig, built: Built, beside: Beside, output: Path) -> Path | None:
    """The result: where weights are averaged, their average."""
    adapter = STUDENT_ADAPTER if config.adapter else None
    result = Result(built.student, adapter, config.kind, config.size, config.memory, built.text_encoder)
    folder = output / "model"
    if trainer.ema is None:
        export_model(folder, result, beside.folder.path, trainer.parallel)
    else:
        with trainer.ema.applied():
            export_model(folder, result, beside.folder.path, trainer.parallel)
    return folder if trainer.parallel.is_first else None
