"""Smaller latent cells: the same code on a finer grid, so the same network sees twice the picture in each direction.

A code of 16 pixels a cell looks at the picture at half its size, one of 8 at the picture itself. What a number of a
cell means stays, and so what the network has learnt: it is as if the model went from small pictures to large ones.
Training goes on from there (`embedded-finer`).
"""

from pathlib import Path

from heliograph.embedded.code import same_code
from heliograph.embedded.recode import check_free, linear_code, write_recoded
from heliograph.errors import UserError
from heliograph.shapes import LATENT_STRIDE


def finer(model: Path, folder: Path) -> None:
    """Write `model` with cells of half the side as `folder`, whole or not at all; its decoder's networks are fresh.

    Raises:
        UserError: its cells are as small as they can be, or its code is not linear, or there is something in the place
            of `folder`.
    """
    check_free(folder)
    code = linear_code(str(model))
    stride = code.stride // 2
    if stride % LATENT_STRIDE:
        raise UserError(f"{model} has cells of {code.stride} pixels; their half would have to be a multiple of 8")
    write_recoded(model, folder, same_code(code, stride))
