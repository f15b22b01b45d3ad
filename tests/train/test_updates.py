"""Muon and AdamW side by side: which parameters each updates, and that a run goes on from what they remember."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from heliograph.errors import UserError
from heliograph.train.presets import TRAINING
from heliograph.train.stage import Optimiser, ParameterGroup
from heliograph.train.updates import Updates

RULE = Optimiser(0.1, weight_decay=0.0, has_muon=True)


def parameters(seed: int) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"t.blocks.0.w": (4, 6), "t.blocks.0.b": (4,), "t.enter": (6, 4)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def group(of: dict[str, nn.Parameter], rule: Optimiser = RULE) -> ParameterGroup:
    return replace(rule.group({}), parameters=of)


def give_gradients(of: dict[str, nn.Parameter], seed: int) -> None:
    for parameter, gradient in zip(of.values(), parameters(seed).values(), strict=True):
        parameter.grad = gradient.detach().clone()


def test_a_matrix_moves_along_the_orthogonal_factor_of_its_gradient():
    after, before = parameters(0), parameters(0)
    give_gradients(after, 1)
    gradient = after["t.blocks.0.w"].grad.clone()
    Updates(group(after)).step(1.0)
    moved = (before["t.blocks.0.w"] - after["t.blocks.0.w"]).detach()
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    # Five Newton-Schulz rounds bring singular values near 1, not to it.
    aligned = u.T @ moved @ v.T / (0.2 * 6**0.5 * 0.1)
    torch.testing.assert_close(aligned, torch.eye(4), atol=0.4, rtol=0)


def test_what_is_no_matrix_of_a_block_is_updated_as_without_muon():
    mixed, plain = parameters(0), parameters(0)
    for of, rule in ((mixed, RULE), (plain, replace(RULE, has_muon=False))):
        give_gradients(of, 1)
        Updates(group(of, rule)).step(0.5)
    for name in ("t.blocks.0.b", "t.enter"):
        torch.testing.assert_close(mixed[name], plain[name], rtol=0, atol=0)
    assert not torch.equal(mixed["t.blocks.0.w"], plain["t.blocks.0.w"])


def test_updates_go_on_from_their_moments_as_if_never_stopped():
    whole, cut = parameters(0), parameters(0)
    first = Updates(group(whole))
    for seed in (1, 2):
        give_gradients(whole, seed)
        first.step(1.0)
    second = Updates(group(cut))
    give_gradients(cut, 1)
    second.step(1.0)
    third = Updates(group(cut))
    for name in cut:
        third.adopt(name, {moment: value.clone() for moment, value in second.moments(name).items()})
    give_gradients(cut, 2)
    third.step(1.0)
    for name in cut:
        torch.testing.assert_close(cut[name], whole[name], rtol=0, atol=0)


def test_moments_before_the_first_update_are_those_of_a_fresh_start():
    fresh, told = parameters(0), parameters(0)
    updates, other = Updates(group(fresh)), Updates(group(told))
    for name in told:
        other.adopt(name, updates.moments(name))
    for of, those in ((fresh, updates), (told, other)):
        give_gradients(of, 1)
        those.step(1.0)
    for name in fresh:
        torch.testing.assert_close(fresh[name], told[name], rtol=0, atol=0)


def test_muon_refuses_weights_that_are_shared_out():
    with pytest.raises(UserError, match="replicate"):
        replace(TRAINING["embedded-multiscale"], layout="shard")
