"""The running average: when it starts, how it decays, and that it can be looked at and put back."""

import pytest
import torch
from torch import nn

from heliograph.errors import UserError
from heliograph.train.ema import Ema, EmaConfig, decay_at


def test_decay_is_zero_up_to_the_start_and_then_rises() -> None:
    config = EmaConfig(cap=0.99, start=250)
    assert {decay_at(call, config) for call in range(252)} == {0.0}
    assert [decay_at(251 + s, config) for s in (1, 2, 3)] == pytest.approx([2 / 11, 3 / 12, 4 / 13])
    assert decay_at(251 + 300, config) == pytest.approx(0.971, abs=5e-4)


def test_decay_reaches_its_cap_and_stays() -> None:
    config = EmaConfig(cap=0.99, start=0)
    assert decay_at(1 + 889, config) < 0.99 and decay_at(1 + 890, config) == 0.99 == decay_at(10**6, config)


def test_the_average_is_a_copy_until_it_starts_and_then_the_recurrence() -> None:
    weight = nn.Parameter(torch.zeros(3))
    ema = Ema({"w": weight}, EmaConfig(start=2))
    expected = torch.zeros(3)
    for call in range(8):
        with torch.no_grad():
            weight.copy_(torch.arange(3.0) + call**2)
        ema.update()
        decay = decay_at(call, EmaConfig(start=2))
        expected = decay * expected + (1 - decay) * weight.detach()
        assert torch.allclose(ema.averages["w"], expected)
        assert (call > 3) != torch.equal(ema.averages["w"], weight.detach())


def test_the_average_takes_the_weights_place_and_gives_it_back() -> None:
    weight = nn.Parameter(torch.zeros(3))
    ema = Ema({"w": weight}, EmaConfig(start=0))
    with torch.no_grad():
        weight.fill_(5)
    with pytest.raises(KeyError), ema.applied():
        assert not weight.any() and ema.averages["w"].eq(5).all()
        raise KeyError
    assert weight.detach().eq(5).all() and not ema.averages["w"].any()


def test_averages_are_float32_whatever_the_weights_are() -> None:
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    ema = Ema({"w": weight}, EmaConfig())
    ema.update()
    assert ema.averages["w"].dtype == torch.float32


@pytest.mark.parametrize("values", [(1.0, 0), (-0.1, 0), (0.9, -1)])
def test_an_average_of_nothing_is_refused(values: tuple[float, int]) -> None:
    with pytest.raises(UserError):
        EmaConfig(*values)
