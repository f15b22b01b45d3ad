"""The adversarial part of distillation: heads on the critic's features tell real chunks from the student's.

Sign: a large logit means "made by the student", a small one "real". Losses are the non-saturating logistic ones. Heads
see chunks through noise, cropped to half of their height and width, after the history that belongs to each chunk.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.errors import UserError
from heliograph.shapes import PATCH
from heliograph.train.draw import integers

NUM_GROUPS = 32
"""Groups of a group norm at full width."""

SMALLEST_GROUP = 4
"""Channels in a group at least: where a head ends in one cell, the norm of a single channel would erase it."""


@dataclass(frozen=True)
class HeadSizes:
    """Width of a head, and how many of its layers halve time, height and width."""

    width: int = 768
    halvings: int = 2

    def __post_init__(self) -> None:
        if self.width < SMALLEST_GROUP or self.width % SMALLEST_GROUP or self.halvings < 0:
            raise UserError(f"{self} is no head; use a width that is a multiple of {SMALLEST_GROUP}, halvings from 0")


@dataclass(frozen=True)
class GanConfig:
    """The adversarial part: where heads look, their size, from which step on they count, and the weights of losses.

    `blocks` are those whose features get a head; the velocity has one too. `r1_sigma` is the noise that a real chunk's
    logit should not notice. `learning_rate` and the rest of the heads' updates are the critic's.
    """

    blocks: tuple[int, ...] = (5, 15, 25, 35)
    sizes: HeadSizes = HeadSizes()
    first_step: int = 1000
    student_weight: float = 5e-2
    critic_weight: float = 1e-2
    r1_weight: float = 100.0
    r1_sigma: float = 0.1


@dataclass(frozen=True)
class Crop:
    """A part of the latent grid."""

    top: int
    left: int
    height: int
    width: int

    def of(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h2 w2"]:
        """That part of `x`."""
        return x[..., self.top : self.top + self.height, self.left : self.left + self.width]


def draw_crop(height: int, width: int, generator: torch.Generator) -> Crop:
    """Half of height and width, whole patches, anywhere."""
    sides = [max(side // 2 // PATCH, 1) * PATCH for side in (height, width)]
    free = [side - small + 1 for side, small in zip((height, width), sides, strict=True)]
    corner = [int(integers((), count, generator, generator.device)) for count in free]
    return Crop(corner[0], corner[1], sides[0], sides[1])


class Head(nn.Module):
    """Six convolutions in time, height and width, then the mean and one linear layer: features to a logit."""

    def __init__(self, num_in: int, sizes: HeadSizes) -> None:
        super().__init__()
        width = sizes.width
        self.layers = nn.Sequential(
            *_layer(num_in, width, (3, 3, 3), (1, 1, 1)),
            *(layer for _ in range(sizes.halvings) for layer in _layer(width, width, (4, 4, 4), (2, 2, 2))),
            *_layer(width, width, (3, 3, 3), (2, 1, 1)),
            *_layer(width, width, (3, 3, 3), (2, 1, 1)),
            *_layer(width, width, (1, 3, 3), (1, 1, 1)),
        )
        self.logit = nn.Linear(width, 1)

    def forward(self, features: Float[Tensor, "b c t h w"]) -> Float[Tensor, " b"]:
        """One logit per sample, float32."""
        # In bfloat16 oneDNN's gradient of a strided convolution over few cells is not a number.
        with torch.autocast("cpu", enabled=False):
            return self.logit(self.layers(features.float()).mean(dim=(2, 3, 4))).flatten().float()


class Heads(nn.Module):
    """One head for each feature map."""

    def __init__(self, channels: Sequence[int], sizes: HeadSizes) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(count, sizes) for count in channels])

    def forward(self, features: Sequence[Float[Tensor, "b _c _t _h _w"]]) -> Float[Tensor, "b n"]:
        """The logits of all heads."""
        return torch.stack([head(x) for head, x in zip(self.heads, features, strict=True)], dim=1)


def critic_logit_loss(student: Float[Tensor, "b n"], real: Float[Tensor, "b n"]) -> Float[Tensor, ""]:
    """mean softplus(−D(student)) + mean softplus(D(real)): the student's logits up, real ones down."""
    return F.softplus(-student).mean() + F.softplus(real).mean()


def student_logit_loss(student: Float[Tensor, "b n"]) -> Float[Tensor, ""]:
    """mean softplus(D(student)): down."""
    return F.softplus(student).mean()


def approximate_r1(real: Float[Tensor, "b n"], perturbed: Float[Tensor, "b n"]) -> Float[Tensor, ""]:
    """mean (D(real) − D(real + noise))²: a penalty on the gradient without a second derivative.

    Both logits must come from the same crop, or it punishes the difference of two places instead.
    """
    return (real - perturbed).square().mean()


def cached_gradient(loss_of: Callable[[Tensor], Tensor], x: Float[Tensor, "b c t h w"]) -> Float[Tensor, ""]:
    """loss_of(x), whose gradient with respect to `x` is computed at once, so that its graph is gone when this returns.

    Only the gradient of `x` is kept for the backward pass. Parameters inside `loss_of` get none.
    """
    loss = _CachedGradient.apply(x, loss_of)
    assert isinstance(loss, Tensor)
    return loss


class _CachedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            loss = loss_of(leaf)
        (gradient,) = torch.autograd.grad(loss, leaf)
        ctx.save_for_backward(gradient)
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return upstream[0] * gradient, None


def _layer(num_in: int, width: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> list[nn.Module]:
    """Convolution, group norm, SiLU; padded so that a stride of 1 keeps the size."""
    padding = (kernel[0] - 1) // 2, (kernel[1] - 1) // 2, (kernel[2] - 1) // 2
    groups = math.gcd(NUM_GROUPS, width // SMALLEST_GROUP)
    return [nn.Conv3d(num_in, width, kernel, stride, padding), nn.GroupNorm(groups, width), nn.SiLU()]
