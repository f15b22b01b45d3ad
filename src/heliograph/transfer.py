"""Between host and device without waiting: copies go through pinned memory and are ordered on the device."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_device(x: Float[Tensor, "..."], device: torch.device | str) -> Float[Tensor, "..."]:
    """A tensor of the host on `device`; the host does not wait, as a copy from memory that may be moved would make it.

    PyTorch keeps freed pinned memory and gives it out again, so after the first chunks nothing is pinned anew.
    """
    kind = torch.device(device).type
    if kind not in ("cuda", "meta") or x.device.type != "cpu":  # meta stands for a GPU in tests
        return x.to(device)
    return (x.pin_memory() if kind == "cuda" else x).to(device, non_blocking=True)


def current_device_of(x: Float[Tensor, "..."]) -> AbstractContextManager[Any]:
    """Make the device of `x` the current one: Triton and recordings use that, whatever their tensors say."""
    return torch.cuda.device_of(x) if torch.cuda.is_available() else nullcontext()


def read_here(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`x`, whose memory is kept until the stream that is current here has read it: it may be of another stream."""
    if x.device.type == "cuda":
        x.record_stream(torch.cuda.current_stream(x.device))
    return x


class Lane:
    """A stream of its own on a GPU, for work that may run beside what is given to the device after it.

    Of two streams that are ready the one of higher priority runs (-1 is higher than 0, that of all other work).
    """

    def __init__(self, device: torch.device, priority: int = 0) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=priority)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Work in the block goes to the lane, and begins once all that the device was given so far is done.

        What it reads of other streams has to be told to PyTorch, by `read_here`.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield


@dataclass(frozen=True)
class Pending:
    """Frames on their way to the host; `arrived` is None where they are there already."""

    frames: UInt8[Tensor, "f h w 3"]
    is_finite: Tensor
    arrived: "torch.cuda.Event | None"

    def wait(self) -> tuple[UInt8[np.ndarray, "f h w 3"], bool]:
        """The frames, and whether all numbers that they were made of were finite; waits for this copy alone."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.frames.numpy(), bool(self.is_finite)


class ToHost:
    """Sends frames from a device to the host on a stream of its own, so that neither the host nor the next work waits.

    Every copy has its own pinned memory, which the caller owns as long as it holds the frames; then it is used again.
    """

    def __init__(self, device: torch.device) -> None:
        self._lane = Lane(device) if device.type == "cuda" else None

    def send(self, frames: UInt8[Tensor, "f h w 3"], is_finite: Tensor) -> Pending:
        """Begin the copy, once the work given to the current stream so far is done."""
        if self._lane is None:
            return Pending(frames.cpu(), is_finite.cpu(), None)
        with self._lane.beside():
            here = [read_here(x).to("cpu", non_blocking=True) for x in (frames, is_finite)]
            arrived = torch.cuda.Event()
            arrived.record()
        return Pending(here[0], here[1], arrived)
