"""The running average of trained weights (Helios, 4.6): a copy until it starts, then a decay that rises to a cap."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from heliograph.errors import UserError


@dataclass(frozen=True)
class EmaConfig:
    """`cap` is the largest decay; `start` the number of updates for which the average is a plain copy."""

    cap: float = 0.99
    start: int = 750

    def __post_init__(self) -> None:
        if not 0 <= self.cap < 1 or self.start < 0:
            raise UserError(f"{self} averages nothing; use a cap from 0 to below 1 and a start of 0 or more")


def decay_at(call: int, config: EmaConfig) -> float:
    """Decay of call number `call` (from 0): with s = max(0, call − start − 1), 0 at s = 0, else (1 + s)/(10 + s)."""
    s = max(0, call - config.start - 1)
    return min((1 + s) / (10 + s), config.cap) if s else 0.0


class Ema:
    """Averages of the trained parameters, float32, by name; what is not trained needs no copy, for it never changes.

    Where parameters are sharded, so are their averages: an update touches the local shards alone and sends nothing.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: EmaConfig) -> None:
        self.config = config
        self.num_calls = 0
        self.averages: dict[str, Tensor] = {n: p.detach().float().clone() for n, p in parameters.items()}
        self._parameters = dict(parameters)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now."""
        decay = decay_at(self.num_calls, self.config)
        for name, average in self.averages.items():
            local_part(average).lerp_(local_part(self._parameters[name]).float(), 1 - decay)
        self.num_calls += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the averages are the model's weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Swap averages and parameters, value by value: whoever holds the parameters sees the others."""
        for name, average in self.averages.items():
            inside, outside = local_part(self._parameters[name]), local_part(average)
            held = inside.clone()
            inside.copy_(outside)
            outside.copy_(held)


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
