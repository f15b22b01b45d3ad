"""All blocks of the transformer as one graph of OpenVINO, an optional library that compiles it for the processor.

A graph (`graph.py`) is compiled for the number of tokens of a level the first time it is asked for, which takes about a
second; what changes from step to step and from chunk to chunk comes in as inputs. Weights are copied.
"""

import ctypes
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.kernels.onednn import has_fast_bfloat16
from heliograph.model.block import TextSource, TransformerBlock
from heliograph.model.embed import TimeRow
from heliograph.model.graph import BlockGraph, Table
from heliograph.model.lean import modulation_tables
from heliograph.model.rope import Rotary


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
        return _heads_first([each.key for each in of_blocks]), _heads_first([each.value for each in of_blocks])


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


def _heads_first(of_blocks: Sequence[Float[Tensor, "b l k e"]]) -> Float[Tensor, "layers b k l e"]:
    return rearrange(torch.stack(list(of_blocks)).float(), "i b l k e -> i b k l e").contiguous()
