"""From a trained model folder and a trained decoder to the folder that is installed with the package."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from heliograph.checkpoint import FP32_COMPONENTS, read_json, set_usual_permissions

CARD = "README.md"
"""Name of the model card in the folder; it is written by hand and stays."""

PLACE = "refiner.place"
"""A tensor of every refiner, whose first size is the width."""


@dataclass(frozen=True)
class Native:
    """How the model is sampled unless a request says otherwise, and its size in pixels: `heliograph.json`.

    Chunks are always led in: what this decoder makes jumps between them, even of true clips.
    """

    height: int
    width: int
    steps: tuple[int, ...]
    first_chunk_steps: tuple[int, ...] | None
    guidance_scale: float
    guided_levels: int | None = None


@dataclass(frozen=True)
class Decoding:
    """States of the trainings of the decoder and of the refiner; None keeps what the model has."""

    decoder: Path | None = None
    refiner: Path | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The trained tensors, by their names in the autoencoder."""
        states = {"decoder": self.decoder, "refiner": self.refiner}
        trained = {part: torch.load(file, weights_only=True)[part] for part, file in states.items() if file is not None}
        return {f"{part}.{name}": value for part, values in trained.items() for name, value in values.items()}


def pack(model: Path, decoding: Decoding, folder: Path, native: Native) -> int:
    """Write `folder` anew, weights in bfloat16 where the model runs in it; returns its size in bytes.

    `model` is what the last training phase exported.
    """
    trained = decoding.tensors()
    for part in ("transformer", "scheduler", "vae", "text_encoder", "tokenizer"):
        shutil.rmtree(folder / part, ignore_errors=True)
        shutil.copytree(model / part, folder / part, ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copyfile(model / "model_index.json", folder / "model_index.json")
    for file in sorted(model.glob("*/*.safetensors")):
        tensors = load_file(file)
        if file.parent.name == "vae":
            tensors |= trained
        stored = {name: _stored(name, value) for name, value in tensors.items()}
        save_file(stored, folder / file.parent.name / file.name, metadata={"format": "pt"})
    if PLACE in trained:
        config = folder / "vae" / "config.json"
        widths = {"refiner_dim": trained[PLACE].shape[0]}
        config.write_text(json.dumps(read_json(config) | widths, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    values = {
        "height": native.height,
        "width": native.width,
        "steps": list(native.steps),
        "guidance_scale": native.guidance_scale,
        "match_chunks": True,
        "knows_whole_words": True,
    }
    if native.first_chunk_steps is not None:
        values["first_chunk_steps"] = list(native.first_chunk_steps)
    if native.guided_levels is not None:
        values["guided_levels"] = native.guided_levels
    (folder / "heliograph.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    set_usual_permissions(folder)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _stored(name: str, value: Tensor) -> Tensor:
    """Matrices and kernels in half the space; what runs in float32, and the code itself, as it is."""
    parts = set(name.split("."))
    if parts & FP32_COMPONENTS or name in ("mean", "basis"):
        return value.float().contiguous()
    return value.to(torch.bfloat16).contiguous()
