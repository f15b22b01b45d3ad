"""What the studio reaches on this machine: `python bench/studio`; writes docs/benchmarks/studio.json and studio.md.

Parts: `page` (first picture, three minutes of play, prompt changes, in headless Chromium), `viewers` (200 idle ones),
`jobs` (50 clients at once, looks at a video meanwhile), `soak` (an hour of video as fast as it can be made, memory).
`--only page` measures one part again and leaves the others as they are in the file.
"""

import argparse
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from crowd import measure_jobs, measure_viewers  # noqa: E402
from page import measure_page  # noqa: E402
from report import merge  # noqa: E402
from server import CHUNK_SECONDS, Server, started  # noqa: E402

from heliograph.revision import revision  # noqa: E402

NUM_SAMPLES = 30
"""Looks at the memory during a soak."""


def measure_soak(server: Server, minutes: float) -> dict[str, Any]:
    """Memory of the server while one session is made as fast as it can be."""
    session = server.begin(pace=1000, speed="fast", guidance_scale=1)  # what is stored and sent is the same
    num_chunks = max(1, int(minutes * 60 / CHUNK_SECONDS / NUM_SAMPLES))
    memory, seconds = [], 0.0
    for _ in range(NUM_SAMPLES):
        seconds += num_chunks * server.seconds_per_chunk(session, num_chunks)
        memory.append(server.memory())
    half = memory[NUM_SAMPLES // 2 :]
    return {
        "minutes_of_video": round(NUM_SAMPLES * num_chunks * CHUNK_SECONDS / 60, 1),
        "minutes_taken": round(seconds / 60, 1),
        "memory_mib": memory,
        "growth_in_second_half_mib": round(half[-1] - half[0], 1),
    }


def main() -> None:
    """Measure, one server for each part, and write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", choices=("page", "viewers", "jobs", "soak"))
    options.add_argument("--model", default="tiny")
    options.add_argument("--play-seconds", type=float, default=180.0)
    options.add_argument("--viewers", type=int, default=200)
    options.add_argument("--clients", type=int, default=50)
    options.add_argument("--soak-minutes", type=float, default=60.0)
    options.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks")
    chosen = options.parse_args()
    parts = {
        "page": lambda server: measure_page(server, chosen.play_seconds),
        "viewers": lambda server: measure_viewers(server, chosen.viewers),
        "jobs": lambda server: measure_jobs(server, chosen.clients),
        "soak": lambda server: measure_soak(server, chosen.soak_minutes),
    }
    for name, measure in parts.items():
        if chosen.only not in (None, name):
            continue
        with started("--model", chosen.model, "--max-pace", "1000") as server:
            model = server.http.get("/v1/models").json()["data"][0]
            figures = {"model": f"{model['id']} {model['size']}", "ready_seconds": server.ready_seconds}
            merge(chosen.output, name, {**figures, **measure(server), **circumstances()})


def circumstances() -> dict[str, Any]:
    """Where and how a part was measured."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "commit": revision(),
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores",
        "load_average": round(os.getloadavg()[0], 1),  # of the last minute: what else ran shows here
        "command": "python bench/studio " + " ".join(sys.argv[1:]),
    }


if __name__ == "__main__":
    main()
