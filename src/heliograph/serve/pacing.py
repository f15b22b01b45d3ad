"""Real time for a live session: when its next chunk may be made. Pure arithmetic over a clock that is handed in."""

import threading


class Pace:
    """The playhead of a session, counted in chunks of its stream, and how far making may run ahead of it.

    The playhead moves while the session runs and somebody watches. It never passes what was delivered: when making is
    slower than playing, playing waits.
    """

    def __init__(self, chunk_seconds: float) -> None:
        """`chunk_seconds` is how long one chunk plays."""
        self._chunk_seconds = chunk_seconds
        self._lock = threading.Lock()
        self._head = 0.0
        self._since: float | None = None
        self._num_delivered = 0
        self.num_taken = 0

    def head(self, now: float) -> float:
        """Chunks played so far."""
        with self._lock:
            return self._head_at(now)

    def run(self, now: float) -> None:
        """Let the playhead move."""
        with self._lock:
            if self._since is None:
                self._since = now

    def freeze(self, now: float) -> None:
        """Hold the playhead where it is."""
        with self._lock:
            self._head, self._since = self._head_at(now), None

    def skip(self, now: float) -> None:
        """What was delivered counts as played: something else is wanted at once."""
        with self._lock:
            self._move_to(now)
            self._head = float(self._num_delivered)

    def set_speed(self, chunk_seconds: float, now: float) -> None:
        """Play faster or slower from now on."""
        with self._lock:
            self._move_to(now)
            self._chunk_seconds = chunk_seconds

    def taken(self) -> None:
        """A chunk was made; it will be delivered."""
        with self._lock:
            self.num_taken += 1

    def delivered(self, now: float) -> None:
        """A chunk can be watched."""
        with self._lock:
            self._move_to(now)
            self._num_delivered += 1

    def seconds_to_wait(self, now: float, ahead: float) -> float | None:
        """Until the next chunk may be made so that at most `ahead` chunks wait to be played; 0 for now.

        None while the playhead stands still and enough is made: something has to happen first.
        """
        with self._lock:
            missing = self.num_taken + 1 - ahead - self._head_at(now)
            if missing <= 1e-9:
                return 0.0
            moves = self._since is not None and self._head_at(now) < self._num_delivered
            return missing * self._chunk_seconds if moves else None

    def _head_at(self, now: float) -> float:
        if self._since is None:
            return self._head
        return min(self._head + (now - self._since) / self._chunk_seconds, float(self._num_delivered))

    def _move_to(self, now: float) -> None:
        """Count from `now` on; time in which nothing was there to be played does not count."""
        self._head = self._head_at(now)
        if self._since is not None:
            self._since = now
