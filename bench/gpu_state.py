"""What the items of a session on a GPU share: weights, the folder for results, and figures measured so far."""

import json
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from heliograph.bench.report import Figures, Report, ratios_of
from heliograph.bench.run import Run, in_turn, make_ours, timed
from heliograph.bench.subject import Asked, Subject, approximated, random_subject, whole_plan
from heliograph.bench.theirs import Compiling, MakeTheirs
from heliograph.config import SpeedConfig
from heliograph.engine.tuning import tuned_denoiser
from heliograph.media.target import write_whole
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.request import chosen_sampler

ONE, TWO = (1, 1, 1), (2, 2, 2)
"""Steps on each level: those of the published frame rate, and those of the released scripts."""


@dataclass
class Bench:
    """What items share: the weights, where results go, and the figures measured so far."""

    folder: Path
    shape: str
    device: torch.device
    chunks: int
    rounds: int
    compiling: Compiling
    ends: float
    figures: dict[str, Figures] = field(default_factory=dict)

    @cached_property
    def exact(self) -> Subject:
        """The model at one step a level, not approximated; made when it is first asked for."""
        return random_subject(self.shape, str(self.device), torch.bfloat16, Asked(ONE))

    @cached_property
    def compiled_theirs(self) -> tuple[str, MakeTheirs]:
        """Diffusers over the same weights, compiled, and what it is called."""
        return f"diffusers compiled {self.compiling}", MakeTheirs(self.exact, self.compiling)

    @property
    def seconds_left(self) -> float:
        """Until the session has to end."""
        return self.ends - time.monotonic()

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Keep the figures of an item."""
        values = {"command": " ".join(["python", *sys.argv]), **values}
        write_whole(self.folder / f"{name}.json", json.dumps(values, indent=2, default=str).encode() + b"\n")

    def say(self, line: str) -> None:
        """One line for people, on the screen and in the summary."""
        print(line, flush=True)
        with (self.folder / "summary.txt").open("a") as file:
            file.write(line + "\n")

    def measure(self, name: str, subject: Subject, theirs: tuple[str, MakeTheirs] | None = None) -> None:
        """Ours, and in turn theirs where they are given, A-B-B-A after one run of each to warm up.

        `theirs` come with their name, and always run the exact model.
        """
        works: dict[str, Callable[[], Run]] = {"heliograph": partial(timed, make_ours, subject, self.chunks)}
        if theirs is not None:
            works[theirs[0]] = partial(timed, theirs[1], subject, self.chunks)
        warming = {}
        for engine, work in works.items():
            start = time.monotonic()
            work()
            warming[engine] = time.monotonic() - start
        results = in_turn(list(works.values()), self.rounds)
        found = tuple(Figures.of(engine, runs) for engine, runs in zip(works, results, strict=True))
        report = Report(subject, found, self.rounds, self.chunks, ("python", *sys.argv))
        steps = ",".join(map(str, subject.sampler.steps))
        others = {key: value for key, value in self.figures.items() if key.endswith(steps)}
        ratios = {key: ratios_of(found[0], other) for key, other in others.items()}
        extra = {
            "warming_up_seconds": warming,
            "ratios_to_earlier_items": ratios,
            # Peaks have these in them where the subject runs on other weights.
            "bytes_of_exact_weights_not_used": _unused_bytes(self.exact.transformer, subject.transformer),
        }
        self.write(name, {**report.as_json(), **extra})
        write_whole(self.folder / f"{name}.txt", ("\n".join(report.lines()) + "\n").encode())
        for figures in found:
            self.say(f"{name:<14}{_line(figures)}")
        if report.ratios:
            self.say(f"{name:<14}times as fast: " + ", ".join(f"{k} {v:.2f}" for k, v in report.ratios.items()))
        for key, ratio in ratios.items():
            self.say(f"{name:<14}{ratio['steady chunk']:.2f} times as fast as {key}, {ratio['end to end']:.2f} in all")
        if not subject.engine.approximations and "runner" not in name:
            self.figures[f"heliograph exact {steps}"] = found[0]
        if theirs is not None:
            self.figures[f"{theirs[0]} {steps}"] = found[1]


def _unused_bytes(exact: HeliosTransformer3DModel, used: HeliosTransformer3DModel) -> int:
    """Of the exact model's weights that stay in memory, those that the other has replaced."""
    kept = {parameter.data_ptr() for parameter in used.parameters()}
    return sum(p.numel() * p.dtype.itemsize for p in exact.parameters() if p.data_ptr() not in kept)


def at(subject: Subject, steps: tuple[int, ...], first: tuple[int, ...] | None = None) -> Subject:
    """The same with other steps on each level, and other ones (None: twice as many) for the first chunk."""
    return replace(subject, sampler=chosen_sampler(subject.engine.sampler, steps, first))


def twin(network: HeliosTransformer3DModel) -> HeliosTransformer3DModel:
    """The same tensors in modules of their own: what is put in the place of a module there stays there."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return deepcopy(network, shared)


def other(subject: Subject, speed: SpeedConfig) -> Subject:
    """A twin of the subject that runs as `speed` says."""
    network = twin(subject.transformer)
    plan = whole_plan(network, subject.device, torch.bfloat16)
    denoiser = tuned_denoiser(network, plan, replace(speed, fp8=False, history_reuse="off"))
    return approximated(replace(subject, engine=replace(subject.engine, denoiser=denoiser)), speed)


def _line(figures: Figures) -> str:
    chunk, transformer, decode, rest, first = (
        1000 * spread.median
        for spread in (figures.chunk, figures.transformer, figures.decode, figures.rest, figures.first_frames)
    )
    return (
        f"{figures.name:<20}{figures.frames_per_second.median:6.1f} frames/s, chunk {chunk:.0f} ms = transformer "
        f"{transformer:.0f} + decode {decode:.0f} + rest {rest:.0f}, first frames {first:.0f} ms, "
        f"{figures.device_bytes / 1e9:.1f} GB"
    )
