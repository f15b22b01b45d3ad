"""Noise levels and timesteps: the listed schedules of the released models, and what holds for every schedule."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import HeliosDMDScheduler, HeliosScheduler
from hypothesis import assume, given
from hypothesis import strategies as st

from heliograph.config import ScheduleConfig, TimeShift
from heliograph.errors import UserError
from heliograph.flow.pyramid import build_pyramid
from heliograph.flow.schedule import (
    LevelRange,
    Step,
    corrected_start,
    level_ranges,
    level_steps,
    shift_sigma,
    single_level_steps,
    token_shift,
)
from heliograph.presets import BASE, DISTILLED, MID
from heliograph.shapes import LATENT_STRIDE, MAX_SIDE
from tests.small import steady

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # inside diffusers' schedulers

FEW, PYRAMID, SINGLE = DISTILLED.schedule, MID.schedule, BASE.schedule


def remaining(steps: tuple[Step, ...]) -> list[float]:
    """Positions of the steps and the end of the last one."""
    return [step.remaining for step in steps] + [steps[-1].after]


def unrounded(level: LevelRange, steps: tuple[Step, ...]) -> list[float]:
    """Timesteps before they are cut to whole numbers."""
    span = level.timestep_max - level.timestep_last
    return [level.timestep_last + step.remaining * span for step in steps]


def all_steps(schedule: ScheduleConfig, count: int, tokens: tuple[int, ...] = (540, 540, 2160)) -> list[tuple]:
    """(range, steps) of each level at 384×640."""
    return [(r, level_steps(schedule, r, count, n)) for r, n in zip(level_ranges(schedule), tokens, strict=True)]


# Shift


@pytest.mark.parametrize(
    ("num_tokens", "linear", "exponential"), [(540, 0.548, 1.7299), (2160, 0.822, 2.2757), (8640, 1.919, 6.8153)]
)
def test_shift_of_the_three_sizes_is_the_published_one(num_tokens: int, linear: float, exponential: float) -> None:
    assert token_shift(FEW, num_tokens) == pytest.approx(linear, abs=5e-4)
    assert token_shift(PYRAMID, num_tokens) == pytest.approx(exponential, abs=5e-5)


def test_shift_grows_from_base_shift_to_max_shift() -> None:
    assert token_shift(FEW, 256) == pytest.approx(0.5, abs=1e-12)
    assert token_shift(FEW, 4096) == pytest.approx(1.15, abs=1e-12)
    assert token_shift(FEW, 0) == pytest.approx(0.4566667, abs=1e-7)
    assert token_shift(FEW, 1001) - token_shift(FEW, 1000) == pytest.approx(1.6927083e-4, abs=1e-11)


def test_constant_shift_is_the_same_for_every_size() -> None:
    schedule = replace(FEW, time_shift="constant", shift=3.0)
    assert {token_shift(schedule, n) for n in (9, 540, 8640)} == {3.0}


@steady
@given(st.floats(0, 1), st.floats(0.05, 50))
def test_shifting_keeps_the_ends_and_is_undone_by_the_inverse_shift(sigma: float, shift: float) -> None:
    assert shift_sigma(0.0, shift) == 0.0
    assert shift_sigma(1.0, shift) == pytest.approx(1.0, abs=1e-12)
    assert shift_sigma(sigma, 1.0) == pytest.approx(sigma, abs=1e-12)
    assert shift_sigma(shift_sigma(sigma, shift), 1 / shift) == pytest.approx(sigma, abs=1e-9)


@steady
@given(st.floats(0.001, 0.999), st.floats(0.05, 50))
def test_shifting_multiplies_the_odds_of_noise(sigma: float, shift: float) -> None:
    moved = shift_sigma(sigma, shift)
    assert moved / (1 - moved) == pytest.approx(shift * sigma / (1 - sigma), rel=1e-9)
    assert (moved >= sigma) == (shift >= 1) or moved == pytest.approx(sigma, abs=1e-12)


# One level


def test_base_timesteps_are_the_published_ones() -> None:
    times = [step.timestep for step in single_level_steps(SINGLE, 50, 8640)]
    assert times[:4] == pytest.approx([999.853, 996.866, 993.772, 990.568], abs=5e-4)
    assert times[-4:] == pytest.approx([371.855, 302.920, 220.986, 121.995], abs=5e-4)


def test_base_sigmas_of_five_steps_are_the_golden_ones() -> None:
    got = remaining(single_level_steps(SINGLE, 5, 8640))
    assert got == pytest.approx([0.999853, 0.964445, 0.910694, 0.819363, 0.629861, 0], abs=5e-7)


def test_one_level_is_told_unrounded_timesteps() -> None:
    for step in single_level_steps(SINGLE, 50, 8640):
        assert step.timestep == pytest.approx(1000 * step.remaining, abs=1e-9)


# Levels


@pytest.mark.parametrize(
    ("level", "border", "start", "end", "first", "last"),
    [
        (0, 0.999, 0.999, 0.666333, 999.0, 743.511744),
        (1, 0.666333, 0.7997597118943213, 0.333666, 743.256, 385.971642),
        (2, 0.333666, 0.5003741566479163, 0.0, 385.614, 1.383615),
    ],
)
def test_level_table_is_the_published_one(
    level: int, border: float, start: float, end: float, first: float, last: float
) -> None:
    for schedule in (FEW, PYRAMID):
        got = level_ranges(schedule)[level]
        assert got.border == pytest.approx(border, abs=1e-12)
        assert got.sigma_start == pytest.approx(start, abs=1e-12)
        assert got.sigma_end == pytest.approx(end, abs=1e-12)
        assert got.timestep_max == pytest.approx(first, abs=1e-9)
        assert got.timestep_last == pytest.approx(last, abs=5e-7)


@steady
@given(st.floats(0.001, 0.999), st.floats(0.001, 1 / 3))
def test_noise_is_higher_right_after_a_jump(border: float, gamma: float) -> None:
    assert border < corrected_start(border, gamma) < 1


FEW_STEP_TABLE = {
    1: (
        ([998.5342], [998], [0.998177]),
        ([742.6046], [742], [0.998177]),
        ([385.1468], [385], [0.998784]),
    ),
    2: (
        ([998.5342, 833.9636], [998, 833], [0.998177, 0.354035]),
        ([742.6046, 512.4629], [742, 512], [0.998177, 0.354035]),
        ([385.1468, 174.7637], [385, 174], [0.998784, 0.451240]),
    ),
    4: (  # [2, 2, 2] with the first-chunk boost
        ([998.5342, 902.2183, 833.9636, 783.0660], [998, 902, 833, 783], [0.998177, 0.621189, 0.354035, 0.154818]),
        ([742.6046, 607.9129, 512.4629, 441.2859], [742, 607, 512, 441], [0.998177, 0.621189, 0.354035, 0.154818]),
        ([385.1468, 274.5746, 174.7637, 84.2161], [385, 274, 174, 84], [0.998784, 0.711008, 0.451240, 0.215580]),
    ),
}


@pytest.mark.parametrize("count", FEW_STEP_TABLE)
def test_few_step_schedule_is_the_published_one(count: int) -> None:
    for (level, steps), (times, whole, sigmas) in zip(all_steps(FEW, count), FEW_STEP_TABLE[count], strict=True):
        assert unrounded(level, steps) == pytest.approx(times, abs=1e-4)
        assert [step.timestep for step in steps] == whole
        assert remaining(steps) == pytest.approx([*sigmas, 0], abs=1e-6)


def test_few_step_schedule_with_sizes_after_the_enlargement_is_the_other_published_one() -> None:
    steps = all_steps(FEW, 2, tokens=(540, 2160, 8640))
    assert unrounded(*steps[1]) == pytest.approx([742.8216, 547.1926], abs=1e-4)
    assert unrounded(*steps[2]) == pytest.approx([385.4137, 253.9905], abs=1e-4)


def test_few_step_schedule_without_shift_is_the_published_one() -> None:
    times = ([999, 871], [743, 564], [385, 193])
    for (_, steps), want in zip(all_steps(replace(FEW, time_shift="constant"), 2), times, strict=True):
        assert [step.timestep for step in steps] == want
        assert remaining(steps) == pytest.approx([0.999, 0.4999995, 0], abs=1e-12)


MID_TIMES = (
    "998.852 990.912 982.604 973.900 964.774 955.192 945.120 934.519 923.347 911.556 "
    "899.093 885.899 871.908 857.045 841.226 824.357 806.328 787.016 766.279 743.953",
    "743.049 731.946 720.327 708.156 695.392 681.993 667.908 653.083 637.459 620.970 "
    "603.542 585.091 565.525 544.741 522.620 499.029 473.816 446.810 417.810 386.589",
    "385.445 376.297 366.576 356.227 345.187 333.384 320.735 307.148 292.514 276.706 "
    "259.578 240.956 220.637 198.378 173.886 146.809 116.713 83.064 45.194 2.256",
)
MID_SIGMAS = (
    ".99942 .96834 .93582 .90176 .86604 .82853 .78911 .74762 .70389 .65774 "
    ".60895 .55731 .50255 .44438 .38246 .31643 .24587 .17028 .08911 .00173 0",
    ".99956 .97575 .95045 .92352 .89478 .86406 .83115 .79579 .75770 .71656 "
    ".67198 .62351 .57063 .51270 .44896 .37848 .30016 .21258 .11402 .00227 0",
)


def numbers(row: str) -> list[float]:
    """The numbers of one line of a table."""
    return [float(word) for word in row.split()]


@pytest.mark.parametrize(("level", "sigma_row"), [(0, 0), (1, 0), (2, 1)])
def test_mid_schedule_of_twenty_steps_is_the_published_one(level: int, sigma_row: int) -> None:
    stretch, steps = all_steps(PYRAMID, 20)[level]
    times = numbers(MID_TIMES[level])
    assert unrounded(stretch, steps) == pytest.approx(times, abs=6e-4)
    assert [step.timestep for step in steps] == [float(int(t)) for t in times]
    assert remaining(steps) == pytest.approx(numbers(MID_SIGMAS[sigma_row]), abs=6e-6)


def test_a_picture_whose_shift_leaves_no_falling_schedule_is_refused() -> None:
    side = MAX_SIDE // LATENT_STRIDE
    with pytest.raises(UserError, match="smaller height and width"):
        build_pyramid(SINGLE, (50,), side, side)
    (level,) = build_pyramid(SINGLE, (50,), 1280 // LATENT_STRIDE, 1280 // LATENT_STRIDE).levels
    line = remaining(level.steps)
    assert line[0] < 1
    assert all(a > b for a, b in pairwise(line))


# Every schedule


FIELDS = st.fixed_dictionaries(
    {
        "inner": st.sets(st.integers(2, 98), max_size=3),
        "solver": st.sampled_from(["euler", "unipc", "few_step"]),
        "gamma": st.floats(0.01, 1 / 3),
        "time_shift": st.sampled_from(["constant", "linear", "exponential"]),
        "shift": st.floats(0.2, 8),
    }
)
"""Any schedule of one to four levels; `inner` are the borders between them, in percent."""


def schedule_of(fields: dict[str, Any]) -> ScheduleConfig:
    """The schedule of drawn fields."""
    borders = (0.0, *(i / 100 for i in sorted(fields["inner"])), 1.0)
    return ScheduleConfig(borders=borders, **{key: value for key, value in fields.items() if key != "inner"})


@steady
@given(FIELDS, st.lists(st.integers(1, 60), min_size=4, max_size=4), st.integers(1, 10), st.integers(1, 10))
def test_noise_falls_strictly_to_zero_on_every_level(
    fields: dict[str, Any], steps: list[int], rows: int, columns: int
) -> None:
    schedule = schedule_of(fields)
    pyramid = build_pyramid(schedule, tuple(steps[: schedule.num_levels]), 16 * rows, 16 * columns)
    assert [len(level.steps) for level in pyramid.levels] == steps[: schedule.num_levels]
    for level in pyramid.levels:
        line = remaining(level.steps)
        assert line[0] < 1
        assert line[-1] == 0
        assert all(a > b for a, b in pairwise(line))
        assert [step.after for step in level.steps[:-1]] == [step.remaining for step in level.steps[1:]]
        assert [step.index for step in level.steps] == list(range(len(level.steps)))


@steady
@given(FIELDS, st.integers(1, 40))
def test_timesteps_fall_from_level_to_level_and_stay_below_1000(fields: dict[str, Any], count: int) -> None:
    schedule = schedule_of(fields)
    pyramid = build_pyramid(schedule, (count,) * schedule.num_levels, 48, 80)
    times = [step.timestep for level in pyramid.levels for step in level.steps]
    assert all(0 <= t < 1000 for t in times)
    assert all(a >= b for a, b in pairwise(times))
    if schedule.num_levels > 1:
        assert all(t == int(t) for t in times)


@steady
@given(FIELDS)
def test_levels_share_the_timesteps_without_overlap(fields: dict[str, Any]) -> None:
    assume(fields["inner"])
    schedule = schedule_of(fields)
    levels = level_ranges(schedule)
    assert levels[0].timestep_max <= 999
    assert levels[-1].sigma_end == 0
    for level in levels:
        assert level.sigma_start > level.sigma_end
        assert level.timestep_max >= level.timestep_last > 0
    for above, below in pairwise(levels):
        assert above.sigma_end == below.border < below.sigma_start
        assert above.timestep_last >= below.timestep_max


@steady
@given(FIELDS, st.integers(1, 30), st.sampled_from([540, 2160, 8640]))
def test_every_level_follows_the_tables_of_the_diffusers_schedulers(
    fields: dict[str, Any], count: int, num_tokens: int
) -> None:
    assume(fields["inner"])
    schedule = schedule_of(fields)
    is_dynamic = schedule.time_shift != "constant"
    schedule = replace(schedule, shift=1.0) if is_dynamic else schedule
    config = {
        "stages": schedule.num_levels,
        "stage_range": list(schedule.borders),
        "gamma": schedule.gamma,
        "shift": schedule.shift,
        "use_dynamic_shifting": is_dynamic,
        "time_shift_type": schedule.time_shift if is_dynamic else "linear",
    }
    theirs = (HeliosDMDScheduler if schedule.solver == "few_step" else HeliosScheduler)(**config)
    mu = token_shift(replace(schedule, time_shift="linear"), num_tokens)
    for i, level in enumerate(level_ranges(schedule)):
        assert level.border == pytest.approx(theirs.ori_start_sigmas[i], abs=1e-9)
        assert level.sigma_start == pytest.approx(theirs.start_sigmas[i], abs=1e-9)
        assert level.sigma_end == pytest.approx(theirs.end_sigmas[i], abs=1e-9)
        theirs.set_timesteps(count, i, mu=mu)
        steps = level_steps(schedule, level, count, num_tokens)
        assert remaining(steps) == pytest.approx(theirs.sigmas.tolist(), abs=1e-9)
        for step, time in zip(steps, theirs.timesteps.tolist(), strict=True):
            assert step.timestep == int(time) or math.isclose(time, round(time), abs_tol=1e-9)


@steady
@given(st.sampled_from(["linear", "exponential"]), st.integers(1, 60), st.sampled_from([135, 540, 8640]))
def test_one_level_follows_the_table_of_the_diffusers_scheduler(kind: TimeShift, count: int, num_tokens: int) -> None:
    schedule = replace(SINGLE, time_shift=kind)
    theirs = HeliosScheduler(stages=1, use_dynamic_shifting=True, time_shift_type=kind)
    grid = torch.linspace(0.999, 0, count + 1, dtype=torch.float64)[:-1].numpy()
    theirs.set_timesteps(count, sigmas=grid, mu=token_shift(replace(schedule, time_shift="linear"), num_tokens))
    steps = single_level_steps(schedule, count, num_tokens)
    assert remaining(steps) == pytest.approx(theirs.sigmas.tolist(), abs=1e-9)
    assert [step.timestep for step in steps] == pytest.approx(theirs.timesteps.tolist(), abs=1e-6)
