"""Larger pictures: the same network on more cells, so a subject has more of them.

Cells and the numbers in them stay what they are; only the size that the model is trained for changes. Training goes on
from there (`embedded-finer --size`).
"""

import json
from pathlib import Path

from heliograph.checkpoint import NATIVE_FILE, find_model, latent_stride, native_values
from heliograph.embedded.recode import draft_of
from heliograph.presets import PYRAMID_BORDERS
from heliograph.shapes import check_size


def larger(model: str, folder: Path, size: tuple[int, int]) -> None:
    """Write `model` for pictures of another `size`, height and width in pixels, as `folder`, whole or not at all.

    Raises:
        CheckpointError: there is no such model.
        UserError: the size does not fit the pyramid, or there is something in the place of `folder`.
    """
    source = find_model(model)
    height, width = size
    check_size(height, width, len(PYRAMID_BORDERS) - 1, latent_stride(source))
    native = native_values(source) | {"height": height, "width": width}
    with draft_of(source, folder) as draft:
        (draft / NATIVE_FILE).write_text(json.dumps(native, indent=2) + "\n", encoding="utf-8")
