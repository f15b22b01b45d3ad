"""Dunes and cacti before table mountains."""

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.data.diorama.draw import cover, lay, limb, merge, window
from heliograph.data.diorama.scenery import (
    PERIOD,
    Canvas,
    Place,
    Shot,
    Thing,
    brighten,
    clouds,
    nothing,
    ridge,
    scatter,
    sky,
    stars,
    sun,
    wave,
)


def desert_sky(shot: Shot) -> Canvas:
    """A warm, dusty sky."""
    canvas = sky(shot, middle=0.32, horizon=0.64)
    sun(shot, canvas, low=0.48)
    return canvas


def desert_weather(shot: Shot, canvas: Canvas) -> None:
    """Many stars by night, and one thin cloud."""
    stars(shot, canvas, bottom=0.56, count=36)
    clouds(shot, canvas, count=2, lowest=0.18)


def desert_land(shot: Shot, land: Canvas) -> None:
    """Table mountains far off, two dunes with a shaded side, cacti between."""
    luck = shot.luck("dunes", 8)
    x = shot.ground(0.3)
    steps = torch.sigmoid(9 * (wave(x, luck[:, :3], (3, 5, 8), 0.7) - 0.35))
    far = 0.645 - 0.085 * steps - 0.012 * wave(x, luck[:, 1:4], (7, 11, 13))
    ridge(land, far, shot.solid("far"), torch.lerp(shot.solid("far"), shot.solid("low"), 0.55), 0.14, 0.5)
    _dune(shot, land, 0.6, 0.715, ("dune", "dune low"), luck[:, 3:5], (3, 5))
    for cactus in scatter(shot, "cacti", 5, 0.8, 0.08):
        _cactus(shot, land, cactus)
    _dune(shot, land, 1.0, 0.855, ("near", "near low"), luck[:, 5:7], (2, 5))


def _dune(
    shot: Shot,
    land: Canvas,
    parallax: float,
    level: float,
    names: tuple[str, str],
    luck: Float[Tensor, "n 2"],
    turns: tuple[int, int],
) -> None:
    x = shot.ground(parallax)
    crest = level - 0.045 * wave(x, luck, turns, 0.35)
    lit, shaded = shot.solid(names[0]), shot.solid(names[1])
    ridge(land, crest, lit, torch.lerp(lit, shaded, 0.35), 0.25, level - 0.07)
    first = int((level - 0.07) * shot.height)
    below = shot.y[first:] - crest[:, None, :]
    leaning = x[:, None, :] + 0.75 * below.clamp_min(0)
    fall = torch.zeros_like(leaning)
    for k, turn in enumerate(turns):
        angle = 2 * torch.pi * (leaning * (turn / PERIOD) + luck[:, k, None, None])
        fall -= 0.35**k * turn / turns[0] * torch.cos(angle)
    shade = cover(0.10 - 0.12 * fall, shot.height) * cover(-below, shot.height) * (1 - below / 0.3).clamp(0, 1)
    lay(land[:, :, first:], shaded, shade)


def _cactus(shot: Shot, land: Canvas, cactus: Thing) -> None:
    scale = (0.8 + 0.4 * cactus.luck[:, 0])[:, None, None]
    w = window(land, cactus.x, torch.full_like(cactus.x, 0.745), 0.08, 0.12)
    side = torch.where(cactus.luck[:, 1] < 0.5, -1.0, 1.0)[:, None, None]
    u, v = w.x * side / scale, (w.y - 0.10) / scale
    trunk = limb(u, v, 0.0, -0.17, 0.020, 0.018)
    left = merge(limb(u, v + 0.075, -0.05, 0.0, 0.013, 0.013), limb(u + 0.05, v + 0.075, 0.0, -0.05, 0.013, 0.013))
    right = merge(limb(u, v + 0.045, 0.045, 0.0, 0.013, 0.013), limb(u - 0.045, v + 0.045, 0.0, -0.065, 0.013, 0.013))
    inside = cover(merge(trunk, left, right), w.pixels * scale)
    w.lay(shot.solid("cactus"), inside)
    w.lay(brighten(shot.solid("cactus"), 1.16), cover((u * side + 0.006).abs() - 0.006, w.pixels) * inside)
    w.paste(land)


DESERT = Place(desert_sky, desert_weather, desert_land, nothing, nothing)
