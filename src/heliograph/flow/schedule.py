"""Noise levels and timesteps of every sampling step, as plain numbers (Helios, pyramid schedule).

Each pyramid level follows its own straight line; `remaining` is the position on it, 1 at the start, 0 at the far end.
The network is told a timestep on one global axis, of which each level owns a stretch as long as its line.
"""

import math
from dataclasses import dataclass

import numpy as np

from heliograph.config import ScheduleConfig
from heliograph.errors import UserError

SIGMA_MAX = 0.999
"""Largest noise level the network was trained at."""


@dataclass(frozen=True)
class Step:
    """One denoising step: where it starts and ends on its level's line, and the timestep the network is told."""

    index: int
    remaining: float
    after: float
    timestep: float


@dataclass(frozen=True)
class LevelRange:
    """The stretch of noise levels and timesteps that one pyramid level owns.

    `border` is the noise level at which the level before ends in signal terms; `sigma_start` is that border corrected
    for the correlation that enlarging brings, `sigma_end` where this level's line ends. `timestep_max` and
    `timestep_last` are the first and last of its `num_train_timesteps` timesteps.
    """

    border: float
    sigma_start: float
    sigma_end: float
    timestep_max: float
    timestep_last: float


def corrected_start(border: float, gamma: float) -> float:
    """Noise level right after a jump: 1 − o / (√(1 + 1/γ)·(1 − o) + o), o = 1 − border."""
    signal = 1 - border
    return 1 - signal / (math.sqrt(1 + 1 / gamma) * (1 - signal) + signal)


def level_ranges(schedule: ScheduleConfig) -> tuple[LevelRange, ...]:
    """Noise levels and timesteps of each pyramid level, coarse to fine."""
    n = schedule.num_train_timesteps
    starts = [_training_sigma(schedule, int(b * n)) for b in schedule.borders[:-1]]
    ends = [_training_sigma(schedule, int(b * n)) for b in schedule.borders[1:]]
    corrected = [starts[0]] + [corrected_start(s, schedule.gamma) for s in starts[1:]]
    lengths = [start - end for start, end in zip(corrected, ends, strict=True)]
    # Timesteps are shared out in proportion to the length of each level's line.
    fractions = [sum(lengths[:i]) / sum(lengths) for i in range(len(lengths))] + [math.nextafter(1.0, 0.0)]
    cuts = [n * _training_sigma(schedule, min(int(f * n), n - 1)) for f in fractions]
    tops = [min(cut, n - 1.0) for cut in cuts[:-1]]
    lasts = [top + (cut - top) * (n - 1) / n for top, cut in zip(tops, cuts[1:], strict=True)]
    return tuple(LevelRange(*values) for values in zip(starts, corrected, ends, tops, lasts, strict=True))


def token_shift(schedule: ScheduleConfig, num_tokens: int) -> float:
    """The shift s for a chunk of `num_tokens` tokens; sigma becomes s·σ / (1 + (s − 1)·σ).

    With a = (max_shift − base_shift) / (max_tokens − base_tokens), mu = base_shift + a·(n − base_tokens); s is mu
    ("linear"), e^mu ("exponential"), or the same for every size ("constant").
    """
    slope = (schedule.max_shift - schedule.base_shift) / (schedule.max_tokens - schedule.base_tokens)
    mu = slope * num_tokens + (schedule.base_shift - slope * schedule.base_tokens)
    return {"linear": mu, "exponential": math.exp(mu), "constant": schedule.shift}[schedule.time_shift]


def shift_sigma(sigma: float, shift: float) -> float:
    """Move a noise level towards noise (shift above 1) or data (below 1); 0 and 1 stay: s·σ / (1 + (s − 1)·σ)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def single_level_steps(schedule: ScheduleConfig, num_steps: int, num_tokens: int) -> tuple[Step, ...]:
    """Steps of ordinary flow sampling: from 0.999 down to 0, timestep 1000·sigma, not rounded."""
    shift = token_shift(schedule, num_tokens)
    sigmas = [shift_sigma(s, shift) for s in np.linspace(SIGMA_MAX, 0.0, num_steps + 1)[:-1].tolist()]
    return _steps(sigmas, [s * schedule.num_train_timesteps for s in sigmas])


def level_steps(schedule: ScheduleConfig, level: LevelRange, num_steps: int, num_tokens: int) -> tuple[Step, ...]:
    """Steps on one level of a pyramid.

    The multi-step solvers visit both ends of the level's table; few-step sampling goes one point further and leaves the
    last point out, so that its last step ends exactly on the far end. Timesteps are whole numbers, rounded down.
    """
    n = schedule.num_train_timesteps
    is_few_step = schedule.solver == "few_step"
    last = SIGMA_MAX / n
    grid = np.linspace(SIGMA_MAX, last, num_steps + is_few_step).tolist()[:num_steps]
    if schedule.time_shift == "constant":  # it already shaped the borders and timesteps of the levels
        stretch = np.linspace(level.timestep_max, level.timestep_last, num_steps + is_few_step)
        return _steps(grid, [float(int(t)) for t in stretch[:num_steps]])
    sigmas = [shift_sigma(s, token_shift(schedule, num_tokens)) for s in grid]
    span = level.timestep_max - level.timestep_last
    return _steps(sigmas, [float(int(level.timestep_last + s * span)) for s in sigmas])


def _training_sigma(schedule: ScheduleConfig, index: int) -> float:
    """Noise level of training index 0 … num_train_timesteps; the end is 0."""
    sigma = SIGMA_MAX * (1 - index / schedule.num_train_timesteps)
    return shift_sigma(sigma, schedule.shift) if schedule.time_shift == "constant" else sigma


def _steps(sigmas: list[float], timesteps: list[float]) -> tuple[Step, ...]:
    ends = [*sigmas[1:], 0.0]
    # The shift grows with the number of tokens until every level rounds to 1, from which no solver comes back.
    if any(start <= end or start >= 1 for start, end in zip(sigmas, ends, strict=True)):
        raise UserError(
            f"a picture of this size has a time shift so large that its {len(sigmas)} steps do not differ; "
            "use a smaller height and width, nearer to the size the model was trained at"
        )
    return tuple(Step(i, s, e, t) for i, (s, e, t) in enumerate(zip(sigmas, ends, timesteps, strict=True)))
