"""Batches for training: which examples come when, and the loader that reads them ahead.

A source is a function from the number of a batch to the batch. Numbers count over all ranks and all accumulated parts
of a step, so one process or eight see the same batches, no rank can run out before another, and to go on after a stop
one needs the number alone.
"""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch

from heliograph.data.clips import DataError
from heliograph.data.sections import anchor_of, cut_history, first_window
from heliograph.data.shards import ClipEntry, ShardFolder
from heliograph.seeds import RequestSeeds
from heliograph.train.stage import Batch

BATCHES_AHEAD = 2
"""Batches read ahead of the one in use."""

Draws = tuple[Any, ...]
"""Independent draws from the same clips, one for each group of parameters that a stage trains."""


@runtime_checkable
class Source(Protocol):
    """Training examples by number. The same number gives the same batch, in any process, at any time."""

    @property
    def drawing(self) -> "Drawing":
        """How examples are drawn."""
        ...

    def batch(self, number: int) -> Draws:
        """Batch `number` ≥ 0, on the CPU."""
        ...

    def fingerprint(self) -> str:
        """What the data are, in a few words: a run is continued on the same data only."""
        ...


@dataclass(frozen=True)
class Share:
    """A prepared folder and its share of the examples, relative to the other shares."""

    folder: ShardFolder
    share: float = 1.0


@dataclass(frozen=True)
class Drawing:
    """How examples are drawn: batch size, frames of memory, independent draws per clip, and the seed.

    With `is_aligned` all examples of a batch are the same chunk of their clips, as absolute positions need.
    """

    batch_size: int
    memory_frames: int
    num_draws: int = 1
    seed: int = 0
    is_aligned: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_draws < 1:
            raise DataError(f"batch_size={self.batch_size}, num_draws={self.num_draws}: both must be 1 or more")


class ShardSource:
    """Examples from prepared folders: one chunk of each clip and epoch, clips of one size and length to a batch.

    An epoch is a random order of all clips, cut into batches bucket by bucket, and these in random order. What does
    not fill a batch is left out of that epoch. Where shares are given, each folder is repeated or thinned out so that
    its part of an epoch is its share; the epoch keeps its length. Without different shares every clip comes once.
    """

    def __init__(self, shares: Sequence[Share], drawing: Drawing) -> None:
        """Look at the index alone; nothing is read yet.

        Raises:
            DataError: the folders do not fit each other, a share is not positive, or no batch can be filled.
        """
        assert shares, "no folder"
        self.drawing = drawing
        self.folders = [share.folder for share in shares]
        self._shares = [share.share for share in shares]
        self._seeds = RequestSeeds(drawing.seed)
        self._check()
        self._plan = lru_cache(maxsize=2)(self._make_plan)  # the epoch in use, and the next one read ahead
        self.batches_per_epoch = len(self._plan(0))
        if not self.batches_per_epoch:
            counts = ", ".join(f"{n} of {f} frames {h}x{w}" for (f, h, w), n in sorted(self._bucket_sizes().items()))
            raise DataError(
                f"no {drawing.batch_size} clips of one size and length for a batch: there are {counts}; "
                "use a smaller batch or prepare more clips"
            )

    def batch(self, number: int) -> tuple[Batch, ...]:
        """The draws of batch `number`; epochs follow one another without a gap."""
        epoch, position = divmod(number, self.batches_per_epoch)
        clips = self._plan(epoch)[position]
        return tuple(self._draw(clips, epoch, draw) for draw in range(self.drawing.num_draws))

    def fingerprint(self) -> str:
        """Model, clips and windows of each folder with its share."""
        parts = []
        for folder, share in zip(self.folders, self._shares, strict=True):
            windows = sum(entry.num_windows for entry in folder.entries)
            parts.append(f"{len(folder.entries)} clips with {windows} windows of {folder.dataset.model}, share {share}")
        return "; ".join(parts)

    def _check(self) -> None:
        first = self.folders[0]
        for folder in self.folders[1:]:
            ours, theirs = (_geometry(each) for each in (first, folder))
            if ours != theirs:
                raise DataError(
                    f"{folder.path} does not fit {first.path}: {theirs} there, {ours} here; use data of one model"
                )
        if min(self._shares) <= 0:
            raise DataError(f"the shares {self._shares} are not all above 0; leave out a folder instead")

    def _bucket_sizes(self) -> dict[tuple[int, int, int], int]:
        sizes: dict[tuple[int, int, int], int] = {}
        for folder in self.folders:
            for entry in folder.entries:
                sizes[entry.bucket] = sizes.get(entry.bucket, 0) + 1
        return sizes

    def _make_plan(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The batches of an epoch; a clip is (folder, index in the folder)."""
        luck = random.Random(f"{self.drawing.seed}/epoch/{epoch}")
        clips = [
            (which, index) for which, count in enumerate(self._counts()) for index in self._pick(which, count, luck)
        ]
        luck.shuffle(clips)
        buckets: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
        batches = []
        for clip in clips:
            bucket = buckets.setdefault(self._entry(clip).bucket, [])
            bucket.append(clip)
            if len(bucket) == self.drawing.batch_size:
                batches.append(bucket.copy())
                bucket.clear()
        luck.shuffle(batches)
        return batches

    def _counts(self) -> list[int]:
        """Clips that each folder gives to an epoch."""
        sizes = [len(folder.entries) for folder in self.folders]
        if len(set(self._shares)) == 1:
            return sizes
        total = sum(self._shares)
        return [max(1, round(sum(sizes) * share / total)) for share in self._shares]

    def _pick(self, which: int, count: int, luck: random.Random) -> list[int]:
        """`count` clips of a folder: all of them as often as they fit, and some of them once more."""
        indices = list(range(len(self.folders[which].entries)))
        rounds, rest = divmod(count, len(indices))
        return indices * rounds + luck.sample(indices, rest)

    def _entry(self, clip: tuple[int, int]) -> ClipEntry:
        return self.folders[clip[0]].entries[clip[1]]

    def _draw(self, clips: Sequence[tuple[int, int]], epoch: int, draw: int) -> Batch:
        examples = [self._example(clip, f"{epoch}/{slot}/{draw}") for slot, clip in enumerate(clips)]
        columns = {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
        return Batch(columns["chunk"], columns["history"], columns["anchor"], columns["text"])

    def _example(self, clip: tuple[int, int], purpose: str) -> dict[str, torch.Tensor]:
        """A chunk of the clip, each equally likely, by a generator of its own; only the windows it needs are read."""
        folder, entry = self.folders[clip[0]], self._entry(clip)
        generator = self._seeds.generator(f"section/{clip[0]}/{clip[1]}/{purpose}")
        chunk = int(torch.randint(entry.num_windows, (), generator=generator))
        windows = folder.latents(entry, first_window(chunk, self.drawing.memory_frames), chunk + 1)
        history, target = cut_history(windows, self.drawing.memory_frames)
        return {
            "chunk": target,
            "history": history,
            "anchor": anchor_of(folder.anchor(entry), chunk),
            "text": folder.text(entry),
        }


class Loader:
    """The batches of one rank, in order, read ahead by threads.

    Of every `num_parts` batches (ranks × accumulated parts of a step) it takes those of its rank; see `part_number`.
    """

    def __init__(self, source: Source, rank: int = 0, world: int = 1, first: int = 0) -> None:
        assert 0 <= rank < world, f"rank {rank} of {world}"
        self.source = source
        self.rank, self.world = rank, world
        self._position = first
        self._pool = ThreadPoolExecutor(BATCHES_AHEAD, thread_name_prefix="batch")
        self._ahead: deque[Future[Draws]] = deque()

    def next(self) -> Draws:
        """The next batch of this rank.

        Raises:
            DataError: the data cannot be read.
        """
        while len(self._ahead) <= BATCHES_AHEAD:
            number = (self._position + len(self._ahead)) * self.world + self.rank
            self._ahead.append(self._pool.submit(self.source.batch, number))
        draws = self._ahead.popleft().result()
        self._position += 1
        return draws

    def state(self) -> dict[str, int]:
        """Where the loader is: batches that all ranks together have taken. Valid for any number of ranks."""
        return {"batches": self._position * self.world}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from a state. Batches that were read ahead are dropped.

        Raises:
            DataError: this number of ranks would have to begin in the middle of a step.
        """
        if state["batches"] % self.world:
            raise DataError(
                f"{state['batches']} batches were used, which {self.world} processes cannot share evenly; "
                "go on with the number of processes that the run was started with"
            )
        self._position = state["batches"] // self.world
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _geometry(folder: ShardFolder) -> tuple[int, int, int]:
    return folder.dataset.channels, folder.dataset.text_rows, folder.dataset.text_dim
