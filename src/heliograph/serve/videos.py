"""The OpenAI Videos API, as its Python client speaks it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from heliograph.serve.bodies import Body, read_body
from heliograph.serve.errors import ApiError, bad_request, from_validation, not_found
from heliograph.serve.finisher import STORAGE_TROUBLE
from heliograph.serve.folders import TakeFolder
from heliograph.serve.ids import is_id
from heliograph.serve.protocol import CreateVideo, EditVideo, ExtendVideo, RemixVideo
from heliograph.serve.records import Job, JobPlan
from heliograph.serve.studio import Studio, client_of, describe
from heliograph.serve.uploads import Decoded, Uploads, Wanted
from heliograph.shapes import FPS, frames_for

POLL_AFTER_MS = "500"
"""How soon a client should ask again for a video that is not finished."""

Model = TypeVar("Model", bound=BaseModel)
Variant = Literal["video", "thumbnail", "spritesheet"]


def video_json(job: Job) -> dict[str, Any]:
    """A video as OpenAI's `Video` object, and a few fields more."""
    order = job.plan.order
    return {
        "id": job.id,
        "object": "video",
        "created_at": job.created_at,
        "completed_at": job.completed_at,
        "expires_at": None,
        "status": job.status,
        "progress": job.progress,
        "model": job.made_with,
        "prompt": order.prompt,
        "seconds": job.plan.seconds,
        "size": order.size,
        "remixed_from_video_id": job.plan.remixed_from,
        "error": dict(job.error) if job.error else None,
        "seed": order.seed,
        "num_frames": job.plan.num_frames,
    }


def video_routes(studio: Studio) -> APIRouter:
    """Routes under `/v1/videos`."""
    router = APIRouter(prefix="/v1/videos", tags=["videos"])
    desk = Desk(studio)

    @router.post("", openapi_extra=describe(CreateVideo, ("input_reference",)), summary="Order a video")
    async def create(request: Request) -> JSONResponse:
        body = await read_body(request)
        reference = _unwrap_reference(body.pop("input_reference", None))
        return await desk.create(parse(CreateVideo, body), reference, client_of(request))

    @router.get("", summary="List videos, newest first")
    def list_videos(
        after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        if after is not None and studio.store.job(after) is None:
            raise bad_request(f"after: there is no video {after!r}; send the last id of the page before", "after")
        jobs = studio.store.jobs(after=after, limit=limit + 1, order=order)
        data = [video_json(job) for job in jobs[:limit]]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return {"object": "list", "data": data, "has_more": len(jobs) > limit, "first_id": first, "last_id": last}

    @router.post("/edits", openapi_extra=describe(EditVideo, ("video",)), summary="Make a clip anew by another prompt")
    async def edit(request: Request) -> JSONResponse:
        body = await read_body(request)
        video = body.pop("video", None)
        return await desk.edit(parse(EditVideo, body), video, client_of(request))

    @router.post("/extensions", openapi_extra=describe(ExtendVideo, ("video",)), summary="Go on from a clip")
    async def extend(request: Request) -> JSONResponse:
        body = await read_body(request)
        video = body.pop("video", None)
        return await desk.extend(parse(ExtendVideo, body), video, client_of(request))

    # Answered from the event loop: a thread of the pool may wait behind uploads, a look at the database does not.
    @router.get("/{video_id}", summary="How far a video is")
    async def retrieve(video_id: str) -> JSONResponse:
        job = desk.job(video_id)
        headers = {} if job.status in ("completed", "failed") else {"openai-poll-after-ms": POLL_AFTER_MS}
        return JSONResponse(video_json(job), headers=headers)

    @router.delete("/{video_id}", summary="Stop making a video and delete it")
    def delete(video_id: str) -> dict[str, Any]:
        studio.jobs.delete(desk.job(video_id).id)
        return {"id": video_id, "object": "video.deleted", "deleted": True}

    @router.get("/{video_id}/content", summary="A finished video, its thumbnail or its spritesheet")
    def content(video_id: str, variant: Variant = "video") -> FileResponse:
        job = desk.job(video_id)
        if job.status != "completed":
            raise bad_request(
                f"the video is {job.status}, so there is nothing to download; retrieve it until it is completed",
                code="video_not_ready",
            )
        path, media_type = studio.jobs.content(job, variant)
        if not path.exists():
            raise not_found("file of the video", video_id)
        return FileResponse(
            path, media_type=media_type, filename=f"{job.id}{path.suffix}", content_disposition_type="inline"
        )

    @router.post("/{video_id}/remix", openapi_extra=describe(RemixVideo), summary="The same order with another prompt")
    async def remix(video_id: str, request: Request) -> JSONResponse:
        wish = parse(RemixVideo, await read_body(request))
        return await desk.remix(desk.job(video_id), wish.prompt, client_of(request))

    return router


class Desk:
    """Takes orders for videos in: checks, decodes, accepts."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def job(self, video_id: str) -> Job:
        """The video of this name. Raises ApiError (404)."""
        job = self.studio.store.job(video_id) if is_id(video_id, "video") else None
        if job is None:
            raise not_found("video", video_id)
        return job

    async def create(self, wish: CreateVideo, reference: object, client: str) -> JSONResponse:
        """From text, or from a picture or clip given as reference."""
        self._admit(client)
        num_frames = self._frames(wish.seconds)
        order = self.studio.order(wish, wish.prompt)
        if reference is None:
            return await self._accept(JobPlan(order, num_frames), client, lambda folder: None)
        wanted = Wanted("input_reference", order.height, order.width)
        async with self.studio.uploads.decoded(reference, wanted) as decoded:
            plan = JobPlan(replace(order, start=decoded.kind), num_frames)
            return await self._accept(plan, client, decoded.move_to)

    async def edit(self, wish: EditVideo, video: object, client: str) -> JSONResponse:
        """Begin after the given clip, with another prompt; as long as the clip where no length is given."""
        self._admit(client)
        own = self._own(video)
        if own is not None and wish.size is None:
            wish = wish.model_copy(update={"size": own.plan.order.size})
        order = self.studio.order(wish, wish.prompt, "video")

        async def accept(decoded: Decoded) -> JSONResponse:
            seconds = decoded.num_frames / FPS if wish.seconds is None else wish.seconds
            return await self._accept(JobPlan(order, self._frames(seconds)), client, decoded.move_to)

        return await self._with_clip(video, own, Wanted("video", order.height, order.width, "video"), accept)

    async def extend(self, wish: ExtendVideo, video: object, client: str) -> JSONResponse:
        """Go on with a video made here exactly, or after a clip; the result holds both."""
        self._admit(client)
        own = self._own(video)
        if own is not None:
            plan = replace(
                own.plan,
                order=own.plan.order.with_prompt(wish.prompt),
                num_frames=self._frames((own.plan.num_frames + frames_for(wish.seconds)) / FPS),
                kept_chunks=own.plan.num_chunks,
                remixed_from=None,
            )
            self.studio.check(plan.order)
            return await self._accept_copy(own, plan, client)
        order = self.studio.order(wish, wish.prompt, "video")

        async def accept(decoded: Decoded) -> JSONResponse:
            total = self._frames((decoded.num_frames + frames_for(wish.seconds)) / FPS)
            return await self._accept(JobPlan(order, total, decoded.num_frames), client, decoded.move_to)

        wanted = Wanted("video", order.height, order.width, "video", keeps_source=True)
        return await self._with_clip(video, None, wanted, accept)

    async def remix(self, job: Job, prompt: str, client: str) -> JSONResponse:
        """The same start, seed, size and length with another prompt; of an extension, the part that was added."""
        self._admit(client)
        plan = replace(job.plan, order=job.plan.order.with_prompt(prompt), remixed_from=job.id)
        self.studio.check(plan.order)
        return await self._accept_copy(job, plan, client)

    def _admit(self, client: str) -> None:
        self.studio.check_storage()
        self.studio.jobs.admit(client)

    def _frames(self, seconds: float) -> int:
        longest = self.studio.settings.limits.max_job_seconds
        if seconds > longest:
            raise bad_request(
                f"seconds: the video would have {seconds:g} s, more than {longest:g}; ask for less",
                "seconds",
                "invalid_value",
            )
        return frames_for(seconds)

    def _own(self, video: object) -> Job | None:
        """The finished video that a field names by its id; None where it holds a file."""
        if isinstance(video, dict):
            video = video.get("id") or video.get("video_id") or video.get("image_url")
        if video is None:
            raise bad_request("video is missing; upload a clip, or send the id of a video", "video", "missing")
        if not isinstance(video, str) or video.startswith("data:"):
            return None
        if not is_id(video, "video"):
            raise bad_request("video is no id of a video here; upload a clip, or send an id", "video", "invalid_value")
        job = self.job(video)
        if job.status != "completed":
            raise bad_request(f"the video is {job.status}; wait until it is completed", "video", "video_not_ready")
        return job

    async def _with_clip(
        self, video: object, own: Job | None, wanted: Wanted, accept: Callable[[Decoded], Any]
    ) -> JSONResponse:
        """Decode an uploaded clip, or a video made here, and go on with it."""
        uploads: Uploads = self.studio.uploads
        if own is not None:
            async with uploads.own(self.studio.folders.of(own.id).video, wanted) as decoded:
                return await accept(decoded)
        if isinstance(video, dict):
            video = video.get("image_url")
        async with uploads.decoded(video, wanted) as decoded:
            return await accept(decoded)

    async def _accept_copy(self, source: Job, plan: JobPlan, client: str) -> JSONResponse:
        """Accept a video that shares its start, and the chunks it keeps, with another."""
        chunks = self.studio.store.chunks(source.id)[: plan.kept_chunks]
        if len(chunks) < plan.kept_chunks:
            raise bad_request("what the video began with is gone; order it anew", "video", "video_not_ready")
        origin = self.studio.folders.of(source.id)
        return await self._accept(plan, client, lambda folder: None, source=(origin, chunks))

    async def _accept(
        self, plan: JobPlan, client: str, fill: Callable[[TakeFolder], None], source: Any = None
    ) -> JSONResponse:
        made_with = self.studio.maker.name

        def accept() -> Job:
            return self.studio.jobs.accept(plan, made_with, client, fill, source)

        try:
            job = await run_in_threadpool(accept)
        except STORAGE_TROUBLE as error:
            raise ApiError(
                507,
                "the server could not store the order; its disk is full or failing",
                code="storage_full",
                retry_after=30,
            ) from error
        return JSONResponse(video_json(job), headers={"openai-poll-after-ms": POLL_AFTER_MS})


def parse(model: type[Model], body: Body) -> Model:
    """The body as a typed value. Raises ApiError (400)."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise from_validation(error) from None


def _unwrap_reference(value: object) -> object:
    """`input_reference` is a file, a data URL, or an object with one."""
    if isinstance(value, dict):
        if "image_url" not in value:
            raise bad_request(
                "input_reference holds no file; upload one, or send image_url with a data URL", "input_reference"
            )
        return value["image_url"]
    return value
