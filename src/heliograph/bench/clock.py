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
    """Notes how long each call of one part takes.

    On a GPU it is measured there, between two events, so that nothing waits because it is watched.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._calls: list[tuple[Any, Any]] = []
        self._begun = threading.local()  # calls may be side by side

    @property
    def num_calls(self) -> int:
        """Calls that are over, as far as the host knows."""
        return len(self._calls)

    def begin(self) -> None:
        """A call starts."""
        self._begun.moment = self._moment()

    def end(self) -> None:
        """The call is over."""
        self._calls.append((self._begun.moment, self._moment()))

    def seconds(self) -> list[float]:
        """Of each call; waits for the device."""
        now(self.device)
        if self.device.type == "cuda":
            return [begun.elapsed_time(ended) / 1000 for begun, ended in self._calls]
        return [ended - begun for begun, ended in self._calls]

    def _moment(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
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
