"""Distribution matching distillation, in tensors alone (Helios, hierarchical distillation; DMD, arXiv 2311.18828).

Teacher and critic look at the student's chunk through new noise. Where the critic, who knows the student, sees
something else than the teacher, the difference is the direction that leads away from the teacher's videos.
"""

import math
from dataclasses import dataclass

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from heliograph.errors import UserError
from heliograph.flow.schedule import shift_sigma
from heliograph.train.draw import beta, uniform

SHIFT = 1.9192
"""Linear shift of a full chunk at 384×640: the noise levels at which chunks are compared."""

TIMESTEPS = (20.0, 980.0)
"""Timesteps at which chunks are compared; nearer the ends there is nothing to see."""

SMALLEST_R = 0.001
"""Positions are drawn from here to 1."""


@dataclass(frozen=True)
class TimeDraw:
    """How the timestep of a comparison is drawn: position r, then shifted by `shift`.

    From coarse to fine: r is Beta distributed with parameters that go from (`a`, `b`) to (1, 1) over the first `steps`
    steps, so that training begins at high noise; afterwards, and always where `steps` is 0, r is uniform.
    """

    shift: float = SHIFT
    steps: int = 0
    a: float = 4.0
    b: float = 1.5

    def __post_init__(self) -> None:
        if self.shift <= 0 or self.steps < 0 or min(self.a, self.b) <= 0:
            raise UserError(f"{self} draws no timesteps; use shift, a and b above 0 and steps from 0")

    def parameters(self, step: int) -> tuple[float, float] | None:
        """Parameters of the Beta distribution at a training step, on a half cosine; None where it is uniform."""
        if step >= self.steps:
            return None
        left = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return 1 + (self.a - 1) * left, 1 + (self.b - 1) * left

    def draw(self, count: int, step: int, generator: torch.Generator, device: torch.device) -> Float[Tensor, " count"]:
        """Whole timesteps in [20, 980], one per sample."""
        parameters = self.parameters(step)
        if parameters is None:
            positions = uniform((count,), generator, device, SMALLEST_R)
        else:
            positions = beta((count,), *parameters, generator, device)
        timesteps = torch.tensor([warped_time(r, self.shift) for r in positions.tolist()], device=device)
        return timesteps.clamp(*TIMESTEPS).round()


def warped_time(r: float, shift: float) -> float:
    """Timestep 1000·s·r / (1 + (s − 1)·r) of position r in [0, 1]."""
    return 1000 * shift_sigma(r, shift)


def dmd_gradient(
    x: Float[Tensor, "b c t h w"], critic_x0: Float[Tensor, "b c t h w"], teacher_x0: Float[Tensor, "b c t h w"]
) -> Float[Tensor, "b c t h w"]:
    """(x0 by critic − x0 by teacher) / mean |x − x0 by teacher| per sample; zero where that is not finite.

    `x` is the student's chunk, the other two what critic and teacher see of it through the same noise. The norm makes
    all noise levels count alike.
    """
    distance = reduce((x - teacher_x0).abs(), "b c t h w -> b 1 1 1 1", "mean")
    return torch.nan_to_num((critic_x0 - teacher_x0) / distance, nan=0.0, posinf=0.0, neginf=0.0).detach()


def dmd_loss(x: Float[Tensor, "b c t h w"], gradient: Float[Tensor, "b c t h w"]) -> Float[Tensor, ""]:
    """½·mean of (x − (x − g))² with a fixed target: a loss whose derivative with respect to `x` is g / numel."""
    target = (x - gradient).detach()
    return 0.5 * (x - target).square().mean()
