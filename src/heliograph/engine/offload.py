"""Blocks that do not fit on the device wait in host memory or stay on disk, and come when their turn is.

Two places on the device take turns: while one block computes, the next is copied. On the host a block is one stretch of
page-locked memory, so that it comes in one copy that the host does not wait for. A block on disk is read from the
checkpoint's own mapped files into such a stretch by a thread, while the block before it computes.
"""

import logging
import math
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from heliograph.checkpoint import ModelFolder, TensorInfo, adapted_table
from heliograph.checkpoint.tensors import opened
from heliograph.engine.plan import BLOCKS_IN_FLIGHT, Plan
from heliograph.model.transformer import HeliosTransformer3DModel

logger = logging.getLogger(__name__)

ALIGNMENT = 256
"""Every tensor of a stretch begins at a multiple of this many bytes."""

Bytes = UInt8[Tensor, " n"]


@dataclass(frozen=True)
class Piece:
    """Where in a stretch of bytes one tensor of a block lies."""

    dtype: torch.dtype
    shape: torch.Size
    start: int

    def within(self, stretch: Bytes) -> Tensor:
        """The tensor, as a view."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return stretch[self.start : self.start + size].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Layout:
    """The tensors of a block by name, side by side, and how many bytes they take together."""

    pieces: Mapping[str, Piece]
    size: int

    @classmethod
    def of(cls, block: nn.Module) -> "Layout":
        """Of all parameters of a block."""
        pieces, end = {}, 0
        for name, tensor in block.named_parameters():
            pieces[name] = Piece(tensor.dtype, tensor.shape, end)
            end += -(-tensor.numel() * tensor.dtype.itemsize // ALIGNMENT) * ALIGNMENT
        return cls(pieces, end)

    def bind(self, block: nn.Module, stretch: Bytes) -> None:
        """Let the block's parameters be views of these bytes."""
        for name, piece in self.pieces.items():
            _put(block, name, piece.within(stretch))

    def empty(self, block: nn.Module) -> None:
        """Let the block's parameters have no memory."""
        for name, piece in self.pieces.items():
            _put(block, name, torch.empty(piece.shape, dtype=piece.dtype, device="meta"))


@runtime_checkable
class Store(Protocol):
    """Where waiting blocks are; numbers count the waiting blocks alone."""

    def begin(self, number: int) -> None:
        """Start whatever bringing this block takes on the host."""
        ...

    def stretch(self, number: int) -> Bytes:
        """The block's bytes in host memory, page-locked on a CUDA machine."""
        ...

    def sent(self, event: "torch.cuda.Event | None") -> None:
        """The copy of the bytes last asked for is under way; `event` is its end, None where it is done."""
        ...

    def leave(self, number: int, block: nn.Module, layout: Layout) -> None:
        """Let the block, which has run, hold no memory of the device."""
        ...


class HostStore:
    """All waiting blocks in host memory, one copy of each."""

    def __init__(self, blocks: Sequence[nn.Module], layouts: Sequence[Layout], device: torch.device) -> None:
        """Take over the parameters of the blocks, one block after another, so that only one is ever there twice."""
        self._stretches: list[Bytes] = []
        for block, layout in zip(blocks, layouts, strict=True):
            stretch = locked(layout.size, device)
            for name, parameter in block.named_parameters():
                layout.pieces[name].within(stretch).copy_(parameter.data)
            layout.bind(block, stretch)
            self._stretches.append(stretch)
        unlock_with(self, self._stretches, device)

    def begin(self, number: int) -> None:
        """Nothing is to be done: the bytes are there."""

    def stretch(self, number: int) -> Bytes:
        """The block's bytes."""
        return self._stretches[number]

    def sent(self, event: "torch.cuda.Event | None") -> None:
        """Nothing is to be done: the bytes stay."""

    def leave(self, number: int, block: nn.Module, layout: Layout) -> None:
        """The parameters are those on the host again."""
        layout.bind(block, self._stretches[number])


class FileStore:
    """Waiting blocks in the checkpoint's files, read into as many stretches as there are blocks in flight."""

    def __init__(
        self, names: Sequence[str], layouts: Sequence[Layout], folder: ModelFolder, device: torch.device
    ) -> None:
        """`names` are the blocks' names in the checkpoint."""
        self._names, self._layouts = names, layouts
        self._table = adapted_table(folder)
        size = max(layout.size for layout in layouts)
        self._stretches = [locked(size, device) for _ in range(BLOCKS_IN_FLIGHT)]
        unlock_with(self, self._stretches, device)
        self._ends: list[torch.cuda.Event | None] = [None] * BLOCKS_IN_FLIGHT
        self._reading: dict[int, tuple[int, Future[None]]] = {}
        self._taken = self._turn = 0
        self._thread = ThreadPoolExecutor(1, "heliograph-blocks")

    def begin(self, number: int) -> None:
        """Read it in the thread; what a failed forward left in its place is lost."""
        if number not in self._reading:
            place = self._turn % BLOCKS_IN_FLIGHT
            self._turn += 1
            self._reading = {n: read for n, read in self._reading.items() if read[0] != place}
            self._reading[number] = place, self._thread.submit(self._read, number, place)

    def stretch(self, number: int) -> Bytes:
        """The block's bytes, once they are read."""
        self.begin(number)
        self._taken, reading = self._reading.pop(number)
        reading.result()
        return self._stretches[self._taken][: self._layouts[number].size]

    def sent(self, event: "torch.cuda.Event | None") -> None:
        """Their place may be read into again when the copy is done."""
        self._ends[self._taken] = event

    def leave(self, number: int, block: nn.Module, layout: Layout) -> None:
        """The parameters have no memory."""
        layout.empty(block)

    def _read(self, number: int, place: int) -> None:
        if (end := self._ends[place]) is not None:
            end.synchronize()
        block, pieces = self._names[number], self._layouts[number].pieces
        infos: dict[str, TensorInfo] = {name: self._table[f"{block}.{name}"] for name in pieces}
        for file in sorted({info.file for info in infos.values()}):
            with opened(file, "pt") as shard:
                for name in (name for name, info in infos.items() if info.file == file):
                    pieces[name].within(self._stretches[place]).copy_(infos[name].read(shard, f"{block}.{name}"))


class BlockStream:
    """Brings waiting blocks to the device in turn, the next one while one computes."""

    def __init__(
        self, blocks: Sequence[nn.Module], layouts: Sequence[Layout], store: Store, device: torch.device
    ) -> None:
        self._layouts, self._store = layouts, store
        size = max(layout.size for layout in layouts)
        self._places = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(BLOCKS_IN_FLIGHT)]
        self._departures: list[torch.cuda.Event | None] = [None] * BLOCKS_IN_FLIGHT
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._brought: dict[int, tuple[int, torch.cuda.Event | None]] = {}
        self._turn = 0
        for number, block in enumerate(blocks):
            block.register_forward_pre_hook(partial(self._before, number))
            block.register_forward_hook(partial(self._after, number))

    def _before(self, number: int, block: nn.Module, _: Any) -> None:
        """The block's turn: it is there, or comes now; the host starts to read the next."""
        self._bring(number)
        place, arrival = self._brought[number]
        if arrival is not None:
            torch.cuda.current_stream().wait_event(arrival)
        self._layouts[number].bind(block, self._places[place])
        if self._following(number) != number:
            self._store.begin(self._following(number))

    def _after(self, number: int, block: nn.Module, *_results: Any) -> None:
        """The block's work was given to the device: the next one may come beside it."""
        place, _ = self._brought.pop(number)
        if self._stream is not None:
            departure = torch.cuda.Event()
            departure.record()
            self._departures[place] = departure
        self._store.leave(number, block, self._layouts[number])
        if self._following(number) != number:
            self._bring(self._following(number))

    def _following(self, number: int) -> int:
        """The block that runs next: after the last one comes the next step's first."""
        return (number + 1) % len(self._layouts)

    def _bring(self, number: int) -> None:
        """Begin the copy of a block, if it is not under way, once the block that had its place has run."""
        if number in self._brought:
            return
        place = self._turn % BLOCKS_IN_FLIGHT
        self._turn += 1
        self._brought = {n: there for n, there in self._brought.items() if there[0] != place}
        source, arrival = self._store.stretch(number), None
        target = self._places[place][: len(source)]
        if self._stream is None:
            target.copy_(source)
        else:
            with torch.cuda.stream(self._stream):
                if (departure := self._departures[place]) is not None:
                    self._stream.wait_event(departure)
                target.copy_(source, non_blocking=True)
                arrival = torch.cuda.Event()
                arrival.record()
        self._brought[number] = place, arrival
        self._store.sent(arrival)


def offload_blocks(transformer: HeliosTransformer3DModel, folder: ModelFolder, plan: Plan) -> None:
    """Let the blocks after the first `plan.resident_blocks` be on the device only while they run."""
    device, first = torch.device(plan.device), plan.resident_blocks
    blocks = list(transformer.blocks)[first:]
    if not blocks:
        return
    layouts = [Layout.of(block) for block in blocks]
    if plan.way == "blocks on disk":
        names = [f"blocks.{first + number}" for number in range(len(blocks))]
        store: Store = FileStore(names, layouts, folder, device)
    else:
        store = HostStore(blocks, layouts, device)
    BlockStream(blocks, layouts, store, device)


def _put(block: nn.Module, name: str, tensor: Tensor) -> None:
    """Another tensor for a parameter; one without memory cannot be given any, so it is replaced."""
    owner, _, leaf = name.rpartition(".")
    block.get_submodule(owner).register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))


def locked(size: int, device: torch.device) -> Bytes:
    """Host memory that a CUDA device copies from by itself; plain memory for other devices.

    PyTorch's own page-locked memory comes in powers of two, up to half of it unused; this is registered as it is.
    """
    stretch = torch.empty(size, dtype=torch.uint8)
    if device.type == "cuda":
        runtime: Any = torch.cuda.cudart()
        status = runtime.cudaHostRegister(stretch.data_ptr(), size, 0)
        if int(status) != 0:
            logger.warning("the system locks no more memory: blocks come to the device at about half the speed")
    return stretch


def unlock_with(owner: object, stretches: Sequence[Bytes], device: torch.device) -> None:
    """Give page-locked memory back to the system when its owner goes; what still reads it then reads plain memory."""
    if device.type == "cuda":
        runtime: Any = torch.cuda.cudart()
        for stretch in stretches:
            weakref.finalize(owner, runtime.cudaHostUnregister, stretch.data_ptr()).atexit = False
