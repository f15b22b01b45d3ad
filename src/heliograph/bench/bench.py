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
from heliograph.bench.subject import Asked, Subject, approximated, guided_everywhere, random_subject, stored_subject
from heliograph.bench.theirs import MakeTheirs
from heliograph.config import EXACT, SpeedConfig
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
    compile_theirs: bool = False
    chunks: int = 6
    rounds: int = 4
    speed: SpeedConfig = EXACT
    json_file: Path | None = None


def run_bench(options: BenchOptions, tell: Tell) -> Report:
    """Measure, and write the JSON file if one was asked for.

    Raises:
        UserError: something that was asked for is not possible; the message says what to change.
    """
    if options.chunks < 2 or options.rounds < 1:
        raise UserError(f"chunks={options.chunks}, rounds={options.rounds}; use 2 chunks and 1 round or more")
    exact = _subject(options) if options.against is None else guided_everywhere(_subject(options))
    use_threads(options.threads, exact.engine.num_threads)
    count = torch.get_num_threads()
    # Theirs takes over the weights as they are, before ours are brought to 8 bits.
    compiling = "whole" if options.compile_theirs else None
    theirs = MakeTheirs(exact, compiling) if options.against == "diffusers" else None
    subject = approximated(exact, options.speed)
    works: dict[str, Callable[[], Run]] = {
        "heliograph": partial(_on_threads, count, make_ours, subject, options.chunks)
    }
    if theirs is not None:
        works["diffusers"] = partial(_on_threads, options.their_threads or count, theirs, exact, options.chunks)
    for name, work in works.items():
        tell(f"warming up {name}")
        work()
    told = [_told(name, work, tell) for name, work in works.items()]
    results = in_turn(told, options.rounds)
    torch.set_num_threads(count)
    figures = tuple(Figures.of(name, runs) for name, runs in zip(works, results, strict=True))
    report = Report(subject, figures, options.rounds, options.chunks, ("heliograph", *sys.argv[1:]))
    if options.json_file is not None:
        write_whole(options.json_file, json.dumps(report.as_json(), indent=2).encode() + b"\n")
    return report


def _on_threads(count: int, work: Work, subject: Subject, num_chunks: int) -> Run:
    """One timed run on this many CPU threads."""
    torch.set_num_threads(count)
    return timed(work, subject, num_chunks)


def _told(name: str, work: Callable[[], Run], tell: Tell) -> Callable[[], Run]:
    """The same work, which says how it went."""

    def run() -> Run:
        result = work()
        tell(f"{name}: {result.frames_per_second:.1f} frames/s")
        return result

    return run


def _subject(options: BenchOptions) -> Subject:
    asked = Asked(options.steps, options.size, options.guidance_scale, options.speed)
    if options.random_weights is None:
        return stored_subject(options.model, options.device, options.dtype, asked)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if options.dtype == "auto" else DTYPES.get(options.dtype)
    if dtype is None:
        raise UserError(f"dtype={options.dtype!r} is not known for random weights; use {', '.join(DTYPES)}")
    return random_subject(options.random_weights, device, dtype, asked)
