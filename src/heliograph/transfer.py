"""Between host and device without waiting: copies go through pinned memory and are ordered on the device."""

from contextlib import AbstractContextManager, nullcontext
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
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, frames: UInt8[Tensor, "f h w 3"], is_finite: Tensor) -> Pending:
        """Begin the copy, once the work given to the device so far is done."""
        if self._stream is None:
            return Pending(frames.cpu(), is_finite.cpu(), None)
        self._stream.wait_stream(torch.cuda.current_stream(frames.device))
        with torch.cuda.stream(self._stream):
            here = frames.to("cpu", non_blocking=True), is_finite.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        for tensor in (frames, is_finite):
            tensor.record_stream(self._stream)
        return Pending(*here, arrived)
