"""From the windows of a clip to one training example: a chunk, the frames before it, and the anchor.

Windows lie one after another; before the first of them memory is zero. With 19 remembered frames and chunks of 9,
the second chunk of a clip sees 10 empty frames, the third 1, every later one none.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.shapes import CHUNK_LATENTS


def first_window(chunk: int, memory_frames: int) -> int:
    """Index of the first window that the memory of chunk number `chunk` reaches back into."""
    return max(0, (chunk * CHUNK_LATENTS - memory_frames) // CHUNK_LATENTS)


def cut_history(
    windows: Float[Tensor, "n c t h w"], memory_frames: int
) -> tuple[Float[Tensor, "c m h w"], Float[Tensor, "c t h w"]]:
    """The last window as the chunk, and the `memory_frames` latent frames before it, zero where there are none."""
    chunk = windows[-1]
    before = windows[:-1].transpose(0, 1).flatten(1, 2)[:, -memory_frames:]
    history = chunk.new_zeros(chunk.shape[0], memory_frames, *chunk.shape[2:])
    if before.shape[1]:
        history[:, -before.shape[1] :] = before
    return history, chunk


def anchor_of(first_frame: Float[Tensor, "c 1 h w"], chunk: int) -> Float[Tensor, "c 1 h w"]:
    """The clip's first latent frame, or zero for the chunk that makes it."""
    return first_frame if chunk else torch.zeros_like(first_frame)
