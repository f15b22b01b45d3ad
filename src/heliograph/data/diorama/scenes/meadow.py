"""A flowery meadow between rolling hills."""

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.data.diorama.draw import Field, box, colours, cover, disc, ink, lay, merge, window
from heliograph.data.diorama.scenery import (
    PERIOD,
    Canvas,
    Place,
    Shot,
    airy_weather,
    brighten,
    nothing,
    ridge,
    scatter,
    sky,
    sun,
    wave,
)


def meadow_sky(shot: Shot) -> Canvas:
    """A clear sky over the hills."""
    canvas = sky(shot, middle=0.34, horizon=0.66)
    sun(shot, canvas, low=0.50)
    return canvas


def meadow_land(shot: Shot, land: Canvas) -> None:
    """Three rolling hills, trees on the second, flowers on the first."""
    luck = shot.luck("hills", 9)
    far = 0.60 + 0.030 * wave(shot.ground(0.3), luck[:, :3], (2, 5, 7))
    ridge(land, far, shot.solid("far"), torch.lerp(shot.solid("far"), shot.solid("low"), 0.35), 0.25, 0.5)
    ridge(land, _hill(shot.ground(0.6), luck), shot.solid("rock"), shot.solid("near"), 0.30, 0.55)
    for tree in scatter(shot, "trees", 7, 0.6, 0.11):
        _tree(shot, land, tree.x, _hill(tree.home[:, None], luck)[:, 0], tree.luck)
    near = 0.835 + 0.022 * wave(shot.ground(1.0), luck[:, 6:], (3, 5, 8))
    edge = torch.lerp(shot.solid("near"), shot.solid("rock"), 0.35)
    ridge(land, near, edge, brighten(shot.solid("near"), 0.84), 0.14, 0.77)
    _flowers(shot, land)


def _hill(x: Field, luck: Float[Tensor, "n k"]) -> Field:
    return 0.695 + 0.028 * wave(x, luck[:, 3:6], (2, 3, 6))


def _tree(shot: Shot, land: Canvas, x: Tensor, y: Tensor, numbers: Float[Tensor, "n 4"]) -> None:
    scale = (0.75 + 0.5 * numbers[:, 0])[:, None, None]
    w = window(land, x, y - 0.06, 0.11, 0.13)
    u, v = w.x / scale, (w.y - 0.06) / scale
    pixels = w.pixels * scale
    w.lay(shot.solid("trunk"), cover(box(u, v + 0.02, 0.010, 0.04), pixels))
    crown = merge(disc(u, v + 0.115, 0.048), disc(u + 0.034, v + 0.075, 0.038), disc(u - 0.036, v + 0.078, 0.040))
    inside = cover(crown, pixels)
    w.lay(shot.solid("tree"), inside)
    sunny = merge(disc(u + 0.012, v + 0.128, 0.030), disc(u + 0.042, v + 0.084, 0.020))
    w.lay(torch.lerp(shot.solid("tree"), shot.solid("rock"), 0.45), cover(sunny, pixels) * inside)
    w.paste(land)


def _flowers(shot: Shot, land: Canvas) -> None:
    tones = ("d9c0c8", "d8cfa4", "c4b4d4")
    for row, (tone, level) in enumerate(zip(tones, (0.905, 0.94, 0.972), strict=True)):
        spacing = PERIOD / (13 - 2 * row)
        along = shot.ground(1.0)[:, None, :] + row * 0.17
        cell = torch.floor(along / spacing)
        x = along - (cell + 0.5) * spacing
        first = int((level - 0.05) * shot.height)
        y = shot.y[first:] - level - 0.012 * torch.sin(torch.remainder(cell, 13 - 2 * row) * 2.4)
        bloom = disc(x, y, 0.013 + 0.002 * row)
        colour = torch.lerp(
            shot.solid("near"), ink(colours([tone], shot.device), 1.0), shot.hour(1.0, 0.7, 0.3)[..., None]
        )
        lay(land[:, :, first:], colour, cover(bloom, shot.height))


def meadow_front(shot: Shot, canvas: Canvas) -> None:
    """Fireflies by night."""
    if not shot.has("night"):
        return
    colour = ink(colours(["cfc98c"], shot.device))
    luck = shot.luck("fireflies", 18).unflatten(1, (6, 3))
    for i in range(6):
        home_x, home_y, phase = luck[:, i].unbind(1)
        turn = 2 * torch.pi * (shot.cycle(0.11 + 0.02 * i) + phase)
        x = home_x * shot.aspect + 0.05 * torch.sin(turn)
        y = 0.72 + 0.2 * home_y + 0.03 * torch.cos(2 * turn)
        w = window(canvas, x, y, 0.035, 0.035)
        glow = torch.exp(-(w.x**2 + w.y**2) / 0.011**2)
        lit = (0.5 + 0.5 * torch.sin(2 * torch.pi * (shot.cycle(0.45) + phase)))[:, None, None]
        w.lay(colour, glow * lit * shot.hour(0.0, 0.0, 0.9))
        w.paste(canvas)


MEADOW = Place(meadow_sky, airy_weather, meadow_land, nothing, meadow_front)
