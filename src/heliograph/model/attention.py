"""Self-attention over history and chunk, and cross-attention from the chunk to the text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from heliograph.kernels.choice import kernels_for
from heliograph.kernels.eight_bit import EightBit
from heliograph.kernels.pieces import Pieces, joined
from heliograph.model.float8 import Float8Linear
from heliograph.model.packed import TokenLayout, attend_packed, can_attend_packed
from heliograph.model.packing import product
from heliograph.model.past import Past, Rows
from heliograph.model.rope import Rotary

ScaleMode = Literal["per_head", "scalar"]

MAX_HISTORY_SCALE = 10.0
"""Upper bound of the factor on history keys."""


Attend = Callable[..., Tensor]
"""Attention without a mask: queries (b n k e), keys and values (b m k e, `Pieces`) to (b n k e)."""


@dataclass(frozen=True)
class TextKeys:
    """Keys (normalised) and values of the text for one block, split into heads."""

    key: Float[Tensor, "b l k e"]
    value: Float[Tensor, "b l k e"]


class KernelChoice:
    """Which attention kernel runs; the library's `set_attention_backend` writes here. None is PyTorch's own."""

    _attention_backend: AttentionBackendName | None = None
    _parallel_config = None


class Attention(nn.Module, AttentionModuleMixin):
    """Projections and norms that self- and cross-attention share; names are those of the released tensors.

    Queries and keys are normalised over the whole width (RMS, affine) before they are split into heads.
    """

    _default_processor_cls = KernelChoice
    _available_processors = [KernelChoice]  # noqa: RUF012 - the library reads it as a class attribute

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.heads = num_heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        # Index 1 was dropout in the checkpoint's layout; it holds no tensors and nothing drops out.
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Identity()])
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)
        self.processor = KernelChoice()
        self.own_kernel: Attend | None = None

    def split(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n k e"]:
        """The width divided among heads."""
        return rearrange(x, "b n (k e) -> b n k e", k=self.heads)

    def mix(self, query: Float[Tensor, "b n k e"], key: Pieces, value: Pieces) -> Float[Tensor, "b n k e"]:
        """softmax(q·kᵀ/√e)·v without any mask, by the kernel that was chosen: one of ours, or one of the library's."""
        if self.own_kernel is not None and self.processor._attention_backend is None:
            return self.own_kernel(query, key, value)
        return dispatch_attention_fn(query, joined(key), joined(value), backend=self.processor._attention_backend)

    def leave(self, mixed: Float[Tensor, "b n k e"], query: Float[Tensor, "b n k e"]) -> Float[Tensor, "b n d"]:
        """Heads joined, output projection, in the dtype of the query."""
        return self.to_out[0](mixed.flatten(2).to(query.dtype))


def attend_by_products(query: Float[Tensor, "b n k e"], key: Pieces, value: Pieces) -> Float[Tensor, "b n k e"]:
    """softmax(q·kᵀ/√e)·v as two products with all scores in memory, in the dtype of `value`.

    In bfloat16 on a CPU, forward and backward together take a third of the time of PyTorch's own kernel (docs/log.md).
    Scores are rounded to that dtype, which training bears; sampling keeps the kernel, which holds them in float32.
    """
    key, value = joined(key), joined(value)
    q, k, v = (rearrange(x.to(value.dtype), "b n k e -> b k n e") for x in (query, key, value))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return rearrange(scores.softmax(dim=-1) @ v, "b k n e -> b n k e")


def attend_by_cudnn(query: Float[Tensor, "b n k e"], key: Pieces, value: Pieces) -> Float[Tensor, "b n k e"]:
    """softmax(q·kᵀ/√e)·v by cuDNN, which reads heads where they are; the library's own way to it copies them first."""
    q, k, v = (x.transpose(1, 2) for x in (query, joined(key), joined(value)))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def use_kernel(network: nn.Module, kernel: Attend | None) -> None:
    """Let every attention of the network run by this function; None gives the choice back to the library."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.own_kernel = kernel


class RotaryNorm(nn.RMSNorm):
    """RMS norm over the whole width (affine), then heads turned to their token's position."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(dim, eps=eps)
        self.epsilon = eps

    def forward(self, x: Float[Tensor, "b n d"], rotary: Rotary) -> Float[Tensor, "b n k e"]:
        """Queries or keys ready for attention, in the dtype of `x`."""
        return kernels_for(x).norm_rotate(x, self.weight, rotary.cos, rotary.sin, self.epsilon)


class SelfAttention(Attention):
    """Full attention among all tokens of a sequence, history and chunk, with rotary positions.

    `history_scale`, where the configuration asks for it, multiplies the history's keys by 1 + 9·sigmoid(p), p learnt
    per head or once.
    """

    def __init__(self, dim: int, num_heads: int, eps: float, history_scale: ScaleMode | None) -> None:
        super().__init__(dim, num_heads, eps)
        self.norm_q, self.norm_k = RotaryNorm(dim, eps), RotaryNorm(dim, eps)
        self.to_qkv: Float8Linear | None = None
        if history_scale is not None:
            self.history_key_scale = nn.Parameter(torch.ones(num_heads if history_scale == "per_head" else 1))
        self.amplifies_history = history_scale is not None

    def forward(
        self,
        x: Float[Tensor, "b n d"] | EightBit,
        rotary: Rotary,
        layout: TokenLayout,
        asking: TokenLayout,
        past: Past,
    ) -> Float[Tensor, "b m d"]:
        """Mix the tokens of each sequence, as a rule one. Only the last of them, those `asking`, get their mix."""
        count = sum(asking.lengths)
        known = past.known(
            lambda: self.rows(x[:, : past.length], rotary.first(past.length), layout.history), x.shape[0]
        )
        if known is None:
            rows = self.rows(x, rotary, layout, count)
        else:
            later = x[:, past.num_known :]
            rows = known.before(self.rows(later, rotary.last(later.shape[1]), layout.chunk), count)
        past.note(rows)
        mixed = self._mix_apart(rows, layout)
        return self.leave(mixed, rows.query)

    def rows(
        self,
        x: Float[Tensor, "b n d"] | EightBit,
        rotary: Rotary,
        layout: TokenLayout,
        num_asking: int | None = None,
    ) -> Rows:
        """Queries of the last `num_asking` tokens (None: of all), keys and values of all."""
        count = x.shape[1] if num_asking is None else num_asking
        query, key, value = self._products(x, count)
        query, key = self.norm_q(query, rotary.last(count)), self.norm_k(key, rotary)
        if self.amplifies_history:
            pieces = zip(layout.split(key), layout.stretches, strict=True)
            key = torch.cat([self._amplify(k) if stretch.is_history else k for k, stretch in pieces], dim=1)
        return Rows(query, key, self.split(value))

    def _products(self, x: Float[Tensor, "b n d"] | EightBit, count: int) -> tuple[Float[Tensor, "b _ d"], ...]:
        """Queries of the last `count` tokens, keys and values of all, not normed yet."""
        if self.to_qkv is None:
            assert isinstance(x, Tensor)
            return product(x, (self.to_q, self.to_k, self.to_v), count)
        query, key, value = self.to_qkv(x).chunk(3, dim=-1)
        return query[:, -count:], key, value

    def _mix_apart(self, rows: Rows, layout: TokenLayout) -> Float[Tensor, "b n k e"]:
        """Attention within each sequence: block-diagonal, by a kernel for it where there is one."""
        if len(layout.sequences) == 1:
            return self.mix(rows.query, rows.keys, rows.values)
        query, key, value = rows.query, joined(rows.keys), joined(rows.values)
        if can_attend_packed(value):
            return attend_packed(query, key, value, layout.sequences)
        sequences = zip(*(layout.split_sequences(x) for x in (query, key, value)), strict=True)
        return torch.cat([self.mix(*qkv) for qkv in sequences], dim=1)

    def _amplify(self, key: Float[Tensor, "b n k e"]) -> Float[Tensor, "b n k e"]:
        factor = 1 + torch.sigmoid(self.history_key_scale.float()) * (MAX_HISTORY_SCALE - 1)
        return (key * factor[:, None]).to(key.dtype)  # the factor is float32; attention needs one dtype


class CrossAttention(Attention):
    """Attention from tokens to the text; the text's keys and values depend on the prompt alone."""

    def text_keys(self, text: Float[Tensor, "b l d"]) -> TextKeys:
        """Keys and values of projected text; computed once per prompt."""
        return TextKeys(self.split(self.norm_k(self.to_k(text))), self.split(self.to_v(text)))

    def forward(self, x: Float[Tensor, "b n d"], text: TextKeys) -> Float[Tensor, "b n d"]:
        """Read the text. Padding is attended: it is part of what the weights were trained with."""
        query = self.split(self.norm_q(self.to_q(x)))
        return self.leave(self.mix(query, text.key, text.value), query)
