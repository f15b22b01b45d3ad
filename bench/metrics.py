"""Speed of every metric that needs no weights: `python bench/metrics.py`; prints a table and JSON.

Frames of 384 × 640 (a clip given by --video, or the procedural world drawn large), on the threads that OpenCV takes,
which are the machine's cores. Each series is read alone from frames that are decoded already; metrics are sums over
series.
CPU time is of all threads together: what is left of the speed where other programs take a core.
Then one file from beginning to end: decoding twice, turning into RGB, all series together.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from heliograph.data.diorama.record import Record
from heliograph.data.diorama.render import render
from heliograph.evaluate.catalogue import METRICS
from heliograph.evaluate.series import ALL, lookback, read_series
from heliograph.evaluate.videos import pieces, survey
from heliograph.media.decode import decode
from heliograph.media.limits import MediaLimits
from heliograph.media.sink import open_sink
from heliograph.revision import revision
from heliograph.shapes import FPS

HEIGHT, WIDTH = 384, 640
FISH = Record("reef", "fish", "red", 2, "medium", "left", "normal", "day", "right", 3)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser()
    options.add_argument("--video", type=Path)
    options.add_argument("--frames", type=int, default=66)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    frames = clip(chosen.video, chosen.frames)
    times = {name: fastest(series.read, frames, chosen.rounds) for name, series in ALL.items()}
    speeds = {name: len(frames) / wall for name, (wall, _) in times.items()}
    found = {
        "commit": revision(),
        "processor": platform.processor() or platform.machine(),
        "threads": cv2.getNumThreads(),
        "frames": list(frames.shape),
        "series_frames_per_second": speeds,
        "series_cpu_ms_per_frame": {name: 1000 * cpu / len(frames) for name, (_, cpu) in times.items()},
        "metrics_frames_per_second": {
            metric.name: 1 / sum(1 / speeds[name] for name in metric.needs) for metric in METRICS
        },
        "file_frames_per_second": whole_file(frames),
    }
    print(f"{'series':12} {'frames/s':>9} {'of real time':>13} {'CPU ms a frame':>15}")
    for name, speed in sorted(speeds.items(), key=lambda item: item[1]):
        print(f"{name:12} {speed:9.0f} {speed / FPS:12.1f}× {1000 * times[name][1] / len(frames):14.2f}")
    for name, speed in found["file_frames_per_second"].items():
        print(f"{name:12} {speed:9.0f} {speed / FPS:12.1f}×")
    print(json.dumps(found))


def clip(video: Path | None, num_frames: int) -> np.ndarray:
    """Frames to look at, uint8 [f 384 640 3]."""
    if video is None:
        drawn = render([FISH], [0], num_frames, HEIGHT, WIDTH).frames[0]
        return drawn.permute(0, 2, 3, 1).contiguous().numpy()
    shape = survey(video)
    found = np.concatenate([frames for frames, _ in pieces(video, shape, 0)])[:num_frames]
    return np.stack([cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for frame in found])


def fastest(read: Any, frames: np.ndarray, rounds: int) -> tuple[float, float]:
    """Seconds on the clock and of the processor of the fastest of some rounds, after one that warms up."""
    read(frames[:3])
    times = []
    for _ in range(rounds):
        began, used = time.perf_counter(), time.process_time()
        read(frames)
        times.append((time.perf_counter() - began, time.process_time() - used))
    return min(times)


def whole_file(frames: np.ndarray) -> dict[str, float]:
    """A file of these frames: decoded once, and evaluated with and without optical flow."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with open_sink(path, FPS) as sink:
            sink.write(frames)
        began = time.perf_counter()
        num = sum(1 for _ in decode(path, MediaLimits()))
        found = {"decode": num / (time.perf_counter() - began)}
        for name, series in (("all", list(ALL)), ("all but flow", [one for one in ALL if one != "flow"])):
            began = time.perf_counter()
            read_series(pieces(path, survey(path), lookback(series)), series)
            found[name] = num / (time.perf_counter() - began)
    return found


if __name__ == "__main__":
    main()
