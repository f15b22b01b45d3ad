"""What a run tells: figures of every few steps in a file, in TensorBoard where it is installed, and on the screen."""

import json
import math
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from heliograph.errors import OutputError
from heliograph.media.target import write_whole

METRICS_FILE, BOARD_FOLDER = "metrics.jsonl", "tensorboard"


@runtime_checkable
class Recorder(Protocol):
    """Takes the figures of a step."""

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of the step that has just been finished; `step` counts finished steps."""
        ...


class MetricsFile:
    """One JSON object per line: `step` and the figures. A figure that is not finite is null."""

    def __init__(self, folder: Path, done: int) -> None:
        """Add to the file in `folder`; lines of steps after `done`, which will be made again, go."""
        self.path = folder / METRICS_FILE
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        kept = [line for line in lines if _step_of(line) <= done]
        write_whole(self.path, "".join(f"{line}\n" for line in kept).encode())

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a line.

        Raises:
            OutputError: the disk is full or fails.
        """
        values = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise OutputError(
                f"{self.path} could not be written ({error.strerror}); free space, then use --resume"
            ) from error


class Board:
    """The same figures for TensorBoard (the extra `train` installs it)."""

    def __init__(self, folder: Path, done: int) -> None:
        # Only here: the package is optional.
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        self._writer = SummaryWriter(str(folder / BOARD_FOLDER), purge_step=done + 1)

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures as scalars."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class Ticker:
    """The loss, samples a second, memory and the time left: a bar on a terminal, plain lines in a pipe, on stderr."""

    def __init__(self, max_steps: int, done: int, samples_per_step: int, device: torch.device) -> None:
        self.max_steps, self.samples_per_step, self.device = max_steps, samples_per_step, device
        self._first, self._since = done, time.perf_counter()
        self.is_terminal = sys.stderr.isatty()
        columns = (TextColumn("[progress.description]{task.description}"), BarColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not self.is_terminal, transient=True)
        self._task = self._bar.add_task("step 1", total=float(max_steps), completed=done)
        self._bar.start()

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """Show where the run is."""
        line = self.line(step, figures)
        self._bar.update(self._task, completed=step, description=line)
        if not self.is_terminal:
            print(line, file=sys.stderr, flush=True)

    def line(self, step: int, figures: Mapping[str, float]) -> str:
        """One line: step, losses, speed, memory, time left."""
        seconds = max(time.perf_counter() - self._since, 1e-9) / max(step - self._first, 1)
        losses = " · ".join(f"{name} {value:.4g}" for name, value in figures.items() if name.startswith("loss/"))
        left = clock((self.max_steps - step) * seconds)
        return (
            f"step {step}/{self.max_steps} · {losses} · {self.samples_per_step / seconds:.2f} samples/s · "
            f"{memory_used(self.device) / 1e9:.1f} GB · {left} left"
        )

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def memory_used(device: torch.device) -> int:
    """Bytes: the most that a GPU has held so far, or what this process holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss


def has_board() -> bool:
    """Whether TensorBoard is installed."""
    return find_spec("tensorboard") is not None


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: `0:42`, `3:20:05`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _step_of(line: str) -> float:
    """Step of a line; infinite where the line was cut off."""
    try:
        value: Any = json.loads(line)["step"]
        return float(value)
    except (ValueError, KeyError, TypeError):
        return math.inf
