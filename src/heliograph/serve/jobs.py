"""Videos that are ordered and made in the background; nothing that was accepted or finished is lost in a crash."""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from heliograph.errors import StateError, UserError
from heliograph.media.target import write_whole
from heliograph.serve.coding import ChunkCoder
from heliograph.serve.errors import ApiError
from heliograph.serve.finisher import Keep
from heliograph.serve.folders import Folders, TakeFolder
from heliograph.serve.fragments import join
from heliograph.serve.ids import new_id
from heliograph.serve.maker import Maker, Reel
from heliograph.serve.metrics import Metrics
from heliograph.serve.pictures import card, figures_of, write_stills
from heliograph.serve.records import ChunkRecord, Job, JobPlan
from heliograph.serve.scheduler import VIDEO, Scheduler
from heliograph.serve.settings import Limits
from heliograph.serve.store import Store, copies_of
from heliograph.shapes import CHUNK_FRAMES

logger = logging.getLogger(__name__)

EXTEND_BLEND = 1
"""Chunks over which the prompt of an extension comes in: at once."""

KEPT_STATES = 3
"""Newest states that are kept while a video is made; one is enough, the others stand in for a damaged one."""


class JobProduction:
    """One video being made. What is stored after each chunk is all it needs to go on in another process."""

    rank = VIDEO

    def __init__(self, job: Job, maker: Maker, store: Store, folder: TakeFolder, jobs: "Jobs") -> None:
        self.name = job.id
        self.job = job
        self.group: Hashable = job.client
        self.is_over = False
        self._maker = maker
        self._store = store
        self._folder = folder
        self._jobs = jobs
        self._reel: Reel | None = None
        self._coder: ChunkCoder | None = None
        self._parent: ChunkRecord | None = None
        self._num_made = -1  # not known before the reel is open

    @property
    def is_made(self) -> bool:
        """Whether every chunk is on the disk, and only the joining is left."""
        chunks = self._store.chunks(self.name)
        return len(chunks) >= self.job.plan.num_chunks

    def drop_damaged(self) -> None:
        """Forget chunks from the first one on whose frames are gone; they are made again."""
        for chunk in self._store.chunks(self.name):
            if not self._folder.fragment(chunk.id).exists():
                self._store.drop_chunks(self.name, chunk.place)
                return

    def attend(self) -> None:
        """Videos are not steered."""

    def seconds_to_wait(self, now: float) -> float | None:
        """Always as soon as possible."""
        return None if self.is_over or self._num_made >= self.job.plan.num_chunks else 0.0

    def reel(self) -> Reel:
        """Go on after the newest chunk that is whole on the disk, or from the start."""
        if self._reel is None:
            self._reel = self._opened()
            self._num_made = self._reel.num_chunks
            if self.job.status == "queued":
                self._store.set_job_status(self.name, "in_progress")
        return self._reel

    def taken(self, after: Reel, seconds: float) -> None:
        """One chunk more."""
        self._num_made = after.num_chunks

    def deliver(self, after: Reel, frames: UInt8[np.ndarray, "33 h w 3"]) -> Keep:
        """Encode the chunk; storing it comes next, and with the last one the finished video."""
        place = after.num_chunks - 1
        coder = self._its_coder()
        fragment = coder.encode(frames, place)
        figures, picture = figures_of(frames), card(frames)
        parent = self._parent.id if self._parent else None
        record = ChunkRecord(
            new_id("chunk"), self.name, parent, place, self.job.plan.order.prompt, figures, round(time.time(), 3)
        )

        def keep() -> None:
            if self.is_over:
                return
            write_whole(self._folder.fragment(record.id), fragment)
            write_whole(self._folder.picture(record.id), picture)
            after.save(self._folder.state(record.id))
            self._store.add_job_chunk(record)
            self._parent = record
            self._forget_old_states(place)
            if place + 1 >= self.job.plan.num_chunks:
                self.conclude()

        return keep

    def conclude(self) -> None:
        """Join the chunks into the finished video. May run again after a crash. Raises OSError, OutputError."""
        plan, folder, coder = self.job.plan, self._folder, self._its_coder()
        chunks = self._store.chunks(self.name)
        source = [coder.placed(folder.source.read_bytes(), 0)] if plan.source_frames else []
        made = (
            coder.placed(folder.fragment(c.id).read_bytes(), plan.source_frames + index * CHUNK_FRAMES)
            for index, c in enumerate(chunks)
        )
        join(coder.header, (*source, *made), folder.video, plan.num_frames)
        order = plan.order
        write_stills(folder.video, plan.num_frames, order.height, order.width, folder.thumbnail, folder.spritesheet)
        needed = {chunks[-1].id, *(c.id for c in chunks[plan.kept_chunks - 1 : plan.kept_chunks])}
        self._store.set_job_status(self.name, "completed")
        for chunk in chunks:  # only an extension goes on from here, and a remix of one from where it began
            if chunk.id not in needed:
                folder.state(chunk.id).unlink(missing_ok=True)
        self.is_over = True
        self._jobs.ended(self, "completed")

    def _forget_old_states(self, place: int) -> None:
        """Keep the newest states, and the one that an extension began after."""
        for old in self._store.chunks(self.name, first=max(place - KEPT_STATES, self.job.plan.kept_chunks), limit=1):
            if old.place == place - KEPT_STATES:
                self._folder.state(old.id).unlink(missing_ok=True)

    def fail(self, error: Exception) -> None:
        """Remember why; the client reads it in the video's record."""
        code, message = "generation_failed", "the server could not make this video; its log says why"
        if isinstance(error, UserError):
            code, message = "invalid_request", str(error)
        if not self.is_over:
            self.is_over = True
            self._store.set_job_status(self.name, "failed", {"code": code, "message": message})
            self._jobs.ended(self, "failed")

    def _its_coder(self) -> ChunkCoder:
        if self._coder is None:
            self._coder = ChunkCoder(self.job.plan.order.height, self.job.plan.order.width)
        return self._coder

    def _opened(self) -> Reel:
        plan = self.job.plan
        chunks = self._store.chunks(self.name)
        while chunks:
            reel = self._resumed(chunks[-1])
            if reel is not None:
                self._parent = chunks[-1]
                if reel.num_chunks == plan.kept_chunks:
                    reel.set_prompt(plan.order.prompt, EXTEND_BLEND)
                return reel
            logger.warning("%s: the state after chunk %d is damaged; it is made again", self.name, chunks[-1].place)
            if len(chunks) <= plan.kept_chunks:
                raise UserError("what the video that is extended ended with is damaged; extend its file instead")
            self._store.drop_chunks(self.name, chunks[-1].place)
            chunks.pop()
        start = None
        if plan.order.start != "text":
            start = np.load(self._folder.start, allow_pickle=False)
        return self._maker.begin(plan.order, start)

    def _resumed(self, chunk: ChunkRecord) -> Reel | None:
        if not self._folder.fragment(chunk.id).exists():
            return None
        try:
            reel = self._maker.resume(self._folder.state(chunk.id))
        except StateError:
            return None
        return reel if reel.num_chunks == chunk.place + 1 else None


class Jobs:
    """All videos of a server."""

    def __init__(self, store: Store, folders: Folders, scheduler: Scheduler, metrics: Metrics, limits: Limits) -> None:
        self._store = store
        self._folders = folders
        self._scheduler = scheduler
        self._metrics = metrics
        self._limits = limits
        self._active: dict[str, JobProduction] = {}
        self._lock = threading.Lock()
        self._accepting = threading.Lock()

    def recover(self, maker: Maker) -> None:
        """Go on with what an earlier server had accepted."""
        for job in self._store.open_jobs():
            self._begin(job, maker)

    def admit(self, client: str) -> None:
        """Refuse a video when too many wait.

        Raises:
            ApiError: 429, with the seconds after which there may be room.
        """
        limits = self._limits
        if (
            self._store.num_open_jobs() >= limits.max_jobs
            or self._store.num_open_jobs(client) >= limits.max_jobs_per_client
        ):
            self._metrics.refused.labels("jobs").inc()
            raise ApiError(
                429,
                f"{self._store.num_open_jobs()} videos are waiting already; try again when some are finished",
                code="queue_full",
                retry_after=2,
            )

    def accept(
        self,
        plan: JobPlan,
        made_with: str,
        client: str,
        fill: Callable[[TakeFolder], None],
        source: tuple[TakeFolder, list[ChunkRecord]] | None = None,
    ) -> Job:
        """Store an order and begin; when this returns, it survives a crash.

        `fill` puts its start into its folder; `source` is a video whose start and first chunks it shares.

        Raises:
            ApiError: 429, too many wait.
            OSError: it cannot be stored.
        """
        job_id = new_id("video")
        folder = self._folders.of(job_id)
        with self._accepting:
            self.admit(client)
            try:
                folder.make()
                fill(folder)
                copies: list[ChunkRecord] = []
                if source is not None:
                    copies = copies_of(source[1], job_id)
                    folder.adopt(source[0], source[1], copies)
                job = self._store.add_job(job_id, plan, made_with, client, copies)
            except BaseException:
                folder.remove()
                raise
        assert self._scheduler.maker is not None, "videos are accepted only when the model is there"
        self._begin(job, self._scheduler.maker)
        return job

    def delete(self, job_id: str) -> None:
        """Stop making a video, if it is, and delete all of it; its slot is free before the next chunk."""
        with self._lock:
            production = self._active.pop(job_id, None)
        if production is not None:
            production.is_over = True
            self._scheduler.remove(production)
            self._scheduler.finisher.drain(job_id)
            self._metrics.jobs.labels("cancelled").inc()
        self._store.delete_owner(job_id)
        self._folders.of(job_id).remove()
        self._count()

    def ended(self, production: JobProduction, status: str) -> None:
        """A video needs no more turns."""
        with self._lock:
            self._active.pop(production.name, None)
        self._scheduler.remove(production)
        self._metrics.jobs.labels(status).inc()
        self._count()

    def content(self, job: Job, variant: Literal["video", "thumbnail", "spritesheet"]) -> tuple[Path, str]:
        """The file and media type of a variant of a finished video."""
        folder = self._folders.of(job.id)
        files = {
            "video": (folder.video, "video/mp4"),
            "thumbnail": (folder.thumbnail, "image/webp"),
            "spritesheet": (folder.spritesheet, "image/jpeg"),
        }
        return files[variant]

    def _begin(self, job: Job, maker: Maker) -> None:
        production = JobProduction(job, maker, self._store, self._folders.of(job.id), self)
        with self._lock:
            self._active[job.id] = production
        self._count()
        if job.num_done:
            production.drop_damaged()
        if production.is_made:
            self._scheduler.finisher.submit(job.id, lambda: production.conclude, production.fail)
        else:
            self._scheduler.add(production)

    def _count(self) -> None:
        self._metrics.open_jobs.set(len(self._active))
