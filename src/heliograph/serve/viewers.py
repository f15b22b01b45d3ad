"""Those who watch a session: each has a short queue of its own, so that a slow one misses chunks and nobody waits.

Lives in the event loop's thread.
"""

import asyncio
import json
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from heliograph.serve.metrics import Metrics
from heliograph.serve.protocol import VERSION

MAX_WAITING = 3
"""Chunks that wait for one viewer; when one more comes, all but the newest are skipped."""

MAX_EVENTS = 256
"""Messages that wait for one viewer; one that reads none of so many is let go."""

KEPT_CHUNKS = 3
"""Newest chunks that are kept for those who join: as far as making runs ahead, and the one that plays."""


@dataclass(frozen=True)
class Media:
    """A chunk in a session's stream. `position` counts chunks since the stream began."""

    position: int
    fragment: bytes

    @cached_property
    def announcement(self) -> str:
        """The message that comes before it, written once for all viewers."""
        return message_text({"type": "media", "position": self.position, "bytes": len(self.fragment)})


@dataclass(frozen=True)
class Skipped:
    """Chunks that this viewer will not get."""

    count: int


Item = Media | Skipped | str
"""What is handed to a viewer; a message is text already, because many may get the same one."""


class Viewer:
    """One connection."""

    def __init__(self) -> None:
        self.ahead = 2.0
        self._items: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self._is_over = False

    def put(self, item: Item) -> int:
        """Hand something over without waiting; returns how many chunks had to be skipped for it."""
        if self._is_over:
            return 0
        count = self._make_room() if isinstance(item, Media) else 0
        self._items.append(item)
        if len(self._items) > MAX_EVENTS:
            self.end()
        self._arrived.set()
        return count

    def end(self) -> None:
        """Nothing more will come; what waits is still given out, unless it is far too much."""
        self._is_over = True
        if len(self._items) > MAX_EVENTS:
            self._items.clear()
        self._arrived.set()

    async def get(self) -> Item | None:
        """The next thing; None at the end."""
        while not self._items:
            if self._is_over:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self._items.popleft()

    def _make_room(self) -> int:
        waiting = [item for item in self._items if isinstance(item, Media)]
        if len(waiting) < MAX_WAITING:
            return 0
        before = sum(item.count for item in self._items if isinstance(item, Skipped))
        self._items = deque(item for item in self._items if isinstance(item, str))
        self._items.append(Skipped(before + len(waiting)))
        return len(waiting)


class Channel:
    """All viewers of one session, and the newest chunks for those who join."""

    def __init__(self, metrics: Metrics) -> None:
        self.viewers: set[Viewer] = set()
        self._metrics = metrics
        self._newest: deque[Media] = deque(maxlen=KEPT_CHUNKS)

    @property
    def ahead(self) -> float:
        """The least that any viewer wants to be ahead of what it plays."""
        return min((viewer.ahead for viewer in tuple(self.viewers)), default=2.0)

    def join(self, head: float) -> Viewer:
        """A new viewer; it begins with the chunk that plays now, which starts with a key frame."""
        viewer = Viewer()
        for media in self._newest:
            if media.position >= int(head):
                viewer.put(media)
        if not viewer._items and self._newest:
            viewer.put(self._newest[-1])
        self.viewers.add(viewer)
        self._metrics.viewers.inc()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """A viewer is gone."""
        if viewer in self.viewers:
            self.viewers.remove(viewer)
            self._metrics.viewers.dec()

    def publish(self, item: Media | dict[str, Any]) -> None:
        """Hand a chunk or a message to everyone."""
        if isinstance(item, Media):
            self._newest.append(item)
        told = item if isinstance(item, Media) else message_text(item)
        for viewer in self.viewers:
            self._metrics.skipped_chunks.inc(viewer.put(told))

    def close(self) -> None:
        """End every viewer's stream."""
        for viewer in self.viewers:
            viewer.end()


def message_text(item: dict[str, Any]) -> str:
    """A message of the socket as it is sent."""
    return json.dumps({"v": VERSION, **item}, separators=(",", ":"), ensure_ascii=False)
