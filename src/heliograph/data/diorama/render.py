"""From records to frames: any frames of the endless videos of any records, with the subjects' exact masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray as Array
from torch import Tensor

from heliograph.data.diorama.draw import colours, window
from heliograph.data.diorama.motion import REACH, Poses, poses, seconds
from heliograph.data.diorama.palette import LIGHT, SUBJECT
from heliograph.data.diorama.record import Record
from heliograph.data.diorama.scenery import Shot
from heliograph.data.diorama.scenes import PLACES
from heliograph.data.diorama.subjects import PAINTERS, Pose, sprite
from heliograph.errors import UserError

MIRROR = 0.92
"""Where the water mirrors a boat, in radii below its centre."""


@dataclass(frozen=True)
class Footage:
    """Rendered clips.

    Attributes:
        frames: 0 to 255.
        mask: share of each pixel that shows a subject, in [0, 1].
    """

    frames: UInt8[Tensor, "b f 3 h w"]
    mask: Float[Tensor, "b f h w"]


def render(
    records: Sequence[Record],
    firsts: Sequence[int],
    num_frames: int,
    height: int,
    width: int,
    device: torch.device | str = "cpu",
) -> Footage:
    """Frames `first` .. `first + num_frames - 1` of the endless video of each record, at 24 frames a second.

    The same record, frame and size always give the same picture, whatever else is rendered with it (up to one
    level of 255 between devices). On the CPU one clip at a time is fastest, on a GPU many at once.

    Args:
        records: the clips.
        firsts: first frame of each clip, 0 or more.
        height, width: pixels, at least 32; no more than twice as wide as high.

    Raises:
        UserError: if a size or a frame number cannot be used.
    """
    _check(records, firsts, num_frames, height, width)
    device = torch.device(device)
    frames = torch.empty(len(records), num_frames, 3, height, width, dtype=torch.uint8, device=device)
    mask = torch.empty(len(records), num_frames, height, width, device=device)
    for members in _groups(records):
        chosen = tuple(records[i] for i in members)
        times = np.stack([seconds(firsts[i], num_frames) for i in members])
        canvas = _paint(Shot(chosen, times, height, width, device))
        where = torch.tensor(members, device=device)
        frames[where] = _levels(canvas).unflatten(0, (len(members), num_frames))
        mask[where] = canvas[:, 3].unflatten(0, (len(members), num_frames))
    return Footage(frames, mask)


def backdrop(
    records: Sequence[Record], first: int, height: int, width: int, device: torch.device | str = "cpu"
) -> UInt8[Tensor, "b 3 h w"]:
    """One frame of each record's scene without its subjects.

    Args and errors as for `render`.
    """
    _check(records, [first] * len(records), 1, height, width)
    device = torch.device(device)
    frames = torch.empty(len(records), 3, height, width, dtype=torch.uint8, device=device)
    for members in _groups(records):
        times = np.stack([seconds(first, 1)] * len(members))
        canvas = _paint(Shot(tuple(records[i] for i in members), times, height, width, device), populated=False)
        frames[torch.tensor(members, device=device)] = _levels(canvas)
    return frames


def _levels(canvas: Float[Tensor, "n 4 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """The picture in 0 to 255; by way of 16 bits, which is faster on a CPU."""
    return canvas[:, :3].mul(255).add_(0.5).to(torch.int16).to(torch.uint8)


def _check(records: Sequence[Record], firsts: Sequence[int], num_frames: int, height: int, width: int) -> None:
    if not records or len(records) != len(firsts):
        raise UserError(f"{len(records)} records with {len(firsts)} first frames; give one first frame for each record")
    if num_frames < 1 or min(firsts) < 0:
        raise UserError(
            f"num_frames={num_frames} from {min(firsts)} cannot be shown; use 1 or more frames from 0 or later"
        )
    if height < 32 or not height / 2 <= width <= 2 * height:
        raise UserError(
            f"{height}x{width} is no size for the world; use a height from 32 and a width of half to twice that"
        )


def _groups(records: Sequence[Record]) -> list[list[int]]:
    """Clips that can be painted together: the same scene and kind, camera still or moving."""
    groups: dict[tuple[str, str, bool], list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault((record.scene, record.kind, record.pan != "none"), []).append(i)
    return list(groups.values())


def _paint(shot: Shot, *, populated: bool = True) -> Float[Tensor, "n 4 h w"]:
    place = PLACES[shot.records[0].scene]
    count, frames = shot.times.shape
    still = Shot(shot.records, np.zeros((count, 1)), shot.height, shot.width, shot.device)
    canvas = place.sky(still).repeat_interleave(frames, 0)
    place.weather(shot, canvas)
    setting = still if shot.records[0].pan == "none" else shot
    land = setting.blank()
    place.land(setting, land)
    _settle(canvas.unflatten(0, (count, frames)), land.unflatten(0, (count, -1)))
    place.life(shot, canvas)
    if populated:
        _populate(shot, canvas)
    place.front(shot, canvas)
    return canvas


def _settle(canvas: Float[Tensor, "b f 4 h w"], land: Float[Tensor, "b g 4 h w"]) -> None:
    """Lay the land over the sky; `g` is 1 where the camera stands still."""
    colour = canvas[:, :, :3]
    colour.mul_(1 - land[:, :, 3:]).add_(land[:, :, :3])


def _populate(shot: Shot, canvas: Float[Tensor, "n 4 h w"]) -> None:
    """Draw the subjects, the last first."""
    clips = canvas.unflatten(0, shot.times.shape)
    states = [poses(record, own, shot.aspect) for record, own in zip(shot.records, shot.times, strict=True)]
    for order in reversed(range(max(record.count for record in shot.records))):
        members = [i for i, record in enumerate(shot.records) if record.count > order]
        records, own = [shot.records[i] for i in members], [states[i] for i in members]
        if len(members) == len(shot.records):
            _draw(records, own, order, canvas)
        else:
            where = torch.tensor(members, device=shot.device)
            part = clips[where].flatten(0, 1)
            _draw(records, own, order, part)
            clips[where] = part.unflatten(0, (len(members), -1))


def _draw(records: list[Record], states: list[Poses], order: int, canvas: Float[Tensor, "n 4 h w"]) -> None:
    """Draw subject number `order` of every clip, boats with their reflection in the water."""

    def each(rows: list[Array]) -> Tensor:
        return torch.from_numpy(np.concatenate(rows).astype(np.float32)).to(canvas.device)

    names = ("x", "y", "facing", "tilt", "beat")
    x, y, facing, tilt, beat = (each([getattr(state, name)[order] for state in states]) for name in names)
    radius = each([np.full(state.x.shape[1], state.radius) for state in states])
    frames = len(canvas) // len(records)
    body = colours([SUBJECT[record.colour] for record in records], canvas.device).repeat_interleave(frames, 0)
    light = torch.tensor([LIGHT[record.time] for record in records], device=canvas.device)
    light, pose = light.repeat_interleave(frames, 0), Pose(facing, tilt, beat, radius)
    half = (REACH + 0.12) * max(state.radius for state in states)
    if records[0].kind == "boat":
        below = window(canvas, x, y + MIRROR * radius, half, 0.8 * half)
        mirrored = replace(below, y=MIRROR * radius[:, None, None] - below.y)
        PAINTERS["boat"](sprite(mirrored, pose, body, light))
        mirrored.paint[:, 3] = 0  # an image in the water is no subject
        mirrored.paste(canvas, opacity=0.22)
    upright = window(canvas, x, y, half, half)
    PAINTERS[records[0].kind](sprite(upright, pose, body, light))
    upright.paste(canvas)
