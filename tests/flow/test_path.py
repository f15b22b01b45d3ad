"""The straight path between data and noise."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from heliograph.flow.path import interpolate, to_noise, to_x0, velocity
from tests.small import steady, wave

X0 = wave((2, 3, 2, 4, 4), 0.2)
EPS = wave((2, 3, 2, 4, 4), 1.9)


def test_the_path_starts_at_data_and_ends_at_noise() -> None:
    assert torch.equal(interpolate(X0, EPS, 0.0), X0)
    assert torch.equal(interpolate(X0, EPS, 1.0), EPS)


def test_velocity_is_noise_minus_data() -> None:
    assert torch.equal(velocity(X0, EPS), EPS - X0)


@steady
@given(st.floats(0, 1), st.floats(0, 1))
def test_velocity_is_the_slope_between_any_two_points_of_the_path(one: float, other: float) -> None:
    rise = interpolate(X0, EPS, other) - interpolate(X0, EPS, one)
    assert torch.allclose(rise, (other - one) * velocity(X0, EPS), atol=1e-6)


@steady
@given(st.floats(0, 1))
def test_data_and_noise_are_found_again_from_any_point_of_the_path(sigma: float) -> None:
    x, v = interpolate(X0, EPS, sigma), velocity(X0, EPS)
    assert torch.allclose(to_x0(x, v, sigma), X0, atol=1e-6)
    assert torch.allclose(to_noise(x, v, sigma), EPS, atol=1e-6)
    assert torch.allclose(interpolate(to_x0(x, v, sigma), to_noise(x, v, sigma), sigma), x, atol=1e-6)


def test_sigma_may_differ_between_samples() -> None:
    sigma = torch.tensor([0.25, 0.75]).reshape(2, 1, 1, 1, 1)
    x, v = interpolate(X0, EPS, sigma), velocity(X0, EPS)
    for row, value in enumerate((0.25, 0.75)):
        assert torch.allclose(x[row], interpolate(X0[row], EPS[row], value))
    assert torch.allclose(to_x0(x, v, sigma), X0, atol=1e-6)
    assert torch.allclose(to_noise(x, v, sigma), EPS, atol=1e-6)
