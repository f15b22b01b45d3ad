"""What a model was made for, where its folder says so: size, steps, guidance, memory, whether chunks are matched, and
whether it knows whole words alone.

The file is ours and optional; a released checkpoint has none and is what the released models are.
"""

from pathlib import Path
from typing import Any

from heliograph.checkpoint.folder import ModelFolder, read_json
from heliograph.config import MemoryConfig, SamplerConfig
from heliograph.errors import CheckpointError
from heliograph.presets import sampler_for
from heliograph.request import chosen_sampler
from heliograph.shapes import LATENT_STRIDE

STRIDE_KEY = "scale_factor_spatial"
"""Pixels per latent cell in an autoencoder's configuration, by the library's name."""

NATIVE_FILE = "heliograph.json"
"""Optional file of a model folder."""

RELEASED_SIZE = (384, 640)
"""Height and width, in pixels, that the released models were trained at."""


def native_values(folder: Path) -> dict[str, Any]:
    """Everything the file says; nothing where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    file = folder / NATIVE_FILE
    return read_json(file) if file.is_file() else {}


def native_size(folder: Path) -> tuple[int, int]:
    """Height and width, in pixels, that the model was trained at; the released size where its folder does not say."""
    values = native_values(folder)
    return (int(values["height"]), int(values["width"])) if "height" in values else RELEASED_SIZE


def latent_stride(folder: Path) -> int:
    """Pixels per latent cell of a model folder's autoencoder, from its configuration; 8 where that does not say.

    Raises:
        CheckpointError: the configuration is damaged, or the value is no multiple of 8.
    """
    file = folder / "vae" / "config.json"
    stride = read_json(file).get(STRIDE_KEY, LATENT_STRIDE) if file.is_file() else LATENT_STRIDE
    if not isinstance(stride, int) or stride < LATENT_STRIDE or stride % LATENT_STRIDE:
        raise CheckpointError(f"{STRIDE_KEY}={stride!r} in {file} is no multiple of {LATENT_STRIDE} pixels")
    return stride


def native_memory(folder: Path) -> MemoryConfig:
    """How much the model was trained to remember; as released where its folder does not say."""
    return MemoryConfig(**native_values(folder).get("memory", {}))


def native_sampler(folder: ModelFolder) -> SamplerConfig:
    """How the model is sampled unless a request says otherwise.

    Solver and schedule are in the model's own files; steps and guidance are those of the released model of its kind,
    unless `heliograph.json` names others (`steps`, `first_chunk_steps`, `guidance_scale`, `guided_levels`; each may be
    left out).

    Raises:
        CheckpointError: a file names what is not supported.
        UserError: steps or guidance in `heliograph.json` are out of range.
    """
    switches = {"is_distilled": folder.index.is_distilled, "is_cfg_zero_star": folder.index.is_cfg_zero_star}
    sampler = sampler_for(folder.scheduler_config, switches)
    values = native_values(folder.path)
    names = ("steps", "first_chunk_steps", "guidance_scale", "guided_levels")
    steps, first, scale, levels = (values.get(name) for name in names)
    return chosen_sampler(sampler, steps and tuple(steps), first and tuple(first), scale, levels)
