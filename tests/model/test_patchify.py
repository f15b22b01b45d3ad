"""Latents to tokens and back, and tier patches that start as the patch embedding."""

from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from heliograph.model.patchify import (
    Grid,
    enlarge_patch,
    from_tokens,
    history_rotary,
    init_tier_patches,
    patch_conv,
    to_tokens,
)
from heliograph.model.rope import RotaryConfig, flatten_table, pool_table, rotary_table
from tests.small import randomise, steady, wave, wave_tiers

PATCH = (1, 2, 2)
SMALL = RotaryConfig((4, 4, 4), 10000.0)
CPU = torch.device("cpu")
FACTORS = {"short": 1, "mid": 2, "long": 4}


def random_conv(factor: int, seed: int = 0, channels: int = 16) -> torch.nn.Conv3d:
    """A patch convolution with random weights."""
    conv = patch_conv(channels, 8, PATCH, factor)
    randomise(conv, seed)
    return conv


@torch.no_grad()
def test_tokens_run_over_columns_then_rows_then_frames() -> None:
    conv, x = random_conv(1), wave((2, 16, 3, 4, 6), 0.3)
    tokens, grid = to_tokens(conv, x)
    assert grid == Grid(3, 2, 3)
    for n, (t, y, z) in {0: (0, 0, 0), 1: (0, 0, 1), 3: (0, 1, 0), 6: (1, 0, 0), 17: (2, 1, 2)}.items():
        cell = x[:, :, t : t + 1, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2]
        assert torch.allclose(tokens[:, n], conv(cell).flatten(1), atol=1e-5)


def test_output_tokens_hold_channels_fastest() -> None:
    tokens = torch.arange(2 * 3 * 64).float().reshape(1, 6, 64)
    latents = from_tokens(tokens, Grid(1, 2, 3), PATCH)
    assert latents.shape == (1, 16, 1, 4, 6)
    for channel, row, column in ((0, 0, 0), (5, 1, 0), (15, 0, 1), (3, 1, 1)):
        value = (row * 2 + column) * 16 + channel
        assert float(latents[0, channel, 0, row, column]) == value
        assert float(latents[0, channel, 0, 2 + row, 4 + column]) == 5 * 64 + value


@torch.no_grad()
def test_latents_come_back_from_tokens_that_hold_them() -> None:
    x = wave((2, 16, 3, 4, 6), 0.3)
    conv = patch_conv(16, 64, PATCH, 1)
    conv.weight.zero_()
    conv.bias.zero_()
    for entry in range(64):  # copies one cell, in the order of the output: row, column, channel
        place, channel = divmod(entry, 16)
        conv.weight[entry, channel, 0, place // 2, place % 2] = 1
    tokens, grid = to_tokens(conv, x)
    assert torch.equal(from_tokens(tokens, grid, PATCH), x)


@pytest.mark.parametrize(
    ("height", "width", "want"),
    [
        (48, 80, (1920, 240, 240)),
        (80, 48, (1920, 240, 240)),
        (64, 64, (2048, 256, 256)),
        (56, 104, (2912, 364, 364)),
        (96, 160, (7680, 960, 960)),
    ],
)
def test_token_counts_of_the_tiers_are_the_published_ones(height: int, width: int, want: tuple[int, int, int]) -> None:
    for (name, factor), count in zip(FACTORS.items(), want, strict=True):
        frames = {"short": 2, "mid": 2, "long": 16}[name]
        conv = patch_conv(1, 1, PATCH, factor).to("meta")
        tokens, _ = to_tokens(conv, torch.empty(1, 1, frames, height, width, device="meta"))
        assert tokens.shape[1] == count


@torch.no_grad()
def test_an_incomplete_patch_repeats_the_last_cells() -> None:
    conv, x = random_conv(2), wave((1, 16, 2, 6, 10), 0.3)
    repeated = F.pad(x, (0, 2, 0, 2, 0, 0), mode="replicate")
    assert torch.equal(to_tokens(conv, x)[0], to_tokens(conv, repeated)[0])
    assert to_tokens(conv, x)[1] == Grid(1, 2, 3)


@steady
@given(st.integers(1, 9), st.integers(1, 9))
@torch.no_grad()
def test_every_history_token_has_a_rotation_whatever_the_size(rows: int, columns: int) -> None:
    tiers = wave_tiers(2 * rows, 2 * columns)
    counts = [
        to_tokens(random_conv(factor), getattr(tiers, name).latents)[0].shape[1] for name, factor in FACTORS.items()
    ]
    assert history_rotary(tiers, PATCH, SMALL).cos.shape == (sum(counts), 6)


def test_history_rotations_run_long_mid_short_and_belong_to_the_short_grid() -> None:
    tiers = wave_tiers(12, 20)
    got = history_rotary(tiers, PATCH, SMALL)
    start = 0
    for tier, factor in ((tiers.long, 4), (tiers.mid, 2), (tiers.short, 1)):
        part = flatten_table(pool_table(rotary_table(tier.frames, 6, 10, SMALL, CPU), factor))
        assert torch.equal(got.cos[start : start + len(part.cos)], part.cos)
        assert torch.equal(got.sin[start : start + len(part.sin)], part.sin)
        start += len(part.cos)
    assert start == len(got.cos)


@pytest.mark.parametrize(("name", "factor"), FACTORS.items())
@torch.no_grad()
def test_a_new_tier_token_is_the_short_token_of_its_pooled_cells(name: str, factor: int) -> None:
    convs = {"embedding": random_conv(1, 3)} | {n: random_conv(f, f) for n, f in FACTORS.items()}
    init_tier_patches(**convs)
    x = wave((2, 16, 4, 16, 24), 0.3)
    got, grid = to_tokens(convs[name], x)
    want, pooled_grid = to_tokens(convs["embedding"], F.avg_pool3d(x, factor))
    assert grid == pooled_grid
    assert torch.allclose(got, want, atol=1e-5)


def test_an_enlarged_patch_keeps_the_sum_of_its_weights() -> None:
    weight = wave((3, 2, 1, 2, 2), 0.4)
    for factor in (1, 2, 4):
        grown = enlarge_patch(weight, factor)
        assert grown.shape == (3, 2, factor, 2 * factor, 2 * factor)
        assert torch.allclose(grown.sum(dim=(2, 3, 4)), weight.sum(dim=(2, 3, 4)), atol=1e-5)


def test_a_patch_covers_its_cells_once() -> None:
    for factor in FACTORS.values():
        conv = patch_conv(16, 8, PATCH, factor)
        assert conv.kernel_size == conv.stride == (factor, 2 * factor, 2 * factor)
        assert conv.weight.shape == (8, 16, factor, 2 * factor, 2 * factor)
        assert prod(conv.kernel_size) == 4 * factor**3
