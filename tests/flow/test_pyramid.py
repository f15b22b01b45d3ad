"""The pyramid: noise stays white, levels meet, and the numbers are the published ones."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from heliograph.errors import UserError
from heliograph.flow.pyramid import (
    BLOCK,
    Level,
    block_factor,
    block_noise,
    build_pyramid,
    enlarge,
    jump,
    jump_weights,
    shrink,
    shrink_noise,
)
from heliograph.flow.schedule import corrected_start, level_ranges, token_shift
from heliograph.presets import BASE, DISTILLED, MID
from tests.small import steady, wave

GAMMAS = (0.02, 0.1, 0.3, 1 / 3)
BORDERS = tuple(level.border for level in level_ranges(DISTILLED.schedule)[1:])


def white(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def block_covariance(x: Tensor) -> Tensor:
    """Covariance of the four cells of 2×2 blocks, in the order (0,0), (0,1), (1,0), (1,1)."""
    cells = torch.stack([x[..., i::2, j::2].flatten() for i, j in product(range(2), repeat=2)])
    return torch.cov(cells, correction=0)


def covariance(gamma: float) -> Tensor:
    """(1 + γ)·I − γ·11ᵀ."""
    return (1 + gamma) * torch.eye(BLOCK, dtype=torch.float64) - gamma * torch.ones(BLOCK, BLOCK, dtype=torch.float64)


def shift_of(level: Level) -> float:
    """The shift that a level's first sigma was made with: the ratio of its odds to those of 0.999."""
    sigma = level.steps[0].remaining
    return sigma / (1 - sigma) / (0.999 / 0.001)


# Block noise


@pytest.mark.parametrize("gamma", GAMMAS)
def test_block_factor_squared_is_the_covariance(gamma: float) -> None:
    factor = block_factor(gamma).double()
    assert torch.equal(factor, factor.tril())
    assert torch.allclose(factor @ factor.T, covariance(gamma), atol=1e-6)


def test_block_factor_is_the_cholesky_factor_where_there_is_one() -> None:
    want = torch.linalg.cholesky(covariance(0.3)).float()
    assert torch.allclose(block_factor(0.3), want, atol=1e-6)


def test_block_factor_of_a_third_is_the_published_one() -> None:
    a, b = math.sqrt(2) / 3, math.sqrt(2 / 3)
    want = torch.tensor([[1, 0, 0, 0], [-1 / 3, 2 * a, 0, 0], [-1 / 3, -a, b, 0], [-1 / 3, -a, -b, 0]])
    assert torch.allclose(block_factor(1 / 3), want, atol=1e-6)


def test_block_noise_of_a_third_sums_to_zero_in_every_block() -> None:
    noise = block_noise(white(1, 2, 3, 4, 5, 4), 1 / 3)
    assert float(shrink(noise).abs().max()) < 1e-6


@pytest.mark.parametrize("gamma", GAMMAS)
def test_block_noise_has_unit_variance_and_correlation_minus_gamma(gamma: float) -> None:
    noise = block_noise(white(1, 4, 4, 64, 64, 4), gamma)
    assert torch.allclose(block_covariance(noise), covariance(gamma).float(), atol=0.015)


def test_block_noise_fills_each_block_row_by_row() -> None:
    z = torch.zeros(1, 1, 1, 2, 3, 4)
    z[..., 1, 2, :] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    noise = block_noise(z, 0.3)
    got = noise[0, 0, 0, 2:, 4:].flatten()
    assert torch.allclose(got, block_factor(0.3) @ torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert int(noise.count_nonzero()) == 4


def test_block_noise_of_the_golden_signal_is_the_golden_one() -> None:
    want = torch.tensor(
        [
            [0.3894, 0.7233, -0.1814, -0.6859],
            [0.2258, -1.3385, -0.3807, 1.2479],
            [-0.0352, 0.6161, 0.2501, -0.5172],
            [0.5176, -1.0985, -0.6301, 0.8973],
        ]
    )
    noise = block_noise(wave((4, 4), 0.4).reshape(1, 1, 1, 2, 2, 4), 1 / 3)
    assert torch.allclose(noise[0, 0, 0], want, atol=6e-5)


# Jump


@pytest.mark.parametrize(
    ("border", "signal", "noise"),
    [(0.666333, 0.6001201440528393, 0.6926122274238059), (0.333666, 0.7498129216760419, 0.4333367310543098)],
)
def test_jump_weights_are_the_published_ones(border: float, signal: float, noise: float) -> None:
    weights = jump_weights(border, 1 / 3)
    assert weights.signal == pytest.approx(signal, abs=1e-12)
    assert weights.noise == pytest.approx(noise, abs=1e-12)


@steady
@given(st.floats(0.001, 0.999), st.floats(0.01, 1 / 3))
def test_a_jump_keeps_the_picture_at_the_weight_of_the_corrected_noise_level(border: float, gamma: float) -> None:
    weights, start = jump_weights(border, gamma), corrected_start(border, gamma)
    assert weights.signal * (1 - border) == pytest.approx(1 - start, abs=1e-12)


@steady
@given(st.floats(0.001, 0.999), st.floats(0.01, 1 / 3))
def test_block_noise_cancels_exactly_the_correlation_that_enlarging_brings(border: float, gamma: float) -> None:
    weights, start = jump_weights(border, gamma), corrected_start(border, gamma)
    enlarged, added = (weights.signal * border) ** 2, weights.noise**2
    assert enlarged - gamma * added == pytest.approx(0, abs=1e-12)
    assert enlarged + added == pytest.approx(start**2, abs=1e-12)


@pytest.mark.parametrize(("border", "gamma"), list(product(BORDERS, (0.1, 1 / 3))))
def test_noise_is_white_again_after_a_jump(border: float, gamma: float) -> None:
    x, z = white(1, 4, 4, 64, 64, seed=1), white(1, 4, 4, 64, 64, 4, seed=2)
    noise = jump(border * x, z, jump_weights(border, gamma), gamma) / corrected_start(border, gamma)
    assert torch.allclose(block_covariance(noise), torch.eye(4), atol=0.015)
    beside = (noise[..., :, 1:-1:2] * noise[..., :, 2::2]).mean()
    below = (noise[..., 1:-1:2, :] * noise[..., 2::2, :]).mean()
    frame = (noise[:, :, 1:] * noise[:, :, :-1]).mean()
    assert max(abs(float(c)) for c in (beside, below, frame)) < 0.015


@pytest.mark.parametrize("border", BORDERS)
def test_a_jump_carries_the_picture_over_enlarged(border: float) -> None:
    picture, z = wave((1, 2, 3, 4, 6), 0.3), torch.zeros(1, 2, 3, 4, 6, 4)
    got = jump((1 - border) * picture, z, jump_weights(border, 1 / 3), 1 / 3)
    assert torch.allclose(got, (1 - corrected_start(border, 1 / 3)) * enlarge(picture), atol=1e-6)


# Sizes


def test_shrinking_takes_the_mean_of_each_block() -> None:
    x = wave((2, 3, 2, 6, 8), 0.7)
    want = (x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]) / 4
    assert torch.allclose(shrink(x), want, atol=1e-6)


def test_shrinking_undoes_enlarging() -> None:
    x = wave((2, 3, 2, 5, 7), 0.7)
    assert enlarge(x).shape == (2, 3, 2, 10, 14)
    assert torch.equal(shrink(enlarge(x)), x)


def test_enlarging_repeats_every_cell() -> None:
    big = enlarge(wave((1, 2, 2, 3, 3), 0.1))
    for i, j in product(range(2), repeat=2):
        assert torch.equal(big[..., i::2, j::2], wave((1, 2, 2, 3, 3), 0.1))


@pytest.mark.parametrize("num_levels", [2, 3, 4])
def test_shrunk_noise_is_white_with_unit_variance(num_levels: int) -> None:
    small = shrink_noise(white(1, 16, 9, 128, 128), num_levels)
    assert small.shape[-1] == 128 // 2 ** (num_levels - 1)
    spread = (BLOCK / small.numel()) ** 0.5  # standard error of a covariance over that many blocks
    assert torch.allclose(block_covariance(small), torch.eye(4), atol=5 * spread)
    assert abs(float(small.mean())) < 5 * spread


def test_one_level_leaves_the_noise_as_it_is() -> None:
    noise = white(1, 2, 3, 4, 4)
    assert torch.equal(shrink_noise(noise, 1), noise)


# Levels


def test_the_shift_of_a_level_comes_from_the_size_before_its_enlargement() -> None:
    for schedule in (DISTILLED.schedule, MID.schedule):
        levels = build_pyramid(schedule, (2, 2, 2), 48, 80).levels
        want = [token_shift(schedule, n) for n in (540, 540, 2160)]
        assert [shift_of(level) for level in levels] == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    ("height", "width", "num_tokens"),
    [
        (80, 48, (540, 540, 2160)),
        (64, 64, (576, 576, 2304)),
        (56, 104, (819, 819, 3276)),
        (88, 160, (1980, 1980, 7920)),
    ],
)
def test_tokens_of_other_sizes_are_the_published_ones(
    height: int, width: int, num_tokens: tuple[int, int, int]
) -> None:
    levels = build_pyramid(DISTILLED.schedule, (1, 1, 1), height, width).levels
    want = [token_shift(DISTILLED.schedule, n) for n in num_tokens]
    assert [shift_of(level) for level in levels] == pytest.approx(want, rel=1e-9)


def test_the_shift_of_one_level_comes_from_the_whole_chunk() -> None:
    (level,) = build_pyramid(BASE.schedule, (50,), 48, 80).levels
    assert shift_of(level) == pytest.approx(token_shift(BASE.schedule, 8640), rel=1e-9)
    assert level.jump is None


@pytest.mark.parametrize(
    ("height", "width", "words"), [(46, 80, "height=368"), (48, 84, "width=672"), (4, 8, "height=32")]
)
def test_a_size_that_cannot_be_halved_to_whole_patches_is_refused(height: int, width: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_pyramid(DISTILLED.schedule, (2, 2, 2), height, width)


def test_every_level_but_the_first_is_reached_by_a_jump_from_its_border() -> None:
    first, *others = build_pyramid(DISTILLED.schedule, (2, 3, 4), 48, 80).levels
    assert first.jump is None
    assert [level.jump for level in others] == [jump_weights(border, 1 / 3) for border in BORDERS]
    assert [level.index for level in (first, *others)] == [0, 1, 2]


def test_calls_are_counted_over_all_levels() -> None:
    assert build_pyramid(DISTILLED.schedule, (2, 3, 4), 48, 80).num_calls == 9
    assert build_pyramid(BASE.schedule, (50,), 48, 80).num_calls == 50
