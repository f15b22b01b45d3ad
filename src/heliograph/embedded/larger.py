"""Larger pictures: the same network on more cells, so a subject has more of them.

Cells and the numbers in them stay what they are; only the size that the model is trained for changes. Training goes on
from there (`embedded-finer --size`).
"""

import json
import shutil
import tempfile
from pathlib import Path

from heliograph.checkpoint import NATIVE_FILE, latent_stride, native_values
from heliograph.embedded.recode import check_free
from heliograph.shapes import check_size

LEVELS = 3
"""Of the pyramid that the embedded model has."""


def larger(model: Path, folder: Path, size: tuple[int, int]) -> None:
    """Write `model` for pictures of another `size`, height and width in pixels, as `folder`, whole or not at all.

    Raises:
        UserError: the size does not fit the pyramid, or there is something in the place of `folder`.
    """
    check_free(folder)
    height, width = size
    check_size(height, width, LEVELS, latent_stride(model))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as drafts:
        draft = Path(drafts) / folder.name
        shutil.copytree(model, draft)
        native = native_values(model) | {"height": height, "width": width}
        (draft / NATIVE_FILE).write_text(json.dumps(native, indent=2) + "\n", encoding="utf-8")
        draft.rename(folder)
