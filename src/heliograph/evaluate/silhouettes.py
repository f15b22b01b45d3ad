"""Which kind of subject a blob is, and how big: by comparing it with silhouettes of every kind in many poses."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from heliograph.data.diorama.draw import Window, colours, ink
from heliograph.data.diorama.motion import RADIUS
from heliograph.data.diorama.palette import LIGHT, SCENERY, SUBJECT
from heliograph.data.diorama.record import COLOURS, LIVES_IN, SIZES, Kind, Scene, Time
from heliograph.data.diorama.subjects import PAINTERS, Pose, sprite
from heliograph.evaluate.sight import GRID, Blobs, Sight, body_mask, find, label_detail

FRAME = 0.5
"""Side of the pictures in which silhouettes are drawn, in picture heights."""

STAMP = 24
"""Side of a stamp in pixels."""

REACH = 1.5
"""Half the side of a stamp, in square roots of the blob's area."""

BEATS, TILTS = 8, (-0.35, 0.0, 0.35)
"""Phases of the wing beat and tilts, in radians, of the silhouettes; each looks left and right."""


@dataclass(frozen=True)
class Silhouettes:
    """What the kinds of a scene look like when they are read like a clip.

    Attributes:
        kind: number of the kind in the scene's list.
        stamp: see `stamp`.
        size: number of the size.
        area: in square picture heights.
        x, y: centre of mass from the subject's centre, in picture heights.
    """

    kind: Int[Tensor, " s"]
    size: Int[Tensor, " s"]
    stamp: Float[Tensor, "s p"]
    area: Float[Tensor, " s"]
    x: Float[Tensor, " s"]
    y: Float[Tensor, " s"]


@dataclass(frozen=True)
class Likeness:
    """What the blobs of a clip look like.

    Attributes:
        kind: number of the kind in the scene's list that most blobs resemble.
        margin: how much better than the next kind, 0 to 1.
        growth: for each blob and size, how many times as wide as a subject of that size.
        x, y: the subject's centre for each blob, in picture heights.
    """

    kind: int
    margin: float
    growth: Float[Tensor, "m 3"]
    x: Float[Tensor, " m"]
    y: Float[Tensor, " m"]


def stamp(blobs: Blobs) -> Float[Tensor, "m p"]:
    """The blobs centred, scaled to the same area, on 24 x 24 pixels, each of unit length as a vector."""
    height, width = blobs.mask.shape[1:]
    side = torch.linspace(-REACH, REACH, STAMP)
    scale = blobs.area.sqrt()[:, None]
    across = (blobs.x[:, None] + side * scale) * (2 * GRID / width) - 1
    down = (blobs.y[:, None] + side * scale) * (2 * GRID / height) - 1
    grid = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), -1)
    picked = functional.grid_sample(blobs.mask[:, None].float(), grid, align_corners=False).flatten(1)
    return functional.normalize(picked, dim=1)


def silhouettes(scene: Scene, time: Time, colour: int, known: Sight) -> Silhouettes:
    """The silhouettes of a scene's kinds, in the given colour and light."""
    parts = []
    for number, kind in enumerate(LIVES_IN[scene]):
        for order, size in enumerate(SIZES):
            frames = functional.avg_pool2d(_portraits(kind, scene, time, colour, RADIUS[size]), 2)
            blobs = find(body_mask(label_detail(frames, known), colour), least=0.2 * RADIUS[size] ** 2)
            which = torch.full_like(blobs.frame, number), torch.full_like(blobs.frame, order)
            parts.append((*which, stamp(blobs), blobs.area, blobs.x - FRAME / 2, blobs.y - FRAME / 2))
    return Silhouettes(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _portraits(kind: Kind, scene: Scene, time: Time, colour: int, radius: float) -> Float[Tensor, "n 3 g g"]:
    """The kind in the middle of a plain picture, in every phase and tilt, looking right and left."""
    beats = torch.arange(BEATS) * (2 * torch.pi / BEATS)
    beat, tilt, facing = torch.cartesian_prod(beats, torch.tensor(TILTS), torch.tensor((-1.0, 1.0))).unbind(1)
    side = round(2 * FRAME * GRID)
    canvas = torch.zeros(len(beat), 4, side, side)
    canvas += ink(colours([SCENERY[scene]["middle"][time]], canvas.device))
    place = (torch.arange(side) + 0.5) / (2 * GRID) - FRAME / 2
    w = Window(
        x=place.expand(len(beat), 1, side),
        y=place[:, None].expand(len(beat), side, 1),
        index=torch.arange(side * side).expand(len(beat), -1),
        pixels=2.0 * GRID,
        paint=torch.zeros(len(beat), 5, side, side),
    )
    body = colours([SUBJECT[COLOURS[colour]]], canvas.device).expand(len(beat), 3)
    light = torch.tensor(LIGHT[time]).expand(len(beat), 3)
    PAINTERS[kind](sprite(w, Pose(facing, tilt, beat, torch.full_like(beat, radius)), body, light))
    w.paste(canvas)
    return canvas[:, :3]


def compare(blobs: Blobs, known: Silhouettes) -> Likeness:
    """The kind that the blobs resemble most, all taken together, and the size and place of each as that kind."""
    alike = stamp(blobs) @ known.stamp.T
    kinds = range(int(known.kind.max()) + 1)
    best = torch.stack([alike.masked_fill(known.kind != number, -1).amax(1) for number in kinds], 1)
    score = best.median(0).values
    order = score.argsort(descending=True)
    kind = int(order[0])
    margin = min(1.0, 10 * float(score[order[0]] - score[order[1]]))
    growth, x, y = zip(*(_against(blobs, known, alike, kind, size) for size in range(len(SIZES))), strict=True)
    growth = torch.stack(growth, 1)
    nearest = growth.log().abs().argmin(1, keepdim=True)
    x, y = (torch.stack(places, 1).gather(1, nearest)[:, 0] for places in (x, y))
    return Likeness(kind, margin, growth, x, y)


def _against(
    blobs: Blobs, known: Silhouettes, alike: Float[Tensor, "m s"], kind: int, size: int
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Each blob as a subject of one kind and size: how much wider it is, and where its centre is then."""
    fits = (known.kind == kind) & (known.size == size)
    if int(fits.sum()) < 4:
        return torch.full_like(blobs.x, 9.0), blobs.x, blobs.y
    best = alike[:, fits].topk(4, dim=1)
    weight = functional.softmax(best.values * 40, dim=1)
    area, x, y = ((weight * values[fits][best.indices]).sum(1) for values in (known.area, known.x, known.y))
    growth = (blobs.area / area).sqrt()
    return growth, blobs.x - growth * x, blobs.y - growth * y
