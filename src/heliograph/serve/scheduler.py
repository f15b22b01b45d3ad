"""Who makes the next chunk. One thread owns the model; a turn is one chunk of one production, or of several at once.

Live sessions go before videos. Among live sessions turns go round; among videos they go round the clients, and each
client's videos are made one after the other.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from heliograph.errors import UserError
from heliograph.serve.finisher import Finisher, Keep
from heliograph.serve.maker import Maker, Reel
from heliograph.serve.metrics import Metrics
from heliograph.shapes import CHUNK_FRAMES, FPS

logger = logging.getLogger(__name__)

LIVE, VIDEO = 0, 1


@runtime_checkable
class Production(Protocol):
    """Something that wants chunks. All but `deliver` and `fail` run in the thread that owns the model."""

    name: str
    rank: int
    group: Hashable
    """Turns go round the groups of a rank; inside a group the oldest production is served until it is done."""

    def attend(self) -> None:
        """Do what was asked since the last turn. Must not raise."""
        ...

    def seconds_to_wait(self, now: float) -> float | None:
        """0: it wants a chunk; more: it will in so many seconds; None: not until it says so."""
        ...

    def reel(self) -> Reel:
        """What makes its chunks, opened if need be. Raises UserError."""
        ...

    def taken(self, after: Reel, seconds: float) -> None:
        """Its chunk was made, in a pass of so many seconds; `after` may be kept."""
        ...

    def deliver(self, after: Reel, frames: UInt8[np.ndarray, "33 h w 3"]) -> Keep:
        """Hand the chunk on, and return what stores it. Runs in the finisher's thread, in order."""
        ...

    def fail(self, error: Exception) -> None:
        """It cannot go on. Any thread."""
        ...


def choose(productions: Sequence[Production], turns: dict[Hashable, int], now: float) -> list[Production]:
    """Those that want a chunk now and may have the next turn, the first in line first.

    Args:
        productions: all, the oldest first.
        turns: the number of the last turn of each group; a group that is not there had none.
        now: seconds of the same clock that the productions use.
    """
    wanting: dict[Hashable, Production] = {}
    for production in productions:
        if production.seconds_to_wait(now) == 0:
            wanting.setdefault((production.rank, production.group), production)
    if not wanting:
        return []
    best = min(production.rank for production in wanting.values())
    line = [production for production in wanting.values() if production.rank == best]
    return sorted(line, key=lambda production: turns.get(production.group, -1))


class Scheduler:
    """The thread that owns the model, and the productions that share it."""

    def __init__(self, load: Callable[[], Maker], max_batch: int, metrics: Metrics) -> None:
        """`load` runs in the thread, so that the server answers while a large model is read."""
        self.maker: Maker | None = None
        self.is_warm = False
        self.failure: Exception | None = None
        self.finisher = Finisher()
        self.on_ready: Callable[[Maker], None] = lambda _maker: None
        self.on_failure: Callable[[], None] = lambda: None
        self._load = load
        self._max_batch = max_batch
        self._metrics = metrics
        self._productions: list[Production] = []
        self._turns: dict[Hashable, int] = {}
        self._num_turns = 0
        self._changed = threading.Condition()
        self._is_stopping = False
        self._is_woken = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Load the model and begin."""
        self.finisher.start()
        self._thread.start()

    def stop(self) -> None:
        """Let the chunk that is being made finish, store it, and end."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self.finisher.stop()

    def add(self, production: Production) -> None:
        """Give a production its share of turns."""
        with self._changed:
            self._productions.append(production)
        self.wake()

    def remove(self, production: Production) -> None:
        """Take it out of the line before the next chunk. One that is not there does not matter."""
        with self._changed:
            if production in self._productions:
                self._productions.remove(production)
            if all(other.group != production.group for other in self._productions):
                self._turns.pop(production.group, None)
        self.wake()

    def wake(self) -> None:
        """Something changed: look again who wants a chunk."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            maker = self._load()
            self.maker = maker
            self.on_ready(maker)
        except Exception as error:
            self.failure = error  # `serve` ends with it, and is who tells
            self.on_failure()
            return
        self.is_warm = True
        while not self._is_stopping:
            self._turn(maker)

    def _turn(self, maker: Maker) -> None:
        """One turn: attend to everyone, then make the chunks of those in line, or wait."""
        with self._changed:
            self._is_woken = False
            everyone = list(self._productions)
        for production in everyone:
            production.attend()
        now = time.monotonic()
        with self._changed:
            everyone = list(self._productions)
        line = choose(everyone, self._turns, now)
        if not line:
            waits = [wait for production in everyone if (wait := production.seconds_to_wait(now)) is not None]
            with self._changed:
                self._changed.wait_for(lambda: self._is_woken or self._is_stopping, min(waits, default=None))
            return
        batch = self._batch(line)
        if batch:
            self._make(maker, batch)

    def _batch(self, line: Sequence[Production]) -> list[tuple[Production, Reel]]:
        """The first in line, and those after it whose next chunk can be made in the same pass."""
        batch: list[tuple[Production, Reel]] = []
        for production in line:
            if len(batch) >= self._max_batch or (batch and production.rank == VIDEO):
                break
            try:
                reel = production.reel()
            except Exception as error:
                self._fail(production, error)
                continue
            if not batch or reel.batch_key == batch[0][1].batch_key:
                batch.append((production, reel))
        return batch

    def _make(self, maker: Maker, batch: Sequence[tuple[Production, Reel]]) -> None:
        """Make one chunk of each and hand them over."""
        self._num_turns += 1
        for production, _reel in batch:
            self._turns[production.group] = self._num_turns
        began = time.monotonic()
        try:
            made = maker.make([reel for _production, reel in batch])
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0][0], error)
            for pair in batch if len(batch) > 1 else ():  # find out whose fault it is
                self._make(maker, [pair])
            return
        seconds = time.monotonic() - began
        self._metrics.chunk_seconds.observe(seconds)
        self._metrics.batch_size.observe(len(batch))
        self._metrics.real_time_factor.set(len(batch) * CHUNK_FRAMES / FPS / max(seconds, 1e-9))
        for (production, reel), frames in zip(batch, made, strict=True):
            after = reel.fork()
            production.taken(after, seconds)
            self._hand_over(production, after, frames)

    def _hand_over(self, production: Production, after: Reel, frames: UInt8[np.ndarray, "33 h w 3"]) -> None:
        self.finisher.submit(
            production.name, lambda: production.deliver(after, frames), lambda error: self._fail(production, error)
        )

    def _fail(self, production: Production, error: Exception) -> None:
        """Take out a production that cannot go on; the others do."""
        if not isinstance(error, UserError):
            logger.error("%s failed", production.name, exc_info=error)
        self.remove(production)
        try:
            production.fail(error)
        except Exception:
            logger.exception("%s: its failure could not be stored", production.name)
