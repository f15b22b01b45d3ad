"""An optional remedy for the jump between chunks: the first frames of a chunk are led in from the frame before.

Nothing in the model ties a chunk's first frame to the last frame before it, and the decoder knows only its own chunk:
even a true clip, encoded and decoded, jumps there. With D the difference of the two pictures, what changed much
(something moved there) counts as the world's own and is left out. Of the rest, as far as it is more than what usually
changes there from frame to frame,

* the coarse part, a smooth map of averages over 8 × 8 fields, is added to the chunk's frames with a weight that falls
  from 1 to 0 over all of them: light and colour;
* the fine part is added with a weight that falls to 0 within `FINE_FRAMES`: texture and edges.

The last frame of every chunk is as it was made, so nothing adds up from chunk to chunk, and what the model remembers
(latents) is never touched. `docs/evidence.md` has what it does to seams, drift and sharpness.
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

FINE_FRAMES = 9
"""Frames of a chunk that take over fine structure. Longer costs truth where things move: see decision 0018."""

MOVED = 40 / 127.5
"""Mean change around a pixel from which on something has moved there more likely than not."""

AROUND = 1 / 7
"""Side of the square, in picture heights, over which changes are averaged: about one latent cell of a small picture."""

LITTLE = 0.05
"""Share of a field that stayed below which its difference counts for less: too little is left of it to judge by."""

USUAL = 0.7
"""Share of the usual change from frame to frame that is left between chunks: below 1, as jumps are measured without
regard to sign and a part of each change is noise."""

Frame = Float[Tensor, "b 3 H W"]


def look(frames: Float[Tensor, "b 3 f H W"]) -> Frame:
    """The last of the frames, as it can be shown (-1 to 1): what the next chunk is led in from."""
    return frames[:, :, -1].float().clamp(-1, 1)


def lead_in(frames: Float[Tensor, "b 3 f H W"], before: Frame) -> Float[Tensor, "b 3 f H W"]:
    """Frames in [-1, 1] of a chunk, the first of them led in from the frame before, the last as it was."""
    first = frames[:, :, :FINE_FRAMES].float().clamp(-1, 1)
    gap = (before - first[:, :, 0]) * _one_scene(before, first[:, :, 0])[:, None, None, None]
    steps = first.diff(dim=2) if first.shape[2] > 1 else torch.zeros_like(first)
    change = _around(_size(gap))
    stayed = 1 / (1 + (torch.maximum(change, _size(gap)) / MOVED) ** 4)

    fields = _fields(stayed * gap) / (_fields(stayed) + LITTLE)
    usual_of_fields = torch.stack([_size(_fields(step)) for step in steps.unbind(2)]).mean(0)
    coarse = _smooth(fields * _excess(_size(fields), usual_of_fields), gap.shape[-2:])
    usual_around = _around(steps.abs().mean(dim=(1, 2))[:, None])
    fine = stayed * _excess(change, usual_around) * (gap - coarse)

    num_frames = frames.shape[2]
    short = functional.pad(fade(first.shape[2]), (0, num_frames - first.shape[2]))
    slow, fast = (
        weights.to(frames.device, frames.dtype, non_blocking=True)[None, None, :, None, None]
        for weights in (fade(num_frames), short)
    )
    return (frames + slow * coarse[:, :, None] + fast * fine[:, :, None]).clamp(-1, 1)


def fade(num_frames: int) -> Float[Tensor, " f"]:
    """Weights from exactly 1 for the first frame to exactly 0 for the last, level at both ends (a half cosine)."""
    share = torch.arange(num_frames, dtype=torch.float64) / max(1, num_frames - 1)
    weights = 0.5 + 0.5 * torch.cos(math.pi * share)
    weights[num_frames - 1 :] = 0
    return weights.float()


def _size(picture: Float[Tensor, "b c H W"]) -> Float[Tensor, "b 1 H W"]:
    return picture.abs().mean(dim=1, keepdim=True)


def _excess(change: Float[Tensor, "b 1 H W"], usual: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b 1 H W"]:
    """Share of a change, in [0, 1], that is more than what is usual."""
    return (1 - USUAL * usual / change.clamp_min(1e-6)).clamp_min(0)


def _fields(picture: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c 8 8"]:
    return functional.adaptive_avg_pool2d(picture, FIELDS)


def _smooth(values: Float[Tensor, "b c 8 8"], size: tuple[int, int] | torch.Size) -> Float[Tensor, "b c H W"]:
    return functional.interpolate(values, size=tuple(size), mode="bilinear", align_corners=False)


def _around(picture: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b 1 H W"]:
    """Means over the square around every pixel, rows and columns one after the other; the rim is repeated outwards."""
    reach = round(picture.shape[-2] * AROUND / 2)
    padded = functional.pad(picture, (reach,) * 4, mode="replicate")
    return functional.avg_pool2d(functional.avg_pool2d(padded, (2 * reach + 1, 1), 1), (1, 2 * reach + 1), 1)


def _one_scene(before: Frame, now: Frame) -> Float[Tensor, " b"]:
    """1 where two pictures belong to one scene, 0 where they do not; computed where they lie, nothing waits for it."""
    fields = [_fields(one).flatten(1) for one in (before, now)]
    pictures = [one - one.mean(1, keepdim=True) for one in fields]
    sizes = [one.norm(dim=1) for one in pictures]
    likeness = (pictures[0] * pictures[1]).sum(1) / (sizes[0] * sizes[1]).clamp_min(1e-6)
    is_flat = torch.minimum(*sizes) < 1e-2  # one colour has no structure by which it could be told apart
    return ((likeness > ALIKE) | is_flat).float()
