"""Frozen weights that leave the device while another network works (Helios, memory plan of distillation).

Distillation needs the student to make a chunk and to go back through it, and teacher and critic to judge it: never
both at once. Each has its frozen weights in host memory for good; what comes to the device is a copy, so leaving it
costs nothing. Trained parameters, gradients and moments stay.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

IdlePlace = Literal["stay", "leave"]


class Idle:
    """The frozen weights of a network, here or away; nobody may read them while they are away.

    The tensors stay the same objects: a graph that was built while the weights were here may be gone back through when
    they are here again.
    """

    def __init__(self, network: nn.Module) -> None:
        """Copy the frozen weights to host memory, pinned where there is a GPU; they stay on the device for now."""
        self._hosts: list[tuple[nn.Parameter, Tensor]] = []
        self.is_here = True
        for parameter in network.parameters():
            if parameter.requires_grad:
                continue
            host = parameter.detach().cpu().clone()
            # A storage of its own: what was read from a file is mapped into memory and cannot be given up.
            parameter.data = parameter.detach().clone()
            self._hosts.append((parameter, host.pin_memory() if parameter.is_cuda else host))

    @property
    def num_bytes(self) -> int:
        """What leaving frees."""
        return sum(host.nbytes for _, host in self._hosts)

    def leave(self) -> None:
        """Give up the device's copies."""
        if self.is_here:
            for parameter, _ in self._hosts:
                parameter.untyped_storage().resize_(0)
        self.is_here = False

    def come(self) -> None:
        """Copy the weights back to where they were."""
        if not self.is_here:
            for parameter, host in self._hosts:
                parameter.untyped_storage().resize_(host.untyped_storage().nbytes())
                parameter.data.copy_(host, non_blocking=True)
        self.is_here = True


@dataclass(frozen=True)
class Turns:
    """Student and scores take turns on the device; one comes when the other has left."""

    student: Idle
    scores: Idle

    def to_student(self) -> None:
        """The student works next."""
        self.scores.leave()
        self.student.come()

    def to_scores(self) -> None:
        """Teacher, critic and heads work next."""
        self.student.leave()
        self.scores.come()
