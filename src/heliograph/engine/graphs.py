"""The transformer's kernels recorded once for each level and replayed: the device never waits for the host's launches.

A recording reads and writes fixed places in memory. What outlives a step (text keys, the history's tokens, timestep
rows) is made outside of it and copied to its place when it changes; inside is only what every step computes anew.
"""

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.memory import Tiers
from heliograph.model.memo import Memo, Memos
from heliograph.model.transformer import HeliosTransformer3DModel

Replay = Callable[[], None]
Capture = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
"""Records what a function does; returns how to do it again, and the tensor that holds the result each time."""

Pays = Callable[[Callable[[], object], Callable[[], object]], bool]
"""Whether to take the second of two ways to do the same: launches one by one, and the replay of their recording."""

ANY_TIMESTEP = -1.0
"""The timestep of recordings: its row is copied in."""


@dataclass
class Recording:
    """One level's forward: the tensors it reads, how to run it, the tensor it writes, and whether it pays."""

    x: Tensor
    memos: Memos
    replay: Replay
    out: Tensor
    is_used: bool
    prompt: Memo
    chunk: Memo


class GraphedTransformer:
    """Called as the transformer is, with memos that keep; weights must stay where they are.

    The first call for each size runs plainly and is recorded. A size whose replay is slower is run plainly on.
    """

    def __init__(self, transformer: HeliosTransformer3DModel, capture: Capture, pays: Pays) -> None:
        self.transformer = transformer
        self._capture = capture
        self._pays = pays
        self._recordings: dict[Hashable, Recording] = {}

    @torch.no_grad()
    def __call__(
        self,
        x: Float[Tensor, "b c t h w"],
        timestep: float,
        text: Float[Tensor, "b l d_text"],
        tiers: Tiers | None,
        memos: Memos,
    ) -> Float[Tensor, "b c t h w"]:
        """Velocity of the chunk."""
        size = None if tiers is None else (tiers.long.latents.shape, tiers.mid.latents.shape, tiers.short.latents.shape)
        key = (x.shape, x.dtype, text.shape, size)
        if key not in self._recordings:
            self._recordings[key] = self._record(x, timestep, text, tiers, memos)
        recording = self._recordings[key]
        if not recording.is_used:
            return self.transformer(x, timestep, text, tiers, memos)
        self.transformer.remember(x, timestep, text, tiers, memos)
        self._bring(recording, x, timestep, memos)
        recording.replay()
        return recording.out.clone()

    def _record(self, x: Tensor, timestep: float, text: Tensor, tiers: Tiers | None, memos: Memos) -> Recording:
        self.transformer(x, timestep, text, tiers, memos)  # warms up, and fills the memos
        model, prompt, chunk = (Memo.of(_copies(memo.items())) for memo in (memos.model, memos.prompt, memos.chunk))
        own = Memos(model, prompt, chunk)
        own.model.recall(("time", ANY_TIMESTEP), lambda: _copy(memos.model.value(("time", timestep))))
        kept = x.clone()

        def run() -> Tensor:
            return self.transformer(kept, ANY_TIMESTEP, text, tiers, own)

        replay, out = self._capture(run)
        is_used = self._pays(lambda: self.transformer(x, timestep, text, tiers, memos), replay)
        return Recording(kept, own, replay, out, is_used, memos.prompt, memos.chunk)

    def _bring(self, recording: Recording, x: Tensor, timestep: float, memos: Memos) -> None:
        """Copy what changed since the last replay to where the recording reads it."""
        recording.x.copy_(x)
        row = recording.memos.model.value(("time", ANY_TIMESTEP))
        _overwrite(row, memos.model.value(("time", timestep)))
        if recording.prompt is not memos.prompt:
            _overwrite_all(recording.memos.prompt, memos.prompt)
            recording.prompt = memos.prompt
        if recording.chunk is not memos.chunk:
            _overwrite_all(recording.memos.chunk, memos.chunk)
            recording.chunk = memos.chunk


def capture_on_gpu() -> Capture:
    """CUDA graphs that share one pool of memory: only one of them runs at a time."""
    pool = torch.cuda.graph_pool_handle()

    def capture(run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set up what may not be set up while recording
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # others may go on
            out = run()
        return graph.replay, out

    return capture


def capture_by_running(run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    """A recording for devices without graphs: the function is run again, from the same places to the same place."""
    out = run()

    def replay() -> None:
        out.copy_(run())

    return replay, out


AS_FAST = 1.02
"""How much longer a replay may take than launching the same kernels one by one: it leaves the host free, whose queue of
launches is full after about a thousand, two levels of the 14B model."""


def pays_on_gpu(plain: Callable[[], object], replay: Callable[[], object]) -> bool:
    """Measured once for a level; the device is waited for, in the first chunk only."""

    def seconds(work: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(replay) <= AS_FAST * seconds(plain)


def _tensors(value: object) -> list[Tensor]:
    """The tensors that a remembered value is made of, in a fixed order."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value):
        return [t for field in fields(value) for t in _tensors(getattr(value, field.name))]
    return []


def _copy(value: Any) -> Any:
    """The same with tensors of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _copy(getattr(value, field.name)) for field in fields(value)})
    return value


def _copies(items: Iterable[tuple[Hashable, Any]]) -> dict[Hashable, Any]:
    return {key: _copy(value) for key, value in items}


def _overwrite(kept: object, new: object) -> None:
    for old, tensor in zip(_tensors(kept), _tensors(new), strict=True):
        old.copy_(tensor)


def _overwrite_all(kept: Memo, new: Memo) -> None:
    for key, value in kept.items():
        _overwrite(value, new.value(key))
