"""The second thread of the engine: what is done with a chunk after it was made, while the next one is being made."""

import logging
import queue
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable

from heliograph.errors import OutputError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
"""Pause before a chunk that could not be stored is tried again."""

STORAGE_TROUBLE = (OutputError, OSError, sqlite3.OperationalError)
"""What a full or failing disk raises; it is waited for, so that nothing is lost."""

Keep = Callable[[], None]


class Finisher:
    """Runs tasks in order in one thread. At most two wait, so that memory stays flat when the disk is slow.

    A task has two halves: the first hands the chunk to viewers and returns the second, which stores it. The second is
    tried until it succeeds or the server stops; it may run again after it failed half way.
    """

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._tasks: queue.Queue[tuple[str, Callable[[], Keep], Callable[[Exception], None]] | None] = queue.Queue(2)
        self._pending: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)

    def start(self) -> None:
        """Begin to take tasks."""
        self._thread.start()

    def submit(self, name: str, task: Callable[[], Keep], fail: Callable[[Exception], None]) -> None:
        """Hand over a task; blocks while two wait. `fail` learns of an error that is not the disk's."""
        with self._changed:
            self._pending[name] += 1
        self._tasks.put((name, task, fail))

    def drain(self, name: str) -> None:
        """Wait until all tasks of this name are done, or the server stops."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending[name] or self._stopping.is_set())

    def stop(self) -> None:
        """Finish what waits, give up on what the disk refuses, end the thread."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._tasks.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (item := self._tasks.get()) is not None:
            name, task, fail = item
            try:
                self._keep(task())
            except Exception as error:
                fail(error)
            finally:
                with self._changed:
                    self._pending[name] -= 1
                    if not self._pending[name]:
                        del self._pending[name]
                    self._changed.notify_all()

    def _keep(self, keep: Keep) -> None:
        while True:
            try:
                keep()
            except STORAGE_TROUBLE as error:
                if self.trouble is None:
                    logger.error("storing failed and is tried again every %g s: %s", RETRY_SECONDS, error)
                self.trouble = str(error)
                if self._stopping.wait(RETRY_SECONDS):
                    return
            else:
                self.trouble = None
                return
