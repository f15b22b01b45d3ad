"""A server in this process, and clients for it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import uvicorn

from heliograph.serve.app import build_app
from heliograph.serve.maker import Maker
from heliograph.serve.server import Server
from heliograph.serve.settings import Limits, Settings
from heliograph.serve.studio import Studio
from tests.serve.fakes import FakeMaker
from tests.waiting import wait_for

HTTP = httpx.Client(timeout=30)
"""One client for all: making one takes longer than most answers."""


@dataclass
class Running:
    """A server that runs in this process."""

    url: str
    studio: Studio
    server: uvicorn.Server
    thread: threading.Thread
    maker: Any

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        """OpenAI's own client, pointed here."""
        return openai.OpenAI(api_key=key, base_url=f"{self.url}/v1", max_retries=0, **options)

    def http(self, **options: Any) -> httpx.Client:
        """A plain client."""
        return httpx.Client(base_url=self.url, timeout=30, **options)

    def stop(self) -> None:
        """As SIGTERM does."""
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def running(
    data_dir: Path, maker: Maker | None = None, limits: Limits | None = None, **options: Any
) -> Iterator[Running]:
    """A server on a free port, ready to make; it is stopped at the end."""
    data_dir.mkdir(parents=True, exist_ok=True)
    maker = maker or FakeMaker()
    settings = Settings(data_dir, port=0, limits=limits or Limits(min_free_bytes=1), **{"max_pace": 1000.0, **options})
    studio = Studio(settings, lambda: maker)
    config = uvicorn.Config(
        build_app(studio), port=0, log_level="error", ws="websockets-sansio", timeout_graceful_shutdown=3
    )
    server = Server(config, studio)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_for(lambda: server.started and studio.scheduler.is_warm)
    port = server.servers[0].sockets[0].getsockname()[1]
    live = Running(f"http://127.0.0.1:{port}", studio, server, thread, maker)
    try:
        yield live
    finally:
        if isinstance(maker, FakeMaker) and maker.gate is not None:
            maker.gate.release(1000)
        live.stop()
