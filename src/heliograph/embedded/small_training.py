"""What trainings of the autoencoder's small networks have in common: one file of state, and steps until time is up."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from heliograph.media.target import write_whole


@runtime_checkable
class SmallTraining(Protocol):
    """A network on its way, from whose step everything random follows."""

    step: int

    def take_step(self) -> float:
        """One update; returns the loss."""
        ...

    def save(self, file: Path) -> None:
        """Store everything to go on from."""
        ...


def train_until(
    training: SmallTraining, state: Path, max_steps: int, end: float, every: int, figures: Callable[[], str]
) -> bool:
    """Take steps until there are `max_steps` or the clock (monotonic) shows `end`; returns whether all are done.

    Every so many steps the state is stored, and the mean loss printed with `figures`.
    """
    losses: list[float] = []
    while training.step < max_steps and time.monotonic() < end:
        losses.append(training.take_step())
        if training.step % every == 0:
            training.save(state)
            mean = sum(losses) / len(losses)
            print(f"step {training.step}/{max_steps} · loss {mean:.4f} · {figures()}", flush=True)
            losses.clear()
    training.save(state)
    return training.step >= max_steps


def store(file: Path, state: dict[str, Any]) -> None:
    """Write the state of a training whole, or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    torch.save(state, stream)
    write_whole(file, stream.getvalue())
