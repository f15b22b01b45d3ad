"""How the subjects of a clip move: their common path from frame to frame, and the motion and speed that explain it."""

from dataclasses import dataclass
from itertools import pairwise
from math import pi

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from heliograph.data.diorama.motion import (
    CIRCLE_RADIUS,
    LONE_SIDE_AMPLITUDE,
    RISE_AMPLITUDE,
    SIDE_AMPLITUDE,
    SPEED,
)
from heliograph.data.diorama.record import SPEEDS, Motion, Speed
from heliograph.shapes import FPS

FARTHEST = 0.06
"""Longest step of a subject from one frame to the next that is believed, in picture heights."""


@dataclass(frozen=True)
class Path:
    """Steps that all subjects take together.

    Attributes:
        steps: mean step to the next frame in picture heights; not a number where no subject was seen in both.
    """

    steps: Float[Array, "s 2"]

    def pieces(self) -> list[tuple[Float[Array, " n"], Float[Array, "n 2"]]]:
        """The path in unbroken pieces: times in seconds, and places relative to the piece's mean."""
        seen = np.isfinite(self.steps[:, 0])
        edges = np.flatnonzero(np.diff(np.concatenate(([0], seen.astype(int), [0]))))
        found = []
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            places = np.concatenate((np.zeros((1, 2)), np.cumsum(self.steps[start:stop], 0)))
            found.append((np.arange(start, stop + 1) / FPS, places - places.mean(0)))
        return found


@dataclass(frozen=True)
class Account:
    """One explanation of a path.

    Attributes:
        motion, speed: what it says.
        error: root mean square distance from the path, in picture heights.
    """

    motion: Motion
    speed: Speed
    error: float


def common_path(frame: Float[Array, " m"], x: Float[Array, " m"], y: Float[Array, " m"], num_frames: int) -> Path:
    """Follow subjects from each frame to the nearest one in the next, and average their steps."""
    places = [np.stack((x[frame == t], y[frame == t]), 1) for t in range(num_frames)]
    steps = np.full((max(num_frames - 1, 1), 2), np.nan)
    for t, (here, there) in enumerate(pairwise(places)):
        if len(here) and len(there):
            gaps = there[None] - here[:, None]
            nearest = np.linalg.norm(gaps, axis=2).argmin(1)
            moves = gaps[np.arange(len(here)), nearest]
            moves = moves[np.linalg.norm(moves, axis=1) < FARTHEST]
            if len(moves):
                steps[t] = moves.mean(0)
    return Path(steps)


def accounts(path: Path, count: int) -> list[Account]:
    """Every motion and speed of the world as an explanation of the path, the best first.

    Args:
        count: number of subjects, on which the width of "back and forth" depends.
    """
    pieces = path.pieces()
    if not pieces:
        return []
    times = np.concatenate([piece[0] for piece in pieces])
    places = np.concatenate([piece[1] for piece in pieces])
    owner = np.concatenate([np.full(len(piece[0]), i) for i, piece in enumerate(pieces)])
    amplitude = LONE_SIDE_AMPLITUDE if count == 1 else SIDE_AMPLITUDE
    found = _straight(times, places, owner)
    for speed in SPEEDS:
        turns = {
            "circle": SPEED[speed] / CIRCLE_RADIUS,
            "back and forth": 2 * pi * SPEED[speed] / (4 * amplitude),
            "up and down": 2 * pi * SPEED[speed] / (4 * RISE_AMPLITUDE),
        }
        found.append(Account("circle", speed, _circle(times * turns["circle"], places, owner)))
        found.append(
            Account("back and forth", speed, _swing(times * turns["back and forth"], places, owner, 0, amplitude))
        )
        found.append(
            Account("up and down", speed, _swing(times * turns["up and down"], places, owner, 1, RISE_AMPLITUDE))
        )
    return sorted(found, key=lambda account: account.error)


def _straight(times: Float[Array, " n"], places: Float[Array, "n 2"], owner: Int[Array, " n"]) -> list[Account]:
    base = _centred(times[:, None], owner)
    rate = float(base[:, 0] @ places[:, 0] / max(float((base**2).sum()), 1e-9))
    error = _error(np.stack((rate * base[:, 0], np.zeros(len(times))), 1), places)
    slow, quick = (SPEED["slow"] * SPEED["normal"]) ** 0.5, (SPEED["normal"] * SPEED["quick"]) ** 0.5
    speed = "slow" if abs(rate) < slow else "normal" if abs(rate) < quick else "quick"
    lag = max(0.0, 0.6 * SPEED["slow"] - abs(rate)) * float(np.ptp(times))
    return [Account("right" if rate > 0 else "left", speed, error + lag)]


def _swing(
    angle: Float[Array, " n"], places: Float[Array, "n 2"], owner: Int[Array, " n"], axis: int, amplitude: float
) -> float:
    base = _centred(np.stack((np.cos(angle), np.sin(angle)), 1), owner)
    weights = _limited(base, places[:, axis], amplitude)
    guess = np.zeros_like(places)
    guess[:, axis] = base @ weights
    return _error(guess, places)


def _circle(angle: Float[Array, " n"], places: Float[Array, "n 2"], owner: Int[Array, " n"]) -> float:
    base = _centred(np.stack((np.cos(angle), np.sin(angle)), 1), owner)
    errors = []
    for turn in (1.0, -1.0):
        both = np.concatenate((base, turn * np.stack((base[:, 1], -base[:, 0]), 1)))
        weights = _limited(both, np.concatenate((places[:, 0], places[:, 1])), CIRCLE_RADIUS)
        guess = (both @ weights).reshape(2, -1).T
        errors.append(_error(guess, places))
    return min(errors)


def _limited(base: Float[Array, "n 2"], values: Float[Array, " n"], amplitude: float) -> Float[Array, " 2"]:
    """Least squares, the amplitude held within 0.6 to 1.5 of what it should be."""
    weights = np.linalg.lstsq(base, values, rcond=None)[0]
    size = float(np.hypot(*weights))
    return weights * (np.clip(size, 0.6 * amplitude, 1.5 * amplitude) / max(size, 1e-9))


def _centred(base: Float[Array, "n k"], owner: Int[Array, " n"]) -> Float[Array, "n k"]:
    """Take each piece's mean away, as it was from the places."""
    centred = base.astype(float)
    for piece in np.unique(owner):
        centred[owner == piece] -= centred[owner == piece].mean(0)
    return centred


def _error(guess: Float[Array, "n 2"], places: Float[Array, "n 2"]) -> float:
    return float(np.sqrt(((guess - places) ** 2).sum(1).mean()))
