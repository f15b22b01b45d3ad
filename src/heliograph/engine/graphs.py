"""The transformer's kernels recorded for each level and replayed: the device never waits for the host's launches.

A recording reads and writes fixed places in memory. What outlives a step (text keys, the history's tokens, timestep
rows) is made outside of it and copied to its place when it changes; inside is only what every step computes anew.

Where history is reused (`model/past.py`) a level has two recordings: one notes the history's rows, one takes them
over. The rows lie on a shelf, memory that was there before any recording: written by one, read there by all later ones.
"""

import time
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.memory import Tiers
from heliograph.model.memo import Memo, Memos
from heliograph.model.past import Noted, NotedInPlace, Rows, noted_key
from heliograph.model.transformer import HeliosTransformer3DModel

Replay = Callable[[], None]
Capture = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
"""Records what a function does; returns how to do it again, and the tensor that holds the result each time."""

Pays = Callable[[Callable[[], object], Callable[[], object]], bool]
"""Whether to take the second of two ways to do the same: launches one by one, and the replay of their recording."""

HistoryUse = Literal["made", "noted", "taken"]
"""Whether a forward makes the history's rows for itself alone, notes them for later ones, or takes them over."""

ANY_TIMESTEP = -1.0
"""The timestep of recordings: its row is copied in."""


class Place:
    """Fixed memory for what a prompt's or a chunk's memo holds, read by all recordings of its size."""

    def __init__(self, memo: Memo) -> None:
        self.memo = Memo.of({key: _copy(value) for key, value in _lasting(memo).items()})
        self._whose = weakref.ref(memo)  # which is not held: it goes with its prompt or chunk

    def bring(self, memo: Memo) -> None:
        """Have the values of this memo here."""
        if self._whose() is not memo:
            for key, value in self.memo.items():
                _overwrite(value, memo.value(key))
            self._whose = weakref.ref(memo)


class Shelf:
    """Fixed memory for the history's rows in every block, those of one chunk, prompt and level at a time.

    Whoever's rows were noted here holds these very tensors. Before others come it gets copies, if it is still there.
    """

    def __init__(self, noted: Noted) -> None:
        self.rows = _copied(noted)
        self._whose: weakref.ref[Noted] | None = None

    def clear(self) -> None:
        """Make room for other rows."""
        noted = None if self._whose is None else self._whose()
        if noted is not None and noted.rows is self.rows:
            noted.rows = _copied(noted)
        self._whose = None

    def lend(self, noted: Noted) -> None:
        """The rows that a recording has just written are what `noted` knows."""
        noted.rows = self.rows
        self._whose = weakref.ref(noted)

    def bring(self, noted: Noted) -> None:
        """Have the rows here that `noted` knows."""
        if self._whose is None or self._whose() is not noted:
            self.clear()
            for block, rows in self.rows.items():
                rows.overwrite(noted.rows[block])
            self._whose = weakref.ref(noted)


@dataclass(frozen=True)
class Recording:
    """One level's forward: all memory that it reads, how to run it, the tensor it writes, and whether it pays.

    A graph holds nothing of what it reads. `memos` do, for as long as it can be replayed: the tables of the model that
    were copied for it are nowhere else.
    """

    x: Tensor
    row: object
    memos: Memos
    prompt: Place
    chunk: Place
    shelf: Shelf | None
    replay: Replay
    out: Tensor
    is_used: bool


class GraphedTransformer:
    """Called as the transformer is, with memos that keep; weights must stay where they are.

    The first call for each size runs plainly and is recorded. A size whose replay is slower is run plainly on.
    """

    def __init__(self, transformer: HeliosTransformer3DModel, capture: Capture, pays: Pays) -> None:
        self.transformer = transformer
        self._capture = capture
        self._pays = pays
        self._recordings: dict[Hashable, Recording] = {}
        self._places = Memo()

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
        noted = self.transformer.noted(x, tiers, memos)
        key = (x.shape, x.dtype, text.shape, _size(tiers), _use(noted))
        if key not in self._recordings:
            self._recordings[key] = self._record(x, timestep, text, tiers, memos, noted)
        recording = self._recordings[key]
        if not recording.is_used:
            return self.transformer(x, timestep, text, tiers, memos)
        self.transformer.remember(x, timestep, text, tiers, memos)
        recording.x.copy_(x)
        _overwrite(recording.row, memos.model.value(("time", timestep)))
        recording.prompt.bring(memos.prompt)
        recording.chunk.bring(memos.chunk)
        _replay(recording, noted)
        return recording.out.clone()

    def _record(
        self, x: Tensor, timestep: float, text: Tensor, tiers: Tiers | None, memos: Memos, noted: Noted | None
    ) -> Recording:
        prompt, chunk, shelf = self._warm_up(x, timestep, text, tiers, memos, noted)
        model = Memo.of({key: _copy(value) for key, value in memos.model.items()})
        row = model.recall(("time", ANY_TIMESTEP), lambda: _copy(memos.model.value(("time", timestep))))
        known = dict(chunk.memo.items())
        if noted is not None and shelf is not None:
            known[noted_key(prompt.memo)] = _on_shelf(shelf, noted)
        own, kept = Memos(model, prompt.memo, Memo.of(known), memos.history_reuse), x.clone()

        def run() -> Tensor:
            return self.transformer(kept, ANY_TIMESTEP, text, tiers, own)

        replay, out = self._capture(run)
        return Recording(kept, row, own, prompt, chunk, shelf, replay, out, self._pays(run, replay))

    def _warm_up(
        self, x: Tensor, timestep: float, text: Tensor, tiers: Tiers | None, memos: Memos, noted: Noted | None
    ) -> tuple[Place, Place, Shelf | None]:
        """Run plainly, and find or make the places for what that remembered.

        What it notes is forgotten: the forward that counts comes later, and is still to note.
        """
        if noted is not None and not noted.is_known:
            memos = replace(memos, chunk=Memo.of(_lasting(memos.chunk)))
        self.transformer(x, timestep, text, tiers, memos)
        known, size = self.transformer.noted(x, tiers, memos), (x.shape[0], x.dtype, _size(tiers))
        return (
            self._places.recall(("prompt", text.shape), lambda: Place(memos.prompt)),
            self._places.recall(("chunk", size), lambda: Place(memos.chunk)),
            None if known is None else self._places.recall(("shelf", size), lambda: Shelf(known)),
        )


def _replay(recording: Recording, noted: Noted | None) -> None:
    """Replay, with the history's rows on the shelf where they are noted or taken over."""
    shelf = recording.shelf
    if noted is None or shelf is None:
        recording.replay()
    elif noted.is_known:
        shelf.bring(noted)
        recording.replay()
    else:
        shelf.clear()
        recording.replay()
        shelf.lend(noted)


def capture_on_gpu() -> Capture:
    """CUDA graphs that share one pool of memory: only one of them runs at a time.

    What one of them makes on its way another overwrites. Only the results stay, which their recordings hold.
    """
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


def _overwrite(kept: object, new: object) -> None:
    for old, tensor in zip(_tensors(kept), _tensors(new), strict=True):
        old.copy_(tensor)


def _lasting(memo: Memo) -> dict[Hashable, object]:
    """All that a memo holds but what was noted, which goes by the shelf."""
    return {key: value for key, value in memo.items() if not isinstance(value, Noted)}


def _copied(noted: Noted) -> dict[int, Rows]:
    return {block: rows.copied() for block, rows in noted.rows.items()}


def _on_shelf(shelf: Shelf, noted: Noted) -> Noted:
    """What a recording knows about the rows: that they are on the shelf, or where on it they are to be written."""
    if noted.is_known:
        return Noted(noted.level, noted.num_blocks, shelf.rows)
    shelf.clear()  # recording writes there, too
    return NotedInPlace(noted.level, noted.num_blocks, shelf.rows)


def _use(noted: Noted | None) -> HistoryUse:
    return "made" if noted is None else "taken" if noted.is_known else "noted"


def _size(tiers: Tiers | None) -> Hashable:
    return None if tiers is None else tuple(tier.latents.shape for tier in (tiers.long, tiers.mid, tiers.short))
