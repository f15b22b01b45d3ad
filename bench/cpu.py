"""The embedded model on this CPU: `python bench/cpu.py docs/benchmarks/cpu` writes `cpu.json` and the table `cpu.md`.

Every figure comes from a process of its own, started as a user would: `heliograph bench --against diffusers` for the
ratios (A-B-B-A), `heliograph generate` for a video from nothing. About four minutes on an idle machine with two cores.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

PROMPT = "a big red fish swims over a coral reef by day"
SHIPPED = "shipped"
SCHEDULES: dict[str, tuple[int, list[str]]] = {
    SHIPPED: (20, []),
    "teacher": (5, ["--model", "runs/teacher"]),
    "1,1,1": (20, ["--steps", "1,1,1", "--guidance-scale", "1"]),
    "shipped by OpenVINO": (20, ["--runner", "openvino"]),
}
"""Chunks in a run, and what to ask for: the model as it comes, before its distillation, in fewest steps, and as it
comes by the optional library."""

DEMO = ["--enlarge", "4"]
"""What `make demo` adds."""

THEIRS: dict[int, str] = {1: "0", 2: "300000"}
"""Threads that diffusers gets, and how often those that wait look before they sleep (GOMP_SPINCOUNT): with two, what
PyTorch's OpenMP does where nothing is set. Set for ever (OMP_WAIT_POLICY=active), they would go on while ours runs."""


PREFACE = """# The embedded model on a CPU

Written by `python bench/cpu.py docs/benchmarks/cpu`, with everything in [cpu.json](cpu.json); run it again after the
weights change.

**What is compared.** `heliograph bench --against diffusers`: the same weights in the same process, in turn
(A-B-B-A), at the model's own 128x128 pixels, from the call to the closed mp4 file. diffusers is
`HeliosPyramidPipeline` of the version below with its own transformer class over our tensors. Both get the prompt as
an embedding; both are in the same dtype. The autoencoder's class is ours, so diffusers calls
`LinearAutoencoder.decode` in float32, plain PyTorch modules over the same weights, as its pipeline calls any
autoencoder; heliograph decodes with `lean_decoder.py` (72 dB from the former where the processor multiplies
bfloat16), in a thread beside the sampling of the next chunk.

`transformer` and `decode` are therefore ratios of the two parts, and `end to end` is of frames per second with the
file. Frames of diffusers come when the whole video is done, so the ratio of first frames is left out here.

With guidance both run the network twice in every step, diffusers one branch after the other, heliograph side by side
(with OpenVINO once, both branches as a batch of two).
The model as shipped guides its coarsest level alone, which diffusers cannot: here both guide every level, and the
videos below are as shipped.
The model before its distillation (`runs/teacher`, 6,6,6) has that of CFG-Zero*, which sets the velocity of the first
two steps of a chunk to zero: heliograph does not ask the network there. Without guidance both ask it equally often.

heliograph runs on one thread, a second one for the negative prompt where guidance is on (and one for decoding, one for
encoding; `transformer` and `decode` add up what runs side by side), diffusers on one; rows of two threads are
diffusers on two that look for work for 3 ms before they sleep, which is what PyTorch does by itself on two cores.
`chunk` is the time from one chunk handed over to the next: of heliograph's the last is there at once, decoded beside
the one before.
"""

TARGETS = {"end to end": 2.0}
"""What must be reached, as ratios."""


def main() -> None:
    """Measure and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("target", type=Path, help="Path of the two files, without their endings.")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=30.0, help="Length of the video made from nothing.")
    options.add_argument("--their-threads", type=int, nargs="*", default=list(THEIRS), choices=list(THEIRS))
    options.add_argument("--append", action="store_true", help="Add rows to those of the file, no videos.")
    options.add_argument("--note", default="", help="What a reader of the page has to know about this measurement.")
    options.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    chosen = options.parse_args()
    file = chosen.target.with_suffix(".json")
    results: dict[str, Any] = {"note": chosen.note, "ratios": [], "videos": []}
    if chosen.append and file.exists():
        results = json.loads(file.read_text())
    for threads, more in () if chosen.append else ((None, []), (None, DEMO), (2, [])):
        results["videos"].append(video(chosen.seconds, threads, more))
        print(results["videos"][-1], flush=True)
    for threads in chosen.their_threads:
        for dtype in chosen.dtypes:
            for name in SCHEDULES:
                row = compared(name, dtype, threads, chosen.rounds)
                results["ratios"].append(row)
                print(name, dtype, threads, row["ratios"], flush=True)
                file.write_text(json.dumps(results, indent=1) + "\n")
                chosen.target.with_suffix(".md").write_text(table(results))


def compared(name: str, dtype: str, their_threads: int, rounds: int) -> dict[str, Any]:
    """One schedule in one dtype by both engines, ours on the threads that it takes by itself."""
    chunks, arguments = SCHEDULES[name]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        command = [*heliograph("bench"), "--against", "diffusers", "--dtype", dtype]
        command += ["--their-threads", str(their_threads), "--rounds", str(rounds), "--chunks", str(chunks)]
        environment = unset_threads() | {"GOMP_SPINCOUNT": THEIRS[their_threads]}
        before = busy_seconds()
        subprocess.run([*command, "--json", str(file), *arguments], check=True, capture_output=True, env=environment)
        taken = [after - start for start, after in zip(before, busy_seconds(), strict=True)]
        measured = json.loads(file.read_text())
        measured["command"] = measured["command"].replace(f"{folder}/", "")
        return {
            "schedule": name,
            "cores_taken_by_others": max(0.0, taken[0] - taken[1]) / taken[2],
            **measured,
            "spin_count": THEIRS[their_threads],
        }


def busy_seconds() -> tuple[float, float, float]:
    """CPU seconds of all programs, those of programs started here and ended, and the clock."""
    every = psutil.cpu_times()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return every.user + every.nice + every.system, used.ru_utime + used.ru_stime, time.perf_counter()


def unset_threads() -> dict[str, str]:
    """The environment without a number of threads."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }


def video(seconds: float, threads: int | None, more: list[str]) -> dict[str, Any]:
    """A whole video from the command line: when its parts were there, and the most memory on the way."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*heliograph("generate"), PROMPT, "--seconds", str(seconds), "--seed", "1"]
        command += ["--output", str(Path(folder) / "video.mp4")]
        command += [*more, *([] if threads is None else ["--threads", str(threads)])]
        start, most, lines = time.perf_counter(), 0, list[tuple[float, str]]()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=unset_threads())
        assert process.stderr is not None
        for line in process.stderr:
            lines.append((time.perf_counter() - start, line.strip()))
            most = max(most, psutil.Process(process.pid).memory_info().rss)
        code = process.wait()
        assert code == 0, lines
    spoken = lines[-1][1]
    first = float(spoken.rsplit("first chunk after ", 1)[1].split()[0])
    return {
        "command": shlex.join(["heliograph", *command[3:]]).replace(f"{folder}/", ""),
        "options": " ".join(more),
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
    missed = [
        f"{row['schedule']} in {row['transformer']} against {row['figures'][1]['num_threads']} thread(s): {key} "
        f"{row['ratios'][key]:.2f}x of {target:.1f}x"
        for row in results["ratios"]
        for key, target in TARGETS.items()
        if row["ratios"][key] < target
    ]
    facts = ("device", "python", "torch", "diffusers", "heliograph", "commit")
    lines = [PREFACE, "| | |", "| --- | --- |", *(f"| {name} | {first[name]} |" for name in facts), ""]
    others = [row["cores_taken_by_others"] for row in results["ratios"]]
    lines += [
        f"Cores that other programs took meanwhile: {min(others):.2f} to {max(others):.2f} of {os.cpu_count()}.",
        "",
    ]
    lines += [results["note"], ""] if results.get("note") else []
    lines += [
        "| schedule | guidance | dtype | threads, ours / theirs | heliograph frames/s | diffusers frames/s "
        "| end to end | chunk | transformer | decode | chunk ms (low-high): ours | theirs |",
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
        steps = ",".join(map(str, row["steps"])) + (" OpenVINO" if row["runner"] == "OpenVinoBlocks" else "")
        threads = f"{ours['num_threads']} / {theirs['num_threads']}"
        cells = (steps, row["guidance"], row["transformer"], threads, *speeds, *ratios, *chunks)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", f"Below the bar of 2.0x end to end: {'; '.join(missed) or 'none'}."]
    lines += [
        "",
        "| `heliograph generate` | threads | loaded after s | first frames after s, once loaded | frames/s | "
        "most resident memory |",
        "|" + " --- |" * 6,
    ]
    for row in results["videos"]:
        lines.append(
            f"| {row.get('options') or 'as it is'} | {row['threads']} | {row['loaded_seconds']:.2f} "
            f"| {row['first_frames_seconds_once_loaded']:.2f} "
            f"| {row['frames_per_second_while_generating']:.1f} | {row['most_resident_bytes'] / 1e9:.2f} GB |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
