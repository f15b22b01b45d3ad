"""Running the application: one process, one event loop, and an orderly end."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn

from heliograph.errors import UserError
from heliograph.serve.app import build_app
from heliograph.serve.database import FolderLock
from heliograph.serve.guards import is_loopback
from heliograph.serve.maker import Maker
from heliograph.serve.settings import Settings
from heliograph.serve.studio import Studio

logger = logging.getLogger(__name__)

GRACE_SECONDS = 8
"""How long open connections may take to end when the server is told to stop."""

MAX_MESSAGE_BYTES = 65536
"""Largest message that a socket takes."""


class Server(uvicorn.Server):
    """Ends live streams first, so that the wait for open connections is short."""

    def __init__(self, config: uvicorn.Config, studio: Studio) -> None:
        super().__init__(config)
        self._studio = studio

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let viewers go, then connections, then the engine."""
        await self._studio.close_streams()
        await super().shutdown(sockets)


def serve(settings: Settings, load: Callable[[], Maker], announce: Callable[[str], None]) -> None:
    """Serve until a signal says to stop. SIGTERM ends it normally; Ctrl-C raises KeyboardInterrupt when all is stored.

    Args:
        settings: of the server.
        load: loads the model; runs in a thread of its own, while the server answers already.
        announce: is told the address when it is open.

    Raises:
        UserError: the folder is in use or damaged, the address is taken, or the model cannot be loaded.
    """
    lock = FolderLock(settings.data_dir)
    try:
        listener = _listen(settings.host, settings.port)
        with contextlib.closing(listener):
            _run(settings, load, listener, announce)
    finally:
        lock.release()


def _run(
    settings: Settings, load: Callable[[], Maker], listener: socket.socket, announce: Callable[[str], None]
) -> None:
    studio = Studio(settings, load)
    config = uvicorn.Config(
        build_app(studio),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=32768,
        limit_concurrency=2000,
    )
    server = Server(config, studio)
    studio.scheduler.on_failure = lambda: setattr(server, "should_exit", True)
    told: list[int] = []

    def stop(number: int, _frame: object) -> None:
        told.append(number)
        server.should_exit = True

    # uvicorn's own handlers would raise the signal again at the end; here SIGTERM is a normal end.
    server.capture_signals = contextlib.nullcontext  # pyright: ignore[reportAttributeAccessIssue]
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    if not is_loopback(settings.host) and settings.api_key is None:
        logger.warning(
            "%s can be reached by others and no --api-key is set: whoever finds it can use it", settings.host
        )
    try:
        host, port = listener.getsockname()[:2]
        announce(f"http://{'[' + host + ']' if ':' in host else host}:{port}")
        asyncio.run(server.serve([listener]))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if isinstance(studio.scheduler.failure, UserError):
        raise studio.scheduler.failure
    if studio.scheduler.failure is not None:
        raise RuntimeError("the model could not be loaded") from studio.scheduler.failure
    if signal.SIGINT in told:
        raise KeyboardInterrupt


def _listen(host: str, port: int) -> socket.socket:
    """An open socket. Raises UserError where the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port} ({error.strerror}); give another --port or --host, 0 takes a free port"
        ) from error
    listener.settimeout(0)
    return listener
