"""Clips and captions on disk, and the encoders of a small model, for the tests of preparation."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from heliograph.checkpoint import open_model
from heliograph.data.clips import ClipRules
from heliograph.data.prepare import Encoders
from heliograph.data.shards import Dataset, EncodedClip, ShardWriter
from heliograph.media.sink import open_sink
from heliograph.text import load_text_encoder
from heliograph.vae import LatentCodec, load_autoencoder

SMALL = ClipRules(buckets=((32, 48), (32, 32)), kept=((32, 48),), min_frames=81, fps=None)
"""Rules for tiny clips: two shapes, of which the wider is kept."""


def write_clip(path: Path, num_frames: int, height: int = 32, width: int = 48, first: int = 0) -> Path:
    """A clip whose frames differ, by the project's own mp4 sink."""
    rows, columns = np.mgrid[:height, :width]
    with open_sink(path, 24, overwrite=True) as sink:
        for start in range(0, num_frames, 32):
            times = range(first + start, first + min(num_frames, start + 32))
            shades = [128 + 100 * np.sin((rows + columns) / 9 + 0.3 * time) for time in times]
            sink.write(np.repeat(np.stack(shades)[..., None], 3, axis=-1).astype(np.uint8))
    return path


def caption(path: Path, text: str) -> None:
    """A caption beside a clip."""
    path.with_suffix(".txt").write_text(text, encoding="utf-8")


def write_list(path: Path, records: list[dict[str, object]]) -> Path:
    """A JSON list of clips."""
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def encoders(tiny: Path) -> Encoders:
    """Those of a model folder, on the CPU in float32."""
    folder, cpu = open_model(str(tiny)), torch.device("cpu")
    codec = LatentCodec(load_autoencoder(folder, torch.float32, cpu))
    return Encoders("tiny", codec, load_text_encoder(folder, torch.float32, cpu))


def dataset(**changes: object) -> Dataset:
    """What small data sets have in common."""
    return Dataset(**{"model": "tiny", "channels": 4, "text_rows": 6, "text_dim": 3, "rules": {}, **changes})


def counting(name: int, num_windows: int, cells: int = 2) -> Tensor:
    """Latents that say where they are: clip `name`, then the latent frame's number within the clip, in every cell."""
    frames = torch.arange(9.0 * num_windows).reshape(num_windows, 1, 9, 1, 1)
    return (100.0 * name + frames).expand(num_windows, 4, 9, cells, cells).contiguous()


def write_shards(folder: Path, clips: dict[int, tuple[int, int]], size: tuple[int, int] = (16, 16)) -> Path:
    """A prepared folder of `clips`: name → (windows, frames of the length bucket)."""
    with ShardWriter(folder, dataset(), shard_bytes=2000) as writer:
        for name, (num_windows, num_frames) in clips.items():
            text = torch.full((2, 3), float(name))
            writer.add(EncodedClip(str(name), f"clip {name}", num_frames, counting(name, num_windows), text, size))
    return folder
