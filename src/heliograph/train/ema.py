"""The running average of trained weights (Helios, 4.6): a copy until it starts, then a decay that rises to a cap."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

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

    Every process holds a part of each average: of a sharded parameter that of its own shard, of a replicated one some
    of the rows. An update touches this part alone and sends nothing.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], config: EmaConfig, mesh: DeviceMesh | None = None
    ) -> None:
        """Averages that are copies; `mesh` names the processes that share them, None where there is one."""
        self.config = config
        self.num_calls = 0
        self.averages: dict[str, Tensor] = {n: _copy(p.detach(), mesh) for n, p in parameters.items()}
        self._parameters = dict(parameters)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now."""
        decay = decay_at(self.num_calls, self.config)
        for name, average in self.averages.items():
            own = _own_part(self._parameters[name].detach(), average)
            local_part(average).lerp_(own.float(), 1 - decay)
        self.num_calls += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the averages are the model's weights; every process must enter and leave."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Swap averages and parameters, value by value: whoever holds the parameters sees the others."""
        for name, average in self.averages.items():
            parameter = self._parameters[name].detach()
            if isinstance(average, DTensor) and not isinstance(parameter, DTensor):
                inside = average.full_tensor()
            else:
                inside = local_part(average).clone()
            local_part(average).copy_(_own_part(parameter, average))
            local_part(parameter).copy_(inside)


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copy(value: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """A float32 copy; of what every process holds whole, only this process's rows are kept."""
    if mesh is None or isinstance(value, DTensor) or value.ndim == 0:
        return value.float().clone()
    local = _rows(value, mesh).float().clone()
    return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=value.shape, stride=value.stride())


def _own_part(value: Tensor, average: Tensor) -> Tensor:
    """The part of a parameter that belongs to this process's part of its average."""
    if isinstance(average, DTensor) and not isinstance(value, DTensor):
        return _rows(value, average.device_mesh)
    return local_part(value)


def _rows(value: Tensor, mesh: DeviceMesh) -> Tensor:
    """This process's share of the rows; none where there are fewer rows than processes."""
    parts = value.chunk(mesh.size())
    rank = mesh.get_local_rank()
    return parts[rank] if rank < len(parts) else value[:0]
