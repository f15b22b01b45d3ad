"""Rendering of the embedded model's training clips, in a process of its own."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from heliograph.checkpoint import open_model
from heliograph.data.world_cache import CacheInfo, Worldly, write_parts
from heliograph.embedded.mix import is_bright_crossing, is_crossing, mixed_caption, mixed_record
from heliograph.vae import LatentCodec, load_autoencoder

MIX = Worldly(
    lru_cache(maxsize=None)(mixed_record),
    mixed_caption,
    {"crossings": is_crossing, "bright crossings": is_bright_crossing},
)
"""The embedded model's world."""


def open_codec(model: str, device: torch.device | str = "cpu") -> LatentCodec:
    """The autoencoder of a model folder, float32."""
    return LatentCodec(load_autoencoder(open_model(model), torch.float32, torch.device(device)))


def render_parts(
    folder: Path, parts: Sequence[int], info: CacheInfo, model: str, device: torch.device | str = "cpu"
) -> None:
    """Some parts of a cache; on a CPU by one thread."""
    torch.set_num_threads(1)
    write_parts(folder, parts, info, MIX, open_codec(model, device))
