"""Solvers: golden values, what each is exact for, and how fast its error falls."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from diffusers import HeliosDMDScheduler, HeliosScheduler
from torch import Tensor

from heliograph.flow.path import interpolate
from heliograph.flow.schedule import Step, level_ranges, level_steps, single_level_steps, token_shift
from heliograph.flow.solvers import Euler, FewStep, Solver, UniPC, make_solver
from heliograph.presets import BASE, DISTILLED, MID
from tests.small import relative_error, wave

SHAPE = (1, 2, 3, 4, 4)
DATA, NOISE = wave(SHAPE, 0.2), wave(SHAPE, 1.9)
SOLVERS = (Euler(), FewStep(), UniPC())

Field = Callable[[Tensor, Step], Tensor]


def states(solver: Solver, steps: tuple[Step, ...], x: Tensor, field: Field) -> list[Tensor]:
    """Latents after every step."""
    state, seen = solver.start(x), []
    for step in steps:
        x, state = solver.step(state, x, field(x, step), step)
        seen.append(x)
    return seen


def line(count: int, high: float = 0.999, low: float = 0.0) -> tuple[Step, ...]:
    """`count` even steps from `high` to `low`."""
    grid = [high + (low - high) * i / count for i in range(count)] + [low]
    return tuple(Step(i, a, b, 1000 * a) for i, (a, b) in enumerate(pairwise(grid)))


# Golden values


def golden_field(times: list[float]) -> Field:
    """v = 0.3·x + 0.5·sin(t / 100), with the timestep of each step given."""
    return lambda x, step: 0.3 * x + 0.5 * math.sin(times[step.index] / 100)


def golden_run(solver: Solver, steps: tuple[Step, ...], times: list[float]) -> list[float]:
    """Values after every step, from 1."""
    one = torch.ones(1, 1, 1, 1, 1)
    return [float(x) for x in states(solver, steps, one, golden_field(times))]


def unrounded_level(count: int) -> tuple[tuple[Step, ...], list[float]]:
    """Steps of the last level of Mid at 384×640 and their timesteps before rounding."""
    level = level_ranges(MID.schedule)[2]
    steps = level_steps(MID.schedule, level, count, 2160)
    span = level.timestep_max - level.timestep_last
    return steps, [level.timestep_last + step.remaining * span for step in steps]


UNIPC_20 = (
    "1.0006428 0.9999195 0.9977840 0.9942821 0.9889390 0.9813111 0.9709004 0.9571422 0.9394112 0.9170409 "
    "0.8893679 0.8558099 0.8160015 0.7700126 0.7186866 0.6641546 0.6106538 0.5665927 0.6007920 0.6003571"
)


@pytest.mark.parametrize(
    ("solver", "count", "want"),
    [
        (UniPC(), 4, "1.0048575 0.8960502 -0.0372746 -0.0372746"),
        (UniPC(), 20, UNIPC_20),
        (Euler(), 4, "1.0048577 0.9214250 0.5407920 0.5403980"),
    ],
    ids=["unipc-4", "unipc-20", "euler-4"],
)
def test_values_on_the_last_level_are_the_golden_ones(solver: Solver, count: int, want: str) -> None:
    steps, times = unrounded_level(count)
    assert golden_run(solver, steps, times) == pytest.approx([float(w) for w in want.split()], abs=2e-6)


def test_values_of_base_are_the_golden_ones() -> None:
    steps = single_level_steps(BASE.schedule, 5, 8640)
    got = golden_run(UniPC(), steps, [step.timestep for step in steps])
    assert got == pytest.approx([0.9989871, 0.9853485, 0.9280058, 0.7461680, 0.6003149], abs=2e-6)


@pytest.mark.parametrize(
    ("count", "want"), [(2, [0.5140565, 0.6219729]), (4, [0.7150300, 0.7722930, 0.8755740, 0.9088045])]
)
def test_values_of_few_step_sampling_are_the_golden_ones(count: int, want: list[float]) -> None:
    schedule = DISTILLED.schedule
    steps = level_steps(schedule, level_ranges(schedule)[1], count, 540)
    assert golden_run(FewStep(), steps, [step.timestep for step in steps]) == pytest.approx(want, abs=1e-6)


# What is exact


@pytest.mark.parametrize("solver", SOLVERS)
def test_exact_velocity_reaches_data_in_one_step(solver: Solver) -> None:
    x = interpolate(DATA, NOISE, 0.999)
    (end,) = states(solver, line(1), x, lambda x, step: NOISE - DATA)
    assert torch.allclose(end, DATA, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("count", [2, 3, 7, 20])
def test_every_solver_stays_on_the_line_while_the_clean_estimate_stays_the_same(solver: Solver, count: int) -> None:
    x = interpolate(DATA, NOISE, 0.999) if not isinstance(solver, FewStep) else NOISE
    steps = line(count, high=1.0 if isinstance(solver, FewStep) else 0.999)
    seen = states(solver, steps, x, lambda x, step: (x - DATA) / step.remaining)
    for step, got in zip(steps, seen, strict=True):
        assert torch.allclose(got, interpolate(DATA, NOISE, step.after), atol=2e-5)


@pytest.mark.parametrize("count", [1, 4, 20])
def test_the_last_unipc_step_ends_on_its_clean_estimate(count: int) -> None:
    steps, _ = unrounded_level(count)
    estimates: list[Tensor] = []

    def field(x: Tensor, step: Step) -> Tensor:
        velocity = torch.sin(3 * x) + step.remaining
        estimates.append(x - step.remaining * velocity)
        return velocity

    assert torch.allclose(states(UniPC(), steps, NOISE, field)[-1], estimates[-1], atol=1e-6)


def gaussian_velocity(x: Tensor, step: Step) -> Tensor:
    """Exact velocity of data that is normal with deviation 0.5."""
    s, sigma = 0.5, step.remaining
    clean = x * (1 - sigma) * s**2 / ((1 - sigma) ** 2 * s**2 + sigma**2)
    return (x - clean) / sigma


def gaussian_error(solver: Solver, count: int) -> float:
    """Error at sigma 0.1 of `count` steps from 0.9 along the exact field of normal data."""

    def deviation(sigma: float) -> float:
        return math.hypot((1 - sigma) * 0.5, sigma)

    x = NOISE.double()
    want = x * deviation(0.1) / deviation(0.9)
    return relative_error(states(solver, line(count, 0.9, 0.1), x, gaussian_velocity)[-1], want)


def test_halving_the_steps_halves_the_error_of_euler() -> None:
    assert gaussian_error(Euler(), 16) / gaussian_error(Euler(), 32) == pytest.approx(2, rel=0.2)


def test_halving_the_steps_cuts_the_error_of_unipc_at_least_fourfold() -> None:
    assert gaussian_error(UniPC(), 16) / gaussian_error(UniPC(), 32) > 4


def test_unipc_is_far_closer_than_euler_with_the_same_steps() -> None:
    assert gaussian_error(UniPC(), 16) < gaussian_error(Euler(), 16) / 5


# States


def test_few_step_sampling_mixes_the_far_end_with_the_same_start_every_time() -> None:
    velocities = [wave(SHAPE, phase) for phase in (0.4, 1.1, 2.5)]
    steps, x = line(3), NOISE
    seen = states(FewStep(), steps, x, lambda x, step: velocities[step.index])
    for step, got in zip(steps, seen, strict=True):
        far_end = x - step.remaining * velocities[step.index]
        assert torch.allclose(got, (1 - step.after) * far_end + step.after * NOISE, atol=1e-6)
        x = got
    assert torch.equal(seen[-1], far_end)


def test_a_new_start_forgets_the_level_before() -> None:
    solver, field = UniPC(), lambda x, step: torch.sin(3 * x)
    first = states(solver, line(4), NOISE, field)
    states(solver, line(5), DATA, field)
    assert all(torch.equal(a, b) for a, b in zip(first, states(solver, line(4), NOISE, field), strict=True))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_leaves_its_latents_as_they_are(solver: Solver) -> None:
    x = NOISE.clone()
    states(solver, line(4), x, lambda x, step: torch.sin(3 * x))
    assert torch.equal(x, NOISE)


@pytest.mark.parametrize("solver", SOLVERS)
def test_arithmetic_is_in_the_dtype_of_the_latents(solver: Solver) -> None:
    for dtype in (torch.float32, torch.float64):
        assert states(solver, line(4), NOISE.to(dtype), lambda x, step: torch.sin(x))[-1].dtype == dtype


def test_solvers_are_made_by_name() -> None:
    assert make_solver("euler") == Euler()
    assert make_solver("unipc") == UniPC()
    assert make_solver("few_step") == FewStep()


# The schedulers of diffusers


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("name", ["euler", "unipc", "few_step"])
def test_steps_are_those_of_the_diffusers_schedulers(name: str, count: int) -> None:
    schedule = (DISTILLED if name == "few_step" else MID).schedule
    if name == "few_step":
        theirs = HeliosDMDScheduler(use_dynamic_shifting=True)
    else:
        theirs = HeliosScheduler(use_dynamic_shifting=True, scheduler_type=name)
    theirs.set_timesteps(count, 1, mu=token_shift(DISTILLED.schedule, 540))
    steps = level_steps(schedule, level_ranges(schedule)[1], count, 540)
    velocities = [wave(SHAPE, 0.3 + i) for i in range(count)]
    got = states(make_solver(name), steps, NOISE, lambda x, step: velocities[step.index])
    x, times = NOISE, theirs.timesteps
    start = {"dmd_noisy_tensor": NOISE, "dmd_sigmas": theirs.sigmas, "dmd_timesteps": times, "all_timesteps": times}
    for i, time in enumerate(times):
        extra = {**start, "cur_sampling_step": i} if name == "few_step" else {}
        x = theirs.step(velocities[i], time, x, return_dict=False, **extra)[0]
        assert relative_error(got[i], x) < 1e-5
