"""A coral reef under water."""

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.data.diorama.draw import Field, colours, cover, disc, ink, lay, limb, merge, window
from heliograph.data.diorama.palette import CORALS
from heliograph.data.diorama.scenery import (
    Canvas,
    Place,
    Shot,
    Thing,
    brighten,
    nothing,
    ridge,
    scatter,
    sky,
    wave,
)


def reef_sky(shot: Shot) -> Canvas:
    """Water, light at the top and deep below."""
    canvas = sky(shot, middle=0.38, horizon=0.90)
    glow = torch.exp(-shot.y / 0.10) * shot.hour(0.35, 0.40, 0.16)
    lay(canvas, shot.paint("ray"), glow.expand(-1, -1, shot.width))
    return canvas


def reef_weather(shot: Shot, canvas: Canvas) -> None:
    """Shafts of light that wander through the water."""
    slant = shot.x - 0.42 * shot.y
    angles = [2 * torch.pi * turn * slant for turn in (0.9, 2.1, 3.3)]
    basis = torch.stack([f(angle) for angle in angles for f in (torch.sin, torch.cos)]).flatten(1)
    luck = shot.luck("rays", 3)
    moves = []
    for k, (turn, speed, tall) in enumerate(((0.9, 0.035, 0.5), (2.1, -0.055, 0.45), (3.3, 0.045, 0.3))):
        phase = 2 * torch.pi * (luck[:, k] + turn * shot.scroll(0.25, period=1 / turn) + shot.cycle(speed))
        moves += [tall * torch.cos(phase), tall * torch.sin(phase)]
    light = (torch.stack(moves, 1) @ basis).unflatten(1, slant.shape)
    fade = (1 - shot.y / 0.85).clamp(0, 1) * shot.hour(0.34, 0.32, 0.22)
    light = light.sub_(0.05).clamp_(0, 1).mul_(fade)
    lay(canvas, shot.paint("ray"), light)


def reef_land(shot: Shot, land: Canvas) -> None:
    """Two dark reefs, a sandy floor and corals."""
    luck = shot.luck("floor", 9)
    far = 0.80 + 0.050 * wave(shot.ground(0.3), luck[:, :3], (3, 7, 11), 0.75)
    ridge(land, far, shot.solid("far"), shot.solid("low"), 0.22, 0.68)
    rock = 0.87 + 0.045 * wave(shot.ground(0.6), luck[:, 3:6], (3, 8, 13), 0.7)
    ridge(land, rock, shot.solid("rock"), shot.solid("low"), 0.18, 0.76)
    for coral in scatter(shot, "corals", 10, 1.0, 0.21):
        foot = _floor(coral.home[:, None], luck)[:, 0] + 0.012
        (_branches, _dome, _fan)[coral.order % 3](shot, land, coral, foot)
    sand = _floor(shot.ground(1.0), luck)
    ridge(land, sand, shot.solid("sand"), shot.solid("sand low"), 0.13, 0.86)


def _floor(x: Field, luck: Float[Tensor, "n k"]) -> Field:
    return 0.925 + 0.014 * wave(x, luck[:, 6:9], (3, 5, 8))


def _coral(shot: Shot, order: int, share: float = 1.0) -> Float[Tensor, "n 4 1 1"]:
    """A coral's colour: dimmed with the hour towards the water's."""
    own = brighten(ink(colours([CORALS[order % len(CORALS)]], shot.device), 1.0), share)
    return torch.lerp(own, shot.solid("low"), shot.hour(0.0, 0.40, 0.74)[..., None])


def _branches(shot: Shot, land: Canvas, coral: Thing, foot: Float[Tensor, " n"]) -> None:
    scale = (1.05 + 0.5 * coral.luck[:, 0])[:, None, None]
    w = window(land, coral.x, foot - 0.11, 0.17, 0.14)
    u, v = w.x / scale, (w.y - 0.11) / scale
    twigs = ((0.0, -0.13), (-0.05, -0.11), (0.055, -0.105), (-0.085, -0.06), (0.085, -0.065))
    shape = merge(*(limb(u, v, end_x, end_y, 0.017, 0.013) for end_x, end_y in twigs))
    tips = merge(*(disc(u - end_x, v - end_y, 0.010) for end_x, end_y in twigs))
    w.lay(_coral(shot, coral.order), cover(shape, w.pixels * scale))
    w.lay(_coral(shot, coral.order, 1.18), cover(tips, w.pixels * scale))
    w.paste(land)


def _dome(shot: Shot, land: Canvas, coral: Thing, foot: Float[Tensor, " n"]) -> None:
    scale = (1.05 + 0.5 * coral.luck[:, 0])[:, None, None]
    w = window(land, coral.x, foot - 0.06, 0.18, 0.14)
    u, v = w.x / scale, (w.y - 0.06) / scale
    for k, (x, y, r) in enumerate(((0.055, -0.005, 0.050), (-0.06, -0.01, 0.045), (0.0, -0.03, 0.062))):
        inside = cover(disc(u - x, v - y, r), w.pixels * scale)
        w.lay(_coral(shot, coral.order, 0.86 + 0.07 * k), inside)
        w.lay(
            _coral(shot, coral.order, 1.06 + 0.07 * k),
            cover(disc(u - x + 0.3 * r, v - y + 0.35 * r, 0.42 * r), w.pixels) * inside,
        )
    w.paste(land)


def _fan(shot: Shot, land: Canvas, coral: Thing, foot: Float[Tensor, " n"]) -> None:
    scale = (1.05 + 0.5 * coral.luck[:, 0])[:, None, None]
    w = window(land, coral.x, foot - 0.10, 0.21, 0.15)
    u, v = w.x / scale, (w.y - 0.10) / scale
    away = torch.sqrt(u * u + v * v)
    angle = torch.atan2(u, -v + 1e-6)
    edge = 0.115 + 0.010 * torch.cos(14 * angle)
    inside = cover(torch.maximum(away - edge, angle.abs() * 0.1 - 0.1), w.pixels * scale)
    w.lay(_coral(shot, coral.order, 0.92), inside)
    ribs = (0.5 + 0.5 * torch.cos(14 * angle)) * (away / 0.115).clamp(0, 1)
    w.lay(_coral(shot, coral.order, 1.15), ribs * inside * 0.7)
    w.paste(land)


def reef_life(shot: Shot, canvas: Canvas) -> None:
    """Swaying kelp, rising bubbles."""
    for kelp in scatter(shot, "kelp", 7, 0.85, 0.075):
        _kelp(shot, canvas, kelp)
    luck = shot.luck("bubbles", 18).unflatten(1, (6, 3))
    colour = shot.paint("ray")
    for i in range(6):
        x, phase, size = luck[:, i].unbind(1)
        way = shot.cycle(0.12 + 0.012 * i, phase)
        wrap = shot.aspect + 0.4
        across = torch.remainder(x * wrap - shot.scroll(0.6, period=wrap), wrap) - 0.2
        across = across + 0.012 * torch.sin(2 * torch.pi * (4 * way + phase))
        radius = (0.013 + 0.006 * size)[:, None, None]
        w = window(canvas, across, 0.95 - 1.05 * way, 0.03, 0.03)
        away = torch.sqrt(w.x**2 + w.y**2)
        w.lay(colour, cover(away - radius, w.pixels) * 0.22)
        w.lay(colour, cover((away - radius + 0.004).abs() - 0.004, w.pixels) * 0.55)
        w.paste(canvas)


def _kelp(shot: Shot, canvas: Canvas, kelp: Thing) -> None:
    numbers = kelp.luck
    tall = (0.16 + 0.16 * numbers[:, 0])[:, None, None]
    w = window(canvas, kelp.x, torch.full_like(kelp.x, 0.79), 0.075, 0.17)
    up = ((0.95 - (w.y + 0.79)) / tall).clamp(0, 1.05)
    turn = 2 * torch.pi * (shot.cycle(0.22) + numbers[:, 1])[:, None, None]
    bend = 0.030 * up * torch.sin(turn + 3.0 * up) + 0.012 * torch.sin(9 * up + 6 * numbers[:, 2, None, None])
    wide = 0.013 * (1 - up).clamp_min(0).sqrt() + 0.002
    inside = cover((w.x - bend).abs() - wide, w.pixels) * cover((up - 1) * tall, w.pixels)
    w.lay(shot.paint("kelp"), inside)
    w.lay(
        torch.lerp(shot.paint("kelp"), shot.paint("ray"), 0.22),
        cover((w.x - bend - 0.3 * wide).abs() - 0.3 * wide, w.pixels) * inside,
    )
    w.paste(canvas)


REEF = Place(reef_sky, reef_weather, reef_land, reef_life, nothing)
