"""A benchmark from beginning to end: load, warm up, run in turn, report."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from heliograph.bench.report import Figures, Report
from heliograph.bench.run import Run, Work, in_turn, make_ours, timed
from heliograph.bench.subject import Asked, Subject, random_subject, stored_subject
from heliograph.bench.theirs import MakeTheirs
from heliograph.engine.threads import use_threads
from heliograph.errors import UserError
from heliograph.media.target import write_whole
from heliograph.pipeline import DTYPES

Tell = Callable[[str], None]


@dataclass(frozen=True)
class BenchOptions:
    """What `heliograph bench` was asked for; `size` is height and width in pixels, None takes the model's own."""

    model: str = "tiny"
    random_weights: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    their_threads: int | None = None
    against: str | None = None
    steps: tuple[int, ...] | None = None
    size: tuple[int, int] | None = None
    guidance_scale: float | None = None
    chunks: int = 6
    rounds: int = 4
    json_file: Path | None = None


def run_bench(options: BenchOptions, tell: Tell) -> Report:
    """Measure, and write the JSON file if one was asked for.

    Raises:
        UserError: something that was asked for is not possible; the message says what to change.
    """
    if options.chunks < 2 or options.rounds < 1:
        raise UserError(f"chunks={options.chunks}, rounds={options.rounds}; use 2 chunks and 1 round or more")
    subject = _subject(options)
    use_threads(options.threads, subject.engine.num_threads)
    ours = torch.get_num_threads()
    works: dict[str, Callable[[], Run]] = {
        "heliograph": partial(_on_threads, ours, make_ours, subject.transformer, subject, options.chunks)
    }
    if options.against == "diffusers":
        theirs = MakeTheirs(subject)
        count = options.their_threads or ours
        works["diffusers"] = partial(_on_threads, count, theirs, theirs.transformer, subject, options.chunks)
    for name, work in works.items():
        tell(f"warming up {name}")
        work()
    told = [_told(name, work, tell) for name, work in works.items()]
    results = in_turn(told, options.rounds)
    figures = tuple(Figures.of(name, runs) for name, runs in zip(works, results, strict=True))
    report = Report(subject, figures, options.rounds, options.chunks, ("heliograph", *sys.argv[1:]))
    if options.json_file is not None:
        write_whole(options.json_file, json.dumps(report.as_json(), indent=2).encode() + b"\n")
    return report


def _on_threads(count: int, work: Work, transformer: torch.nn.Module, subject: Subject, num_chunks: int) -> Run:
    """One timed run on this many CPU threads."""
    torch.set_num_threads(count)
    return timed(work, transformer, subject, num_chunks)


def _told(name: str, work: Callable[[], Run], tell: Tell) -> Callable[[], Run]:
    """The same work, which says how it went."""

    def run() -> Run:
        result = work()
        tell(f"{name}: {result.frames_per_second:.1f} frames/s")
        return result

    return run


def _subject(options: BenchOptions) -> Subject:
    asked = Asked(options.steps, options.size, options.guidance_scale)
    if options.random_weights is None:
        return stored_subject(options.model, options.device, options.dtype, asked)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if options.dtype == "auto" else DTYPES.get(options.dtype)
    if dtype is None:
        raise UserError(f"dtype={options.dtype!r} is not known for random weights; use {', '.join(DTYPES)}")
    return random_subject(options.random_weights, device, dtype, asked)
