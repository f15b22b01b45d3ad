"""All blocks of the transformer as one graph of OpenVINO, an optional library that compiles it for the processor.

The same sums as `block.py`, which defines them, for sampling alone. A graph is compiled for the number of tokens of a
level the first time it is asked for, which takes about a second; what changes from step to step and from chunk to chunk
comes in as inputs. Weights are copied. Two things are arranged otherwise than in the blocks: q, k and v are one
product, and the channels of each head are sorted so that a pair that turns together lies half a head apart: products of
queries and keys do not know the order, and the compiler moves halves, but not single channels, quickly.
"""

import ctypes
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.kernels.onednn import has_fast_bfloat16
from heliograph.model.attention import MAX_HISTORY_SCALE, Attention, SelfAttention
from heliograph.model.block import TextSource, TransformerBlock
from heliograph.model.embed import TimeRow
from heliograph.model.lean import modulation_tables
from heliograph.model.rope import Rotary

Table = Float[Tensor, "layers 1 6 d"]
"""Shift, 1 + scale, gate of attention, then of the feed-forward, of every block."""


def has_openvino() -> bool:
    """Whether the library is installed."""
    return find_spec("openvino") is not None


class OpenVinoBlocks:
    """Takes the place of `LeanBlocks`: the same call, by compiled graphs."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        """`blocks` are those that `can_run_lean` allows; a later change of their weights is not seen."""
        plain = [block for block in blocks if isinstance(block, TransformerBlock)]
        self._cross = [block.attn2 for block in plain]
        self._tables = modulation_tables(plain)
        self._graph = BlockGraph(plain).eval()
        dtype = plain[0].ffn.net[2].weight.dtype
        self._precision = "bf16" if dtype == torch.bfloat16 and has_fast_bfloat16() else "f32"
        self._compiled: dict[tuple[torch.Size, ...], Any] = {}
        self._lock = threading.Lock()  # a compiled graph has one set of buffers

    def rows(self, time: TimeRow) -> Table:
        """The modulation of every block at one timestep, to be remembered as long as the timestep's row is."""
        return (self._tables + time.block.float())[:, None]

    @torch.no_grad()
    def __call__(
        self,
        past: Float[Tensor, "b2 m d"] | None,
        chunk: Float[Tensor, "b n d"],
        rows: Sequence[Table],
        rotary: Rotary,
        texts: Sequence[TextSource],
    ) -> Float[Tensor, "b n d"]:
        """The chunk's tokens after the last block, float32; arguments as of `LeanBlocks`."""
        key, value = texts[0].memo.recall("keys of all blocks", lambda: self._text_keys(texts))
        inputs = [chunk.float(), rows[-1], rotary.cos, rotary.sin, key, value]
        if past is not None:
            inputs += [past.expand(len(chunk), -1, -1).float(), rows[0]]
        inputs = [tensor.contiguous() for tensor in inputs]
        with self._lock, kept_signal_stack():
            shapes = tuple(tensor.shape for tensor in inputs)
            if shapes not in self._compiled:
                self._compiled[shapes] = compile_graph(self._graph, inputs, self._precision)
            (tokens,) = self._compiled[shapes]([tensor.numpy() for tensor in inputs], share_inputs=True).values()
        return torch.from_numpy(tokens)

    def _text_keys(
        self, texts: Sequence[TextSource]
    ) -> tuple[Float[Tensor, "layers b k l e"], Float[Tensor, "layers b k l e"]]:
        """Keys and values of the text for all blocks, heads first."""
        of_blocks = [text.keys(attention) for text, attention in zip(texts, self._cross, strict=True)]
        key, value = (
            torch.stack(column).float() for column in zip(*((k.key, k.value) for k in of_blocks), strict=True)
        )
        return tuple(rearrange(x, "i b l k e -> i b k l e").contiguous() for x in (key, value))  # pyright: ignore[reportReturnType]


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


class SignalStack(ctypes.Structure):
    """`stack_t` of the C library on Linux: where a thread's signal handlers run."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Leave this thread's signal handlers the stack that they had.

    The library gives the thread one of 11 KiB, on which the process dies with the first signal that Python handles:
    Ctrl-C, or being told to terminate.
    """
    if sys.platform != "linux":
        yield
        return
    call, before = ctypes.CDLL(None).sigaltstack, SignalStack()
    call(None, ctypes.byref(before))
    try:
        yield
    finally:
        call(ctypes.byref(before), None)


def compile_graph(graph: BlockGraph, inputs: Sequence[Tensor], precision: str) -> Any:
    """The graph for inputs of these shapes, ready to be called, on as many threads as PyTorch now has.

    The library's own `convert_model` is left aside, because it reports its use over the network.
    """
    import openvino  # noqa: PLC0415 - an optional dependency
    from openvino.frontend import FrontEndManager  # noqa: PLC0415
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: PLC0415

    example = tuple(inputs)
    traced = torch.jit.freeze(torch.jit.trace(graph, example, check_trace=False))
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=example)  # held by this name until it is converted
    model = frontend.load(decoder)
    for place, tensor in zip(model.get_inputs(), inputs, strict=True):
        model.set_partial_shape(place, openvino.PartialShape(list(tensor.shape)))
        model.set_element_type(place, openvino.Type.f32)
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the threads of decoding and encoding share the cores
    }
    return openvino.Core().compile_model(frontend.convert(model), "CPU", options)


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


def _heads_first(of_blocks: Sequence[Float[Tensor, "b l k e"]]) -> Float[Tensor, "layers b k l e"]:
    return rearrange(torch.stack(list(of_blocks)).float(), "i b l k e -> i b k l e").contiguous()


@no_type_check
def _joined_heads(x: Float[Tensor, "b k n e"]) -> Float[Tensor, "b n d"]:
    return x.transpose(1, 2).flatten(2)
