"""8-bit weights: no element is further off than half a step of its row, and layers keep what they do."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from heliograph.engine.quantise import Int8Linear, round_matrices, to_levels
from tests.small import relative_error, wave


@given(st.integers(1, 8), st.integers(1, 40), st.floats(1e-3, 1e3))
def test_no_element_is_off_by_more_than_half_a_step(rows: int, columns: int, size: float) -> None:
    weight = wave((rows, columns), 0.7) * size
    levels, scale = to_levels(weight)
    assert ((levels.float() * scale[:, None] - weight).abs() <= 0.501 * scale[:, None]).all()


def test_a_row_of_zeros_stays_zero() -> None:
    levels, scale = to_levels(torch.zeros(2, 3))
    assert levels.eq(0).all()
    assert scale.isfinite().all()


def test_a_large_row_does_not_coarsen_the_others() -> None:
    weight = torch.ones(2, 4)
    weight[0] *= 1e4
    levels, scale = to_levels(weight)
    assert torch.allclose(levels[1].float() * scale[1], weight[1], rtol=1e-6)


def test_every_linear_layer_inside_is_rounded_and_nothing_else() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Sequential(nn.GELU(), nn.Linear(8, 4, bias=False)))
    x = wave((3, 8), 0.2)
    want = module(x)
    round_matrices(module)
    kinds = [type(part) for part in module.modules() if not isinstance(part, nn.Sequential)]
    assert kinds == [Int8Linear, nn.LayerNorm, nn.GELU, Int8Linear]
    assert relative_error(module(x).detach(), want.detach()) < 0.02
    assert module.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
