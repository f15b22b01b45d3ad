"""The open sea with islands on the horizon."""

from dataclasses import dataclass

import torch

from heliograph.data.diorama.draw import cover, lay, oval, window
from heliograph.data.diorama.palette import GLOW
from heliograph.data.diorama.scenery import (
    Canvas,
    Place,
    Shot,
    airy_weather,
    scatter,
    sky,
    sun,
    sun_place,
    wave,
)

HORIZON = 0.56


def sea_sky(shot: Shot) -> Canvas:
    """Sky down to the horizon, water below it."""
    canvas = sky(shot, middle=0.30, horizon=HORIZON)
    sun(shot, canvas, low=0.46)
    depth = ((shot.y - HORIZON) / (1 - HORIZON)).clamp(0, 1)
    water = torch.lerp(shot.paint("water"), shot.paint("water low"), depth.sqrt())
    lay(canvas, water, cover(HORIZON - shot.y, shot.height).expand(canvas.shape[0], -1, shot.width))
    return canvas


def sea_land(shot: Shot, land: Canvas) -> None:
    """Low islands on the horizon, each with a strip of beach and a farther hill."""
    for island in scatter(shot, "islands", 3, 0.5, 0.34):
        numbers = island.luck
        w = window(land, island.x, torch.full_like(island.x, HORIZON - 0.05), 0.34, 0.10)
        wide = (0.16 + 0.12 * numbers[:, 0])[:, None, None]
        tall = (0.045 + 0.055 * numbers[:, 1])[:, None, None]
        lean = (0.5 * (numbers[:, 2] - 0.5))[:, None, None] * wide
        y = w.y - 0.05
        flat = cover(y, w.pixels)
        back = oval(w.x + 0.5 * lean + 0.3 * wide, y, wide * 0.62, tall * 0.72)
        w.lay(shot.solid("far"), cover(back, w.pixels) * flat)
        hill = oval(w.x - lean, y, wide * 0.7, tall)
        w.lay(shot.solid("island"), cover(hill, w.pixels) * flat)
        sand = oval(w.x, y, wide, 0.014)
        w.lay(shot.solid("beach"), cover(sand, w.pixels) * flat)
        w.paste(land)


def sea_life(shot: Shot, canvas: Canvas) -> None:
    """Rolling water with foam lines, and the sun's or moon's path glittering on it."""
    _swell(shot, canvas, SWELLS[0])
    _swell(shot, canvas, SWELLS[1])
    _glitter(shot, canvas, HORIZON, 0.83)


def sea_front(shot: Shot, canvas: Canvas) -> None:
    """Two waves before the boats."""
    _swell(shot, canvas, SWELLS[2])
    _swell(shot, canvas, SWELLS[3])
    _glitter(shot, canvas, 0.80, 1.0)


@dataclass(frozen=True)
class Swell:
    """One line of waves.

    Attributes:
        order: its number, the farthest first.
        level, tall: height of its line in the picture, and how far the line goes up and down.
        turns: waves in a PERIOD.
        parallax: share of the nearest scenery's speed under a panning camera.
        bottom: where the next swell covers it.
    """

    order: int
    level: float
    tall: float
    turns: tuple[int, int]
    parallax: float
    bottom: float


SWELLS = (
    Swell(0, 0.615, 0.007, (7, 11), 0.45, 0.73),
    Swell(1, 0.685, 0.010, (5, 9), 0.65, 0.83),
    Swell(2, 0.775, 0.014, (4, 7), 0.85, 0.95),
    Swell(3, 0.885, 0.018, (3, 5), 1.0, 1.0),
)


def _swell(shot: Shot, canvas: Canvas, swell: Swell) -> None:
    order = swell.order
    roll = shot.scroll(swell.parallax, (-1) ** (order + 1) * (0.018 + 0.005 * order))
    rise = 0.006 * torch.sin(2 * torch.pi * shot.cycle(0.22, 0.27 * order))
    luck = shot.luck(f"swell {order}", 2)
    top = swell.level + rise[:, None] + swell.tall * wave(shot.x + roll[:, None], luck, swell.turns, 0.5)
    tone = torch.lerp(shot.paint("water"), shot.paint("water low"), 0.22 + 0.24 * order)
    deep = torch.lerp(shot.paint("water"), shot.paint("water low"), min(1.0, 0.45 + 0.24 * order))
    first, last = int((swell.level - 0.045) * shot.height), int(swell.bottom * shot.height)
    below = shot.y[first:last] - top[:, None, :]
    rows = canvas[:, :, first:last]
    lay(rows, torch.lerp(tone, deep, (below / 0.14).clamp_(0, 1)[:, None]), cover(-below, shot.height))
    crest = 0.0055 + 0.0025 * order
    lay(rows, shot.paint("foam"), cover((below - crest).abs() - crest, shot.height) * (0.55 + 0.1 * order))


def _glitter(shot: Shot, canvas: Canvas, top: float, bottom: float) -> None:
    """The light of sun or moon on the water between two heights: short bars that come and go, wider below.

    The bars are sin(a - t) + .6 sin(b + 2t) for two still patterns a and b, taken apart so that only the sines and
    cosines of the time t change from frame to frame.
    """
    first, last = int(top * shot.height), int(bottom * shot.height)
    frames = shot.times.shape[1]
    centre, _ = sun_place(shot, 0.0)
    y, x = shot.y[first:last], shot.x - centre[::frames]
    depth = y - HORIZON
    path = torch.exp(-((x / (0.05 + 0.22 * depth)) ** 2)) * ((y - top) / 0.03).clamp(0, 1)
    row = 2 * torch.pi * 5.0 * torch.log(depth.clamp_min(0) * 10 + 0.6)
    wobble = 1.6 * torch.sin(13 * x + 0.8 * row)
    a, b = row + wobble, 0.6 * row - 1.7 * wobble
    still = torch.stack((torch.sin(a), torch.cos(a), 0.6 * torch.sin(b), 0.6 * torch.cos(b)), 1)
    turn = 2 * torch.pi * shot.cycle(0.5)
    moving = torch.stack((torch.cos(turn), -torch.sin(turn), torch.cos(2 * turn), torch.sin(2 * turn)), 1)
    bars = moving.unflatten(0, (-1, frames)) @ still.flatten(2)
    light = bars.flatten(0, 1).unflatten(1, still.shape[2:]).sub_(0.1).mul_(1.6).clamp_(0, 1)
    light *= (path * shot.hour(0.30, 0.60, 0.50)[::frames]).repeat_interleave(frames, 0)
    lay(canvas[:, :, first:last], shot.glow(GLOW), light)


SEA = Place(sea_sky, airy_weather, sea_land, sea_life, sea_front)
