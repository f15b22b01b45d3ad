"""Frozen weights that leave the device: the same numbers, and less memory while another network works."""

from pathlib import Path

import pytest
import torch
from torch import nn

from heliograph.errors import UserError
from heliograph.train.idle import Idle
from heliograph.train.presets import TRAINING
from tests.small import small_transformer
from tests.train.workers import ALONE, Case, run_steps


def held(network: nn.Module) -> int:
    """Bytes of the frozen weights that are in memory."""
    return sum(p.untyped_storage().nbytes() for p in network.parameters() if not p.requires_grad)


def test_weights_that_left_take_no_memory_and_come_back_as_they_were() -> None:
    network = small_transformer().requires_grad_(requires_grad=False)
    before = {name: p.clone() for name, p in network.named_parameters()}
    idle = Idle(network)
    idle.leave()
    idle.leave()
    assert held(network) == 0 and idle.num_bytes == sum(p.nbytes for p in before.values())
    idle.come()
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())


def test_what_is_trained_stays() -> None:
    network = small_transformer().requires_grad_(requires_grad=False)
    network.proj_out.requires_grad_(requires_grad=True)
    Idle(network).leave()
    assert network.proj_out.weight.untyped_storage().nbytes() == network.proj_out.weight.nbytes


def test_a_graph_may_be_gone_back_through_when_its_weights_are_here_again() -> None:
    layer, x = nn.Linear(4, 3).requires_grad_(requires_grad=False), torch.ones(2, 4, requires_grad=True)
    expected = layer.weight.sum(dim=0).expand(2, 4).clone()
    idle = Idle(layer)
    loss = layer(x).sum()
    idle.leave()
    idle.come()
    loss.backward()
    assert torch.equal(x.grad, expected)  # type: ignore[arg-type]


def test_a_run_with_idle_weights_away_makes_the_same_steps(tmp_path: Path) -> None:
    stays, leaves = (run_steps(Case("distill", idle=idle), ALONE, tmp_path / idle) for idle in ("stay", "leave"))
    assert stays["figures"] == leaves["figures"]
    assert all(torch.equal(weight, leaves["weights"][name]) for name, weight in stays["weights"].items())


def test_one_backbone_is_on_the_device_whoever_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Case("distill", idle="leave").trainer(ALONE, tmp_path)
    roles = trainer.stage.roles  # type: ignore[attr-defined]
    seen: list[tuple[str, int, int]] = []
    for name in ("student", "scores"):
        network = getattr(roles, name)

        def look(*_: object, name: str = name) -> None:
            seen.append((name, held(roles.student), held(roles.scores)))

        network.register_forward_pre_hook(look)
        network.blocks[0].register_full_backward_hook(look)
    trainer.take_step()
    trainer.take_step()  # with heads
    trainer.loader.close()
    assert {name for name, *_ in seen} == {"student", "scores"}
    for name, student, scores in seen:
        assert (student > 0, scores > 0) == (name == "student", name == "scores"), name
    assert held(roles.student) > 0 == held(roles.scores)  # between steps the student is looked at and stored


def test_weights_that_are_shared_out_do_not_leave() -> None:
    from dataclasses import replace

    with pytest.raises(UserError, match="--layout replicate"):
        replace(TRAINING["distill-gan"], idle="leave")
    with pytest.raises(UserError, match="only in distillation"):
        replace(TRAINING["tiny-adapt-init"], idle="leave")
