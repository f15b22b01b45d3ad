"""What a benchmark says: a table for people, JSON for scripts, everything that decides a figure beside it."""

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from heliograph.bench.clock import Spread
from heliograph.bench.run import Run
from heliograph.bench.subject import Subject
from heliograph.doctor import this_cpu
from heliograph.engine.plan import readable
from heliograph.revision import revision
from heliograph.shapes import CHUNK_FRAMES

ROW = "{:<24}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}"
HEADINGS = ("", "frames/s", "first frame", "first chunk", "chunk", "transformer", "decode", "rest")


@dataclass(frozen=True)
class Figures:
    """Several runs of one engine in one: medians over runs, and over all chunks but the first."""

    name: str
    frames_per_second: Spread
    first_frames: Spread
    first_chunk: Spread
    chunk: Spread
    transformer: Spread
    decode: Spread
    rest: Spread
    host_bytes: int
    device_bytes: int
    num_calls: int
    num_threads: int

    @classmethod
    def of(cls, name: str, runs: Sequence[Run]) -> "Figures":
        """Of one run or more, each of two chunks or more."""
        steady = [chunk for run in runs for chunk in run.chunks[1:]]
        return cls(
            name=name,
            frames_per_second=Spread.of([run.frames_per_second for run in runs]),
            first_frames=Spread.of([run.first_frames for run in runs]),
            first_chunk=Spread.of([run.chunks[0].wall for run in runs]),
            chunk=Spread.of([chunk.wall for chunk in steady]),
            transformer=Spread.of([chunk.transformer for chunk in steady]),
            decode=Spread.of([chunk.decode for chunk in steady]),
            rest=Spread.of([chunk.rest for chunk in steady]),
            host_bytes=max(run.host_bytes for run in runs),
            device_bytes=max(run.device_bytes for run in runs),
            num_calls=runs[0].num_calls,
            num_threads=runs[0].num_threads,
        )

    def row(self) -> str:
        """One line of the table, seconds as milliseconds."""
        times = (self.first_frames, self.first_chunk, self.chunk, self.transformer, self.decode, self.rest)
        cells = (f"{1000 * spread.median:.0f} ms" for spread in times)
        return ROW.format(self.name, f"{self.frames_per_second.median:.1f}", *cells)

    def as_json(self) -> dict[str, Any]:
        """All figures, seconds and bytes."""
        return {
            key: value.as_json() if isinstance(value, Spread) else value
            for key, value in ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        }


@dataclass(frozen=True)
class Report:
    """The figures of one benchmark and all that they depend on."""

    subject: Subject
    figures: tuple[Figures, ...]
    rounds: int
    num_chunks: int
    command: tuple[str, ...]

    @property
    def ratios(self) -> dict[str, float]:
        """How many times faster the first engine is than the second, by what is compared; empty if there is one."""
        if len(self.figures) < 2:
            return {}
        return ratios_of(*self.figures[:2])

    def lines(self) -> list[str]:
        """The table, and above it what was measured where."""
        facts = {**self.subject.as_json(), **machine_facts(self.subject.device)}
        asked = f"{self.num_chunks} chunks of {CHUNK_FRAMES} frames, {self.rounds} rounds (A-B-B-A), medians"
        lines = [f"{name:<18}{value}" for name, value in facts.items()]
        lines += ["", asked, "", ROW.format(*HEADINGS), *(figures.row() for figures in self.figures), ""]
        for figures in self.figures:
            low, high = figures.chunk.low, figures.chunk.high
            memory = f"{figures.num_threads} CPU thread(s), {readable(figures.host_bytes)} of host memory at most"
            if figures.device_bytes:
                memory += f", {readable(figures.device_bytes)} on the device"
            lines.append(f"{figures.name}: chunk {1000 * low:.0f} to {1000 * high:.0f} ms; {memory}")
        lines += [f"{name}: {ratio:.2f} times as fast" for name, ratio in self.ratios.items()]
        return lines

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "command": shlex.join(self.command),
            **self.subject.as_json(),
            **machine_facts(self.subject.device),
            "rounds": self.rounds,
            "chunks": self.num_chunks,
            "figures": [figures.as_json() for figures in self.figures],
            "ratios": self.ratios,
        }


def ratios_of(ours: Figures, theirs: Figures) -> dict[str, float]:
    """How many times faster the first figures are than the second, by what is compared."""
    return {
        "end to end": ours.frames_per_second.median / theirs.frames_per_second.median,
        "steady chunk": theirs.chunk.median / ours.chunk.median,
        "transformer": theirs.transformer.median / ours.transformer.median,
        "decode": theirs.decode.median / ours.decode.median,
        "first frame": theirs.first_frames.median / ours.first_frames.median,
    }


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Hardware, versions and commit."""
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else this_cpu().name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version_of("diffusers"),
        "heliograph": version_of("heliograph"),
        "commit": revision(),
    }


def version_of(package: str) -> str:
    """Of an installed package; empty where it runs from its source tree, as on a machine that is lent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
