"""The six subjects: each a short list of shapes, drawn in its own coordinates with the nose to the right.

One unit is the subject's radius, u to the right (forward) and v down. Each has a dark outline, a body in its colour,
lighter and darker parts of the same colour, and the face or gear that makes it what it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.data.diorama.draw import Field, Number, Window, box, cover, disc, ink, limb, merge, oval, triangle
from heliograph.data.diorama.record import Kind

OUTLINE = 0.09
"""Width of the dark outline in radii."""


@dataclass(frozen=True)
class Sprite:
    """What a painter works with: the window, the subject's own coordinates and its colours.

    Attributes:
        window: where it is drawn.
        u, v: forward and down, in radii.
        beat: phase of the wing beat in radians.
        pixels: pixels in one radius.
        main, dark, light, shade: body, outline, lighter and darker parts.
        eye, pupil, wood, beak: the same for every colour, in the light of the hour.
    """

    window: Window
    u: Float[Tensor, "n p q"]
    v: Float[Tensor, "n p q"]
    beat: Float[Tensor, "n 1 1"]
    pixels: Float[Tensor, "n 1 1"]
    main: Float[Tensor, "n 4 1 1"]
    dark: Float[Tensor, "n 4 1 1"]
    light: Float[Tensor, "n 4 1 1"]
    shade: Float[Tensor, "n 4 1 1"]
    eye: Float[Tensor, "n 4 1 1"]
    pupil: Float[Tensor, "n 4 1 1"]
    wood: Float[Tensor, "n 4 1 1"]
    beak: Float[Tensor, "n 4 1 1"]

    def fill(self, colour: Float[Tensor, "n 4 1 1"], distance: Field, within: Field | float = 1.0) -> Field:
        """Fill a shape given by its distance in radii, times the share `within`; returns the coverage."""
        coverage = cover(distance, self.pixels) * within
        self.window.lay(colour, coverage)
        return coverage


@dataclass(frozen=True)
class Pose:
    """How one subject is seen in each picture; values as in `Poses`."""

    facing: Float[Tensor, " n"]
    tilt: Float[Tensor, " n"]
    beat: Float[Tensor, " n"]
    radius: Float[Tensor, " n"]


def sprite(window: Window, pose: Pose, body: Float[Tensor, "n 3"], light: Float[Tensor, "n 3"]) -> Sprite:
    """A sprite ready to paint.

    Args:
        body: body colour by day.
        light: what the hour leaves of red, green and blue.
    """
    facing, tilt, beat, radius = (value[:, None, None] for value in (pose.facing, pose.tilt, pose.beat, pose.radius))
    across = window.x / (facing * radius)
    down = window.y / radius
    return Sprite(
        window=window,
        u=across * torch.cos(tilt) + down * torch.sin(tilt),
        v=down * torch.cos(tilt) - across * torch.sin(tilt),
        beat=beat,
        pixels=window.pixels * radius,
        **{name: ink(colour, alpha=1.0) for name, colour in tones(body, light).items()},
    )


def tones(body: Float[Tensor, "n 3"], light: Float[Tensor, "n 3"]) -> dict[str, Float[Tensor, "n 3"]]:
    """The colours a subject is painted in, by the names of `Sprite`, in the light of the hour."""
    whiteness = body.amin(1, keepdim=True)
    navy = body.new_tensor((0.10, 0.12, 0.24))
    paler = body + 0.38 * (1 - body) * body.new_tensor((1.0, 1.0, 0.92))
    parts = {
        "main": body,
        "dark": 0.32 * body * (1 - 0.6 * whiteness)
        + 0.35 * navy
        + 0.18 * whiteness
        + whiteness**4 * body.new_tensor((0.10, 0.15, 0.25)),
        "light": paler - whiteness**4 * body.new_tensor((0.05, 0.03, 0.0)),
        "shade": body * (0.80 + whiteness**4 * body.new_tensor((0.10, 0.13, 0.18))),
        "eye": torch.ones_like(body),
        "pupil": body.new_tensor((0.08, 0.08, 0.14)).expand_as(body),
        "wood": body.new_tensor((0.46, 0.31, 0.21)).expand_as(body),
        "beak": body.new_tensor((0.93, 0.66, 0.30)).expand_as(body),
    }
    return {name: colour * light for name, colour in parts.items()}


def face(s: Sprite, u: Number, v: Number, radius: float) -> None:
    """An eye with a pupil that looks forward."""
    s.fill(s.eye, disc(s.u - u, s.v - v, radius))
    s.fill(s.pupil, disc(s.u - u - 0.3 * radius, s.v - v, 0.58 * radius))


def fish(s: Sprite) -> None:
    """A round reef fish with a forked tail, two fins and two bands; the tail swings."""
    sway = torch.sin(s.beat - 1.6 * s.u)
    v = s.v + 0.10 * sway * (0.45 - s.u).clamp(0, 1.6)
    body = oval(s.u - 0.16, v, 0.80, 0.54)
    upper = limb(s.u + 0.52, v, -0.44, -0.40, 0.12, 0.15)
    lower = limb(s.u + 0.52, v, -0.44, 0.40, 0.12, 0.15)
    tail = merge(upper, lower, limb(s.u + 0.42, v, -0.26, 0.0, 0.16, 0.22))
    dorsal = limb(s.u - 0.22, v + 0.44, -0.34, -0.20, 0.20, 0.07)
    pelvic = limb(s.u - 0.12, v - 0.46, -0.22, 0.20, 0.14, 0.06)
    s.fill(s.dark, merge(body, tail, dorsal, pelvic) - OUTLINE)
    s.fill(s.shade, merge(tail, dorsal, pelvic))
    inside = s.fill(s.main, body)
    s.fill(s.light, (s.u + 0.10 - 0.12 * v * v).abs() - 0.085, inside)
    s.fill(s.light, (s.u - 0.34 - 0.10 * v * v).abs() - 0.065, inside)
    s.fill(s.shade, 0.30 - v, 0.5 * inside)
    s.fill(s.shade, limb(s.u - 0.10, v - 0.10, -0.20, 0.10 + 0.10 * torch.cos(s.beat), 0.11, 0.06))
    face(s, 0.60, -0.10, 0.15)


def jellyfish(s: Sprite) -> None:
    """A glowing bell that pulses over waving tentacles, with two small eyes."""
    pulse = torch.sin(s.beat)
    u, v = s.u / (1 + 0.08 * pulse), (s.v + 0.32) / (1 - 0.07 * pulse)
    scallop = 0.05 * torch.cos(u * 11.5)
    bell = torch.maximum(oval(u, v, 0.80, 0.68), v - 0.24 - scallop)
    wave = 0.09 * torch.sin(4.2 * s.v - s.beat) * (s.v + 0.1)
    lane = torch.remainder(u - wave + 0.15, 0.30) - 0.15
    reach = 1.02 - 0.5 * u * u
    strands = torch.maximum(lane.abs() - 0.090 + 0.03 * s.v, (u - wave).abs() - 0.64)
    strands = torch.maximum(torch.maximum(strands, s.v - reach), -0.1 - s.v)
    s.fill(s.dark, merge(bell - OUTLINE, strands - 0.03))
    s.fill(s.light, strands)
    inside = s.fill(s.main, bell)
    s.fill(s.shade, 0.06 - v - scallop, inside)
    s.fill(s.light, oval(u + 0.26, v + 0.34, 0.26, 0.15), 0.85)
    for side in (-1.0, 1.0):
        s.fill(s.light, disc(u - 0.06 - side * 0.40, v + 0.10 + 0.1 * side, 0.07))
    for side in (-1.0, 1.0):
        s.fill(s.pupil, oval(u - 0.04 - side * 0.20, v - 0.02, 0.068, 0.09))


def balloon(s: Sprite) -> None:
    """A hot-air balloon: gores in two tones, a skirt, ropes and a wicker basket."""
    v = s.v + 0.30
    envelope = merge(disc(s.u, v, 0.78), limb(s.u, v - 0.30, 0.0, 0.60, 0.66, 0.16))
    basket = box(s.u, s.v - 0.98, 0.17, 0.13, 0.04)
    ropes = torch.maximum((s.u.abs() - 0.14).abs() - 0.025, (s.v - 0.74).abs() - 0.14)
    s.fill(s.dark, merge(envelope, basket) - OUTLINE)
    s.fill(s.dark, ropes)
    inside = s.fill(s.main, envelope)
    width = torch.sqrt((0.70 - (v - 0.02).clamp_max(0.5) ** 2 - 0.62 * (v - 0.35).clamp_min(0)).clamp_min(0.03))
    across = (s.u / width).abs()
    s.fill(s.light, across * width - 0.16 * width, inside)
    s.fill(s.shade, ((across - 0.55).abs() - 0.13) * width, inside)
    s.fill(s.shade, torch.maximum((v - 0.80).abs() - 0.06, s.u.abs() - 0.5), inside)
    s.fill(s.light, oval(s.u + 0.36, v + 0.34, 0.12, 0.20), 0.8)
    s.fill(s.wood, basket)
    s.fill(s.beak, torch.maximum((s.v - 0.90).abs() - 0.035, s.u.abs() - 0.17))


def bird(s: Sprite) -> None:
    """A plump songbird in flight, both wings beating."""
    stroke = torch.sin(s.beat)
    v = s.v + 0.05 * stroke
    body = oval(s.u - 0.02, v - 0.04 - 0.10 * s.u, 0.66, 0.38)
    head = disc(s.u - 0.60, v + 0.16, 0.29)
    tail = limb(s.u + 0.50, v - 0.02, -0.44, 0.06, 0.14, 0.20)
    beak = triangle(s.u, v, (0.84, -0.26), (1.12, -0.10), (0.84, -0.04))
    tip = -0.82 * stroke
    near = limb(s.u - 0.14, v + 0.10, -0.40, tip, 0.27, 0.11)
    far = limb(s.u - 0.26, v + 0.12, -0.12, tip * 0.92, 0.22, 0.09)
    s.fill(s.dark, far - OUTLINE)
    s.fill(s.shade, far)
    s.fill(s.dark, merge(body, head, tail, beak) - OUTLINE)
    s.fill(s.shade, tail)
    s.fill(s.beak, beak)
    s.fill(s.main, merge(body, head))
    s.fill(s.light, oval(s.u - 0.16, v - 0.24, 0.36, 0.14), cover(body, s.pixels))
    s.fill(s.dark, near - 0.8 * OUTLINE)
    inside = s.fill(s.main, near)
    s.fill(s.shade, limb(s.u + 0.10, v + 0.10, -0.30, tip, 0.10, 0.12), inside)
    face(s, 0.66, -0.20, 0.11)


def butterfly(s: Sprite) -> None:
    """A butterfly seen from above, its four spotted wings opening and closing."""
    fold = 0.78 + 0.22 * torch.cos(s.beat)
    u, v = s.u.abs() / fold, s.v + 0.04 * torch.sin(s.beat)
    slant = 0.40
    upper = oval(u - 0.56 + slant * (v + 0.36), v + 0.36, 0.42, 0.48)
    lower = oval(u - 0.40, v - 0.40, 0.36, 0.38)
    feelers = limb(s.u.abs() - 0.03, v + 0.50, 0.13, -0.46, 0.025, 0.03)
    s.fill(s.dark, merge(upper, lower) - 1.3 * OUTLINE)
    s.fill(s.main, upper)
    s.fill(s.shade, lower)
    s.fill(s.light, disc(u - 0.64, v + 0.46, 0.16))
    s.fill(s.light, disc(u - 0.42, v - 0.44, 0.12))
    s.fill(s.main, disc(u - 0.64, v + 0.46, 0.07))
    s.fill(s.light, disc(u - 0.30, v + 0.20, 0.07))
    s.fill(s.pupil, merge(limb(s.u, v + 0.40, 0.0, 0.86, 0.10, 0.07), disc(s.u, v + 0.50, 0.13), feelers))


def boat(s: Sprite) -> None:
    """A sailing boat with two sails, a pennant and a coloured hull."""
    v = s.v - 0.10
    hull = torch.maximum(oval(s.u, v - 0.42, 0.98, 0.52), 0.44 - v)
    rail = torch.maximum((v - 0.47).abs() - 0.07, s.u.abs() - 0.98)
    main_sail = triangle(s.u, v, (-0.02, -1.08), (-0.02, 0.42), (-0.80, 0.42))
    jib = triangle(s.u, v, (0.12, -0.86), (0.76, 0.42), (0.12, 0.42))
    mast = torch.maximum((s.u - 0.05).abs() - 0.045, (v + 0.32).abs() - 0.78)
    flutter = 0.05 * torch.sin(3 * s.beat + 6 * s.u)
    pennant = triangle(s.u, v + flutter, (0.05, -1.18), (0.42, -1.06), (0.05, -0.94))
    s.fill(s.dark, merge(hull, rail, main_sail, jib) - OUTLINE)
    s.fill(s.wood, mast)
    s.fill(s.light, pennant)
    inside = s.fill(s.main, main_sail)
    s.fill(s.light, (v - 0.06).abs() - 0.09, inside)
    s.fill(s.light, jib)
    inside = s.fill(s.main, hull)
    s.fill(s.shade, 0.62 - v, inside)
    s.fill(s.light, rail)


PAINTERS: dict[Kind, Callable[[Sprite], None]] = {
    "fish": fish,
    "jellyfish": jellyfish,
    "balloon": balloon,
    "bird": bird,
    "butterfly": butterfly,
    "boat": boat,
}
"""How each kind is painted."""
