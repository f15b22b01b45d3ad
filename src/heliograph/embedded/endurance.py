"""Does a model hold out for minutes? Long videos beside true clips of the world of the same length and content."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image

from heliograph.data.diorama import Record
from heliograph.data.diorama.render import render
from heliograph.embedded.results import write_film
from heliograph.embedded.score import heldout_prompt
from heliograph.evaluate.catalogue import BY_NAME
from heliograph.evaluate.drift import curve
from heliograph.evaluate.series import lookback, read_series
from heliograph.evaluate.statistics import interval
from heliograph.evaluate.truth import Reader
from heliograph.pipeline import HeliosPipeline
from heliograph.shapes import CHUNK_FRAMES, FPS

Frames = UInt8[np.ndarray, "f h w 3"]

PROPERTIES = ("brightness", "contrast", "saturation", "warmth", "sharpness")
"""What may drift: colour is saturation and warmth."""

SERIES = (*PROPERTIES, "changes", "thumbnails")

METRICS = (
    *(f"{name} drift" for name in PROPERTIES),
    *("frozen", "loop", "scene cuts", "picture seam"),
    *(f"{name} seam" for name in PROPERTIES),
)
"""Metrics of a long video, by their names in the catalogue."""

GLANCE_FRAMES = 4 * FPS
"""What is read back of a video at a time."""

NUM_MOMENTS = 16
"""How often it is read back, evenly from its first glance to its last: one glance at an end may meet a subject away."""

NUM_LOOKS = 12
"""Of how many videos frames are kept to look at."""

KEPT = ("scene", "time", "kind", "colour")
"""Attributes that must be the same from end to end."""


def long_video(pipeline: HeliosPipeline, number: int, num_chunks: int, looks: Path) -> dict[str, Any]:
    """Make, measure and read a long video and the true clip of its content: `model` and `world`, see `measured`.

    Of the first videos the folder `looks` gets frames to look at, 12 of each, evenly over its length, side by side.
    """
    height, width = pipeline.engine.size
    prompt, reader = heldout_prompt(number), Reader()
    session = pipeline.session(prompt.text, seed=number)
    frames = np.concatenate([session.next_chunk().frames for _ in range(num_chunks)])
    real = np.concatenate(list(_true_chunks(prompt.record, num_chunks, height, width)))
    if number < NUM_LOOKS:
        write_film(looks / f"{number:03}.png", [frames[np.linspace(0, len(frames) - 1, 12).astype(int)]])
    return {"model": measured(frames, prompt.record, reader), "world": measured(real, prompt.record, reader)}


def endurance(videos: Sequence[Mapping[str, Any]], num_chunks: int) -> dict[str, Any]:
    """Figures of long videos (see `long_video`), for storage."""
    sides = {side: summed_up([video[side] for video in videos]) for side in ("model", "world")}
    return {"seconds": num_chunks * CHUNK_FRAMES / FPS, **sides}


def film(folder: Path, num_videos: int) -> list[Frames]:
    """The rows of frames that `long_video` left in a folder, of the first so many videos."""
    return [np.asarray(Image.open(file))[None] for file in sorted(folder.glob("*.png"))[:num_videos]]


def measured(frames: Frames, record: Record, reader: Reader) -> dict[str, Any]:
    """Every metric of one video, its curves over time, and which attributes each moment shows as asked."""
    chunks = range(0, len(frames), CHUNK_FRAMES)
    reach = lookback(SERIES)
    pieces = [(frames[max(0, first - reach) : first + CHUNK_FRAMES], min(first, reach)) for first in chunks]
    read = read_series(pieces, SERIES)
    seen = [reader.check(frames[first : first + GLANCE_FRAMES], record) for first in moments(len(frames))]
    return {
        "metrics": {name: BY_NAME[name].score(read, CHUNK_FRAMES) for name in METRICS},
        "curves": {name: [round(value, 3) for value in curve(read[name])] for name in PROPERTIES},
        "kept": {name: tuple(moment[name] for moment in seen) for name in KEPT},
    }


def moments(num_frames: int) -> list[int]:
    """The first frames of the glances at a video, the first at its beginning and the last at its end."""
    return np.linspace(0, max(0, num_frames - GLANCE_FRAMES), NUM_MOMENTS).astype(int).tolist()


def summed_up(videos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means with their 95 % bootstrap intervals, curves as they are, and how attributes were kept.

    `kept` has for each attribute the share of videos in which each moment shows what was asked, in time's order, and
    `kept_by_video` the share of moments of each video.
    """
    metrics: dict[str, Any] = {}
    for name in METRICS:
        found = interval([video["metrics"][name] for video in videos])
        metrics[name] = {"mean": found.mean, "low": found.low, "high": found.high}
    seen = {name: np.array([video["kept"][name] for video in videos], dtype=float) for name in KEPT}
    return {
        "num": len(videos),
        "metrics": metrics,
        "kept": {name: rows.mean(axis=0).tolist() for name, rows in seen.items()},
        "kept_by_video": {name: rows.mean(axis=1).tolist() for name, rows in seen.items()},
        "curves": [video["curves"] for video in videos],
    }


def _true_chunks(record: Record, num_chunks: int, height: int, width: int) -> Iterator[Frames]:
    for chunk in range(num_chunks):
        frames = render([record], [chunk * CHUNK_FRAMES], CHUNK_FRAMES, height, width).frames[0]
        yield rearrange(frames, "f c h w -> f h w c").numpy()
