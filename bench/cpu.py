"""The embedded model on this CPU: `python bench/cpu.py docs/benchmarks/cpu` writes `cpu.json` and the table `cpu.md`.

Every figure comes from a process of its own, started as a user would: `heliograph bench --against diffusers` for the
ratios (A-B-B-A), `heliograph generate` for a video from nothing. About four minutes on an idle machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

PROMPT = "a big red fish swims over a coral reef by day"
SHIPPED = "shipped"
SCHEDULES: dict[str, list[str]] = {
    SHIPPED: [],
    "2,2,2": ["--steps", "2,2,2", "--guidance-scale", "1"],
    "1,1,1": ["--steps", "1,1,1", "--guidance-scale", "1"],
}
"""What the model comes with, and the two schedules of distilled models, which have no guidance."""


def main() -> None:
    """Measure and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("target", type=Path, help="Path of the two files, without their endings.")
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--chunks", type=int, default=6)
    options.add_argument("--seconds", type=float, default=60.0, help="Length of the video made from nothing.")
    options.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    options.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    chosen = options.parse_args()
    results: dict[str, Any] = {"load_average_before": os.getloadavg()[0], "ratios": [], "videos": []}
    for threads in (None, *chosen.threads):
        results["videos"].append(video(chosen.seconds, threads))
        print(results["videos"][-1], flush=True)
    for threads in chosen.threads:
        for dtype in chosen.dtypes:
            for name, arguments in SCHEDULES.items():
                row = compared(name, arguments, dtype, threads, chosen.rounds, chosen.chunks)
                results["ratios"].append(row)
                print(name, dtype, threads, row["ratios"], flush=True)
    results["load_average_after"] = os.getloadavg()[0]
    chosen.target.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    chosen.target.with_suffix(".md").write_text(table(results))


def compared(name: str, arguments: list[str], dtype: str, threads: int, rounds: int, chunks: int) -> dict[str, Any]:
    """One schedule in one dtype on so many threads, by both engines."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        command = [*heliograph("bench"), "--against", "diffusers", "--dtype", dtype, "--threads", str(threads)]
        command += ["--rounds", str(rounds), "--chunks", str(chunks), "--json", str(file), *arguments]
        subprocess.run(command, check=True, capture_output=True)
        return {"schedule": name, **json.loads(file.read_text())}


def video(seconds: float, threads: int | None) -> dict[str, Any]:
    """A whole video from the command line: when its parts were there, and the most memory on the way."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*heliograph("generate"), PROMPT, "--seconds", str(seconds), "--seed", "1"]
        command += ["--output", str(Path(folder) / "video.mp4")]
        command += [] if threads is None else ["--threads", str(threads)]
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        start, most, lines = time.perf_counter(), 0, list[tuple[float, str]]()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stderr is not None
        for line in process.stderr:
            lines.append((time.perf_counter() - start, line.strip()))
            most = max(most, psutil.Process(process.pid).memory_info().rss)
        code = process.wait()
        assert code == 0, lines
    spoken = lines[-1][1]
    first = float(spoken.rsplit("first chunk after ", 1)[1].split()[0])
    return {
        "command": " ".join(["heliograph", *command[3 : -2 if threads is None else -4]]),
        "threads": threads or "default",
        "seconds_of_video": seconds,
        "loaded_seconds": lines[0][0] - first,
        "first_frames_seconds_once_loaded": first,
        "first_frames_seconds_from_nothing": lines[0][0],
        "total_seconds": lines[-1][0],
        "frames_per_second_while_generating": float(spoken.split("; ", 1)[1].split()[0]),
        "most_resident_bytes": most,
    }


def heliograph(verb: str) -> list[str]:
    """The command line of this installation."""
    return [sys.executable, "-m", "heliograph.cli", verb]


def table(results: dict[str, Any]) -> str:
    """The figures as a page."""
    first = results["ratios"][0]
    facts = ("device", "python", "torch", "diffusers", "heliograph", "commit")
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {first[name]} |" for name in facts), ""]
    lines += [
        f"Load average before {results['load_average_before']:.1f}, after {results['load_average_after']:.1f}.",
        "",
    ]
    lines += [
        "| schedule | guidance | dtype | threads | heliograph frames/s | diffusers frames/s | end to end | chunk "
        "| transformer | decode | chunk ms (low-high): ours | theirs |",
        "|" + " --- |" * 12,
    ]
    for row in results["ratios"]:
        ours, theirs = row["figures"]
        ratios = (f"{row['ratios'][key]:.2f}x" for key in ("end to end", "steady chunk", "transformer", "decode"))
        chunks = (
            "{:.0f} ({:.0f}-{:.0f})".format(*(1000 * engine["chunk"][key] for key in ("median", "low", "high")))
            for engine in (ours, theirs)
        )
        speeds = (f"{engine['frames_per_second']['median']:.1f}" for engine in (ours, theirs))
        steps = ",".join(map(str, row["steps"]))
        cells = (steps, row["guidance"], row["transformer"], row["threads"], *speeds, *ratios, *chunks)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        "| `heliograph generate`, threads | loaded after s | first frames after s, once loaded | frames/s | "
        "most resident memory |",
        "|" + " --- |" * 5,
    ]
    for row in results["videos"]:
        lines.append(
            f"| {row['threads']} | {row['loaded_seconds']:.2f} | {row['first_frames_seconds_once_loaded']:.2f} "
            f"| {row['frames_per_second_while_generating']:.1f} | {row['most_resident_bytes'] / 1e9:.2f} GB |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
