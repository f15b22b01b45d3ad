"""Snowy mountains over a pine forest."""

import torch

from heliograph.data.diorama.draw import box, colours, cover, ink, lay, soft, window
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
    zigzag,
)


def mountain_sky(shot: Shot) -> Canvas:
    """A cold, clear sky."""
    canvas = sky(shot, middle=0.30, horizon=0.62)
    sun(shot, canvas, low=0.40)
    return canvas


def mountain_weather(shot: Shot, canvas: Canvas) -> None:
    """Stars and northern lights by night, clouds."""
    stars(shot, canvas, bottom=0.48)
    _aurora(shot, canvas)
    clouds(shot, canvas, count=3, lowest=0.24)


def _aurora(shot: Shot, canvas: Canvas) -> None:
    if not shot.has("night"):
        return
    rows = int(0.5 * shot.height)
    luck = shot.luck("aurora", 6)
    y = shot.y[:rows]
    for band in range(2):
        drift = shot.scroll(0.1, 0.02 + 0.015 * band)[:, None]
        line = 0.22 + 0.09 * band + 0.05 * wave(shot.x + drift, luck[:, 3 * band : 3 * band + 3], (3, 5, 9))
        above = line[:, None, :] - y
        curtain = torch.exp(-above.clamp_min(0) / 0.11) * soft(-above, 0.03)
        flicker = 0.75 + 0.25 * wave(shot.x - 2 * drift, luck[:, :2], (13, 23), 0.7)
        light = curtain * flicker[:, None, :] * shot.hour(0.0, 0.0, 0.42 - 0.12 * band)
        lay(canvas[:, :, :rows], ink(colours([("6fae9e", "8a86c0")[band]], shot.device)), light)


def mountain_land(shot: Shot, land: Canvas) -> None:
    """A far range, the near range with snow and a shaded side, a pine forest, and a snow field with pines."""
    luck = shot.luck("range", 8)
    x = shot.ground(0.2)
    far = 0.55 - 0.05 * zigzag(x + luck[:, :1], 0.8) - 0.022 * zigzag(x + luck[:, 1:2], 0.25)
    ridge(land, far, torch.lerp(shot.solid("far"), shot.solid("snow"), 0.3), shot.solid("far"), 0.07, 0.46)
    _peaks(shot, land)
    x = shot.ground(0.6)
    wood = (
        0.765 + 0.018 * wave(x, luck[:, 2:4], (2, 5)) - 0.030 * zigzag(x, PERIOD / 76) - 0.016 * zigzag(x, PERIOD / 33)
    )
    ridge(land, wood, shot.solid("forest"), torch.lerp(shot.solid("forest"), shot.solid("rock"), 0.3), 0.12, 0.68)
    near = 0.868 + 0.020 * wave(shot.ground(1.0), luck[:, 4:7], (2, 5, 7))
    ridge(land, near, shot.solid("near"), shot.solid("near low"), 0.17, 0.8)
    for pine in scatter(shot, "pines", 8, 1.0, 0.075):
        _pine(shot, land, pine)


def _peaks(shot: Shot, land: Canvas) -> None:
    """The near range: the highest of five cones at every place; each has a lit and a shaded side and a cap of snow."""
    x = shot.ground(0.4)
    luck = shot.luck("peaks", 15).unflatten(1, (5, 3))
    top, offset = torch.full_like(x, 2.0), torch.zeros_like(x)
    for i in range(5):
        centre = (i + 0.25 + 0.5 * luck[:, i : i + 1, 0]) * PERIOD / 5
        along = torch.remainder(x - centre + PERIOD / 2, PERIOD) - PERIOD / 2
        line = 0.30 + 0.14 * luck[:, i : i + 1, 1] + (0.62 + 0.25 * luck[:, i : i + 1, 2]) * along.abs()
        offset = torch.where(line < top, along, offset)
        top = torch.minimum(top, line)
    top = top + 0.010 * zigzag(x, PERIOD / 26) + 0.006 * zigzag(x, PERIOD / 61)
    first = int(0.27 * shot.height)
    y = shot.y[first:]
    below = y - top[:, None, :]
    inside = cover(-below * 0.8, shot.height)
    rows = land[:, :, first:]
    lay(rows, shot.solid("rock"), inside)
    jag = (0.025 * zigzag(x, PERIOD / 22) + 0.015 * zigzag(x, PERIOD / 37))[:, None, :]
    snow = inside * cover((y - 0.575 - jag) * 0.7, shot.height)
    lay(rows, shot.solid("snow"), snow)
    wobble = 0.020 * zigzag(below, 0.11) * (below * 8).clamp(0, 1)
    shaded = inside * cover(-(offset[:, None, :] + wobble - 0.10 * below), shot.height)
    lay(rows, brighten(shot.solid("rock"), 0.88), shaded * 0.42)
    mist = inside * ((y - 0.62) / 0.2).clamp(0, 0.5)
    lay(rows, shot.solid("low"), mist * 0.8)


def _pine(shot: Shot, land: Canvas, pine: Thing) -> None:
    scale = (0.8 + 0.45 * pine.luck[:, 0])[:, None, None]
    w = window(land, pine.x, 0.82 + 0.06 * pine.luck[:, 1], 0.075, 0.125)
    u, v = w.x.abs() / scale, (w.y - 0.09) / scale
    pixels = w.pixels * scale
    w.lay(brighten(shot.solid("rock"), 0.55), cover(box(u, v + 0.005, 0.009, 0.02), pixels))
    for base, width, tall in ((-0.015, 0.050, 0.085), (-0.062, 0.040, 0.075), (-0.108, 0.029, 0.065)):
        slope = (u - width * (v - base + tall) / tall) * 0.85
        cone = cover(torch.maximum(slope, (v - base).expand_as(slope)), pixels)
        w.lay(shot.solid("forest"), cone)
        lit = cover(torch.maximum(slope, (v - base + 0.58 * tall + 0.3 * u).expand_as(slope)), pixels)
        w.lay(shot.solid("snow"), lit * cone * 0.85)
    w.paste(land)


MOUNTAINS = Place(mountain_sky, mountain_weather, mountain_land, nothing, nothing)
