"""Rotary positions of tokens in time, height and width (Helios, relative RoPE and multi-term memory).

Angles are position × θ^(−2j/m) per axis, positions start at 0 on each stream's own token grid, and frame indices are
relative to the model's window. Tokens of a compressed tier carry the mean of the rotations they stand for. Tables are
float32 whatever the model's dtype: bfloat16 cannot tell consecutive positions apart.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Complex, Float
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of every token, one per pair of channels, float32."""

    cos: Float[Tensor, "n e"]
    sin: Float[Tensor, "n e"]

    def first(self, count: int) -> "Rotary":
        """The tables of the first tokens."""
        return Rotary(self.cos[:count], self.sin[:count])

    @cached_property
    def turns(self) -> Complex[Tensor, "n e"]:
        """cos + i·sin: a pair of channels as a complex number, multiplied by this, is turned."""
        return torch.complex(self.cos, self.sin)

    def last(self, count: int) -> "Rotary":
        """The tables of the last tokens."""
        return Rotary(self.cos[-count:], self.sin[-count:])

    @classmethod
    def join(cls, parts: "list[Rotary]") -> "Rotary":
        """The tables of several streams, one after another."""
        return cls(torch.cat([p.cos for p in parts]), torch.cat([p.sin for p in parts]))


@dataclass(frozen=True)
class RotaryConfig:
    """How many channels of a head belong to time, height and width (each even), and the base θ."""

    dims: tuple[int, int, int]
    theta: float


def axis_frequencies(dim: int, theta: float, device: torch.device) -> Float[Tensor, " e"]:
    """θ^(−2j/m) for j = 0 … m/2 − 1, float32."""
    return theta ** -(torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)


def rotary_table(
    frames: tuple[int, ...], height: int, width: int, config: RotaryConfig, device: torch.device
) -> Float[Tensor, "2 t h w e"]:
    """Cosines and sines for tokens of `frames` on a `height` × `width` grid."""
    positions = (
        torch.tensor(frames, device=device, dtype=torch.float32),
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
    )
    t, y, x = (
        torch.outer(position, axis_frequencies(dim, config.theta, device))
        for position, dim in zip(positions, config.dims, strict=True)
    )
    angles = torch.cat(
        [
            repeat(t, "t e -> t h w e", h=height, w=width),
            repeat(y, "h e -> t h w e", t=len(frames), w=width),
            repeat(x, "w e -> t h w e", t=len(frames), h=height),
        ],
        dim=-1,
    )
    return torch.stack([angles.cos(), angles.sin()])


def pool_table(table: Float[Tensor, "2 t h w e"], size: int) -> Float[Tensor, "2 t2 h2 w2 e"]:
    """Mean rotation of every `size`³ block of tokens; edges repeat the last token. Size 1 changes nothing.

    The means are not scaled back to length 1: fast components of a compressed token are damped, as in training.
    """
    channels_first = rearrange(table, "s t h w e -> s e t h w")
    pooled = F.avg_pool3d(pad_to_multiple(channels_first, (size, size, size)), size, stride=size)
    return rearrange(pooled, "s e t h w -> s t h w e")


def flatten_table(table: Float[Tensor, "2 t h w e"]) -> Rotary:
    """One row per token, time slowest."""
    cos, sin = rearrange(table, "s t h w e -> s (t h w) e")
    return Rotary(cos, sin)


def pad_to_multiple(x: Float[Tensor, "b c t h w"], multiple: tuple[int, int, int]) -> Float[Tensor, "b c t2 h2 w2"]:
    """Repeat the last frame, row and column until every axis is a whole multiple."""
    t, h, w = (-size % m for size, m in zip(x.shape[2:], multiple, strict=True))
    return F.pad(x, (0, w, 0, h, 0, t), mode="replicate") if t or h or w else x
