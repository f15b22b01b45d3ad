"""Progress of a long generation: a bar on a terminal, a plain line per chunk in a pipe."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from heliograph.shapes import CHUNK_FRAMES, FPS


class Progress:
    """Counts chunks and tells frames per second, real-time factor and the time left, on stderr.

    The speed is that of all chunks so far but the first, which may have more steps and warms up; of the first alone
    while there is no other.
    """

    def __init__(self, num_chunks: int, *, is_quiet: bool = False) -> None:
        self.num_chunks = num_chunks
        self.is_quiet = is_quiet
        self.is_terminal = sys.stderr.isatty() and not is_quiet
        self._ends: list[float] = []
        self._start = time.perf_counter()
        columns = (TextColumn("[progress.description]{task.description}"), BarColumn())
        self._bar = Bar(*columns, console=Console(stderr=True), disable=not self.is_terminal, transient=True)
        self._task = self._bar.add_task("chunk 1", total=float(num_chunks))

    def __enter__(self) -> "Progress":
        self._bar.start()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def first_chunk_seconds(self) -> float:
        """Seconds from the start to the first finished chunk; 0 before it."""
        return self._ends[0] - self._start if self._ends else 0.0

    @property
    def frames_per_second(self) -> float:
        """Speed so far; 0 before the first chunk."""
        if len(self._ends) > 1:
            return CHUNK_FRAMES * (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-9)
        return CHUNK_FRAMES / self.first_chunk_seconds if self._ends else 0.0

    @property
    def real_time_factor(self) -> float:
        """Seconds of video made per second of work; above 1 is live."""
        return self.frames_per_second / FPS

    def on_step(self, done: int, of: int) -> None:
        """One sampling step of the chunk under way has ended."""
        self._bar.update(self._task, completed=len(self._ends) + done / of)

    def on_chunk(self) -> None:
        """One chunk is finished."""
        self._ends.append(time.perf_counter())
        self._bar.update(self._task, completed=len(self._ends), description=self._line())
        if not self.is_terminal and not self.is_quiet:
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        done = len(self._ends)
        left = (self.num_chunks - done) * CHUNK_FRAMES / self.frames_per_second
        return (
            f"chunk {done}/{self.num_chunks} · {self.frames_per_second:.1f} frames/s · "
            f"{self.real_time_factor:.2f}× real time · {_clock(left)} left"
        )


def _clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
