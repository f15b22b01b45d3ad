"""One timed run of a few chunks, by this package or by diffusers, with the same parts and the same clocks."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
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
from heliograph.shapes import CHUNK_FRAMES, FPS
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
    num_threads: int = field(default_factory=torch.get_num_threads)

    @property
    def frames_per_second(self) -> float:
        """From end to end, the file included."""
        return len(self.chunks) * CHUNK_FRAMES / self.seconds


class Watch:
    """The clocks of a run. A chunk is all transformer calls until it is handed over, done when `chunk_done` says so."""

    def __init__(self, device: torch.device, decode_device: torch.device | None = None) -> None:
        self.device = device
        self.transformer, self.decode = PartClock(device), PartClock(decode_device or device)
        self.start = now(device)
        self._ends = [self.start]
        self._borders = [0]

    def handing_over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function that is given every chunk of latents once it is sampled, its calls noted."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._borders.append(self.transformer.num_calls)
            return function(*args, **kwargs)

        return call

    def chunk_done(self) -> None:
        """The frames of the next chunk are there."""
        self._ends.append(time.perf_counter())

    @property
    def chunks(self) -> tuple[ChunkTime, ...]:
        """The chunks so far: the time between their ends, and what the two parts took of the devices."""
        calls, decodes = self.transformer.seconds(), self.decode.seconds()
        walls = [after - before for before, after in pairwise(self._ends)]
        parts = [sum(calls[first:last]) for first, last in pairwise(self._borders)]
        return tuple(ChunkTime(*times) for times in zip(walls, parts, decodes, strict=True))


Work = Callable[[Subject, int, Watch, Path], float]
"""Makes a number of chunks and writes them to a file, telling the watch; returns when its caller had the first ones."""


def timed(work: Work, subject: Subject, num_chunks: int) -> Run:
    """Run `work` once; again where decoding fell back to full precision meanwhile, so that chunks took both ways."""
    decoder = subject.engine.codec.decoder
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="heliograph-bench-")))
        memory = stack.enter_context(MemoryWatch(subject.device))
        watch = Watch(subject.device, subject.engine.codec.device)
        first = work(subject, num_chunks, watch, folder / "video.mp4") - watch.start
        seconds = now(subject.device) - watch.start
    if subject.engine.codec.decoder is not decoder:
        return timed(work, subject, num_chunks)
    return Run(watch.chunks, seconds, first, watch.transformer.num_calls, memory.host_bytes, memory.device_bytes)


def make_ours(subject: Subject, num_chunks: int, watch: Watch, file: Path) -> float:
    """As `heliograph generate`: each chunk is written while the next is made."""
    engine, first = subject.engine, 0.0
    prompts = PromptTimeline((Cue(0, subject.prompt),))
    request = Request(prompts, "", subject.height, subject.width, 0, subject.sampler, stride=engine.codec.stride)
    cells = (1, engine.num_channels, *engine.codec.cells(subject.height, subject.width))
    session = Session(engine, request, History.empty(cells, engine.memory, engine.device))
    with ExitStack() as stack:
        stack.enter_context(_replaced(engine.pictures, "begin", watch.handing_over(engine.pictures.begin)))
        stack.enter_context(_replaced(engine.codec, "decode_chunk", watch.decode.watched(engine.codec.decode_chunk)))
        stack.enter_context(_replaced(engine.denoiser, "run", watch.transformer.watched(engine.denoiser.run)))
        sink = stack.enter_context(BackgroundSink(open_sink(file, FPS)))
        for chunk in chunks_of(session, num_chunks):
            sink.write(chunk.frames)
            watch.chunk_done()
            first = first or time.perf_counter()
    return first


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """An attribute of an object is another while the block runs."""
    own = vars(owner)
    was_there, before = name in own, own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before) if was_there else delattr(owner, name)


def in_turn(works: Sequence[Callable[[], Any]], rounds: int) -> list[list[Any]]:
    """Results of each work, run in the order A-B-B-A so that a machine that slows down slows both."""
    results: list[list[Any]] = [[] for _ in works]
    order = list(enumerate(works))
    for turn in range(rounds):
        for index, work in order if turn % 2 == 0 else reversed(order):
            results[index].append(work())
    return results
