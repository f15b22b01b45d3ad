"""A server in a process of its own, as `heliograph serve` starts it, and what is asked of it."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

CHUNK_SECONDS = 33 / 24
PROMPT = "a big red fish swims over a coral reef by day"
OTHER = "a big white owl flies over snowy mountains at night"
TOP_PACE = 1000


@dataclass
class Server:
    """A server that runs, warm."""

    url: str
    http: httpx.Client
    process: psutil.Process
    ready_seconds: float

    def begin(self, **wish: Any) -> str:
        """A live session's name."""
        answer = self.http.post("/v1/live", json={"prompt": PROMPT, "seed": 1, **wish})
        return answer.raise_for_status().json()["id"]

    def socket(self, session: str) -> Any:
        """A viewer of it."""
        return connect(f"{self.url.replace('http', 'ws')}/v1/live/{session}", max_size=None, compression=None)

    def seconds_per_chunk(self, session: str, num_chunks: int) -> float:
        """While it is made as fast as it can be, for one viewer that reads everything."""
        start, count = 0.0, -1
        while count < num_chunks:
            with self.socket(session) as socket:
                socket.send(json.dumps({"v": 1, "type": "steer", "pace": TOP_PACE}))
                try:
                    while count < num_chunks:
                        message = socket.recv()
                        if isinstance(message, str) and json.loads(message)["type"] == "chunk":
                            start = start or time.monotonic()
                            count += 1
                except ConnectionClosed:  # the whole run was held up; go on
                    continue
        return (time.monotonic() - start) / num_chunks

    def memory(self) -> float:
        """Resident memory in MiB."""
        return round(self.process.memory_info().rss / 2**20, 1)


@contextmanager
def started(*options: str) -> Iterator[Server]:
    """`heliograph serve` on a free port and an empty folder, until its model is warm."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from heliograph.cli import main; main()", "serve", "--port", "0"]
        began = time.monotonic()
        with subprocess.Popen([*command, "--data-dir", folder, *options], stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                url = server.stdout.readline().split()[1]
                with httpx.Client(base_url=url, timeout=60) as http:
                    while http.get("/readyz").status_code != 200:
                        time.sleep(0.1)
                    yield Server(url, http, psutil.Process(server.pid), round(time.monotonic() - began, 2))
            finally:
                server.terminate()
