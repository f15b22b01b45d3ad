"""Stored results: JSON files that measuring commands add to, from which the page of evidence is written."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image

from heliograph.media.target import write_whole
from heliograph.pipeline import HeliosPipeline, Video
from heliograph.revision import revision
from heliograph.shapes import CHUNK_FRAMES


def merge_results(file: Path, entries: Mapping[str, Any]) -> None:
    """Add entries to a file of results, by name; those of the same name are replaced."""
    there = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(there | dict(entries), indent=1, sort_keys=True).encode() + b"\n")


def add_result(file: Path, name: str, pipeline: HeliosPipeline, figures: Mapping[str, Any]) -> None:
    """Add what was measured of a model, with how it was sampled, a digest of its weights, and the commit."""
    sampler = pipeline.engine.sampler
    about = {
        "weights": weights_digest(pipeline.folder.path),
        "steps": list(sampler.steps),
        "guidance_scale": sampler.guidance.scale,
        "guided_levels": sampler.guidance.levels,
        "commit": revision(),
    }
    merge_results(file, {name: about | dict(figures)})


def weights_digest(folder: Path) -> str:
    """Twelve hex digits for all weights of a model folder."""
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(folder.glob("*/*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def write_film(file: Path, looks: Sequence[UInt8[np.ndarray, "f h w 3"]]) -> None:
    """One row of frames for each video."""
    picture = Image.fromarray(np.concatenate([rearrange(frames, "f h w c -> h (f w) c") for frames in looks]))
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, optimize=True)


FILMS = (
    ("a big pink balloon floats over the snowy mountains by day", 3),
    ("a big red fish swims over a coral reef by day", 0),
    ("a big white boat sails to the right on the sea at night", 0),
)
"""Prompts and seeds of the films that the README shows: three scenes that the model does well and badly alike."""


def films(pipeline: HeliosPipeline, num_chunks: int) -> Video:
    """The films side by side."""
    length = num_chunks * CHUNK_FRAMES
    videos = [pipeline(prompt, num_frames=length, seed=seed) for prompt, seed in FILMS]
    return Video(np.concatenate([video.frames for video in videos], axis=2), videos[0].fps)
