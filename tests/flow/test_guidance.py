"""Weighing the prompt against the negative prompt."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from heliograph.flow.guidance import cfg_zero_star, classifier_free
from tests.small import steady, wave

SHAPE = (2, 4, 3, 4, 4)
CONDITIONAL = wave(SHAPE, 0.4)
UNCONDITIONAL = 0.5 * wave(SHAPE, 0.4) + wave(SHAPE, 2.1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample."""
    return (a * b).flatten(1).sum(1)


@pytest.mark.parametrize("combine", [classifier_free, cfg_zero_star])
def test_scale_1_is_the_conditional_velocity(combine: type(classifier_free)) -> None:
    assert torch.allclose(combine(CONDITIONAL, UNCONDITIONAL, 1.0), CONDITIONAL, atol=1e-6)


def test_scale_0_is_the_unconditional_velocity() -> None:
    assert torch.equal(classifier_free(CONDITIONAL, UNCONDITIONAL, 0.0), UNCONDITIONAL)


@steady
@given(st.floats(0, 20))
def test_guidance_goes_from_the_unconditional_velocity_through_the_conditional_one(scale: float) -> None:
    got = classifier_free(CONDITIONAL, UNCONDITIONAL, scale)
    assert torch.allclose(got, (1 - scale) * UNCONDITIONAL + scale * CONDITIONAL, atol=1e-5)


def test_cfg_zero_star_adds_only_what_the_unconditional_velocity_does_not_explain() -> None:
    # With w = 0 what is left is the projection a·u; the rest of c must be orthogonal to u.
    projected = cfg_zero_star(CONDITIONAL, UNCONDITIONAL, 0.0)
    assert torch.allclose(dot(CONDITIONAL - projected, UNCONDITIONAL), torch.zeros(2), atol=1e-4)
    ratio = projected / UNCONDITIONAL
    assert torch.allclose(ratio, ratio[:, :1, :1, :1, :1].expand(SHAPE), atol=1e-4)


def test_cfg_zero_star_scale_is_the_one_of_its_definition() -> None:
    a = dot(CONDITIONAL, UNCONDITIONAL) / (dot(UNCONDITIONAL, UNCONDITIONAL) + 1e-8)
    projected = a.reshape(2, 1, 1, 1, 1) * UNCONDITIONAL
    want = projected + 5.0 * (CONDITIONAL - projected)
    assert torch.allclose(cfg_zero_star(CONDITIONAL, UNCONDITIONAL, 5.0), want, atol=1e-5)


def test_cfg_zero_star_does_not_depend_on_the_length_of_the_unconditional_velocity() -> None:
    want = cfg_zero_star(CONDITIONAL, UNCONDITIONAL, 5.0)
    assert torch.allclose(cfg_zero_star(CONDITIONAL, -7 * UNCONDITIONAL, 5.0), want, atol=1e-5)


def test_cfg_zero_star_is_plain_guidance_where_the_two_velocities_agree() -> None:
    got = cfg_zero_star(CONDITIONAL, CONDITIONAL.clone(), 5.0)
    assert torch.allclose(got, CONDITIONAL, atol=1e-5)


def test_cfg_zero_star_projects_each_sample_on_its_own() -> None:
    together = cfg_zero_star(CONDITIONAL, UNCONDITIONAL, 3.0)
    apart = [cfg_zero_star(CONDITIONAL[i : i + 1], UNCONDITIONAL[i : i + 1], 3.0) for i in range(2)]
    assert torch.allclose(together, torch.cat(apart), atol=1e-6)


def test_cfg_zero_star_survives_a_zero_unconditional_velocity() -> None:
    got = cfg_zero_star(CONDITIONAL, torch.zeros(SHAPE), 2.0)
    assert torch.allclose(got, 2 * CONDITIONAL)


def test_the_projection_of_bfloat16_velocities_is_computed_in_float32() -> None:
    # Summed in bfloat16, 20,000 products of one sign would stall far below their true sum.
    ones = torch.full((1, 16, 9, 12, 12), 0.1, dtype=torch.bfloat16)
    got = cfg_zero_star(2 * ones, ones, 0.0)
    assert got.dtype == torch.bfloat16
    assert torch.allclose(got.float(), 2 * ones.float(), rtol=1e-2)
