"""Distribution matching in tensors alone."""

import pytest
import torch
from torch import Tensor

from heliograph.errors import UserError
from heliograph.flow.path import interpolate, to_x0, velocity
from heliograph.flow.schedule import token_shift
from heliograph.presets import DISTILLED
from heliograph.train.dmd import SHIFT, TimeDraw, dmd_gradient, dmd_loss, warped_time
from heliograph.train.draw import beta
from heliograph.train.objective import velocity_loss
from tests.train.examples import generator, normal

CPU = torch.device("cpu")
SHAPE = (2, 16, 9, 4, 4)


def test_the_gradient_of_the_loss_is_the_gradient_over_the_number_of_elements() -> None:
    x, gradient = normal(*SHAPE).requires_grad_(), normal(*SHAPE, seed=1)
    dmd_loss(x, gradient).backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, gradient / gradient.numel(), atol=1e-9)


def test_dmd_gradient_is_zero_when_critic_equals_teacher() -> None:
    seen = normal(*SHAPE, seed=1)
    assert not dmd_gradient(normal(*SHAPE), seen, seen).any()


def test_dmd_gradient_is_the_difference_over_the_mean_distance_from_the_teacher() -> None:
    x, critic, teacher = (normal(*SHAPE, seed=i) for i in range(3))
    got = dmd_gradient(x, critic, teacher)
    for sample in range(2):
        distance = (x[sample] - teacher[sample]).abs().mean()
        assert torch.allclose(got[sample], (critic[sample] - teacher[sample]) / distance, atol=1e-6)


def test_dmd_gradient_does_not_depend_on_the_scale_of_latents_or_on_other_samples() -> None:
    x, critic, teacher = (normal(*SHAPE, seed=i) for i in range(3))
    got = dmd_gradient(x, critic, teacher)
    assert torch.allclose(dmd_gradient(7 * x, 7 * critic, 7 * teacher), got, atol=1e-5)
    assert torch.allclose(dmd_gradient(x[:1], critic[:1], teacher[:1]), got[:1])


def test_a_chunk_that_the_teacher_sees_as_it_is_has_a_finite_gradient() -> None:
    x = normal(*SHAPE)
    assert not dmd_gradient(x, x + 1, x).any()
    assert not dmd_gradient(x, x, x).any()


def test_dmd_gradient_carries_no_graph() -> None:
    x, critic = normal(*SHAPE).requires_grad_(), normal(*SHAPE, seed=1).requires_grad_()
    assert not dmd_gradient(x, critic, normal(*SHAPE, seed=2)).requires_grad


def gaussian_x0(noisy: Tensor, sigma: float, mean: float) -> Tensor:
    """Clean latents expected behind `noisy`, if they are normal around `mean` with variance one."""
    kept = 1 - sigma
    return mean + kept / (kept**2 + sigma**2) * (noisy - kept * mean)


def test_following_the_gradient_leads_the_student_to_the_teachers_mean() -> None:
    mean = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.SGD([mean], lr=0.3)
    draws = generator()
    for _ in range(60):
        x = mean + torch.randn(SHAPE, generator=draws)
        sigma = 0.6
        noisy = interpolate(x.detach(), torch.randn(SHAPE, generator=draws), sigma)
        critic, teacher = gaussian_x0(noisy, sigma, float(mean.detach())), gaussian_x0(noisy, sigma, 2.0)
        optimiser.zero_grad()
        dmd_loss(x, dmd_gradient(x.detach(), critic, teacher)).backward()
        optimiser.step()
    assert float(mean.detach()) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("change", ["slope", "level"])
def test_critic_loss_is_minimal_at_the_true_velocity(change: str) -> None:
    sigma, shape = 0.4, (8, 16, 9, 8, 8)
    x, noise = 0.5 + normal(*shape), normal(*shape, seed=1)
    noisy = interpolate(x, noise, sigma)
    true = (noisy - gaussian_x0(noisy, sigma, 0.5)) / sigma
    change_by = noisy if change == "slope" else torch.ones_like(noisy)
    losses = [float(velocity_loss(true + step * change_by, velocity(x, noise))) for step in (-0.1, 0.0, 0.1)]
    assert losses[1] < min(losses[0], losses[2])
    # What is left is the variance of the velocity given the noisy chunk: 1/(σ² + (1 − σ)²).
    assert losses[1] == pytest.approx(1 / (sigma**2 + (1 - sigma) ** 2), rel=0.01)
    assert float(velocity_loss(to_x0(noisy, true, 0.0) - noisy + velocity(x, noise), velocity(x, noise))) == 0


# Timesteps


def test_the_shift_is_that_of_a_full_chunk() -> None:
    assert token_shift(DISTILLED.schedule, 8640) == pytest.approx(SHIFT, abs=1e-4)


@pytest.mark.parametrize(("r", "wanted"), [(0.1, 0.1758), (0.25, 0.3901), (0.5, 0.6574), (0.75, 0.8520), (0.9, 0.9453)])
def test_warped_times_are_the_published_ones(r: float, wanted: float) -> None:
    assert warped_time(r, SHIFT) / 1000 == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(("step", "mean"), [(0, 0.727), (125, 0.714), (250, 0.667), (375, 0.573)])
def test_time_goes_from_coarse_to_fine_as_published(step: int, mean: float) -> None:
    parameters = TimeDraw(steps=500).parameters(step)
    assert parameters is not None
    a, b = parameters
    assert a / (a + b) == pytest.approx(mean, abs=1e-3)
    assert float(beta((20_000,), a, b, generator(), CPU).mean()) == pytest.approx(mean, abs=0.01)


def test_time_is_uniform_in_the_end_and_always_where_nothing_is_said() -> None:
    assert TimeDraw(steps=500).parameters(500) is None and TimeDraw().parameters(0) is None
    r = TimeDraw(shift=1.0).draw(20_000, 0, generator(), CPU) / 1000
    for q in (0.1, 0.5, 0.9):
        assert float(r.quantile(q)) == pytest.approx(q, abs=0.02)


def test_timesteps_are_whole_numbers_away_from_both_ends() -> None:
    for draw in (TimeDraw(steps=500), TimeDraw(), TimeDraw(shift=0.05)):
        timestep = draw.draw(5000, 0, generator(), CPU)
        assert torch.equal(timestep, timestep.round())
        assert float(timestep.min()) >= 20 and float(timestep.max()) <= 980


def test_early_timesteps_are_noisier() -> None:
    draw = TimeDraw(steps=500)
    means = [float(draw.draw(5000, step, generator(), CPU).mean()) for step in (0, 250, 500)]
    assert means[0] > means[1] > means[2]


def test_times_are_a_function_of_the_generator() -> None:
    draw = TimeDraw(steps=500)
    first, again, other = (draw.draw(8, 10, generator(seed), CPU) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_impossible_draws_are_refused() -> None:
    with pytest.raises(UserError, match="draws no timesteps"):
        TimeDraw(shift=0.0)
