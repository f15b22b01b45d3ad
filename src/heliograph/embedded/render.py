"""The world that the embedded model's training clips show, and rendering a part of them in a process of its own."""

from functools import lru_cache
from pathlib import Path

import torch

from heliograph.checkpoint import find_model, native_size, open_model
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


def size_of(model: str) -> tuple[int, int]:
    """Height and width, in pixels, that a model is trained for."""
    return native_size(find_model(model))


def render_part(folder: Path, part: int, info: CacheInfo, model: str) -> None:
    """One part of a cache, by one thread of the CPU."""
    torch.set_num_threads(1)
    write_parts(folder, [part], info, MIX, open_codec(model))
