"""`heliograph prepare`: videos and captions to shards of latents and text embeddings, once, before training.

Worker processes decode and resize; this process encodes. A run that was stopped goes on where it was. A clip that
cannot be used is named in `skipped.jsonl` with the reason, and never stops the rest.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from heliograph.data.clips import (
    ClipRecord,
    ClipRules,
    DecodedClip,
    Refusal,
    read_source,
    try_decode,
)
from heliograph.data.shards import Dataset, EncodedClip, ShardWriter
from heliograph.seeds import RequestSeeds
from heliograph.text import TextEncoder
from heliograph.vae import LatentCodec
from heliograph.workers import worker_pool

CLIPS_AHEAD = 2
"""Clips decoded ahead of the encoder, for each worker."""


@dataclass(frozen=True)
class Encoders:
    """What turns a clip into numbers, and the name of the model it belongs to."""

    model: str
    codec: LatentCodec
    text: TextEncoder


@dataclass(frozen=True)
class Prepared:
    """Exact counts of a run: of `total` clips, `stored` were there before, `added` now, `skipped` left out."""

    total: int
    stored: int
    added: int
    skipped: int


OnClip = Callable[[Prepared, ClipRecord], None]
"""Called after each clip with the counts so far."""


def prepare(
    source: Path,
    output: Path,
    encoders: Encoders,
    rules: ClipRules,
    *,
    num_workers: int = 0,
    on_clip: OnClip | None = None,
) -> Prepared:
    """Make or complete the shards in `output` from the clips of `source`.

    The same source, model and rules give the same latents whatever the number of workers and however often the run
    was stopped: the noise of a clip's posterior is drawn from a generator of its own.

    Args:
        num_workers: processes that decode; 0 decodes in this one.

    Raises:
        DataError: the source cannot be read, or `output` holds data that were prepared differently.
        OutputError: the disk is full or fails.
    """
    records, refusals = read_source(source)
    total = len(records) + len(refusals)
    with ShardWriter(output, _dataset(encoders, rules)) as writer:
        todo = [record for record in records if record.id not in writer.stored]
        counts = Prepared(total, len(records) - len(todo), 0, len(refusals))
        for refusal in refusals:
            writer.skip(refusal)
        for record, result in _decoded(todo, rules, num_workers):
            if isinstance(result, Refusal):
                writer.skip(result)
                counts = Prepared(total, counts.stored, counts.added, counts.skipped + 1)
            else:
                writer.add(encode_clip(result, encoders, rules.seed))
                counts = Prepared(total, counts.stored, counts.added + 1, counts.skipped)
            if on_clip is not None:
                on_clip(counts, record)
    return counts


def encode_clip(clip: DecodedClip, encoders: Encoders, seed: int) -> EncodedClip:
    """Latents of each window on its own, drawn from the posterior, and the caption's embedding."""
    generator = RequestSeeds(seed).generator(f"prepare/{clip.record.id}")
    windows = [encoders.codec.encode_chunk(to_unit(window), generator)[0].cpu() for window in clip.windows]
    text = encoders.text.encode([clip.record.caption])
    return EncodedClip(
        id=clip.record.id,
        caption=clip.record.caption,
        num_frames=clip.num_frames,
        latents=torch.stack(windows),
        text=text.embedding[0, : text.lengths[0]].cpu(),
        size=(clip.windows.shape[2], clip.windows.shape[3]),
    )


def to_unit(frames: UInt8[object, "f h w 3"]) -> Float[Tensor, "1 3 f h w"]:
    """Bytes of frames as the autoencoder takes them, in [-1, 1]."""
    return rearrange(torch.as_tensor(frames), "f h w c -> 1 c f h w").float() / 127.5 - 1


def _dataset(encoders: Encoders, rules: ClipRules) -> Dataset:
    return Dataset(
        model=encoders.model,
        channels=encoders.codec.autoencoder.config.z_dim,
        text_rows=encoders.text.max_length,
        text_dim=encoders.text.encoder.config.d_model,
        rules=asdict(rules),
    )


# Decoding, here or in workers

Outcome = tuple[ClipRecord, DecodedClip | Refusal]


def _decoded(records: Sequence[ClipRecord], rules: ClipRules, num_workers: int) -> Iterator[Outcome]:
    """Every record with its windows or its refusal, in order."""
    if num_workers == 0:
        for record in records:
            yield record, try_decode(record, rules)
        return
    waiting = deque(records)
    while waiting:
        yield from _pooled(waiting, rules, num_workers)
        if waiting:  # a worker died: the clip it was at is one of the first that wait
            yield from _one_alone(waiting, rules)


def _pooled(waiting: deque[ClipRecord], rules: ClipRules, num_workers: int) -> Iterator[Outcome]:
    """Outcomes of the waiting clips, taken from the front; ends early when a worker dies."""
    with worker_pool(num_workers) as pool:
        running: deque[Future[DecodedClip | Refusal]] = deque()
        try:
            while waiting:
                for record in islice(waiting, len(running), num_workers * CLIPS_AHEAD):
                    running.append(pool.submit(try_decode, record, rules))
                result = running.popleft().result()
                yield waiting.popleft(), result
        except BrokenProcessPool:
            return
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _one_alone(waiting: deque[ClipRecord], rules: ClipRules) -> Iterator[Outcome]:
    """The first waiting clip in a process of its own; where that dies too, the clip is the reason."""
    record = waiting.popleft()
    with worker_pool(1) as pool:
        try:
            yield record, pool.submit(try_decode, record, rules).result()
        except BrokenProcessPool:
            yield record, Refusal(record.id, str(record.path), "makes the decoder crash; convert the video again")
