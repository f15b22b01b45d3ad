"""One transformer block: self-attention over everything, text for the chunk, feed-forward (Helios, guidance attention).

History tokens are modulated as clean (timestep 0) and never read the text; chunk tokens are modulated with their own
timestep. Modulation, norms and gates are float32; the residual stream keeps the model's dtype.
"""

from dataclasses import dataclass

import torch
from diffusers.models.attention import FeedForward as LibraryFeedForward
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.kernels.choice import kernels_for
from heliograph.kernels.cublas import fuses_gelu, linear_gelu
from heliograph.model.attention import CrossAttention, ScaleMode, SelfAttention, TextKeys
from heliograph.model.embed import NUM_MODULATIONS
from heliograph.model.memo import Memo
from heliograph.model.packed import TokenLayout
from heliograph.model.past import Past, Rows
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
class TextSource:
    """The text for one block: projected (None once every block has its keys), or the keys made of it before.

    The block asks for its keys inside its own call, so that a library that offloads blocks has its weights at hand.
    """

    block: int
    projected: Float[Tensor, "b l d"] | None
    memo: Memo

    @torch.compiler.disable()  # compiled once for all blocks, not for every index and every state of a memo
    def keys(self, attention: CrossAttention) -> TextKeys:
        """Keys and values of this block, from the memo where it has them."""
        return self.memo.recall(("keys", self.block), lambda: self._make(attention))

    def _make(self, attention: CrossAttention) -> TextKeys:
        assert self.projected is not None, f"block {self.block} has neither text nor remembered keys"
        return attention.text_keys(self.projected)


class TextNorm(nn.LayerNorm):
    """The affine norm before cross-attention, in float32 whatever the dtype of its weights, back in that of `x`."""

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """LN(x)·w + b."""
        return kernels_for(x).affine_norm(x, self.weight, self.bias, self.eps)


class FeedForward(LibraryFeedForward):
    """Up, GELU (tanh form), down; on a GPU that samples the GELU is part of the product before it."""

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The feed-forward of a block."""
        up = self.net[0].get_submodule("proj")
        if not fuses_gelu(x, up):
            return super().forward(x)
        assert isinstance(up, nn.Linear)
        return self.net[2](linear_gelu(x, up.weight, up.bias))


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
        self,
        tokens: Float[Tensor, "b n d"],
        layout: TokenLayout,
        rotary: Rotary,
        text: TextSource,
        leaving: TokenLayout,
        past: Past,
    ) -> Float[Tensor, "b m d"]:
        """Tokens after the block, in the dtype they came in.

        `leaving` are the last of them, those that anybody reads: all but after the last block, where nobody reads the
        history. The others are attended to, and then forgotten. `past` is what is known of the history already.
        """
        kernels = kernels_for(tokens, len(layout.lengths))
        shift, scale, *_ = _modulation(self.scale_shift_table, layout)
        modulate = kernels.modulate if self.attn1.to_qkv is None else kernels.modulate_quantise
        entering = modulate(tokens, shift, scale, layout.lengths, self.eps)
        mixed = self.attn1(entering, rotary, layout, leaving, past)

        rows, lengths = _modulation(self.scale_shift_table, leaving), leaving.lengths
        tokens = kernels.add_gated(tokens[:, -sum(lengths) :], mixed, rows[2], lengths)
        tokens = self._read(tokens, leaving, text.keys(self.attn2))
        entering = modulate(tokens, rows[3], rows[4], lengths, self.eps)
        return kernels.add_gated(tokens, self.ffn(entering), rows[5], lengths)

    def history_rows(self, history: Float[Tensor, "b n d"], layout: TokenLayout, rotary: Rotary) -> Rows:
        """Queries, keys and values of history tokens that come into this block; `layout` and `rotary` are theirs."""
        shift, scale, *_ = _modulation(self.scale_shift_table, layout)
        kernels = kernels_for(history)
        modulate = kernels.modulate if self.attn1.to_qkv is None else kernels.modulate_quantise
        return self.attn1.rows(modulate(history, shift, scale, layout.lengths, self.eps), rotary, layout)

    def _read(self, tokens: Tensor, layout: TokenLayout, keys: TextKeys) -> Float[Tensor, "b n d"]:
        """The text, read by the chunk's tokens; history tokens pass by where the model was trained so.

        In sampling these are left where they are: `tokens` are this block's own.
        """
        if not torch.is_grad_enabled() and not self.history_reads_text and len(layout.lengths) == 2:
            chunk = tokens[:, layout.lengths[0] :]
            chunk += self.attn2(self.norm2(chunk), keys)
            return tokens
        parts = [
            x if stretch.is_history and not self.history_reads_text else x + self.attn2(self.norm2(x), keys)
            for x, stretch in zip(layout.split(tokens), layout.stretches, strict=True)
        ]
        return torch.cat(parts, dim=1)


def _modulation(table: Float[Tensor, "1 6 d"], layout: TokenLayout) -> tuple[Float[Tensor, "b2 s d"], ...]:
    """Shift 1, scale 1, gate 1, shift 2, scale 2, gate 2, float32, each with one row for each stretch.

    The batch is 1 where all samples share their timesteps.
    """
    rows = torch.broadcast_tensors(*(table.float() + stretch.time.block.float() for stretch in layout.stretches))
    return torch.stack(rows, dim=2).unbind(1)
