"""Sizes that are the same everywhere, and the arithmetic between frames, latent frames, chunks and pixels.

Axis letters in every shape annotation: `b` batch, `t` latent frames, `f` pixel frames, `c` channels, `h w` height
and width (of the latent grid unless the text says pixels), `n` tokens, `l` text tokens, `d` width, `k` heads,
`e` head width. Latents are `b c t h w` everywhere.
"""

import math

from heliograph.errors import UserError

LATENT_STRIDE = 8
"""Pixels per latent cell, in height and in width, where an autoencoder does not say otherwise (Wan 2.1)."""

FRAME_STRIDE = 4
"""Pixel frames per latent frame; the first latent frame of a chunk holds one pixel frame."""

PATCH = 2
"""Latent cells per token in height and width: the transformer's (1, 2, 2) patch."""

CHUNK_LATENTS = 9
"""Latent frames that one turn of the model makes."""

CHUNK_FRAMES = 1 + (CHUNK_LATENTS - 1) * FRAME_STRIDE
"""Pixel frames that one turn of the model makes: 33."""

LARGE_PARAMETERS = 2_000_000_000
"""Models of more parameters run in bfloat16 unless they are told otherwise, which halves the memory; smaller ones in
float32 on a CPU, and as teachers, which is exact and fast enough."""

FPS = 24
"""Frames per second of every video the released models were trained on."""

MAX_FRAMES = 24 * 60 * 60 * FPS
"""Longest video one request may ask for: a day."""

MAX_SIDE = 4096
"""Largest height or width, in pixels, that one request may ask for."""


def chunks_for(num_frames: int) -> int:
    """Number of chunks whose frames cover `num_frames` pixel frames (at least one)."""
    if num_frames < 1 or num_frames > MAX_FRAMES:
        raise UserError(f"num_frames={num_frames} is out of range; use 1 to {MAX_FRAMES} frames ({FPS} are a second)")
    return math.ceil(num_frames / CHUNK_FRAMES)


def frames_for(seconds: float) -> int:
    """Pixel frames in `seconds` of video at 24 frames per second, at least one."""
    if not math.isfinite(seconds) or not 0 < seconds <= MAX_FRAMES / FPS:
        raise UserError(f"seconds={seconds} is out of range; use a number above 0, up to {MAX_FRAMES // FPS}")
    return max(1, round(seconds * FPS))


def size_multiple(num_levels: int, stride: int = LATENT_STRIDE) -> int:
    """Pixels that height and width must be a multiple of: a patch for one pyramid level, doubled by each further one.

    `stride` is the pixels per latent cell: with 8 of them and three levels, 64.
    """
    return stride * PATCH * 2 ** (num_levels - 1)


def check_size(height: int, width: int, num_levels: int, stride: int = LATENT_STRIDE) -> None:
    """Refuse a picture size whose smallest pyramid level would not be a whole number of patches.

    `stride` is the pixels per latent cell.

    Raises:
        UserError: names the two nearest valid values of each wrong side.
    """
    multiple = size_multiple(num_levels, stride)
    for name, side in (("height", height), ("width", width)):
        if side < multiple or side > MAX_SIDE or side % multiple:
            low = min(max(side // multiple, 1), MAX_SIDE // multiple - 1) * multiple
            raise UserError(
                f"{name}={side} does not fit a pyramid of {num_levels} level(s); "
                f"use a multiple of {multiple} up to {MAX_SIDE}, for example {low} or {low + multiple}"
            )
