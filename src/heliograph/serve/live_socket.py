"""A live session over a WebSocket: text messages are JSON, binary ones are mp4; see docs/api.md for both."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from heliograph.serve.errors import ApiError, bad_request, from_validation
from heliograph.serve.live import session_json
from heliograph.serve.live_routes import checked, control, fork_session
from heliograph.serve.production import LiveProduction
from heliograph.serve.protocol import (
    CLIENT_MESSAGES,
    VERSION,
    ForkMessage,
    PlainMessage,
    RewindMessage,
    SaveMessage,
    SteerMessage,
    WantMessage,
)
from heliograph.serve.studio import Studio
from heliograph.serve.viewers import Media, Skipped, Viewer, message_text

NORMAL, NOT_FOUND, TOO_MUCH, TRY_LATER = 1000, 4404, 4429, 4503
"""Codes that a socket is closed with."""

PARTING_SECONDS = 2.0
"""How long what still waits may take to go out to a client that is turned away."""


def live_socket(studio: Studio) -> APIRouter:
    """`WS /v1/live/{id}`."""
    router = APIRouter()

    @router.websocket("/v1/live/{session_id}")
    async def watch(socket: WebSocket, session_id: str) -> None:
        await socket.accept()
        try:
            production = await studio.lives.open(session_id, studio.maker)
            viewer = await studio.lives.watch(production)
        except ApiError as error:
            await _send(socket, {"type": "error", "id": None, **error.body})
            await socket.close({404: NOT_FOUND, 429: TOO_MUCH}.get(error.status, TRY_LATER))
            return
        connection = Connection(studio, socket, production, viewer)
        try:
            await connection.run()
        finally:
            studio.lives.leave(production, viewer)

    return router


class Connection:
    """One socket: what goes out and what comes in, side by side."""

    def __init__(self, studio: Studio, socket: WebSocket, production: LiveProduction, viewer: Viewer) -> None:
        self._studio = studio
        self._socket = socket
        self._production = production
        self._viewer = viewer
        self._times: deque[float] = deque(maxlen=studio.settings.limits.max_messages_per_second)
        self._code = NORMAL

    async def run(self) -> None:
        """Until either side ends it."""
        tasks = [asyncio.create_task(self._give()), asyncio.create_task(self._take())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._code != NORMAL:
                await asyncio.wait(tasks, timeout=PARTING_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect | RuntimeError):
                    raise result
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await self._socket.close(self._code)

    async def _give(self) -> None:
        production, coder = self._production, self._production.coder
        session = session_json(production.record, production)
        hello = {"type": "hello", "version": VERSION, "session": session, "mime_type": coder.mime_type}
        await _send(self._socket, hello | {"head": production.pace.head(time.monotonic())})
        await _send(self._socket, {"type": "header", "bytes": len(coder.header)})
        await self._socket.send_bytes(coder.header)
        while (item := await self._viewer.get()) is not None:
            if isinstance(item, Media):
                await self._socket.send_text(item.announcement)
                await self._socket.send_bytes(item.fragment)
            elif isinstance(item, Skipped):
                await _send(self._socket, {"type": "skipped", "count": item.count})
            else:
                await self._socket.send_text(item)

    async def _take(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            now = time.monotonic()
            if len(self._times) == self._times.maxlen and now - self._times[0] < 1:
                self._error(
                    None, ApiError(429, "too many messages; send fewer a second", code="messages", retry_after=1)
                )
                self._code = TOO_MUCH
                self._viewer.end()
                return
            self._times.append(now)
            await self._answer(message.get("text"))

    async def _answer(self, text: str | None) -> None:
        message_id = None
        try:
            if text is None:
                raise bad_request("a binary message is not understood; send JSON text")
            message = CLIENT_MESSAGES.validate_json(text)
            message_id = message.id
            await self._do(message)
        except ValidationError as error:
            self._error(message_id, from_validation(error))
        except ApiError as error:
            self._error(message_id, error)

    async def _do(self, message: Any) -> None:
        studio, production = self._studio, self._production
        name = production.name
        match message:
            case SteerMessage():
                wish = checked(studio, message)
                await self._control(message, lambda it: it.steer(wish))
            case RewindMessage():
                await self._control(message, lambda it: it.rewind(message))
            case ForkMessage():
                client = self._socket.scope["state"]["client"]
                session = await fork_session(studio, name, message, client)
                self._say({"type": "forked", "id": message.id, "session": session})
            case SaveMessage():
                await studio.lives.save(name, message.name)
                session = session_json(studio.lives.record(name), production)
                self._say({"type": "saved", "id": message.id, "session": session})
            case WantMessage():
                self._viewer.ahead = message.ahead
                studio.lives.viewers_changed(production)
                self._ack(message, {"chunk": production.num_chunks, "position": production.pace.num_taken})
            case PlainMessage(type="ping"):
                self._say({"type": "pong", "id": message.id})
            case PlainMessage(type="stop"):
                self._ack(message, {"chunk": production.num_chunks, "position": production.pace.num_taken})
                studio.lives.stop(name)
            case PlainMessage(type="pause"):
                await self._control(message, LiveProduction.pause)
            case PlainMessage():
                await self._control(message, LiveProduction.resume)

    async def _control(self, message: Any, question: Callable[[LiveProduction], dict[str, Any]]) -> None:
        answer = await control(self._studio, self._production.name, message.type, question)
        self._ack(message, {"chunk": answer["chunk"], "position": answer["position"]})

    def _ack(self, message: Any, effect: dict[str, int]) -> None:
        self._say({"type": "ack", "id": message.id, "of": message.type, **effect})

    def _error(self, message_id: str | None, error: ApiError) -> None:
        self._say({"type": "error", "id": message_id, **error.body})

    def _say(self, item: dict[str, Any]) -> None:
        """In line with everything else that goes out, so that an answer never overtakes a chunk it is about."""
        self._viewer.put(message_text(item))


async def _send(socket: WebSocket, item: dict[str, Any]) -> None:
    await socket.send_text(message_text(item))
