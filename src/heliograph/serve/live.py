"""All live sessions of a server: begun, opened again, forked, stopped when nobody watches, deleted."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool

from heliograph.serve.coding import ChunkCoder
from heliograph.serve.errors import ApiError, not_found
from heliograph.serve.folders import Folders, TakeFolder
from heliograph.serve.fragments import join
from heliograph.serve.ids import is_id, new_id
from heliograph.serve.maker import Maker
from heliograph.serve.metrics import Metrics
from heliograph.serve.production import LiveProduction
from heliograph.serve.protocol import Go, Steer
from heliograph.serve.records import ChunkRecord, LivePlan, LiveRecord
from heliograph.serve.scheduler import Scheduler
from heliograph.serve.settings import Settings
from heliograph.serve.store import Store, copies_of
from heliograph.serve.viewers import Viewer
from heliograph.shapes import CHUNK_FRAMES

logger = logging.getLogger(__name__)

TELL_SECONDS = 0.2
"""How long a change in who watches may wait until everyone is told."""


class Lives:
    """Everything here runs in the event loop's thread; the disk is touched in others."""

    def __init__(
        self, store: Store, folders: Folders, scheduler: Scheduler, metrics: Metrics, settings: Settings
    ) -> None:
        self._store = store
        self._folders = folders
        self._scheduler = scheduler
        self._metrics = metrics
        self._settings = settings
        self._running: dict[str, LiveProduction] = {}
        self._opening = asyncio.Lock()
        self._to_tell: set[str] = set()

    def record(self, session_id: str) -> LiveRecord:
        """The stored session. Raises ApiError (404)."""
        record = self._store.session(session_id) if is_id(session_id, "live") else None
        if record is None:
            raise not_found("live session", session_id)
        return record

    def running(self, session_id: str) -> LiveProduction | None:
        """The session if it runs."""
        return self._running.get(session_id)

    async def start(
        self, plan: LivePlan, name: str, client: str, fill: Callable[[TakeFolder], None], maker: Maker
    ) -> LiveProduction:
        """Begin a session. Raises ApiError (429)."""
        async with self._opening:
            self.admit(client)
            record = await run_in_threadpool(self._stored, plan, name, client, fill)
            return self._run(record, maker)

    async def open(self, session_id: str, maker: Maker) -> LiveProduction:
        """The running session; one that has stopped goes on after its newest chunk. Raises ApiError (404, 429)."""
        record = self.record(session_id)
        async with self._opening:
            production = self._running.get(session_id)
            if production is None:
                self.admit(record.client)
                production = self._run(record, maker)
        return production

    async def ask(self, session_id: str, question: Callable[[LiveProduction], Any], maker: Maker) -> Any:
        """Have the engine's thread do something with a session between two chunks; opens it if need be.

        Raises:
            ApiError: there is no such session, or it cannot be done.
            UserError: the model refuses.
        """
        production = await self.open(session_id, maker)
        future = production.ask(lambda: question(production))
        self._scheduler.wake()
        answer = await asyncio.wrap_future(future)
        self.tell_state(production)
        return answer

    async def fork(self, session_id: str, wish: Go, client: str, maker: Maker) -> LiveProduction:
        """Another session that begins with this one's chunks up to one of them, and has its own life from there.

        Raises:
            ApiError: there is no such chunk, or too many sessions run.
        """
        self.admit(client)
        line: list[ChunkRecord] = await self.ask(session_id, lambda production: production.line(wish), maker)
        source = self.record(session_id)
        place = line[-1].place
        plan = LivePlan(source.plan.order, source.plan.pace, forked_from=session_id, fork_chunk=place)

        def store() -> LiveRecord:
            fork_id = new_id("live")
            copies = copies_of(line, fork_id)
            self._folders.of(fork_id).adopt(self._folders.of(session_id), line, copies)
            return self._store.add_session(fork_id, plan, client, source.name, copies)

        async with self._opening:
            self.admit(client)
            production = self._prepared(await run_in_threadpool(store), maker)
            steer = Steer(prompt=wish.prompt, transition_chunks=wish.transition_chunks)
            first = production.ask(lambda: production.steer(steer))  # before anything is made
            self._scheduler.add(production)
        await asyncio.wrap_future(first)
        return production

    async def save(self, session_id: str, name: str) -> None:
        """Keep a session until it is deleted. Raises ApiError (404)."""
        record = self.record(session_id)
        kept = replace(record, is_saved=True, name=name or record.name)
        await run_in_threadpool(self._store.keep_session, session_id, kept.name)
        production = self._running.get(session_id)
        if production is not None:
            production.record = replace(production.record, is_saved=True, name=kept.name)
            self.tell_state(production)

    def stop(self, session_id: str) -> None:
        """End a running session; it can be opened again."""
        production = self._running.pop(session_id, None)
        if production is None:
            return
        production.end()
        self._scheduler.remove(production)
        production.channel.publish({"type": "end", "reason": "stopped"})
        production.channel.close()
        self._metrics.live_sessions.set(len(self._running))

    async def delete(self, session_id: str) -> None:
        """Stop a session and delete all of it. Raises ApiError (404)."""
        self.record(session_id)
        self.stop(session_id)

        def remove() -> None:
            self._scheduler.finisher.drain(session_id)
            self._store.delete_owner(session_id)
            self._folders.of(session_id).remove()

        await run_in_threadpool(remove)

    async def watch(self, production: LiveProduction) -> Viewer:
        """A new viewer of a running session. Raises ApiError (429)."""
        if len(production.channel.viewers) >= self._settings.limits.max_viewers:
            self._metrics.refused.labels("viewers").inc()
            raise ApiError(429, "too many watch this session; try again later", code="viewers", retry_after=5)
        viewer = production.channel.join(production.pace.head(time.monotonic()))
        self.viewers_changed(production)
        return viewer

    def leave(self, production: LiveProduction, viewer: Viewer) -> None:
        """A viewer is gone."""
        production.channel.leave(viewer)
        self.viewers_changed(production)

    def viewers_changed(self, production: LiveProduction) -> None:
        """Viewers came, went, or want something else."""
        production.watched(now=time.monotonic())
        self._scheduler.wake()
        if production.name not in self._to_tell:  # once for all who come in a moment: else 200 viewers get 200 each
            self._to_tell.add(production.name)
            asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell_viewers, production)

    def _tell_viewers(self, production: LiveProduction) -> None:
        self._to_tell.discard(production.name)
        self.tell_state(production)

    def tell_state(self, production: LiveProduction) -> None:
        """Tell everyone how the session stands."""
        production.channel.publish({"type": "state", "session": session_json(production.record, production)})

    async def reap(self) -> None:
        """Stop sessions that nobody watches, for ever."""
        limit = self._settings.abandon_seconds
        while True:
            await asyncio.sleep(min(1.0, limit / 4))
            now = time.monotonic()
            for name, production in list(self._running.items()):
                since = production.unwatched_since
                if since is not None and now - since >= limit:
                    logger.info("%s: nobody watched for %g s; it stops", name, limit)
                    self.stop(name)

    def stop_all(self) -> None:
        """The server ends."""
        for name in list(self._running):
            self.stop(name)

    def export(self, record: LiveRecord) -> TakeFolder:
        """Write the path that a session is on as one mp4; returns its folder. Raises ApiError, OSError."""
        folder = self._folders.of(record.id)
        line = self._store.path(record.tip)
        if not line:
            raise ApiError(400, "nothing has been made yet; wait for the first chunk", code="no_chunk")
        production = self._running.get(record.id)
        coder = production.coder if production else ChunkCoder(record.plan.order.height, record.plan.order.width)
        fragments = (
            coder.placed(folder.fragment(chunk.id).read_bytes(), index * CHUNK_FRAMES)
            for index, chunk in enumerate(line)
        )
        join(coder.header, fragments, folder.video, len(line) * CHUNK_FRAMES)
        return folder

    def admit(self, client: str) -> None:
        """Refuse one session more when too many run.

        Raises:
            ApiError: 429.
        """
        limits = self._settings.limits
        own = sum(production.record.client == client for production in self._running.values())
        if len(self._running) >= limits.max_live or own >= limits.max_live_per_client:
            self._metrics.refused.labels("live").inc()
            raise ApiError(
                429,
                f"{len(self._running)} live sessions run already; stop one, or try again later",
                code="too_many_sessions",
                retry_after=5,
            )

    def _stored(self, plan: LivePlan, name: str, client: str, fill: Callable[[TakeFolder], None]) -> LiveRecord:
        """Store a new session, and let go of old ones that nobody kept."""
        session_id = new_id("live")
        folder = self._folders.of(session_id)
        try:
            folder.make()
            fill(folder)
            record = self._store.add_session(session_id, plan, client, name)
        except BaseException:
            folder.remove()
            raise
        unsaved = [old for old in self._store.unsaved_sessions() if old not in self._running and old != session_id]
        for old in unsaved[: max(0, len(unsaved) - self._settings.limits.max_stored_sessions)]:
            self._store.delete_owner(old)
            self._folders.of(old).remove()
        return record

    def _run(self, record: LiveRecord, maker: Maker) -> LiveProduction:
        production = self._prepared(record, maker)
        self._scheduler.add(production)
        return production

    def _prepared(self, record: LiveRecord, maker: Maker) -> LiveProduction:
        """A session that counts as running and has no turns yet."""
        production = LiveProduction(
            record,
            maker,
            self._store,
            self._folders.of(record.id),
            self._scheduler.finisher,
            self._metrics,
            asyncio.get_running_loop(),
            self._settings.limits.max_session_chunks,
        )
        production.on_failure = lambda: self.stop(record.id)
        production.on_delivered = self._scheduler.wake
        self._running[record.id] = production
        self._metrics.live_sessions.set(len(self._running))
        return production


def session_json(record: LiveRecord, production: LiveProduction | None) -> dict[str, Any]:
    """A session as clients see it."""
    order = record.plan.order
    runs = production is not None
    status = "stopped" if not runs else "paused" if production.is_paused else "running"
    path = f"/v1/live/{record.id}"
    return {
        "id": record.id,
        "object": "live.session",
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "status": status,
        "name": record.name,
        "saved": record.is_saved,
        "prompt": production.said.prompt if runs else order.prompt,
        "negative_prompt": production.said.negative_prompt if runs else order.negative_prompt,
        "guidance_scale": production.said.guidance_scale if runs else order.guidance_scale,
        "unknown_words": list(production.said.unknown_words) if runs else [],
        "size": order.size,
        "seed": order.seed,
        "motion": order.motion,
        "start": order.start,
        "pace": production.record.plan.pace if runs else record.plan.pace,
        "fps": 24,
        "chunk_frames": CHUNK_FRAMES,
        "next_chunk": production.num_chunks if runs else None,
        "viewers": len(production.channel.viewers) if runs else 0,
        "tip": record.tip if not runs else production.tip.id if production.tip else None,
        "forked_from": record.plan.forked_from,
        "fork_chunk": record.plan.fork_chunk,
        "socket": path,
        "stream": f"{path}/stream.mp4",
        "video": f"{path}/video.mp4",
    }
