"""What the studio reaches on this machine: `python bench/studio.py [--minutes 60] [--viewers 200]`; prints JSON.

Starts a server on a free port with the given model, plays one session in real time, then lets it run as fast as it can
for so many minutes of video, with and without idle viewers, and watches its memory; asks for a video's state all along.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import httpx
import psutil
from websockets.sync.client import connect

CHUNK_SECONDS = 33 / 24


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser()
    options.add_argument("--model", default="tiny")
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--viewers", type=int, default=200)
    options.add_argument("--real-time-seconds", type=float, default=30.0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-c",
            "from heliograph.cli import main; main()",
            "serve",
            "--port",
            "0",
            "--data-dir",
            folder,
        ]
        command += ["--max-pace", "1000", "--model", chosen.model]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                url = server.stdout.readline().split()[1]
                print(json.dumps(measure(url, psutil.Process(server.pid), chosen), indent=2))
            finally:
                server.terminate()


def measure(url: str, server: psutil.Process, chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures of one server."""
    http = httpx.Client(base_url=url, timeout=60)
    while http.get("/readyz").status_code != 200:
        time.sleep(0.2)
    figures: dict[str, Any] = {"model": http.get("/v1/models").json()["data"][0]}
    began = time.monotonic()
    session = http.post("/v1/live", json={"prompt": "a red fish swims to the left", "seed": 1}).json()["id"]
    figures["first_picture_seconds"], figures["late_chunks"] = real_time(url, session, began, chosen.real_time_seconds)
    video = http.post("/v1/videos", json={"prompt": "a boat", "seconds": 100}).json()["id"]
    figures["seconds_per_chunk_alone"] = fast(url, session, 40)
    idle = [threading.Thread(target=watch, args=(url, session), daemon=True) for _ in range(chosen.viewers)]
    for thread in idle:
        thread.start()
    time.sleep(2)
    figures["seconds_per_chunk_with_viewers"] = fast(url, session, 40)
    figures["viewers"] = http.get(f"/v1/live/{session}").json()["viewers"]
    http.post(f"/v1/live/{session}/pause")
    figures["get_video_ms"] = answers(http, video)
    http.delete(f"/v1/live/{session}")
    soak = http.post("/v1/live", json={"prompt": "snow", "pace": 1000, "seed": 2}).json()["id"]
    num_chunks = int(chosen.minutes * 60 / CHUNK_SECONDS)
    memory = []
    for _ in range(10):
        fast(url, soak, max(1, num_chunks // 10))
        memory.append(round(server.memory_info().rss / 2**20, 1))
    figures["memory_mib"] = memory
    return figures


def real_time(url: str, session: str, began: float, seconds: float) -> tuple[float, int]:
    """Seconds to the first chunk, and chunks that came after they should have been played."""
    late, first = 0, None
    with connect(f"{url.replace('http', 'ws')}/v1/live/{session}", max_size=None) as socket:
        while first is None or time.monotonic() - first < seconds:
            message = socket.recv()
            if isinstance(message, str) and json.loads(message)["type"] == "media":
                position = json.loads(message)["position"]
                now = time.monotonic()
                first = now if first is None else first
                late += now - first > (position + 0.01) * CHUNK_SECONDS
    return round(first - began, 3), late


def fast(url: str, session: str, num_chunks: int) -> float:
    """Seconds per chunk while it is made as fast as it can be."""
    with connect(f"{url.replace('http', 'ws')}/v1/live/{session}", max_size=None) as socket:
        socket.send(json.dumps({"v": 1, "type": "steer", "pace": 1000}))
        start, count = None, 0
        while count <= num_chunks:
            message = socket.recv()
            if isinstance(message, str) and json.loads(message)["type"] == "chunk":
                start = time.monotonic() if start is None else start
                count += 1
    assert start is not None
    return round((time.monotonic() - start) / num_chunks, 4)


def watch(url: str, session: str) -> None:
    """A viewer that takes what comes and does nothing with it."""
    with connect(f"{url.replace('http', 'ws')}/v1/live/{session}", max_size=None) as socket:
        for _ in socket:
            pass


def answers(http: httpx.Client, video: str) -> dict[str, float]:
    """How long a look at a video takes while it is made."""
    times = []
    for _ in range(300):
        start = time.monotonic()
        http.get(f"/v1/videos/{video}").raise_for_status()
        times.append(1000 * (time.monotonic() - start))
        time.sleep(0.01)
    times.sort()
    return {"median": round(times[150], 2), "p99": round(times[297], 2)}


if __name__ == "__main__":
    main()
