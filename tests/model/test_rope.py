"""Rotary positions and the timestep sinusoid: golden tables, pooling, and what a rotation keeps."""

import pytest
import torch
from torch import Tensor

from heliograph.config import MemoryConfig
from heliograph.kernels import plain
from heliograph.memory import Tier, Tiers, frame_indices
from heliograph.model.embed import sinusoid
from heliograph.model.patchify import history_rotary
from heliograph.model.rope import (
    Rotary,
    RotaryConfig,
    axis_frequencies,
    flatten_table,
    pad_to_multiple,
    pool_table,
    rotary_table,
)
from tests.small import wave

CPU = torch.device("cpu")
RELEASED = RotaryConfig((44, 42, 42), 10000.0)
SMALL = RotaryConfig((4, 4, 4), 10000.0)
TIME, ROW, COLUMN = 0, 22, 43
"""First pair of channels of each axis in the released layout."""


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Heads turned to their tokens' positions."""
    return plain.rotate(x, rotary.cos, rotary.sin)


def released_history() -> Rotary:
    """Table of the 2400 history tokens at 384×640."""
    index = frame_indices(MemoryConfig(), 9)
    latents = torch.zeros(1, 1, 1, 48, 80)
    tiers = Tiers(Tier(latents, index.long), Tier(latents, index.mid), Tier(latents, index.short), index.chunk)
    return history_rotary(tiers, (1, 2, 2), RELEASED)


def released_chunk() -> Rotary:
    """Table of the 8640 chunk tokens at 384×640."""
    return flatten_table(rotary_table(tuple(range(20, 29)), 24, 40, RELEASED, CPU))


def near(got: Tensor, want: list[float]) -> bool:
    """Whether all numbers agree with a published table."""
    return torch.allclose(got, torch.tensor(want), atol=2e-6)


# Golden values


def test_frequencies_are_the_published_ones() -> None:
    time, space = axis_frequencies(44, 1e4, CPU), axis_frequencies(42, 1e4, CPU)
    assert near(time[:3], [1, 0.65793322, 0.43287613])
    assert float(time[-1]) == pytest.approx(0.00015199, abs=1e-8)
    assert float(space[1]) == pytest.approx(0.64494668, abs=1e-7)
    assert float(space[-1]) == pytest.approx(0.00015505, abs=1e-8)


def test_first_long_token_has_the_golden_rotation() -> None:
    rotary = released_history()
    cos, sin = rotary.cos[0], rotary.sin[0]
    assert near(cos[TIME : TIME + 3], [-0.379870, -0.055390, 0.416158])
    assert near(sin[TIME : TIME + 3], [0.283772, 0.746777, 0.782843])
    assert near(cos[ROW : ROW + 2], [0.033541, 0.430075])
    assert torch.allclose(cos[COLUMN:], cos[ROW:COLUMN], atol=1e-6)


def test_last_long_token_has_the_golden_rotation() -> None:
    rotary = released_history()
    cos, sin = rotary.cos[239], rotary.sin[239]
    assert near(cos[TIME : TIME + 3], [-0.168291, -0.743860, 0.886565])
    assert near(cos[ROW : ROW + 2], [-0.418110, 0.202760])
    assert near(sin[COLUMN : COLUMN + 2], [-0.093788, -0.615301])


def test_last_mid_token_has_the_golden_rotation() -> None:
    rotary = released_history()
    cos, sin = rotary.cos[479], rotary.sin[479]
    assert near(cos[TIME : TIME + 3], [0.192577, 0.468804, 0.268640])
    assert near(cos[ROW : ROW + 2], [-0.766397, -0.346628])
    assert near(sin[COLUMN : COLUMN + 2], [0.630082, -0.282364])


def test_last_chunk_token_has_the_golden_rotation() -> None:
    rotary = released_chunk()
    cos, sin = rotary.cos[-1], rotary.sin[-1]
    assert near(cos[TIME : TIME + 3], [-0.962606, 0.910036, 0.902249])
    assert near(cos[ROW : ROW + 2], [-0.532833, -0.641619])
    assert near(sin[COLUMN : COLUMN + 2], [0.963795, 0.020179])


def test_pooling_damps_fast_channels_as_published() -> None:
    rotary = released_history()
    length = torch.hypot(rotary.cos, rotary.sin)
    long, mid, short = length[100], length[300], length[1000]
    assert torch.allclose(long[TIME : TIME + 4], torch.tensor([0.4742, 0.7488, 0.8866, 0.9500]), atol=6e-5)
    assert torch.allclose(long[ROW : ROW + 4], torch.tensor([0.4742, 0.7579, 0.8950, 0.9556]), atol=6e-5)
    assert torch.allclose(mid[TIME : TIME + 4], torch.tensor([0.8776, 0.9464, 0.9767, 0.9899]), atol=6e-5)
    assert torch.allclose(short, torch.ones(64), atol=1e-6)


def test_sinusoid_of_742_is_the_golden_one() -> None:
    got = sinusoid(torch.tensor([742.0]), 256)[0]
    assert torch.allclose(
        got[[0, 1, 2, 127, 128, 129, 130, 255]],
        torch.tensor([0.834190, 0.786332, -0.089714, 0.996823, 0.551477, -0.617805, 0.995968, 0.079651]),
        atol=2e-5,
    )


def test_sinusoid_of_0_is_ones_then_zeros() -> None:
    got = sinusoid(torch.zeros(2), 256)
    assert torch.equal(got, torch.cat([torch.ones(2, 128), torch.zeros(2, 128)], dim=1))


# Tables


def test_rows_and_columns_start_at_zero_on_every_grid() -> None:
    big, small = (rotary_table((5,), n, n, SMALL, CPU) for n in (6, 3))
    assert torch.equal(big[:, :, :3, :3], small)


def test_a_table_entry_is_the_angle_of_its_own_frame_row_and_column() -> None:
    table = rotary_table((3, 7), 4, 5, SMALL, CPU)
    f = [1.0, 0.01]
    angles = torch.tensor([7 * f[0], 7 * f[1], 2 * f[0], 2 * f[1], 4 * f[0], 4 * f[1]])
    assert torch.allclose(table[:, 1, 2, 4], torch.stack([angles.cos(), angles.sin()]), atol=1e-6)


def test_tables_are_float32_so_that_neighbours_differ_far_from_zero() -> None:
    table = rotary_table((300, 301), 1, 1, SMALL, CPU)
    assert table.dtype == torch.float32
    assert float((table[:, 0] - table[:, 1]).abs().max()) > 0.1


def test_pooling_by_1_changes_nothing() -> None:
    table = rotary_table((0, 19), 5, 7, SMALL, CPU)
    assert torch.equal(pool_table(table, 1), table)


@pytest.mark.parametrize("size", [2, 4])
def test_pooling_takes_the_mean_of_every_block(size: int) -> None:
    table = rotary_table(tuple(range(1, 1 + size)), 2 * size, 3 * size, SMALL, CPU)
    pooled = pool_table(table, size)
    assert pooled.shape == (2, 1, 2, 3, 6)
    want = table[:, :, size : 2 * size, 2 * size :].mean(dim=(1, 2, 3))
    assert torch.allclose(pooled[:, 0, 1, 2], want, atol=1e-6)


def test_pooling_an_incomplete_block_repeats_its_last_token() -> None:
    table = rotary_table((17, 18), 3, 5, SMALL, CPU)
    repeated = torch.cat([table, table[:, :, -1:]], dim=2)
    repeated = torch.cat([repeated, repeated[:, :, :, -1:]], dim=3)
    assert torch.equal(pool_table(table, 2), pool_table(repeated, 2))


def test_padding_repeats_the_last_frame_row_and_column() -> None:
    x = wave((1, 2, 3, 5, 6), 0.3)
    padded = pad_to_multiple(x, (2, 4, 4))
    assert padded.shape == (1, 2, 4, 8, 8)
    assert torch.equal(padded[:, :, :3, :5, :6], x)
    assert torch.equal(padded[:, :, 3, :5, :6], x[:, :, 2])
    assert torch.equal(padded[:, :, :3, 7, :6], x[..., 4, :])
    assert torch.equal(padded[:, :, :3, :5, 7], x[..., 5])


def test_padding_to_a_size_it_already_has_changes_nothing() -> None:
    x = wave((1, 2, 4, 8, 8), 0.3)
    assert torch.equal(pad_to_multiple(x, (4, 8, 8)), x)


def test_joining_keeps_the_order_of_the_streams() -> None:
    first, second = (Rotary(torch.full((n, 6), c), torch.full((n, 6), -c)) for n, c in ((2, 0.1), (3, 0.2)))
    joined = Rotary.join([first, second])
    assert joined.cos[:, 0].tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.2])
    assert torch.equal(joined.sin, -joined.cos)


# Rotation


def at_frames(*frames: int) -> Rotary:
    """Table of single tokens at these frame indices."""
    return flatten_table(rotary_table(frames, 1, 1, SMALL, CPU))


def test_rotation_keeps_the_length_of_every_pair() -> None:
    x = wave((2, 4, 3, 12), 0.3)
    turned = rotate(x, at_frames(0, 3, 11, 28))
    pairs, turned_pairs = (y.unflatten(-1, (6, 2)).norm(dim=-1) for y in (x, turned))
    assert torch.allclose(pairs, turned_pairs, atol=1e-5)


def test_position_zero_does_not_rotate() -> None:
    x = wave((1, 1, 2, 12), 0.3)
    assert torch.equal(rotate(x, at_frames(0)), x)


def test_scores_depend_on_the_distance_of_two_tokens_alone() -> None:
    query, key = wave((1, 1, 1, 12), 0.3), wave((1, 1, 1, 12), 1.7)

    def score(i: int, j: int) -> float:
        return float((rotate(query, at_frames(i)) * rotate(key, at_frames(j))).sum())

    assert score(3, 7) == pytest.approx(score(20, 24), abs=1e-4)
    assert abs(score(3, 7) - score(3, 8)) > 1e-3


def test_rotation_turns_neighbouring_channels_into_each_other() -> None:
    x = torch.zeros(1, 1, 1, 12)
    x[..., 0] = 1.0
    angle = torch.tensor(2.0)
    turned = rotate(x, at_frames(2))[0, 0, 0]
    assert torch.allclose(turned[:2], torch.stack([angle.cos(), angle.sin()]))
    assert not turned[2:].any()


def test_bfloat16_is_rotated_in_float32_and_rounded_once() -> None:
    x, rotary = wave((1, 2, 2, 12), 0.3).bfloat16(), at_frames(3, 28)
    turned = rotate(x, rotary)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x.float(), rotary).bfloat16())
