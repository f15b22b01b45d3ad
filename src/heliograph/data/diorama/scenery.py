"""Parts that several scenes share: sky, sun and moon, stars, clouds, ridges, and the shot they are painted for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array
from torch import Tensor

from heliograph.data.diorama.draw import (
    Field,
    Number,
    Window,
    colours,
    cover,
    disc,
    ink,
    lay,
    limb,
    merge,
    soft,
    window,
)
from heliograph.data.diorama.motion import draws, pan_offset
from heliograph.data.diorama.palette import GLOW, SCENERY, SUN
from heliograph.data.diorama.record import Record, Time

Canvas = Float[Tensor, "n 4 h w"]
"""Pictures being painted: red, green, blue in [0, 1], and the share of the subject or, for the land, of the land."""

PERIOD = 4.0
"""Width of the scenery in picture heights, after which it repeats under a panning camera."""


@dataclass(frozen=True)
class Shot:
    """Clips of one scene painted together: `b` clips of `f` frames are `n = b f` pictures, clip by clip.

    Attributes:
        records: the clips.
        times: seconds of each frame; one frame at time 0 where the scenery stands still.
        height, width: pixels.
        device: where to draw.
    """

    records: tuple[Record, ...]
    times: Float[Array, "b f"]
    height: int
    width: int
    device: torch.device

    @property
    def aspect(self) -> float:
        """Picture width over height."""
        return self.width / self.height

    @property
    def x(self) -> Float[Tensor, " w"]:
        """Places of the pixel columns in picture heights."""
        return (torch.arange(self.width, device=self.device) + 0.5) / self.height

    @property
    def y(self) -> Float[Tensor, "h 1"]:
        """Places of the pixel rows in picture heights."""
        return ((torch.arange(self.height, device=self.device) + 0.5) / self.height)[:, None]

    def blank(self) -> Canvas:
        """An empty canvas."""
        return torch.zeros(self.times.size, 4, self.height, self.width, device=self.device)

    def spread(self, values: Array) -> Tensor:
        """One row of values for each clip, as one row for each picture."""
        rows = np.repeat(np.asarray(values, np.float32), self.times.shape[1], axis=0)
        return torch.from_numpy(rows).to(self.device)

    def luck(self, purpose: str, count: int) -> Float[Tensor, "n k"]:
        """Random numbers in [0, 1) of each clip's seed: see `draws`."""
        return self.spread(np.stack([draws(record, purpose, count) for record in self.records]))

    def cycle(self, rate: float, shift: Field | float = 0.0) -> Float[Tensor, " n"]:
        """Part of its period, in [0, 1), that something with `rate` periods a second is in."""
        return torch.remainder(self.each(self.times * rate % 1.0) + shift, 1.0)

    def scroll(self, parallax: float, speed: float = 0.0, period: float = PERIOD) -> Float[Tensor, " n"]:
        """How far a layer has moved to the left, modulo `period`: with the pan, and by `speed` heights a second."""
        return self.each(self.moved(parallax, speed) % period)

    def moved(self, parallax: float, speed: float = 0.0) -> Float[Array, "b f"]:
        """The same, exact and without end."""
        pans = np.stack([pan_offset(record, own) for record, own in zip(self.records, self.times, strict=True)])
        return parallax * pans + speed * self.times

    def each(self, values: Float[Array, "b f"]) -> Float[Tensor, " n"]:
        """One value for each picture."""
        return torch.from_numpy(values.astype(np.float32).reshape(-1)).to(self.device)

    def ground(self, parallax: float) -> Float[Tensor, "n w"]:
        """Places of the pixel columns on a layer of the scenery."""
        return self.x + self.scroll(parallax)[:, None]

    def paint(self, name: str) -> Float[Tensor, "n 4 1 1"]:
        """A scenery colour of each clip's scene and hour, ready to be laid on a canvas."""
        return ink(self._by_clip([SCENERY[record.scene][name][record.time] for record in self.records]))

    def solid(self, name: str) -> Float[Tensor, "n 4 1 1"]:
        """The same for the land, whose canvas keeps in its last channel how much of the sky it covers."""
        return ink(self._by_clip([SCENERY[record.scene][name][record.time] for record in self.records]), alpha=1.0)

    def glow(self, table: dict[Time, str]) -> Float[Tensor, "n 4 1 1"]:
        """A colour that depends on the hour alone."""
        return ink(self._by_clip([table[record.time] for record in self.records]))

    def _by_clip(self, codes: list[str]) -> Float[Tensor, "n 3"]:
        return colours(codes, self.device).repeat_interleave(self.times.shape[1], 0)

    def hour(self, day: float, sunset: float, night: float) -> Float[Tensor, "n 1 1"]:
        """A number that depends on the hour alone."""
        values = {"day": day, "sunset": sunset, "night": night}
        return self.spread(np.array([values[record.time] for record in self.records]))[:, None, None]

    def has(self, time: str) -> bool:
        """Whether any clip plays at this hour."""
        return any(record.time == time for record in self.records)


def sky(shot: Shot, middle: float, horizon: float) -> Canvas:
    """A canvas with a smooth gradient through the scene's colours "high", "middle" and "low"."""
    canvas = shot.blank()
    rise = (shot.y / middle).clamp(0, 1)
    fall = ((shot.y - middle) / (horizon - middle)).clamp(0, 1)
    upper = torch.lerp(shot.paint("high"), shot.paint("middle"), rise * rise * (3 - 2 * rise))
    canvas += torch.lerp(upper, shot.paint("low"), fall * fall * (3 - 2 * fall))
    return canvas


def sun_place(shot: Shot, low: float) -> tuple[Float[Tensor, "n 1 1"], Float[Tensor, "n 1 1"]]:
    """Centre of the sun or moon: high by day and night, at height `low` at sunset."""
    luck = shot.luck("sun", 2)[..., None, None]
    side = torch.where(luck[:, 0] < 0.5, 0.20 + 0.24 * luck[:, 0], 0.68 + 0.24 * (luck[:, 0] - 0.5))
    return shot.aspect * side, shot.hour(0.15, low, 0.15) + 0.03 * luck[:, 1]


def sun(shot: Shot, canvas: Canvas, low: float) -> None:
    """The sun with its glow; by night the moon with three dark seas and a halo."""
    centre_x, centre_y = sun_place(shot, low)
    x, y = shot.x - centre_x, shot.y - centre_y
    far = torch.sqrt(x * x + y * y)
    radius = shot.hour(0.070, 0.095, 0.068)
    glow = shot.hour(0.55, 0.80, 0.34) * torch.exp(-((far - radius).clamp_min(0) / shot.hour(0.13, 0.22, 0.10)))
    lay(canvas, shot.glow(GLOW), glow)
    lay(canvas, shot.glow(SUN), cover(far - radius, shot.height))
    if shot.has("night"):
        seas = merge(
            disc(x + 0.022, y + 0.014, 0.017), disc(x - 0.020, y - 0.020, 0.020), disc(x - 0.020, y + 0.026, 0.011)
        )
        lay(canvas, brighten(shot.glow(SUN), 0.86), cover(seas, shot.height) * shot.hour(0.0, 0.0, 0.8))


def stars(shot: Shot, canvas: Canvas, bottom: float, count: int = 26) -> None:
    """Twinkling stars above `bottom`, by night alone. They are too far away to move with the camera."""
    if not shot.has("night"):
        return
    rows = int(bottom * shot.height)
    frames = shot.times.shape[1]
    luck = shot.luck("stars", 3 * count).unflatten(1, (3, count))[::frames, :, :, None]
    x = shot.x - luck[:, 0] * shot.aspect
    y = shot.y[:rows, 0] - luck[:, 1] ** 1.3 * bottom
    size = 0.0085 + 0.005 * luck[:, 2]
    across, down = (torch.exp(-((gap / size) ** 2)) for gap in (x, y))
    light = across.new_zeros(shot.times.size, rows, shot.width)
    for group in range(3):
        members = slice(group, None, 3)
        still = torch.einsum("bkh,bkw->bhw", down[:, members], across[:, members])
        twinkle = 0.72 + 0.28 * torch.sin(2 * torch.pi * shot.cycle(0.31 + 0.11 * group, group / 3))
        light.addcmul_(twinkle[:, None, None], still.repeat_interleave(frames, 0))
    fade = 1 - (shot.y[:rows] / bottom) ** 3
    light.mul_(fade * shot.hour(0.0, 0.0, 0.85)).clamp_(0, 0.85)
    lay(canvas[:, :, :rows], ink(canvas.new_tensor([[0.84, 0.87, 0.98]])), light)


def clouds(shot: Shot, canvas: Canvas, count: int, lowest: float) -> None:
    """Clouds that drift for ever, each of a few puffs on a flat base."""
    luck = shot.luck("clouds", 5 * count).unflatten(1, (count, 5))
    wrap = shot.aspect + 0.6  # once round, through the picture and past both its sides
    for i in range(count):
        start, level, scale, tall, lean = luck[:, i].unbind(1)
        scale = 0.8 + 0.45 * scale
        place = (i + 0.7 * start) / count * wrap - shot.scroll(0.25, -0.012 - 0.006 * i, wrap)
        w = window(canvas, torch.remainder(place, wrap) - 0.3, 0.07 + (lowest - 0.07) * level, 0.20, 0.115)
        _cloud(shot, w, scale[:, None, None], tall[:, None, None], lean[:, None, None])
        w.paste(canvas, opacity=0.92)


def _cloud(shot: Shot, w: Window, scale: Number, tall: Number, lean: Number) -> None:
    x, y = w.x / scale, w.y / scale
    middle = disc(x + 0.05 * (lean - 0.5), y + 0.014, 0.058 + 0.014 * tall)
    left = disc(x + 0.080, y - 0.012, 0.036 + 0.010 * lean)
    right = disc(x - 0.080, y - 0.008, 0.044 - 0.010 * lean)
    tail = limb(x + 0.125, y - 0.030, 0.250, 0.0, 0.018, 0.018)
    inside = cover(torch.maximum(merge(middle, left, right, tail), (y - 0.048).expand_as(middle)), w.pixels * scale)
    body = shot.paint("cloud")
    w.lay(body, inside)
    w.lay(torch.lerp(body, shot.paint("middle"), 0.6), soft((0.048 - y).expand_as(middle), 0.085) * inside * 0.6)


def wave(x: Field, luck: Float[Tensor, "n k"], turns: tuple[int, ...], decay: float = 0.6) -> Field:
    """A smooth random curve of height about 1: sines of `turns` periods in a PERIOD, each `decay` as high as the last.

    Args:
        x: places, `n w`, in picture heights.
        luck: one random number for each sine.
    """
    curve = torch.zeros_like(x)
    for k, turn in enumerate(turns):
        curve += decay**k * torch.sin(2 * torch.pi * (x * (turn / PERIOD) + luck[:, k : k + 1]))
    return curve


def zigzag(x: Field, width: float) -> Field:
    """A triangle wave between -1 and 1 of the given period."""
    return 4 * (torch.remainder(x / width, 1.0) - 0.5).abs() - 1


def ridge(
    canvas: Canvas,
    top: Float[Tensor, "n w"],
    edge: Float[Tensor, "n 4 1 1"],
    deep: Float[Tensor, "n 4 1 1"],
    depth: float,
    highest: float,
) -> None:
    """Everything below the line `top`: colour `edge` at the line, `deep` from `depth` below it.

    Args:
        top: picture heights.
        depth: picture heights.
        highest: no part of the line is above this height; rows above it are left alone.
    """
    height = canvas.shape[2]
    first = max(0, int(highest * height) - 1)
    y = (torch.arange(first, height, device=canvas.device) + 0.5)[:, None] / height
    below = y - top[:, None, :]
    shade = (below / depth).clamp_(0, 1)[:, None]
    lay(canvas[:, :, first:], torch.lerp(edge, deep, shade), cover(-below, height))


@dataclass(frozen=True)
class Thing:
    """One thing of many spread over a layer of the scenery.

    Attributes:
        order: its number among them.
        home: place on the layer, in picture heights.
        x: place in the picture.
        luck: four random numbers in [0, 1).
    """

    order: int
    home: Float[Tensor, " n"]
    x: Float[Tensor, " n"]
    luck: Float[Tensor, "n 4"]


def scatter(shot: Shot, purpose: str, count: int, parallax: float, reach: float) -> Iterator[Thing]:
    """`count` things spread over a layer; those that no picture shows are left out.

    Args:
        reach: half the width of the largest thing, in picture heights.
    """
    moved = shot.moved(parallax)
    luck = np.stack([draws(record, purpose, 5 * count).reshape(count, 5) for record in shot.records])
    for i in range(count):
        home = (i + 0.15 + 0.7 * luck[:, i, :1]) * (PERIOD / count)
        x = (home - moved + reach) % PERIOD - reach
        if (x < shot.aspect + reach).any():
            yield Thing(i, shot.spread(home)[:, 0], shot.each(x), shot.spread(luck[:, i, 1:]))


def brighten(colour: Float[Tensor, "*n 4 1 1"], share: float) -> Float[Tensor, "*n 4 1 1"]:
    """The colour made `share` times as bright, its last channel left alone."""
    return torch.cat([colour[..., :3, :, :] * share, colour[..., 3:, :, :]], -3)


def airy_weather(shot: Shot, canvas: Canvas) -> None:
    """Stars by night, and three clouds."""
    stars(shot, canvas, bottom=0.52)
    clouds(shot, canvas, count=3, lowest=0.26)


def nothing(shot: Shot, canvas: Canvas) -> None:
    """Nothing to paint in this step."""


@dataclass(frozen=True)
class Place:
    """How a scene is painted, from back to front. Only `sky` and `land` may be painted once for all frames.

    Attributes:
        sky: a new canvas; never moves.
        weather: what moves behind the land.
        land: painted on a canvas of its own whose last channel is its coverage; moves only with the camera.
        life: what moves before the land and behind the subjects.
        front: what moves before the subjects.
    """

    sky: Callable[[Shot], Canvas]
    weather: Callable[[Shot, Canvas], None]
    land: Callable[[Shot, Canvas], None]
    life: Callable[[Shot, Canvas], None]
    front: Callable[[Shot, Canvas], None]
