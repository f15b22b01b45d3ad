"""Live sessions over HTTP: begin, watch, steer, go back, fork, keep, delete."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, StreamingResponse

from heliograph.errors import UserError
from heliograph.serve.bodies import read_body
from heliograph.serve.errors import ApiError, bad_request, not_found
from heliograph.serve.finisher import STORAGE_TROUBLE
from heliograph.serve.live import session_json
from heliograph.serve.production import LiveProduction, chunk_json
from heliograph.serve.protocol import CLIENT_MESSAGES, VERSION, Go, Keep, StartLive, Steer
from heliograph.serve.records import LivePlan
from heliograph.serve.studio import Studio, client_of, describe
from heliograph.serve.uploads import Wanted
from heliograph.serve.videos import parse
from heliograph.serve.viewers import Media, Viewer
from heliograph.shapes import CHUNK_FRAMES

FILES = ("image", "video")


def live_routes(studio: Studio) -> APIRouter:
    """Routes under `/v1/live`, but for the socket."""
    router = APIRouter(prefix="/v1/live", tags=["live"])
    lives = studio.lives

    @router.post("", openapi_extra=describe(StartLive, FILES), summary="Begin a live session")
    async def start(request: Request) -> dict[str, Any]:
        studio.check_storage()
        body = await read_body(request)
        files = {name: value for name in FILES if (value := body.pop(name, None)) is not None}
        return await begin(studio, parse(StartLive, body), files, client_of(request))

    @router.get("", summary="List sessions, newest first")
    def list_sessions(
        after: Annotated[str | None, Query(max_length=64)] = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> dict[str, Any]:
        if after is not None:
            lives.record(after)
        records = studio.store.sessions(after=after, limit=limit + 1)
        data = [session_json(record, lives.running(record.id)) for record in records[:limit]]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return {"object": "list", "data": data, "has_more": len(records) > limit, "first_id": first, "last_id": last}

    @router.get("/protocol", summary="The messages of the socket, as JSON schema")
    def protocol() -> dict[str, Any]:
        return {"version": VERSION, "client": CLIENT_MESSAGES.json_schema()}

    @router.get("/{session_id}", summary="How a session stands")
    async def retrieve(session_id: str) -> dict[str, Any]:
        return session_json(lives.record(session_id), lives.running(session_id))

    @router.delete("/{session_id}", summary="Stop a session and delete it")
    async def delete(session_id: str) -> dict[str, Any]:
        await lives.delete(session_id)
        return {"id": session_id, "object": "live.session.deleted", "deleted": True}

    @router.get("/{session_id}/chunks", summary="Chunks on all paths of a session, by place")
    def chunks(
        session_id: str,
        first: Annotated[int, Query(ge=0, le=10**9)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> dict[str, Any]:
        lives.record(session_id)
        found = studio.store.chunks(session_id, first=first, limit=limit + 1)
        return {"object": "list", "data": [chunk_json(c) for c in found[:limit]], "has_more": len(found) > limit}

    @router.get("/{session_id}/chunks/{chunk_id}/thumbnail", summary="A small picture of a chunk")
    def thumbnail(session_id: str, chunk_id: str) -> FileResponse:
        lives.record(session_id)
        if studio.store.chunk(session_id, chunk_id) is None:
            raise not_found("chunk of this session", chunk_id)
        picture = studio.folders.of(session_id).picture(chunk_id)
        if not picture.exists():
            raise not_found("picture of the chunk", chunk_id)
        return FileResponse(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    @router.get("/{session_id}/video.mp4", summary="The path that the session is on, as a file")
    def video(session_id: str) -> FileResponse:
        try:
            folder = lives.export(lives.record(session_id))
        except STORAGE_TROUBLE as error:
            raise ApiError(
                507, "the file could not be written; the disk is full or failing", code="storage_full"
            ) from error
        return FileResponse(folder.video, media_type="video/mp4", filename=f"{session_id}.mp4")

    @router.get("/{session_id}/stream.mp4", summary="Watch: endless fragmented mp4", response_class=StreamingResponse)
    async def stream(session_id: str) -> StreamingResponse:
        production = await lives.open(session_id, studio.maker)
        viewer = await lives.watch(production)
        return StreamingResponse(_stream(studio, production, viewer), media_type="video/mp4")

    _add_controls(router, studio)
    return router


def _add_controls(router: APIRouter, studio: Studio) -> None:
    lives = studio.lives

    @router.post("/{session_id}/prompt", openapi_extra=describe(Steer), summary="Change what is shown")
    async def prompt(session_id: str, request: Request) -> dict[str, Any]:
        wish = checked(studio, parse(Steer, await read_body(request)))
        return await control(studio, session_id, "steer", lambda production: production.steer(wish))

    @router.post("/{session_id}/pause", summary="Make no more chunks until it is resumed")
    async def pause(session_id: str) -> dict[str, Any]:
        return await control(studio, session_id, "pause", LiveProduction.pause)

    @router.post("/{session_id}/resume", summary="Go on, also with a session that has stopped")
    async def resume(session_id: str) -> dict[str, Any]:
        return await control(studio, session_id, "resume", LiveProduction.resume)

    @router.post("/{session_id}/rewind", openapi_extra=describe(Go), summary="Go on after an earlier chunk")
    async def rewind(session_id: str, request: Request) -> dict[str, Any]:
        wish = parse(Go, await read_body(request))
        return await control(studio, session_id, "rewind", lambda production: production.rewind(wish))

    @router.post("/{session_id}/fork", openapi_extra=describe(Go), summary="Begin another session from a chunk")
    async def fork(session_id: str, request: Request) -> dict[str, Any]:
        wish = parse(Go, await read_body(request))
        return await fork_session(studio, session_id, wish, client_of(request))

    @router.post(
        "/{session_id}/save", openapi_extra=describe(Keep, optional=True), summary="Keep it until it is deleted"
    )
    async def save(session_id: str, request: Request) -> dict[str, Any]:
        wish = parse(Keep, await read_body(request))
        await lives.save(session_id, wish.name)
        return session_json(lives.record(session_id), lives.running(session_id))


async def begin(studio: Studio, wish: StartLive, files: dict[str, object], client: str) -> dict[str, Any]:
    """Begin a session from text, a picture or a clip. Raises ApiError."""
    if len(files) > 1:
        raise bad_request("both image and video are given; send one of them", "video")
    studio.lives.admit(client)
    order = studio.order(wish, wish.prompt)
    plan = LivePlan(order, studio.pace(wish.pace))
    if not files:
        production = await studio.lives.start(plan, wish.name, client, lambda folder: None, studio.maker)
    else:
        ((field, value),) = files.items()
        wanted = Wanted(field, order.height, order.width)
        async with studio.uploads.decoded(value, wanted) as decoded:
            plan = replace(plan, order=replace(order, start=decoded.kind))
            production = await studio.lives.start(plan, wish.name, client, decoded.move_to, studio.maker)
    return session_json(production.record, production)


def checked(studio: Studio, wish: Steer) -> Steer:
    """A change that is inside the server's limits. Raises ApiError."""
    if wish.pace is not None:
        studio.pace(wish.pace)
    return wish


async def control(
    studio: Studio, session_id: str, kind: str, question: Callable[[LiveProduction], dict[str, Any]]
) -> dict[str, Any]:
    """Do something with a session; the answer says at which chunk it takes effect. Raises ApiError."""
    try:
        effect = await studio.lives.ask(session_id, question, studio.maker)
    except UserError as error:
        raise bad_request(str(error), code="invalid_value") from error
    return {"object": "live.ack", "type": kind, "session": session_id, **effect}


async def fork_session(studio: Studio, session_id: str, wish: Go, client: str) -> dict[str, Any]:
    """Fork; the answer is the new session. Raises ApiError."""
    studio.check_storage()
    try:
        production = await studio.lives.fork(session_id, wish, client, studio.maker)
    except UserError as error:
        raise bad_request(str(error), code="invalid_value") from error
    return session_json(production.record, production)


async def _stream(studio: Studio, production: LiveProduction, viewer: Viewer) -> AsyncIterator[bytes]:
    """One continuous video for this viewer: its own clock begins at 0 and has no gap where chunks were skipped."""
    try:
        yield production.coder.header
        num_sent = 0
        while (item := await viewer.get()) is not None:
            if isinstance(item, Media):
                yield production.coder.placed(item.fragment, num_sent * CHUNK_FRAMES)
                num_sent += 1
    finally:
        studio.lives.leave(production, viewer)
