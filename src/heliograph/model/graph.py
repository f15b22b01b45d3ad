"""The blocks as one module whose inputs are all tensors, so that a compiler can be given it: what `openvino.py` runs.

The same sums as `block.py`, which defines them, for sampling alone, on float32 copies of the weights. Two things are
arranged otherwise: q, k and v are one product, and the channels of each head are sorted so that a pair that turns
together lies half a head apart. Products of queries and keys do not know the order, and a compiler moves halves
quickly, but not single channels.
"""

from collections.abc import Sequence
from typing import no_type_check

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.model.attention import MAX_HISTORY_SCALE, Attention, SelfAttention
from heliograph.model.block import TransformerBlock

Table = Float[Tensor, "layers 1 6 d"]
"""Shift, 1 + scale, gate of attention, then of the feed-forward, of every block."""


class BlockGraph(nn.Module):
    """What is compiled: every block, with all that it reads as an input.

    While it is traced, sizes are tensors, which no check of annotations takes for numbers: hence `no_type_check`.
    """

    def __init__(self, blocks: Sequence[TransformerBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([GraphBlock(block) for block in blocks])

    @no_type_check
    def forward(
        self,
        chunk: Float[Tensor, "b n d"],
        chunk_rows: Table,
        cos: Float[Tensor, "m e"],
        sin: Float[Tensor, "m e"],
        text_key: Float[Tensor, "layers b k l e"],
        text_value: Float[Tensor, "layers b k l e"],
        past: Float[Tensor, "b p d"] | None = None,
        past_rows: Table | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The chunk's tokens after the last block."""
        tokens, turn = [chunk] if past is None else [past, chunk], (cos, sin)
        for index, block in enumerate(self.blocks):
            rows = [chunk_rows[index]] if past_rows is None else [past_rows[index], chunk_rows[index]]
            text = text_key[index], text_value[index]
            tokens = block(tokens, rows, turn, text, is_last=index == len(self.blocks) - 1)
        return tokens[-1]


class GraphBlock(nn.Module):
    """One block on float32 copies of its weights; the history's tokens and the chunk's stay apart where they can."""

    def __init__(self, source: TransformerBlock) -> None:
        super().__init__()
        attention, text = source.attn1, source.attn2
        self.heads, self.eps, self.history_reads_text = attention.heads, source.eps, source.history_reads_text
        order = paired_halves(attention)
        self.qkv = _joined(attention, order)
        norms = torch.stack([attention.norm_q.weight, attention.norm_k.weight])[:, order]
        self.register_buffer("norms", norms.detach().float())
        self.out, self.text_query = _copied(attention.to_out[0]), _copied(text.to_q)
        self.register_buffer("text_norm", text.norm_q.weight.detach().float())
        self.text_out = _copied(text.to_out[0])
        norm = source.norm2
        self.has_text_norm = isinstance(norm, nn.LayerNorm)
        if isinstance(norm, nn.LayerNorm):
            self.register_buffer("text_norm_weight", norm.weight.detach().float())
            self.register_buffer("text_norm_bias", norm.bias.detach().float())
            self.text_norm_eps = norm.eps
        self.up, self.down = _copied(source.ffn.net[0].get_submodule("proj")), _copied(source.ffn.net[2])
        self.amplifies_history = attention.amplifies_history
        if attention.amplifies_history:
            self.register_buffer("history_scale", _history_scale(attention))

    @no_type_check
    def forward(
        self,
        tokens: Sequence[Float[Tensor, "b _ d"]],
        rows: Sequence[Float[Tensor, "1 6 d"]],
        turn: tuple[Tensor, Tensor],
        text: tuple[Tensor, Tensor],
        *,
        is_last: bool,
    ) -> list[Float[Tensor, "b _ d"]]:
        """Tokens of each stretch after the block; after the last block the chunk's only."""
        query, key, value = self.qkv(self._modulated(tokens, rows, 0)).chunk(3, dim=-1)
        query, key, value = self._turned(query, 0, turn), self._turned(key, 1, turn), self._split(value)
        num_past = tokens[0].shape[1] if len(tokens) > 1 else 0
        if len(tokens) > 1 and self.amplifies_history:
            key = torch.cat([key[:, :, :num_past] * self.get_buffer("history_scale"), key[:, :, num_past:]], dim=2)
        if is_last:
            tokens, rows, query = tokens[-1:], rows[-1:], query[:, :, num_past:]
        update = self.out(_joined_heads(F.scaled_dot_product_attention(query, key, value)))
        stretches = self._gated(tokens, update, rows, 2)
        stretches = [
            self._read(x, text) if index == len(stretches) - 1 or self.history_reads_text else x
            for index, x in enumerate(stretches)
        ]
        hidden = F.gelu(self.up(self._modulated(stretches, rows, 3)), approximate="tanh")
        return self._gated(stretches, self.down(hidden), rows, 5)

    @no_type_check
    def _modulated(self, tokens: Sequence[Tensor], rows: Sequence[Tensor], first: int) -> Float[Tensor, "b n d"]:
        """LN(x)·(1 + scale) + shift for each stretch."""
        pieces = [
            F.layer_norm(x, x.shape[-1:], eps=self.eps) * row[:, first + 1 : first + 2] + row[:, first : first + 1]
            for x, row in zip(tokens, rows, strict=True)
        ]
        return torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]

    @no_type_check
    def _turned(self, x: Float[Tensor, "b n d"], which: int, turn: tuple[Tensor, Tensor]) -> Float[Tensor, "b k n e"]:
        """RMS norm over the width, and each pair of channels turned by its token's angle."""
        normed = F.rms_norm(x, (x.shape[-1],), self.get_buffer("norms")[which], self.eps)
        left, right = self._split(normed).chunk(2, dim=-1)
        cos, sin = turn
        return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)

    @no_type_check
    def _split(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b k n e"]:
        """The width divided among heads, heads first."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    @no_type_check
    def _read(self, x: Float[Tensor, "b n d"], text: tuple[Tensor, Tensor]) -> Float[Tensor, "b n d"]:
        """Add what the text says."""
        entering = x
        if self.has_text_norm:
            weight, bias = self.get_buffer("text_norm_weight"), self.get_buffer("text_norm_bias")
            entering = F.layer_norm(x, x.shape[-1:], weight, bias, self.text_norm_eps)
        query = F.rms_norm(self.text_query(entering), (x.shape[-1],), self.get_buffer("text_norm"), self.eps)
        return x + self.text_out(_joined_heads(F.scaled_dot_product_attention(self._split(query), *text)))

    @staticmethod
    @no_type_check
    def _gated(
        tokens: Sequence[Tensor], update: Float[Tensor, "b n d"], rows: Sequence[Tensor], gate: int
    ) -> list[Float[Tensor, "b _ d"]]:
        """x + update·gate, each stretch by its own gate."""
        updates = update.split([x.shape[1] for x in tokens], dim=1)
        pieces = zip(tokens, updates, rows, strict=True)
        return [x + change * row[:, gate : gate + 1] for x, change, row in pieces]


def paired_halves(attention: SelfAttention) -> Tensor:
    """The order of channels in which both of a pair that turns together lie half a head apart."""
    channels = torch.arange(attention.to_q.weight.shape[0])
    return rearrange(channels, "(k e pair) -> (k pair e)", k=attention.heads, pair=2)


def _joined(attention: Attention, order: Tensor) -> nn.Linear:
    """q, k and v as one layer; the channels of q and k in this order."""
    layers = (attention.to_q, attention.to_k, attention.to_v)
    weights, biases = zip(*((layer.weight.detach(), layer.bias.detach()) for layer in layers), strict=True)
    orders = (order, order, torch.arange(len(order)))
    weight, bias = (torch.cat([x[o] for x, o in zip(parts, orders, strict=True)]) for parts in (weights, biases))
    return _layer(weight, bias)


def _copied(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear), layer
    return _layer(layer.weight.detach(), layer.bias.detach())


def _layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.float().clone()), nn.Parameter(bias.float().clone())
    return layer.requires_grad_(requires_grad=False)


def _history_scale(attention: SelfAttention) -> Float[Tensor, "k 1 1"]:
    """What the history's keys are multiplied by."""
    factor = 1 + torch.sigmoid(attention.history_key_scale.detach().float()) * (MAX_HISTORY_SCALE - 1)
    return factor.expand(attention.heads)[:, None, None].clone()


@no_type_check
def _joined_heads(x: Float[Tensor, "b k n e"]) -> Float[Tensor, "b n d"]:
    return x.transpose(1, 2).flatten(2)
