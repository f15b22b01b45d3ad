"""What a model was made for, where its folder says so: size, steps, guidance, memory, and whether chunks are matched.

The file is ours and optional; a released checkpoint has none and is what the released models are.
"""

from pathlib import Path
from typing import Any

from heliograph.checkpoint.folder import read_json
from heliograph.config import MemoryConfig

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


def native_memory(folder: Path) -> MemoryConfig:
    """How much the model was trained to remember; as released where its folder does not say."""
    return MemoryConfig(**native_values(folder).get("memory", {}))
