"""Random numbers of training: all from the generator that the loop hands in, drawn where it lives."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Shape = tuple[int, ...]


def normal(shape: Shape, generator: torch.Generator, device: torch.device) -> Float[Tensor, "..."]:
    """Standard normal numbers, float32."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def uniform(
    shape: Shape, generator: torch.Generator, device: torch.device, low: float = 0.0, high: float = 1.0
) -> Float[Tensor, "..."]:
    """Numbers between `low` and `high`, float32."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device).to(device)


def logit_normal(shape: Shape, generator: torch.Generator, device: torch.device) -> Float[Tensor, "..."]:
    """Numbers in (0, 1) whose logit is standard normal, float32."""
    return normal(shape, generator, device).sigmoid()


def integers(shape: Shape, count: int, generator: torch.Generator, device: torch.device) -> Int[Tensor, "..."]:
    """Whole numbers from 0 to count − 1."""
    return torch.randint(count, shape, generator=generator, device=generator.device).to(device)


def beta(shape: Shape, a: float, b: float, generator: torch.Generator, device: torch.device) -> Float[Tensor, "..."]:
    """Numbers in [0, 1] with density r^(a−1)·(1−r)^(b−1), float32."""
    # PyTorch's own sampler takes no generator.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.from_numpy(np.random.default_rng(seed).beta(a, b, shape)).float().to(device)
