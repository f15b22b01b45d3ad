"""An optional remedy for the jump between chunks: the coarse colours of a chunk's first frames are led in from those of
the frame before.

Nothing in the model ties the light of a chunk's first frame to that of the last frame before it, and the decoder knows
only its own chunk. With D the difference of the two pictures averaged over 8 × 8 fields, enlarged again to a smooth
map, frame i of the chunk becomes x_i + w_i · D with w falling from 1 to 0. The last frame of every chunk is as it was
made, so nothing adds up from chunk to chunk, and what the model remembers (latents) is never touched. Fine structure
is not changed either: D has none. `docs/evidence.md` has what it does to seams, drift and sharpness.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

FIELDS = 8
"""Fields along each side of a picture that are matched: coarse enough to have no edges, fine enough for a sky above and
a ground below that jump apart."""

ALIKE = 0.5
"""Least correlation of the fields of two frames of one scene; below it the chunk begins a new scene, which may jump."""

Fields = Float[Tensor, "b 3 8 8"]


def fields(frame: Float[Tensor, "b 3 H W"]) -> Fields:
    """The frame, as it can be shown (-1 to 1), averaged over 8 × 8 fields."""
    return functional.adaptive_avg_pool2d(frame.float().clamp(-1, 1), FIELDS)


def lead_in(frames: Float[Tensor, "b 3 f H W"], before: Fields) -> Float[Tensor, "b 3 f H W"]:
    """Frames in [-1, 1] of a chunk, the first of them matched to `fields` of the frame before, the last as it was."""
    now = fields(frames[:, :, 0])
    gap = (before - now) * _one_scene(before, now)[:, None, None, None]
    smooth = functional.interpolate(gap, size=frames.shape[-2:], mode="bilinear", align_corners=False)
    weights = fade(frames.shape[2]).to(frames.device, frames.dtype, non_blocking=True)[None, None, :, None, None]
    return (frames + weights * smooth[:, :, None]).clamp(-1, 1)


def fade(num_frames: int) -> Float[Tensor, " f"]:
    """Weights from exactly 1 for the first frame to exactly 0 for the last, level at both ends (a half cosine)."""
    share = torch.arange(num_frames, dtype=torch.float64) / max(1, num_frames - 1)
    weights = 0.5 + 0.5 * torch.cos(math.pi * share)
    weights[num_frames - 1 :] = 0
    return weights.float()


def _one_scene(before: Fields, now: Fields) -> Float[Tensor, " b"]:
    """1 where two pictures belong to one scene, 0 where they do not; computed where they lie, nothing waits for it."""
    pictures = [one.flatten(1) - one.flatten(1).mean(1, keepdim=True) for one in (before, now)]
    sizes = [one.norm(dim=1) for one in pictures]
    likeness = (pictures[0] * pictures[1]).sum(1) / (sizes[0] * sizes[1]).clamp_min(1e-6)
    is_flat = torch.minimum(*sizes) < 1e-2  # one colour has no structure by which it could be told apart
    return ((likeness > ALIKE) | is_flat).float()
