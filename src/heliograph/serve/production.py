"""A live session while it runs: made in real time, steered between chunks, every chunk kept on disk."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from heliograph.errors import StateError, UserError
from heliograph.media.target import write_whole
from heliograph.serve.coding import ChunkCoder
from heliograph.serve.errors import bad_request, not_found
from heliograph.serve.finisher import Finisher, Keep
from heliograph.serve.folders import TakeFolder
from heliograph.serve.ids import new_id
from heliograph.serve.maker import Maker, Reel, Said
from heliograph.serve.metrics import Metrics
from heliograph.serve.pacing import Pace
from heliograph.serve.pictures import card, figures_of
from heliograph.serve.protocol import Go, Steer
from heliograph.serve.records import ChunkRecord, LiveRecord
from heliograph.serve.scheduler import LIVE
from heliograph.serve.store import Store
from heliograph.serve.viewers import Channel, Media
from heliograph.shapes import CHUNK_FRAMES, FPS

logger = logging.getLogger(__name__)

CHUNK_SECONDS = CHUNK_FRAMES / FPS
Answer = TypeVar("Answer")


class LiveProduction:
    """One running session. Questions from the event loop are answered by the engine's thread, between chunks."""

    rank = LIVE

    def __init__(
        self,
        record: LiveRecord,
        maker: Maker,
        store: Store,
        folder: TakeFolder,
        finisher: Finisher,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        max_chunks: int,
    ) -> None:
        self.name = record.id
        self.record = record
        self.group: Hashable = record.id
        self.coder = ChunkCoder(record.plan.order.height, record.plan.order.width)
        self.channel = Channel(metrics)
        self.pace = Pace(CHUNK_SECONDS / record.plan.pace)
        self.is_paused = False
        self.is_over = False
        self.error: str | None = None
        order = record.plan.order
        self.said = Said(order.prompt, order.negative_prompt, order.guidance_scale)
        self.tip = store.chunk(record.id, record.tip) if record.tip else None
        self.num_chunks = self.tip.place + 1 if self.tip else 0
        self.made_seconds = 0.0
        self.unwatched_since: float | None = time.monotonic()
        self.on_failure: Callable[[], None] = lambda: None
        self.on_delivered: Callable[[], None] = lambda: None
        self._maker = maker
        self._store = store
        self._folder = folder
        self._finisher = finisher
        self._metrics = metrics
        self._loop = loop
        self._max_chunks = max_chunks
        self._began = time.monotonic()
        self._num_delivered = 0
        self._reel: Reel | None = None
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._lock = threading.Lock()

    # The event loop's side

    def ask(self, question: Callable[[], Answer]) -> Future[Answer]:
        """Have something done between two chunks; wake the scheduler afterwards."""
        future: Future[Answer] = Future()
        with self._lock:
            if self.is_over:
                future.set_exception(bad_request("the session has stopped; resume it first", code="stopped"))
            else:
                self._asked.append((question, future))
        return future

    def watched(self, *, now: float) -> None:
        """Viewers came or went: the playhead moves only while somebody watches."""
        if self.channel.viewers and not self.is_paused:
            self.pace.run(now)
        else:
            self.pace.freeze(now)
        self.unwatched_since = None if self.channel.viewers else self.unwatched_since or now

    def end(self) -> None:
        """No more chunks; what was asked and not done yet is refused."""
        with self._lock:
            self.is_over = True
            rest = list(self._asked)
            self._asked.clear()
        for _question, future in rest:
            future.set_exception(bad_request("the session has stopped; resume it first", code="stopped"))

    # The engine's side

    def attend(self) -> None:
        """Answer what was asked, in order."""
        while True:
            with self._lock:
                if not self._asked:
                    return
                question, future = self._asked.popleft()
            try:
                future.set_result(question())
            except Exception as error:
                future.set_exception(error)

    def seconds_to_wait(self, now: float) -> float | None:
        """As soon as no more than two chunks would wait to be played."""
        if self.is_over or self.is_paused:
            return None
        return self.pace.seconds_to_wait(now, self.channel.ahead)

    def reel(self) -> Reel:
        """Open the session where it stands. Raises UserError."""
        if self._reel is None:
            self._reel = self._opened()
            self._note()
        return self._reel

    def taken(self, after: Reel, seconds: float) -> None:
        """A chunk was made in so many seconds."""
        self.made_seconds = seconds
        self.pace.taken()
        self._note()

    def deliver(self, after: Reel, frames: UInt8[np.ndarray, "33 h w 3"]) -> Keep:
        """To the viewers at once; to the disk next."""
        place = after.num_chunks - 1
        fragment = self.coder.encode(frames, place)
        position = self._num_delivered
        self._num_delivered += 1
        placed = self.coder.placed(fragment, position * CHUNK_FRAMES)
        self.pace.delivered(time.monotonic())
        self.on_delivered()
        if position == 0:
            self._metrics.first_frame_seconds.observe(time.monotonic() - self._began)
        self._tell(Media(position, placed))
        figures, picture = figures_of(frames), card(frames)
        parent = self.tip.id if self.tip else None
        made_at, prompt = round(time.time(), 3), after.shown_prompt
        record = ChunkRecord(new_id("chunk"), self.name, parent, place, prompt, figures, made_at)
        seconds = self.made_seconds

        def keep() -> None:
            if self.is_over and not self._folder.path.exists():
                return
            write_whole(self._folder.fragment(record.id), fragment)
            write_whole(self._folder.picture(record.id), picture)
            after.save(self._folder.state(record.id))
            self._store.add_live_chunk(record)
            self.tip = record
            self._forget(place - self._max_chunks)
            self._tell({"type": "chunk", **chunk_json(record), "position": position, "made_seconds": round(seconds, 4)})

        return keep

    def fail(self, error: Exception) -> None:
        """Tell the viewers, and end."""
        message = str(error) if isinstance(error, UserError) else "the server could not go on; its log says why"
        self.error = message
        self.end()
        self._tell({"type": "error", "id": None, **bad_request(message, code="stopped").body})
        self._loop.call_soon_threadsafe(self.on_failure)

    # What can be asked; each runs in the engine's thread

    def steer(self, wish: Steer) -> dict[str, Any]:
        """Change prompt, negative prompt, guidance or speed. Raises UserError."""
        reel = self.reel()
        trial = reel.fork()  # all of it happens, or nothing does
        if wish.prompt is not None:
            trial.set_prompt(wish.prompt, wish.transition_chunks)
        if wish.negative_prompt is not None:
            trial.set_negative_prompt(wish.negative_prompt)
        if wish.guidance_scale is not None:
            trial.set_guidance(wish.guidance_scale)
        self._reel = trial
        if wish.pace is not None:
            self.pace.set_speed(CHUNK_SECONDS / wish.pace, time.monotonic())
            self.record = replace(self.record, plan=replace(self.record.plan, pace=wish.pace))
            self._store.set_pace(self.name, self.record.plan)
        self._note()
        return self._takes_effect()

    def pause(self) -> dict[str, Any]:
        """Make no more chunks until it is resumed."""
        self.is_paused = True
        self.pace.freeze(time.monotonic())
        return self._takes_effect()

    def resume(self) -> dict[str, Any]:
        """Go on."""
        self.is_paused = False
        if self.channel.viewers:
            self.pace.run(time.monotonic())
        return self._takes_effect()

    def rewind(self, wish: Go) -> dict[str, Any]:
        """Go on after an earlier chunk, or one of another branch. Raises UserError, ApiError."""
        self._finisher.drain(self.name)
        target = self.target(wish)
        reel = self._resumed(target)
        if wish.prompt is not None:
            reel.set_prompt(wish.prompt, wish.transition_chunks)
        self._store.move_tip(self.name, target.id)
        self.tip, self._reel = target, reel
        self.pace.skip(time.monotonic())
        self._note()
        return self._takes_effect()

    def line(self, wish: Go) -> list[ChunkRecord]:
        """The chunks that a fork begins with. Raises ApiError, StateError."""
        self._finisher.drain(self.name)
        target = self.target(wish)
        self._resumed(target)
        return self._store.path(target.id)

    def target(self, wish: Go) -> ChunkRecord:
        """The chunk that is meant; the newest where none is named. Raises ApiError."""
        if wish.chunk_id is not None:
            found = self._store.chunk(self.name, wish.chunk_id)
            if found is None:
                raise not_found("chunk of this session", wish.chunk_id)
            return found
        path = self._store.path(self.tip.id if self.tip else None)
        if not path:
            raise bad_request("nothing has been made yet; wait for the first chunk", "chunk", "no_chunk")
        place = path[-1].place if wish.chunk is None else wish.chunk
        found = next((chunk for chunk in path if chunk.place == place), None)
        if found is None:
            raise bad_request(
                f"chunk {place} is not on this path; it has chunks {path[0].place} to {path[-1].place}",
                "chunk",
                "no_chunk",
            )
        return found

    def _takes_effect(self) -> dict[str, Any]:
        """The next chunk that is made, in the video and in the stream."""
        return {"chunk": self.num_chunks, "position": self.pace.num_taken}

    def _note(self) -> None:
        """What others may read at any moment."""
        assert self._reel is not None
        self.said, self.num_chunks = self._reel.said, self._reel.num_chunks

    def _opened(self) -> Reel:
        line = self._store.path(self.tip.id if self.tip else None)
        for chunk in reversed(line):
            try:
                reel = self._resumed(chunk)
            except StateError:
                logger.warning(
                    "%s: the state after chunk %d is damaged; the one before is used", self.name, chunk.place
                )
                continue
            if chunk is not line[-1]:
                self._store.move_tip(self.name, chunk.id)
                self.tip = chunk
            return reel
        order = self.record.plan.order
        start = None if order.start == "text" else np.load(self._folder.start, allow_pickle=False)
        self.tip = None
        return self._maker.begin(order, start)

    def _resumed(self, chunk: ChunkRecord) -> Reel:
        """Raises StateError."""
        reel = self._maker.resume(self._folder.state(chunk.id))
        if reel.num_chunks != chunk.place + 1:
            raise StateError(f"the state after chunk {chunk.place} belongs to another; choose another chunk")
        return reel

    def _forget(self, place: int) -> None:
        """A session does not grow for ever: its oldest chunks go."""
        if place < 0:
            return
        for chunk in self._store.forget_chunks(self.name, place):
            for file in (self._folder.fragment, self._folder.picture, self._folder.state):
                file(chunk.id).unlink(missing_ok=True)

    def _tell(self, item: Media | dict[str, Any]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.channel.publish, item)


def chunk_json(chunk: ChunkRecord) -> dict[str, Any]:
    """A chunk as clients see it."""
    return {
        "chunk": chunk.place,
        "chunk_id": chunk.id,
        "parent": chunk.parent,
        "prompt": chunk.prompt,
        "figures": asdict(chunk.figures),
        "made_at": chunk.made_at,
    }
