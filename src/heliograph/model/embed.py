"""Conditioning vectors: the timestep as two modulation vectors, the text at the model's width."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NUM_MODULATIONS = 6
"""Shift, scale and gate of self-attention, then of the feed-forward."""


@dataclass(frozen=True)
class TimeRow:
    """What one timestep tells the network: `head` for the output norm, `block` for every block's modulation.

    One row serves all tokens at that timestep; it is never expanded to them. Batch is 1 where all samples share it.
    """

    head: Float[Tensor, "b d"]
    block: Float[Tensor, "b 6 d"]


class TwoLinears(nn.Module):
    """Two linear layers under the names that the checkpoint gives them."""

    def __init__(self, num_in: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(num_in, dim)
        self.linear_2 = nn.Linear(dim, dim)


def sinusoid(timestep: Float[Tensor, " b"], dim: int) -> Float[Tensor, "b dim"]:
    """cos(t·g_j), then sin(t·g_j), g_j = 10000^(−2j/dim), in float32. Timestep 0 is ones, then zeros."""
    half = dim // 2
    place = {"device": timestep.device, "dtype": torch.float32}
    frequencies = torch.exp(-torch.log(torch.full((), 1e4, **place)) * torch.arange(half, **place) / half)
    angles = timestep.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ConditionEmbedder(nn.Module):
    """Timestep and text embeddings (tensor names as released)."""

    def __init__(self, dim: int, freq_dim: int, text_dim: int) -> None:
        super().__init__()
        self.freq_dim = freq_dim
        self.time_embedder = TwoLinears(freq_dim, dim)
        self.time_proj = nn.Linear(dim, NUM_MODULATIONS * dim)
        self.text_embedder = TwoLinears(text_dim, dim)

    def time(self, timestep: Float[Tensor, " b"], dtype: torch.dtype) -> TimeRow:
        """Rows for each timestep in [0, 1000]. The embedder runs in its own dtype (float32), the rest in `dtype`."""
        layers = self.time_embedder
        angles = sinusoid(timestep, self.freq_dim).to(layers.linear_1.weight.dtype)
        head = layers.linear_2(F.silu(layers.linear_1(angles))).to(dtype)
        block = self.time_proj(F.silu(head))
        return TimeRow(head, block.unflatten(-1, (NUM_MODULATIONS, -1)))

    def text(self, embedding: Float[Tensor, "b l d_text"]) -> Float[Tensor, "b l d"]:
        """Text embeddings at the model's width."""
        layers = self.text_embedder
        return layers.linear_2(F.gelu(layers.linear_1(embedding), approximate="tanh"))
