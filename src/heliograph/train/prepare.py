"""The verb `prepare`: a source and a model to a folder that `train` takes."""

import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from heliograph.checkpoint import (
    ModelFolder,
    latent_stride,
    load_transformer,
    native_memory,
    native_sampler,
    native_size,
    open_model,
    tensor_table,
)
from heliograph.config import Guidance
from heliograph.data.clips import SIZES, ClipRecord, ClipRules, DataError, Size
from heliograph.data.prepare import Encoders, Prepared, prepare
from heliograph.data.shards import SKIPPED_FILE
from heliograph.model.denoiser import TransformerDenoiser
from heliograph.seeds import check_seed
from heliograph.shapes import LARGE_PARAMETERS
from heliograph.text import TextEncoder, load_text_encoder
from heliograph.train.journal import clock
from heliograph.train.ode import OdePlan
from heliograph.train.pairs import Followed, Teacher, make_pairs, read_prompts
from heliograph.train.parallel import Parallel, joined
from heliograph.train.presets import NEGATIVE_PROMPT
from heliograph.vae import LatentCodec, load_autoencoder


@dataclass(frozen=True)
class PrepareOptions:
    """The options of the command line, as given."""

    source: Path
    output: Path
    model: str
    sizes: tuple[Size, ...]
    min_frames: int
    fps: str
    stride: str
    workers: int
    device: str
    seed: int
    ode_pairs: bool
    steps: tuple[int, ...] | None
    guidance_scale: float | None
    negative_prompt: str | None
    chunks: int | None
    student: str | None
    every: int
    batch_size: int
    quiet: bool


def run_prepare(options: PrepareOptions) -> list[str]:
    """Make or complete the folder; returns what to tell the user at the end.

    Raises:
        UserError: the message says what was wrong, what was given and what to do.
    """
    check_seed(options.seed)
    if not 0 <= options.workers <= 256:
        raise DataError(f"workers={options.workers} is out of range; use 0 to 256")
    with joined(options.device) as parallel:
        if not parallel.is_alone:
            raise DataError("prepare runs in one process; start it without torchrun, with more --workers")
        return _prepare_pairs(options, parallel) if options.ode_pairs else _prepare_clips(options, parallel)


def _prepare_clips(options: PrepareOptions, parallel: Parallel) -> list[str]:
    rules = clip_rules(options)
    folder = open_model(options.model)
    codec = LatentCodec(load_autoencoder(folder, torch.float32, parallel.device))
    encoders = Encoders(options.model, codec, _text_encoder(folder, parallel.device))
    with Counter("clips", is_quiet=options.quiet) as counter:
        done = prepare(
            options.source, options.output, encoders, rules, num_workers=options.workers, on_clip=counter.on_clip
        )
    if done.total and done.skipped == done.total:
        raise DataError(
            f"none of the {done.total} clips in {options.source} could be taken; "
            f"{options.output / SKIPPED_FILE} says why of each"
        )
    if options.quiet:
        return []
    lines = [f"{options.output}: {done.stored + done.added} of {done.total} clips, {done.added} of them new"]
    if done.skipped:
        lines.append(f"{done.skipped} clips were left out; the reasons are in {options.output / SKIPPED_FILE}")
    return lines


def clip_rules(options: PrepareOptions) -> ClipRules:
    """The rules for choosing clips: the size buckets of the 640 family where only such sizes are wanted.

    Raises:
        DataError: a value is out of range.
    """
    kept = options.sizes or (native_size(open_model(options.model).path),)
    try:
        fps = None if options.fps == "file" else int(options.fps)
    except ValueError:
        raise DataError(f"fps={options.fps!r} is no rate; use a whole number, or file") from None
    buckets = SIZES if set(kept) <= set(SIZES) else kept
    return ClipRules(buckets, kept, options.min_frames, int(options.stride), fps, options.seed)


def _prepare_pairs(options: PrepareOptions, parallel: Parallel) -> list[str]:
    prompts = read_prompts(options.source)
    if len(options.sizes) > 1:
        raise DataError(f"{len(options.sizes)} sizes for ODE pairs; give one --size")
    folder = open_model(options.model)
    size = options.sizes[0] if options.sizes else native_size(folder.path)
    text = _text_encoder(folder, parallel.device)
    teacher = Teacher(
        model=options.model,
        denoiser=_denoiser(folder, parallel.device),
        encode=lambda prompt: text.encode([prompt]).embedding,
        negative=NEGATIVE_PROMPT if options.negative_prompt is None else options.negative_prompt,
        memory=native_memory(folder.path),
        stride=latent_stride(folder.path),
        student=None if options.student is None else followed(options.student, folder, parallel.device),
    )
    with Counter("prompts", is_quiet=options.quiet) as counter:
        made = make_pairs(
            prompts,
            options.output,
            teacher,
            pair_plan(options),
            size,
            seed=options.seed,
            batch_size=options.batch_size,
            on_pair=lambda done: counter.tick(done, len(prompts), prompts[done - 1]),
        )
    return [] if options.quiet else [f"{options.output}: pairs of {len(prompts)} prompts, {made} of them new"]


def followed(name: str, teacher: ModelFolder, device: torch.device) -> Followed:
    """The student whose chunks are remembered, sampled as its folder says.

    Raises:
        CheckpointError: it is not found, or not whole.
        DataError: its network takes other latents, or text of another width, than the teacher's.
    """
    folder = open_model(name)
    for key in ("in_channels", "text_dim"):
        theirs, its = (model.transformer_config[key] for model in (teacher, folder))
        if its != theirs:
            raise DataError(
                f"--student {name} has {key}={its}, its teacher {theirs}; name a model that was distilled from it"
            )
    return Followed(name, _denoiser(folder, device), native_sampler(folder))


def pair_plan(options: PrepareOptions) -> OdePlan:
    """How pairs are made: the recipe, with what the options change of it."""
    plan = OdePlan()
    teacher = replace(
        plan.teacher,
        steps=options.steps or plan.teacher.steps,
        guidance=plan.teacher.guidance if options.guidance_scale is None else Guidance(options.guidance_scale),
    )
    num_chunks = plan.num_chunks if options.chunks is None else options.chunks
    return replace(plan, teacher=teacher, num_chunks=num_chunks, every=options.every)


def pairs_dtype(folder: ModelFolder, device: torch.device) -> torch.dtype:
    """Of a teacher's weights: half precision for a large one on a GPU; a small one gains nothing by rounding."""
    table = tensor_table(folder.part("transformer"))
    is_large = sum(math.prod(info.shape) for info in table.values()) > LARGE_PARAMETERS
    return torch.bfloat16 if device.type == "cuda" and is_large else torch.float32


def _denoiser(folder: ModelFolder, device: torch.device) -> TransformerDenoiser:
    network = load_transformer(folder, pairs_dtype(folder, device), device)
    if device.type == "cpu":
        network.run_lean()
    return TransformerDenoiser(network, device)


def _text_encoder(folder: ModelFolder, device: torch.device) -> TextEncoder:
    return load_text_encoder(folder, torch.bfloat16 if device.type == "cuda" else torch.float32, device)


class Counter:
    """Progress on stderr: a bar on a terminal, a plain line for each item in a pipe."""

    def __init__(self, noun: str, *, is_quiet: bool) -> None:
        self.noun, self.is_quiet = noun, is_quiet
        self.is_terminal = sys.stderr.isatty() and not is_quiet
        columns = (TextColumn("[progress.description]{task.description}"), BarColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not self.is_terminal, transient=True)
        self._task = self._bar.add_task(f"0 {noun}", total=None)
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> "Counter":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_clip(self, counts: Prepared, record: ClipRecord) -> None:
        """One clip is done."""
        self.tick(counts.stored + counts.added + counts.skipped, counts.total, record.id)

    def tick(self, done: int, total: int, name: str) -> None:
        """`done` of `total` are done, this one last; the time left is by the pace since the first."""
        now = time.perf_counter()
        first, since = self._first = self._first or (done, now)
        left = clock((total - done) * (now - since) / (done - first)) if done > first else "?"
        self._bar.update(self._task, completed=done, total=total, description=f"{done}/{total} {self.noun}")
        if not self.is_terminal and not self.is_quiet:
            print(f"{self.noun} {done}/{total} · {left} left · {name}", file=sys.stderr, flush=True)
