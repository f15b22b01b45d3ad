"""Rendering of the embedded model's training clips, in a process of its own."""

from functools import lru_cache
from pathlib import Path

import torch

from heliograph.checkpoint import open_model
from heliograph.data.world_cache import CacheInfo, Worldly, write_part
from heliograph.embedded.mix import is_bright_crossing, is_crossing, mixed_caption, mixed_record
from heliograph.vae import LatentCodec, load_autoencoder

MIX = Worldly(
    lru_cache(maxsize=None)(mixed_record),
    mixed_caption,
    {"crossings": is_crossing, "bright crossings": is_bright_crossing},
)
"""The embedded model's world."""


def open_codec(model: str) -> LatentCodec:
    """The autoencoder of a model folder, float32, on the CPU."""
    return LatentCodec(load_autoencoder(open_model(model), torch.float32, torch.device("cpu")))


def render_part(folder: Path, part: int, info: CacheInfo, model: str) -> None:
    """One part of a cache."""
    torch.set_num_threads(1)
    write_part(folder, part, info, MIX, open_codec(model))
