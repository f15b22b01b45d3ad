"""One process or many: where this one stands, how work is divided, and what all of them agree on.

Started by `torchrun`, processes either each hold the whole model (`replicate`, distributed data parallel) or share it
out (`shard`, FSDP2). One process is the same code with nobody to talk to. The numbers do not depend on the layout: the
same batches in the same step give the same losses and weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import get_node_local_rank
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from heliograph.errors import UserError
from heliograph.train.stage import Loss, Stage

Layout = Literal["replicate", "shard"]

OTHER_FORWARDS = ("forward_packed", "forward_with_features")
"""Entries of the transformer besides `forward`: sharded weights must be gathered for them too."""

LossFunction = Callable[[str, Any, int, torch.Generator], Loss]
"""What `Stage.loss` is."""


@dataclass(frozen=True)
class Parallel:
    """This process among all: `rank` of `world`, and the device it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to talk to."""
        return self.world == 1

    def place(self, module: nn.Module, layout: Layout) -> None:
        """Put a model on the device; laid out as `shard`, keep only this process's part of every weight.

        Call it when the model is complete (adapters added), before parameters are handed to an optimiser: sharding
        replaces them. Every process must hold the same weights.
        """
        module.to(self.device)
        mesh = self.mesh()
        if layout == "shard" and mesh is not None:
            shard(module, mesh)

    def mesh(self) -> DeviceMesh | None:
        """All processes in a row; None where there is one."""
        return None if self.is_alone else init_device_mesh(self.device.type, (self.world,))

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, element by element."""
        if self.is_alone:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world

    def agree(self, *, wish: bool) -> bool:
        """Whether any process wishes it; all get the same answer."""
        return bool(self.mean(torch.tensor(float(wish), device=self.device)) > 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if not self.is_alone:
            dist.barrier()


@contextmanager
def joined(device: str) -> Iterator[Parallel]:
    """This process's place; inside, the processes that `torchrun` started can talk to each other.

    Args:
        device: `auto`, or a device of PyTorch; with several processes, its type, and each takes one of its own.

    Raises:
        UserError: the device is not there.
    """
    kind = _type_here(device)
    if not dist.is_torchelastic_launched():
        yield Parallel(0, 1, torch.device(device if device != "auto" else kind))
        return
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield own_place(kind)
    finally:
        dist.destroy_process_group()


def own_place(kind: str) -> Parallel:
    """This process's place in the process group that it has joined."""
    place = torch.device(kind)
    if kind == "cuda":
        place = torch.device(kind, get_node_local_rank())
        torch.cuda.set_device(place)
    return Parallel(dist.get_rank(), dist.get_world_size(), place)


def device_type(device: str) -> str:
    """`cpu` or `cuda`, whichever a device by this name is; `auto` is a GPU where there is one.

    Raises:
        UserError: there is no such name.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"device={device!r} is not known; use auto, cpu, cuda or cuda:1") from error


def _type_here(device: str) -> str:
    kind = device_type(device)
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device!r} is not there: PyTorch finds no CUDA device; use cpu")
    return kind


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Share out a model in place: each transformer block is gathered when it runs, and what is left with the root."""
    for unit in units(module):
        fully_shard(unit, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for name in OTHER_FORWARDS:
        if hasattr(module, name):
            register_fsdp_forward_method(module, name)


def units(module: nn.Module) -> list[nn.Module]:
    """The parts of a network that are gathered one at a time: a transformer's blocks, a discriminator's heads."""
    return [unit for name in ("blocks", "heads") for unit in getattr(module, name, ())]


class LossRunner:
    """Computes a stage's losses so that gradients come out averaged over all processes.

    Replicated parameters are averaged by distributed data parallel, which needs one forward call per backward pass:
    that call is the whole loss. Sharded ones average themselves.
    """

    def __init__(self, stage: Stage, parallel: Parallel) -> None:
        self._stage = stage
        self._wrapped: DistributedDataParallel | None = None
        parameters = [p for group in stage.trainable().values() for p in group.parameters.values()]
        whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if whole and not parallel.is_alone:
            self._wrapped = DistributedDataParallel(_LossModule(stage, whole), find_unused_parameters=True)

    def __call__(self, group: str, batch: Any, step: int, generator: torch.Generator) -> Loss:
        """The loss of one group on this process's batch."""
        return (self._wrapped or self._stage.loss)(group, batch, step, generator)

    @contextmanager
    def accumulating(self, *, more_follow: bool) -> Iterator[None]:
        """Around forward and backward of one part of a step; while more follow, nothing is sent."""
        with self._wrapped.no_sync() if self._wrapped and more_follow else nullcontext():
            yield


class _LossModule(nn.Module):
    """A stage's loss as a module whose parameters are those that are trained."""

    def __init__(self, stage: Stage, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.stage = stage
        self.trained = nn.ParameterList(parameters)

    def forward(self, group: str, batch: Any, step: int, generator: torch.Generator) -> Loss:
        """The stage's loss."""
        return self.stage.loss(group, batch, step, generator)
