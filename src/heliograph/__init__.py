"""Heliograph: Helios (arXiv 2603.04379), minutes of video in real time, from text, an image or a video."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heliograph.autoencoder import FastAutoencoder
    from heliograph.config import Lora, StartNoise
    from heliograph.engine.session import Chunk, Session
    from heliograph.errors import CheckpointError, MediaError, OutputError, StateError, UserError
    from heliograph.pipeline import HeliosPipeline, Video
    from heliograph.timeline import Cue, PromptTimeline, read_timeline

__all__ = [
    "CheckpointError",
    "Chunk",
    "Cue",
    "FastAutoencoder",
    "HeliosPipeline",
    "Lora",
    "MediaError",
    "OutputError",
    "PromptTimeline",
    "Session",
    "StartNoise",
    "StateError",
    "UserError",
    "Video",
    "read_timeline",
]

_HOMES = {
    "autoencoder": ("FastAutoencoder",),
    "config": ("Lora", "StartNoise"),
    "engine.session": ("Chunk", "Session"),
    "errors": ("CheckpointError", "MediaError", "OutputError", "StateError", "UserError"),
    "pipeline": ("HeliosPipeline", "Video"),
    "timeline": ("Cue", "PromptTimeline", "read_timeline"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `heliograph --help` does not wait for PyTorch."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"heliograph.{module}"), name)
    raise AttributeError(f"module 'heliograph' has no attribute {name!r}")
