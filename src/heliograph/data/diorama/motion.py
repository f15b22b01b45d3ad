"""Where every subject is at time t, in closed form: the exact ground truth behind the frames.

Lengths are in picture heights, x from 0 at the left to `aspect` at the right, y from 0 at the top to 1 at the bottom.
All of it is float64 and periodic, so the millionth frame is as exact as the first.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from heliograph.data.diorama.record import Kind, Record, Scene
from heliograph.shapes import FPS

RADIUS = {"small": 0.10, "medium": 0.135, "big": 0.18}
"""Radius of a subject in picture heights."""

SPEED = {"slow": 0.14, "normal": 0.25, "quick": 0.42}
"""Mean speed along the path in picture heights a second."""

PAN_SPEED = 0.16
"""Speed of the nearest scenery under a panning camera, in picture heights a second."""

REACH = 1.15
"""Half the extent of the largest subject, in radii."""

GAP = 0.05
"""Way between leaving at one side and coming back at the other, in picture heights: under half a second."""

CIRCLE_RADIUS, SIDE_AMPLITUDE, LONE_SIDE_AMPLITUDE, RISE_AMPLITUDE = 0.11, 0.14, 0.2, 0.12

STAGE: dict[Scene, tuple[float, float]] = {
    "reef": (0.40, 0.43),
    "meadow": (0.36, 0.36),
    "sea": (0.38, 0.36),
    "desert": (0.36, 0.36),
    "mountains": (0.36, 0.36),
}
"""Middle of the band in which the subjects of a scene live: of one subject, and of a group."""

WATERLINE = 0.66
"""Height at which a boat floats."""

BEATS_PER_SECOND: dict[Kind, float] = {
    "fish": 1.7,
    "jellyfish": 0.8,
    "balloon": 0.25,
    "bird": 1.8,
    "butterfly": 1.9,
    "boat": 0.35,
}
"""Tail, pulse, sway, wing or rocking beats at normal speed."""


@dataclass(frozen=True)
class Poses:
    """The subjects of one clip, frame by frame; `k` subjects, `f` frames.

    Attributes:
        x, y: centre in picture heights.
        facing: -1 looks left, 1 looks right; between the two while turning, never within .3 of 0.
        tilt: angle in radians by which the nose points down.
        beat: phase of the wing beat in radians, 0 to 2 pi.
        radius: picture heights.
    """

    x: Float[Array, "k f"]
    y: Float[Array, "k f"]
    facing: Float[Array, "k f"]
    tilt: Float[Array, "k f"]
    beat: Float[Array, "k f"]
    radius: float


def seconds(first: int, num_frames: int) -> Float[Array, " f"]:
    """Times of the frames `first` .. `first + num_frames - 1` in seconds, at 24 frames a second."""
    return np.arange(first, first + num_frames, dtype=np.float64) / FPS


def draws(record: Record, purpose: str, count: int) -> Float[Array, " n"]:
    """`count` numbers in [0, 1) that depend on the record's seed and on what they are for, and on nothing else."""
    key = int.from_bytes(purpose.encode(), "little")
    return np.random.Generator(np.random.PCG64([record.seed, key])).random(count)


def poses(record: Record, times: Float[Array, " f"], aspect: float) -> Poses:
    """The exact state of every subject at the given times.

    Args:
        times: seconds, of any size.
        aspect: picture width over height.
    """
    luck = draws(record, "poses", 8)
    track = _track(record, times, aspect, luck)
    x, y, velocity_x, velocity_y = np.broadcast_arrays(*track, np.zeros((record.count, len(times))))[:4]
    swing = np.cos(2 * np.pi * ((times * 0.3 + luck[4]) % 1.0)) + np.zeros_like(x)
    facing, tilt = _attitude(record.kind, velocity_x, velocity_y, swing)
    pace = BEATS_PER_SECOND[record.kind] * (SPEED[record.speed] / SPEED["normal"]) ** 0.35
    beat = 2 * np.pi * ((times * pace + luck[5] + 0.37 * np.arange(record.count)[:, None]) % 1.0)
    return Poses(x, y, facing, tilt, beat, RADIUS[record.size])


def pan_offset(record: Record, times: Float[Array, " f"]) -> Float[Array, " f"]:
    """How far the camera has moved to the right at the given times, in picture heights of the nearest scenery."""
    direction = {"none": 0.0, "left": -1.0, "right": 1.0}[record.pan]
    return direction * PAN_SPEED * times


class _Track(NamedTuple):
    """Centres, and the velocities that facing and tilt follow, in heights and heights a second; they broadcast."""

    x: Array
    y: Array
    velocity_x: Array
    velocity_y: Array


def _track(record: Record, times: Float[Array, " f"], aspect: float, luck: Float[Array, " n"]) -> _Track:
    if record.motion in ("left", "right"):
        return _crossing(record, times, aspect, luck)
    turn = 1.0 if luck[3] < 0.5 else -1.0
    moves = {"circle": _circle, "back and forth": _sideways, "up and down": _rise}
    x, y, velocity_x, velocity_y = moves[record.motion](record, times, luck[0], turn)
    return _Track(_homes(record, aspect)[:, None] + x, _lanes(record, luck)[:, None] + y, velocity_x, velocity_y)


def _crossing(record: Record, times: Float[Array, " f"], aspect: float, luck: Float[Array, " n"]) -> _Track:
    """Subjects that cross the picture and come back at the other side, evenly spaced on a loop, bobbing a little.

    The start is chosen so that at time 0 every centre is inside the picture and stays there for a while: the first
    frames show as many subjects as the caption says.
    """
    speed, sign = SPEED[record.speed], 1.0 if record.motion == "right" else -1.0
    margin = REACH * RADIUS[record.size] + GAP / 2
    loop = aspect + 2 * margin
    spacing = loop / record.count
    order = np.arange(record.count)[:, None]
    start = margin + (0.05 + 0.4 * luck[0]) * (spacing - 2 * margin)
    way = (start + spacing * order + speed * times) % loop - margin
    bob = 2 * np.pi * ((times * 0.45 + luck[2] + 0.3 * order) % 1.0)
    lift = 0.004 if record.kind == "boat" else 0.012
    y = _lanes(record, luck)[:, None] + lift * np.sin(bob)
    return _Track(way if sign > 0 else aspect - way, y, np.array(sign * speed), lift * 2.8 * np.cos(bob))


def _circle(record: Record, times: Float[Array, " f"], start: float, turn: float) -> _Track:
    speed = SPEED[record.speed]
    angle = turn * 2 * np.pi * ((times * speed / (2 * np.pi * CIRCLE_RADIUS) + start) % 1.0)
    x, y = np.cos(angle), np.sin(angle)
    return _Track(CIRCLE_RADIUS * x, CIRCLE_RADIUS * y, -turn * speed * y, turn * speed * x)


def _sideways(record: Record, times: Float[Array, " f"], start: float, _turn: float) -> _Track:
    speed, amplitude = SPEED[record.speed], LONE_SIDE_AMPLITUDE if record.count == 1 else SIDE_AMPLITUDE
    angle = 2 * np.pi * ((times * speed / (4 * amplitude) + start) % 1.0)
    still = np.zeros_like(angle)
    return _Track(amplitude * np.sin(angle), still, speed * np.pi / 2 * np.cos(angle), still)


def _rise(record: Record, times: Float[Array, " f"], start: float, turn: float) -> _Track:
    """Up and down on the spot, looking to one side."""
    speed = SPEED[record.speed]
    angle = 2 * np.pi * ((times * speed / (4 * RISE_AMPLITUDE) + start) % 1.0)
    still = np.zeros_like(angle)
    return _Track(still, RISE_AMPLITUDE * np.sin(angle), turn * speed + still, speed * np.pi / 2 * np.cos(angle))


def _homes(record: Record, aspect: float) -> Float[Array, " k"]:
    """Where subjects that stay about one place have that place."""
    shares = {1: (0.5,), 2: (0.27, 0.73), 3: (0.17, 0.5, 0.83)}[record.count]
    return aspect * np.array(shares)


def _lanes(record: Record, luck: Float[Array, " n"]) -> Float[Array, " k"]:
    """Mean heights of the subjects: a little apart, so that a group looks natural."""
    if record.kind == "boat":
        return WATERLINE - 0.5 * RADIUS[record.size] + np.array([0.0, 0.03, -0.015])[: record.count]
    lone, group = STAGE[record.scene]
    middle = (lone if record.count == 1 else group) + 0.05 * (luck[1] - 0.5)
    side = 1.0 if luck[6] < 0.5 else -1.0
    zigzag = {1: (0.0,), 2: (-1.0, 1.0), 3: (-1.0, 1.0, -1.0)}[record.count]
    apart = 0.065 if record.count == 3 else 0.05
    return middle + apart * side * np.array(zigzag)


def _attitude(
    kind: Kind, x: Float[Array, "k f"], y: Float[Array, "k f"], swing: Float[Array, "k f"]
) -> tuple[Float[Array, "k f"], Float[Array, "k f"]]:
    """Facing and tilt for the velocities x, y: animals and boats look where they go, the others lean and sway."""
    lean = np.clip(x, -0.5, 0.5)
    if kind in ("balloon", "jellyfish"):
        return np.ones_like(x), 0.06 * swing + 0.25 * lean
    if kind == "butterfly":
        return np.ones_like(x), 0.5 * lean
    speed = np.maximum(np.hypot(x, y), 1e-6)
    facing = np.clip(2.5 * x / speed, -1, 1)
    facing = np.where(facing < 0, -1.0, 1.0) * np.maximum(np.abs(facing), 0.3)
    if kind == "boat":
        return facing, 0.05 * swing
    return facing, np.clip(np.arctan2(y, np.abs(x) + 0.5 * speed), -0.45, 0.45)
