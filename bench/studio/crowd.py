"""Many at once: idle viewers of one session, and clients that order videos."""

import asyncio
import multiprocessing
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from server import PROMPT, Server
from websockets.asyncio.client import connect

NUM_ROUNDS = 3
NUM_CHUNKS = 12
"""Chunks of each round, alone and with viewers in turn."""


def measure_viewers(server: Server, num_viewers: int) -> dict[str, Any]:
    """What viewers cost the sampler while chunks are made as fast as can be: more than they get in real time."""
    session = server.begin(pace=1000)
    alone, together = [], []
    for _ in range(NUM_ROUNDS):
        alone.append(server.seconds_per_chunk(session, NUM_CHUNKS))
        crowd = multiprocessing.Process(target=_watch, args=(server.url, session, num_viewers), daemon=True)
        crowd.start()
        while server.http.get(f"/v1/live/{session}").json()["viewers"] < num_viewers:
            time.sleep(0.1)
        together.append(server.seconds_per_chunk(session, NUM_CHUNKS))
        crowd.terminate()
        crowd.join()
        while server.http.get(f"/v1/live/{session}").json()["viewers"] > 0:
            time.sleep(0.1)
    server.http.delete(f"/v1/live/{session}")
    before, after = statistics.median(alone), statistics.median(together)
    return {
        "viewers": num_viewers,
        "seconds_per_chunk_alone": [round(value, 4) for value in alone],
        "seconds_per_chunk_with_viewers": [round(value, 4) for value in together],
        "cost_percent": round(100 * (after / before - 1), 1),
    }


def measure_jobs(server: Server, num_clients: int) -> dict[str, Any]:
    """So many clients order at once, twice; then a video's state is asked for while all of it is made."""
    first, second = _order(server, num_clients), _order(server, num_clients)
    accepted = [name for status, name in first + second if status == 200]
    times = []
    while True:
        began = time.monotonic()
        server.http.get(f"/v1/videos/{accepted[-1]}").raise_for_status()
        times.append(1000 * (time.monotonic() - began))
        if len(times) % 20 == 0 and all(_status(server, name) == "completed" for name in accepted):
            break
        time.sleep(0.02)
    times.sort()
    return {
        "clients": num_clients,
        "first_time": dict(Counter(str(status) for status, _name in first)),
        "second_time": dict(Counter(str(status) for status, _name in second)),
        "accepted": len(accepted),
        "completed": sum(_status(server, name) == "completed" for name in accepted),
        "num_looks": len(times),
        "look_ms_median": round(times[len(times) // 2], 1),
        "look_ms_p99": round(times[int(len(times) * 0.99)], 1),
    }


def _order(server: Server, num_clients: int) -> list[tuple[int, str]]:
    """Status of each client's order and the name of its video."""
    ready = threading.Barrier(num_clients)

    def order(number: int) -> tuple[int, str]:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            http.get("/healthz")
            ready.wait()
            answer = http.post("/v1/videos", json={"prompt": PROMPT, "seconds": 1, "seed": number})
        assert answer.status_code != 429 or int(answer.headers["retry-after"]) > 0
        return answer.status_code, answer.json().get("id", "")

    with ThreadPoolExecutor(num_clients) as crowd:
        return list(crowd.map(order, range(num_clients)))


def _status(server: Server, name: str) -> str:
    return server.http.get(f"/v1/videos/{name}").json()["status"]


def _watch(url: str, session: str, num_viewers: int) -> None:
    """Viewers that take what comes, in a process of their own."""

    async def one() -> None:
        async with connect(f"{url.replace('http', 'ws')}/v1/live/{session}", max_size=None, compression=None) as socket:
            async for _ in socket:
                pass

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(num_viewers)))

    asyncio.run(all_of_them())
