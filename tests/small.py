"""Small models and inputs that many tests share."""

import math

import numpy as np
import torch
from hypothesis import settings
from torch import Tensor

from heliograph.config import MemoryConfig
from heliograph.memory import History, Tier, Tiers, frame_indices
from heliograph.model.transformer import HeliosTransformer3DModel

SIZES = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 256,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_dim": (4, 4, 4),
}
"""Configuration of the small transformer, the one of the golden values."""

steady = settings(max_examples=40)
"""Properties over drawn values, fewer than elsewhere; conftest.py says that they are the same in every run, untimed."""


def wave(shape: tuple[int, ...], phase: float) -> Tensor:
    """sin(0.731·j + phase) over the flat index j, computed in float64: the golden values' test signal."""
    return torch.from_numpy(np.sin(0.731 * np.arange(math.prod(shape)) + phase)).reshape(shape).float()


def fill(model: torch.nn.Module) -> None:
    """Weights of the golden values: the i-th tensor by name is 0.2·wave(1.3·i)."""
    state = model.state_dict()
    model.load_state_dict({k: 0.2 * wave(tuple(state[k].shape), 1.3 * i) for i, k in enumerate(sorted(state))})


def randomise(model: torch.nn.Module, seed: int = 0, std: float = 0.15) -> None:
    """Normal random weights, so that no path is multiplied by zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def small_transformer(**changes: object) -> HeliosTransformer3DModel:
    """A transformer with golden weights."""
    model = HeliosTransformer3DModel(**{**SIZES, **changes}).eval()
    fill(model)
    return model


def wave_tiers(height: int, width: int, batch: int = 1, memory: MemoryConfig | None = None) -> Tiers:
    """Tiers of the golden values at this latent size."""
    m = memory or MemoryConfig()
    index = frame_indices(m, 9)

    def tier(frames: tuple[int, ...], phase: float) -> Tier:
        return Tier(wave((batch, 16, len(frames), height, width), phase), frames)

    return Tiers(tier(index.long, 1.1), tier(index.mid, 0.9), tier(index.short, 0.7), index.chunk)


def random_history(height: int = 8, width: int = 8, batch: int = 1, seed: int = 0) -> History:
    """A full history of random latents."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 16, 19, height, width, generator=generator)
    anchor = torch.randn(batch, 16, 1, height, width, generator=generator)
    return History(latents, anchor, 3, MemoryConfig())


def relative_error(got: Tensor, want: Tensor) -> float:
    """Largest absolute difference over the largest absolute value wanted."""
    return float((got.double() - want.double()).abs().max() / want.double().abs().max().clamp_min(1e-12))


class OutOfRange:
    """A decoder whose half precision overflows."""

    def decode(self, z: Tensor) -> Tensor:
        return torch.full((1, 3, 33, 8 * z.shape[-2], 8 * z.shape[-1]), torch.inf)
