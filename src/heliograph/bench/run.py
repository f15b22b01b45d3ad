"""One timed run of a few chunks, by this package or by diffusers, with the same parts and the same clocks."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from heliograph.bench.clock import MemoryWatch, PartClock, now
from heliograph.bench.subject import Subject
from heliograph.engine.session import Session, chunks_of
from heliograph.media.sink import BackgroundSink, open_sink
from heliograph.memory import History
from heliograph.request import Request
from heliograph.shapes import CHUNK_FRAMES, FPS, LATENT_STRIDE
from heliograph.timeline import Cue, PromptTimeline


@dataclass(frozen=True)
class ChunkTime:
    """Seconds that a chunk took in all, and in the two parts; the rest is everything else."""

    wall: float
    transformer: float
    decode: float

    @property
    def rest(self) -> float:
        """What is neither of the two; never below 0, though the two may overlap, on a GPU and on two cores."""
        return max(0.0, self.wall - self.transformer - self.decode)


@dataclass(frozen=True)
class Run:
    """What one run measured.

    `chunks` are the single chunks in order, `seconds` everything from the call to the closed file, `first_frames` the
    wait until the frames of the first chunk are there for whoever called.
    """

    chunks: tuple[ChunkTime, ...]
    seconds: float
    first_frames: float
    num_calls: int
    host_bytes: int
    device_bytes: int

    @property
    def frames_per_second(self) -> float:
        """From end to end, the file included."""
        return len(self.chunks) * CHUNK_FRAMES / self.seconds


@dataclass
class Watch:
    """The clocks of a run; `chunk_done` is called when a chunk is decoded."""

    device: torch.device
    transformer: PartClock = field(init=False)
    decode: PartClock = field(init=False)
    chunks: list[ChunkTime] = field(default_factory=list)
    first_frames: float | None = None

    def __post_init__(self) -> None:
        self.transformer, self.decode = PartClock(self.device), PartClock(self.device)
        self.start = self._last = now(self.device)

    def chunk_done(self) -> None:
        """The time since the chunk before."""
        moment = now(self.device)
        self.chunks.append(ChunkTime(moment - self._last, self.transformer.take(), self.decode.take()))
        self._last = moment


Work = Callable[[Subject, int, Watch, Path], None]
"""Makes a number of chunks and writes them to a file, telling the watch."""


def timed(work: Work, transformer: torch.nn.Module, subject: Subject, num_chunks: int) -> Run:
    """Run `work` once."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="heliograph-bench-")))
        memory = stack.enter_context(MemoryWatch(subject.device))
        watch = Watch(subject.device)
        stack.enter_context(watch.transformer.watching(transformer))
        work(subject, num_chunks, watch, folder / "video.mp4")
        seconds = now(subject.device) - watch.start
    first = seconds if watch.first_frames is None else watch.first_frames
    calls = watch.transformer.num_calls
    return Run(tuple(watch.chunks), seconds, first, calls, memory.host_bytes, memory.device_bytes)


def make_ours(subject: Subject, num_chunks: int, watch: Watch, file: Path) -> None:
    """As `heliograph generate`: each chunk is written while the next is made."""
    engine = subject.engine
    prompts = PromptTimeline((Cue(0, subject.prompt),))
    request = Request(prompts, "", subject.height, subject.width, 0, subject.sampler)
    cells = (1, engine.num_channels, subject.height // LATENT_STRIDE, subject.width // LATENT_STRIDE)
    session = Session(engine, request, History.empty(cells, engine.memory, engine.device))
    decode = engine.codec.decode_chunk
    with _replaced(engine.codec, "decode_chunk", watch.decode.watched(decode)), _file(file) as sink:
        for index, chunk in enumerate(chunks_of(session, num_chunks)):
            sink.write(chunk.frames)
            watch.chunk_done()
            if index == 0:
                watch.first_frames = watch.chunks[0].wall


def _file(file: Path) -> BackgroundSink:
    return BackgroundSink(open_sink(file, FPS))


class _replaced:  # noqa: N801 - reads as the verb it is
    """An attribute of an object is another while the block runs."""

    def __init__(self, owner: object, name: str, value: object) -> None:
        self._owner, self._name, self._value = owner, name, value

    def __enter__(self) -> None:
        setattr(self._owner, self._name, self._value)

    def __exit__(self, *_: object) -> None:
        delattr(self._owner, self._name)


def in_turn(works: Sequence[Callable[[], Any]], rounds: int) -> list[list[Any]]:
    """Results of each work, run in the order A-B-B-A so that a machine that slows down slows both."""
    results: list[list[Any]] = [[] for _ in works]
    order = list(enumerate(works))
    for turn in range(rounds):
        for index, work in order if turn % 2 == 0 else reversed(order):
            results[index].append(work())
    return results
