"""Clocks: time between moments when the device has nothing left to do, time inside one part, and the most memory."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch

SAMPLE_SECONDS = 0.02
"""How often host memory is looked at."""


@dataclass(frozen=True)
class Spread:
    """The median of several measurements, the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value or more."""
        return cls(statistics.median(values), min(values), max(values))

    def as_json(self) -> dict[str, float]:
        """Three numbers."""
        return {"median": self.median, "low": self.low, "high": self.high}


def now(device: torch.device) -> float:
    """Seconds, once all work that was given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class PartClock:
    """Adds up the time that calls of one part take.

    On a GPU it is measured there, between two events, so that the part is not slowed down by being watched.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.num_calls = 0
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._begun: Any = None

    def begin(self) -> None:
        """A call starts."""
        self._begun = self._moment()

    def end(self) -> None:
        """The call is over."""
        self.num_calls += 1
        if self.device.type == "cuda":
            self._events.append((self._begun, self._moment()))
        else:
            self._seconds += self._moment() - self._begun

    def take(self) -> float:
        """Seconds since this was last asked; waits for the device."""
        now(self.device)
        seconds = self._seconds + sum(begun.elapsed_time(ended) / 1000 for begun, ended in self._events)
        self._seconds, self._events = 0.0, []
        return seconds

    def _moment(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def watching(self, module: torch.nn.Module) -> Iterator[None]:
        """Count the calls of a module."""
        hooks = (
            module.register_forward_pre_hook(lambda *_: self.begin()),
            module.register_forward_hook(lambda *_: self.end()),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its calls counted."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.begin()
            try:
                return function(*args, **kwargs)
            finally:
                self.end()

        return call


class MemoryWatch:
    """The most memory that this process holds while the block runs, on the host and on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.host_bytes = 0
        self.device_bytes = 0
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="heliograph-memory", daemon=True)

    def __enter__(self) -> "MemoryWatch":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()
        if self.device.type == "cuda":
            self.device_bytes = torch.cuda.max_memory_allocated(self.device)

    def _look(self) -> None:
        process = psutil.Process()
        while True:
            self.host_bytes = max(self.host_bytes, process.memory_info().rss)
            if self._is_done.wait(SAMPLE_SECONDS):
                return
