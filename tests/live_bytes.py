"""The most memory that tensors take at a time, counted without any: on fake tensors."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it, alive at a time; the highest count is `peak`.

    What is in `alive` from the start is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.alive:
            return
        self.alive.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def most_live_bytes(run: Callable[..., object], *shapes: tuple[int, ...]) -> int:
    """Most bytes alive at a time while `run` works on fake zeros of these shapes; weights that it holds are real."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        inputs = [torch.zeros(shape) for shape in shapes]
        with LiveBytes() as live:
            run(*inputs)
    return live.peak
