"""The pyramid: noise made small, and the jump from one resolution to the next that keeps noise white.

Helios, Pyramid Unified Predictor Corrector. A level's line ends at a noisy picture; enlarging it repeats every cell
2×2, which correlates its noise; block noise with the opposite correlation is added, so that what comes out is again a
clean picture plus white noise, at a slightly higher noise level.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from heliograph.config import ScheduleConfig
from heliograph.flow.schedule import Step, level_ranges, level_steps, single_level_steps
from heliograph.shapes import CHUNK_LATENTS, LATENT_STRIDE, PATCH, check_size

BLOCK = 4
"""Cells in a 2×2 block, in the order (0,0), (0,1), (1,0), (1,1)."""


@dataclass(frozen=True)
class JumpWeights:
    """x ← signal·enlarged + noise·block_noise."""

    signal: float
    noise: float


@dataclass(frozen=True)
class Level:
    """One resolution of the sampler, coarse to fine: the jump that leads to it (None for the first) and its steps."""

    index: int
    jump: JumpWeights | None
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Pyramid:
    """All levels of one chunk and the correlation of the block noise between them."""

    levels: tuple[Level, ...]
    gamma: float

    @property
    def num_calls(self) -> int:
        """Sampling steps in a chunk (network evaluations without guidance)."""
        return sum(len(level.steps) for level in self.levels)


def build_pyramid(schedule: ScheduleConfig, steps: tuple[int, ...], height: int, width: int) -> Pyramid:
    """The levels for a chunk of `height` × `width` latent cells with `steps` on each level.

    Raises:
        UserError: a side cannot be halved down to whole patches on the coarsest level.
    """
    check_size(height * LATENT_STRIDE, width * LATENT_STRIDE, schedule.num_levels)
    if schedule.num_levels == 1:
        level = Level(0, None, single_level_steps(schedule, steps[0], _num_tokens(height, width)))
        return Pyramid((level,), schedule.gamma)
    levels = []
    for i, (stretch, count) in enumerate(zip(level_ranges(schedule), steps, strict=True)):
        # The released engine computes the shift from the size before the enlargement; the weights are used to it.
        shrink = 2 ** (schedule.num_levels - 1 - max(i - 1, 0))
        num_tokens = _num_tokens(height // shrink, width // shrink)
        jump_to = jump_weights(stretch.border, schedule.gamma) if i > 0 else None
        levels.append(Level(i, jump_to, level_steps(schedule, stretch, count, num_tokens)))
    return Pyramid(tuple(levels), schedule.gamma)


def jump_weights(border: float, gamma: float) -> JumpWeights:
    """Weights of the jump at noise level `border`.

    α = 1 / (√(1 + 1/γ)·(1 − o) + o), β = α·(1 − o)/√γ, o = 1 − border: with these the enlarged noise and the block
    noise add up to white noise at the corrected level.
    """
    signal = 1 - border
    alpha = 1 / (math.sqrt(1 + 1 / gamma) * (1 - signal) + signal)
    return JumpWeights(alpha, alpha * (1 - signal) / math.sqrt(gamma))


def shrink_noise(noise: Float[Tensor, "b c t h w"], num_levels: int) -> Float[Tensor, "b c t h2 w2"]:
    """White noise of the coarsest level from full-size noise: 2×2 means, doubled so that the variance stays 1."""
    for _ in range(num_levels - 1):
        noise = 2 * shrink(noise)
    return noise


def shrink(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h//2 w//2"]:
    """Halve height and width, each cell the mean of 2×2 (bilinear resize, no antialiasing filter)."""
    b, _, _, h, w = x.shape
    frames = rearrange(x, "b c t h w -> (b t) c h w")
    # The resize op, not a pooling op: the two differ in the last bit, and parity is judged on bits downstream.
    frames = F.interpolate(frames, size=(h // 2, w // 2), mode="bilinear")
    return rearrange(frames, "(b t) c h w -> b c t h w", b=b)


def enlarge(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t 2*h 2*w"]:
    """Repeat every cell 2×2 (nearest enlargement)."""
    return repeat(x, "b c t h w -> b c t (h y) (w x)", y=2, x=2)


def block_factor(gamma: float) -> Float[Tensor, "4 4"]:
    """Lower triangular L with L·Lᵀ = (1 + γ)·I − γ·11ᵀ, in closed form, float32.

    The matrix is singular at γ = 1/3, where a numerical Cholesky may fail; the pivots are known:
    d_k = (1 + γ)(1 − kγ) / (1 − (k − 1)γ), and below each of them −γ(1 + γ) / (1 − (k − 1)γ) / √d_k.
    """
    factor = torch.zeros(BLOCK, BLOCK, dtype=torch.float64)
    for k in range(BLOCK):
        shared = (1 + gamma) / (1 - (k - 1) * gamma)
        pivot = math.sqrt(max(shared * (1 - k * gamma), 0.0))
        factor[k, k] = pivot
        if k < BLOCK - 1:
            factor[k + 1 :, k] = -gamma * shared / pivot
    return factor.float()


def block_noise(z: Float[Tensor, "b c t h w 4"], gamma: float) -> Float[Tensor, "b c t 2*h 2*w"]:
    """Noise with unit variance and correlation −γ inside each 2×2 block, from standard normal `z`."""
    # Sixteen numbers by the host's own hand: a copy of them would make it wait for the device.
    correlated = z @ block_factor(gamma).to(z.device, non_blocking=True).T
    return rearrange(correlated, "b c t h w (y x) -> b c t (h y) (w x)", y=2, x=2)


def jump(
    x: Float[Tensor, "b c t h w"], z: Float[Tensor, "b c t h w 4"], weights: JumpWeights, gamma: float
) -> Float[Tensor, "b c t 2*h 2*w"]:
    """Go to the next level: enlarge ×2 and add block noise made from `z`, so that the noise is white again."""
    return weights.signal * enlarge(x) + weights.noise * block_noise(z, gamma)


def _num_tokens(height: int, width: int) -> int:
    """Tokens of a whole chunk of `height` × `width` latent cells."""
    return CHUNK_LATENTS * height * width // PATCH**2
