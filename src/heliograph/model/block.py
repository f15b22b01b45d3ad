"""One transformer block: self-attention over everything, text for the chunk, feed-forward (Helios, guidance attention).

History tokens are modulated as clean (timestep 0) and never read the text; chunk tokens are modulated with their own
timestep. Modulation, norms and gates are float32; the residual stream keeps the model's dtype.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.model.attention import CrossAttention, ScaleMode, SelfAttention, TextKeys
from heliograph.model.embed import NUM_MODULATIONS
from heliograph.model.memo import Memo
from heliograph.model.packed import TokenLayout
from heliograph.model.rope import Rotary


@dataclass(frozen=True)
class BlockConfig:
    """Sizes and switches of one block."""

    dim: int
    num_heads: int
    ffn_dim: int
    eps: float
    has_text_norm: bool
    history_reads_text: bool
    history_scale: ScaleMode | None


@dataclass(frozen=True)
class Modulation:
    """Shift, scale and gate around self-attention and around the feed-forward, each one row, float32."""

    rows: Float[Tensor, "b 6 d"]

    def part(self, index: int) -> Float[Tensor, "b 1 d"]:
        """Row `index`, in the order shift 1, scale 1, gate 1, shift 2, scale 2, gate 2."""
        return self.rows[:, index, None]


@dataclass(frozen=True)
class TextSource:
    """The text for one block: projected (None once every block has its keys), or the keys made of it before.

    The block asks for its keys inside its own call, so that a library that offloads blocks has its weights at hand.
    """

    block: int
    projected: Float[Tensor, "b l d"] | None
    memo: Memo

    def keys(self, attention: CrossAttention) -> TextKeys:
        """Keys and values of this block, from the memo where it has them."""
        return self.memo.recall(("keys", self.block), lambda: self._make(attention))

    def _make(self, attention: CrossAttention) -> TextKeys:
        assert self.projected is not None, f"block {self.block} has neither text nor remembered keys"
        return attention.text_keys(self.projected)


def layer_norm(x: Float[Tensor, "b n d"], eps: float) -> Float[Tensor, "b n d"]:
    """Zero mean and unit variance per token, in float32."""
    return F.layer_norm(x.float(), (x.shape[-1],), eps=eps)


def modulate(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b2 1 d"], scale: Float[Tensor, "b2 1 d"], eps: float
) -> Float[Tensor, "b n d"]:
    """LN(x)·(1 + scale) + shift in float32, back in the dtype of `x`."""
    return (layer_norm(x, eps) * (1 + scale) + shift).to(x.dtype)


def add_gated(
    x: Float[Tensor, "b n d"], update: Float[Tensor, "b n d"], gate: Float[Tensor, "b2 1 d"]
) -> Float[Tensor, "b n d"]:
    """x + update·gate in float32, back in the dtype of `x`."""
    return (x.float() + update * gate).to(x.dtype)


class TextNorm(nn.LayerNorm):
    """The affine norm before cross-attention, in float32 whatever the dtype of its weights, back in that of `x`."""

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """LN(x)·w + b."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward; tensor names as released."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.history_reads_text = config.history_reads_text
        self.attn1 = SelfAttention(config.dim, config.num_heads, config.eps, config.history_scale)
        self.attn2 = CrossAttention(config.dim, config.num_heads, config.eps)
        self.norm2 = TextNorm(config.dim, eps=config.eps) if config.has_text_norm else nn.Identity()
        self.ffn = FeedForward(config.dim, inner_dim=config.ffn_dim, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(1, NUM_MODULATIONS, config.dim) / config.dim**0.5)

    def forward(
        self, tokens: Float[Tensor, "b n d"], layout: TokenLayout, rotary: Rotary, text: TextSource
    ) -> Float[Tensor, "b n d"]:
        """Tokens after the block, in the dtype they came in."""
        table = self.scale_shift_table.float()
        mods = [Modulation(table + stretch.time.block.float()) for stretch in layout.stretches]
        parts = layout.split(tokens)

        mixed = layout.split(self.attn1(self._enter(parts, mods, 0), rotary, layout))
        parts = [add_gated(x, y, mod.part(2)) for x, y, mod in zip(parts, mixed, mods, strict=True)]

        keys = text.keys(self.attn2)
        parts = [
            x if stretch.is_history and not self.history_reads_text else x + self.attn2(self.norm2(x), keys)
            for x, stretch in zip(parts, layout.stretches, strict=True)
        ]

        mixed = layout.split(self.ffn(self._enter(parts, mods, 3)))
        parts = [add_gated(x, y.float(), mod.part(5)) for x, y, mod in zip(parts, mixed, mods, strict=True)]
        return torch.cat(parts, dim=1)

    def _enter(self, parts: Sequence[Tensor], mods: Sequence[Modulation], first: int) -> Float[Tensor, "b n d"]:
        """Norm and modulation before the sub-layer whose three rows start at `first`; the stretches side by side."""
        pieces = zip(parts, mods, strict=True)
        return torch.cat([modulate(x, mod.part(first), mod.part(first + 1), self.eps) for x, mod in pieces], dim=1)
