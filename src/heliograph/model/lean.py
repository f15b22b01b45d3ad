"""All blocks of the transformer as a CPU does them best: few calls, no copies, the residual stream in float32.

The same sums as `block.py`, which defines them, for sampling alone: no gradients, no adapters, all samples at one
timestep. Three things differ, and none loses exactness. Tokens stay in one float32 buffer that blocks add to in place.
Queries and keys are normalised and turned together, pairs of channels as complex numbers. Matrix products are oneDNN's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.kernels.onednn import attend, linear, linear_gelu
from heliograph.model.attention import Attention, TextKeys
from heliograph.model.block import TextSource, TransformerBlock
from heliograph.model.embed import TimeRow
from heliograph.model.packing import pack, packed
from heliograph.model.rope import Rotary

Rows = tuple[Tensor, ...]
"""Shift, 1 + scale, gate of attention, then of the feed-forward, each `[d]` float32, for one stretch in one block."""

_SCALES = (1, 4)


@dataclass(frozen=True)
class Affine:
    """Weight and bias of a linear layer."""

    weight: Float[Tensor, "o i"]
    bias: Float[Tensor, " o"] | None

    @classmethod
    def of(cls, layer: nn.Module) -> "Affine":
        """Of a plain `nn.Linear`: the parameters themselves."""
        assert type(layer) is nn.Linear, layer
        return cls(layer.weight, layer.bias)


@runtime_checkable
class SamplingBlocks(Protocol):
    """All blocks, for sampling alone: `LeanBlocks`, or what takes their place."""

    def rows(self, time: TimeRow) -> Any:
        """The modulation of every block at one timestep."""
        ...

    def __call__(
        self,
        past: Float[Tensor, "b2 m d"] | None,
        chunk: Float[Tensor, "b n d"],
        rows: Sequence[Any],
        rotary: Rotary,
        texts: Sequence[TextSource],
    ) -> Float[Tensor, "b n d"]:
        """The chunk's tokens after the last block."""
        ...


class LeanBlocks:
    """The blocks of one transformer on a CPU. Weights stay those of its modules."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        """`blocks` are those that `can_run_lean` allows. Their q, k and v weights are moved together in memory."""
        self._blocks = [_LeanBlock(block) for block in blocks if isinstance(block, TransformerBlock)]
        self._tables = modulation_tables([block.source for block in self._blocks])

    def rows(self, time: TimeRow) -> list[Rows]:
        """The modulation of every block at one timestep, to be remembered as long as the timestep's row is."""
        return [table.unbind(0) for table in (self._tables + time.block.float()).unbind(0)]

    def __call__(
        self,
        past: Float[Tensor, "b2 m d"] | None,
        chunk: Float[Tensor, "b n d"],
        rows: Sequence[Sequence[Rows]],
        rotary: Rotary,
        texts: Sequence[TextSource],
    ) -> Float[Tensor, "b n d"]:
        """The chunk's tokens after the last block, float32.

        Args:
            past: the history's tokens, for each sample or one for all; None without history.
            chunk: the chunk's tokens.
            rows: of the history, if there is one, and of the chunk.
            rotary: positions of all tokens.
            texts: the text for each block.
        """
        keys = [text.keys(block.source.attn2) for text, block in zip(texts, self._blocks, strict=True)]
        num_past = 0 if past is None else past.shape[1]
        last = len(self._blocks) - 1
        with torch.inference_mode():  # a tenth of the time, in a place where nothing is ever differentiated
            parts = [chunk] if past is None else [past.expand(len(chunk), -1, -1), chunk]
            tokens = torch.cat(parts, dim=1).to(torch.float32)
            for index, block in enumerate(self._blocks):
                own = [stretch[index] for stretch in rows]
                tokens = block(tokens, num_past, own, rotary, keys[index], is_last=index == last)
        return tokens.clone()  # made outside, so that everybody may use it


def modulation_tables(blocks: Sequence[TransformerBlock]) -> Float[Tensor, "layers 6 d"]:
    """The learnt part of every block's modulation, float32, with 1 + scale for scale: nothing else is ever used."""
    tables = torch.cat([block.scale_shift_table.detach().float() for block in blocks])
    tables[:, _SCALES] += 1
    return tables


def can_run_lean(blocks: Iterable[nn.Module]) -> bool:
    """Whether these are plain blocks on a CPU: no adapters, no quantised layers, nothing offloaded."""
    return all(isinstance(block, TransformerBlock) and _is_plain(block) for block in blocks)


def _is_plain(block: TransformerBlock) -> bool:
    attentions = (block.attn1, block.attn2)
    layers = [layer for a in attentions for layer in (a.to_q, a.to_k, a.to_v, a.to_out[0])]
    layers += [_up(block), block.ffn.net[2]]
    return all(
        type(layer) is nn.Linear and layer.weight.device.type == "cpu" and layer.weight.is_floating_point()
        for layer in layers
    )


def _up(block: TransformerBlock) -> nn.Module:
    """The first linear layer of the feed-forward."""
    return block.ffn.net[0].get_submodule("proj")


class _LeanBlock:
    """One block."""

    def __init__(self, source: TransformerBlock) -> None:
        self.source = source
        self._qkv = join_projections(source.attn1)
        self._out = Affine.of(source.attn1.to_out[0])
        self._text_query, self._text_out = Affine.of(source.attn2.to_q), Affine.of(source.attn2.to_out[0])
        self._up, self._down = Affine.of(_up(source)), Affine.of(source.ffn.net[2])
        self._dtype, self._heads, self._eps = self._out.weight.dtype, source.attn1.heads, source.eps
        norms = [norm.weight.detach().float() for norm in (source.attn1.norm_q, source.attn1.norm_k)]
        self._norms, self._text_norm = torch.stack(norms), source.attn2.norm_q.weight.detach().float()

    def __call__(
        self,
        tokens: Float[Tensor, "b n d"],
        num_past: int,
        rows: Sequence[Rows],
        rotary: Rotary,
        keys: TextKeys,
        *,
        is_last: bool,
    ) -> Float[Tensor, "b m d"]:
        """Tokens after the block, in the memory of those before it; after the last block the chunk's only."""
        mixed = self._attend(self._modulated(tokens, num_past, rows, 0), num_past, rotary, is_last=is_last)
        if is_last:  # nobody reads the history any more
            tokens, num_past, rows = tokens[:, num_past:], 0, rows[-1:]
        self._add_gated(tokens, mixed, num_past, [r[2] for r in rows])
        self._read(tokens if self.source.history_reads_text else tokens[:, num_past:], keys)
        hidden = linear_gelu(self._modulated(tokens, num_past, rows, 3), self._up.weight, self._up.bias)
        update = linear(hidden, self._down.weight, self._down.bias)
        self._add_gated(tokens, update, num_past, [r[5] for r in rows])
        return tokens

    def _modulated(
        self, tokens: Float[Tensor, "b n d"], num_past: int, rows: Sequence[Rows], first: int
    ) -> Float[Tensor, "b n d"]:
        """LN(x)·(1 + scale) + shift for each stretch, in the dtype of the weights."""
        pieces = [
            F.layer_norm(piece, piece.shape[-1:], row[first + 1], row[first], self._eps)
            for piece, row in zip(_pieces(tokens, num_past), rows, strict=True)
        ]
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)).to(self._dtype)

    def _attend(
        self, entering: Float[Tensor, "b n d"], num_past: int, rotary: Rotary, *, is_last: bool
    ) -> Float[Tensor, "b m d"]:
        """Self-attention among all tokens, for the chunk alone after the last block."""
        joined = linear(entering, self._qkv.weight, self._qkv.bias).unflatten(-1, (3, -1))
        query, key = self._turned(joined[:, :, :2], rotary).unbind(2)
        if self.source.attn1.amplifies_history:
            past, chunk = key.split([num_past, key.shape[1] - num_past], dim=1)
            key = torch.cat([self.source.attn1._amplify(past), chunk], dim=1)
        value = joined[:, :, 2].unflatten(-1, (self._heads, -1))
        mixed = attend(query[:, num_past:] if is_last else query, key, value).flatten(2)
        return linear(mixed, self._out.weight, self._out.bias)

    def _turned(self, pair: Float[Tensor, "b n 2 d"], rotary: Rotary) -> Float[Tensor, "b n 2 k e"]:
        """Queries and keys, float32: RMS norm over the width, and each pair of channels turned by its token's angle."""
        # (a + ib)·(cos + i·sin) is the turn; the norm's 1/RMS goes into the table, which is smaller than the tokens.
        turns = rotary.turns[:, None, None] * _inverse_rms(pair, self._eps)[..., None]
        scaled = (pair * self._norms).unflatten(-1, (self._heads, -1, 2))
        turned = torch.view_as_real(torch.view_as_complex(scaled) * turns)
        return turned.flatten(-2)

    def _read(self, tokens: Float[Tensor, "b n d"], keys: TextKeys) -> None:
        """Add what the text says."""
        norm = self.source.norm2
        if isinstance(norm, nn.LayerNorm):
            weight, bias = norm.weight.float(), norm.bias.float()
            entering = F.layer_norm(tokens, norm.normalized_shape, weight, bias, norm.eps)
        else:
            entering = tokens
        query = linear(entering.to(self._dtype), self._text_query.weight, self._text_query.bias)
        query = (query * _inverse_rms(query, self._eps) * self._text_norm).unflatten(-1, (self._heads, -1))
        mixed = attend(query, keys.key.to(query.dtype), keys.value).flatten(2)
        tokens += linear(mixed, self._text_out.weight, self._text_out.bias)

    @staticmethod
    def _add_gated(
        tokens: Float[Tensor, "b n d"], update: Float[Tensor, "b n d"], num_past: int, gates: Sequence[Tensor]
    ) -> None:
        """x + update·gate in place, each stretch by its own gate."""
        pieces = zip(_pieces(tokens, num_past), _pieces(update, num_past), gates, strict=True)
        for piece, change, gate in pieces:
            piece.addcmul_(change, gate)


def join_projections(attention: Attention) -> Affine:
    """q, k and v as one layer, one below the other; the three layers become parts of its memory."""
    layers = (attention.to_q, attention.to_k, attention.to_v)
    pack(layers)
    joined = packed(layers)
    assert joined is not None, "plain layers can be packed"
    return Affine(*joined)


def _pieces(x: Float[Tensor, "b n d"], num_past: int) -> tuple[Tensor, ...]:
    """History and chunk; the chunk alone where there is no history."""
    return (x[:, :num_past], x[:, num_past:]) if num_past else (x,)


def _inverse_rms(x: Float[Tensor, "... d"], eps: float) -> Float[Tensor, "... 1"]:
    """1/√(mean of squares + ε) over the last axis, float32."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (size * size).mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
