"""The real maker: a Helios pipeline behind the server's idea of an engine."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import UInt8

from heliograph.config import EXACT, Lora, SpeedConfig, StartNoise
from heliograph.engine.batch import batch_key, next_chunks
from heliograph.engine.machine import this_machine
from heliograph.engine.session import Session
from heliograph.engine.threads import use_threads
from heliograph.pipeline import Choices, HeliosPipeline
from heliograph.serve.maker import Reel, Said
from heliograph.serve.order import Order

TRAINED_NOISE = 0.111, 0.135
"""Range of noise on a start that the model was trained with, which is motion 0.5."""

WARM_PROMPT = "a red fish swims to the left"


class HeliosReel:
    """A session of the engine."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def num_chunks(self) -> int:
        """Chunks made so far."""
        return self.session.num_chunks

    @property
    def batch_key(self) -> Hashable:
        """What one pass must share: the picture's size, how the next chunk is sampled, and the model."""
        return batch_key(self.session)

    @property
    def said(self) -> Said:
        """What the next chunk is made from."""
        request = self.session.request
        prompt, scale = request.timeline.cues[-1].prompt, request.sampler.guidance.scale
        return Said(prompt, request.negative_prompt, scale, self.session.unknown_words(prompt))

    @property
    def shown_prompt(self) -> str:
        """The prompt that weighs most in the chunk made last."""
        return self.session.request.timeline.at(max(0, self.num_chunks - 1)).leading

    def set_prompt(self, prompt: str, transition_chunks: int) -> None:
        """From the next chunk on. Raises UserError."""
        self.session.set_prompt(prompt, transition_chunks)

    def set_negative_prompt(self, prompt: str) -> None:
        """From the next chunk on. Raises UserError."""
        self.session.set_negative_prompt(prompt)

    def set_guidance(self, scale: float) -> None:
        """From the next chunk on. Raises UserError."""
        self.session.set_guidance(scale)

    def fork(self) -> "HeliosReel":
        """The same at this moment."""
        return HeliosReel(self.session.fork())

    def save(self, path: Path) -> None:
        """Store it in one file. Raises OutputError."""
        self.session.save(path)


class HeliosMaker:
    """A loaded Helios model."""

    def __init__(self, pipe: HeliosPipeline, name: str) -> None:
        self.pipe = pipe
        self.name = name
        self.size = pipe.engine.size
        self.num_levels = pipe.engine.sampler.schedule.num_levels
        self.stride = pipe.engine.codec.stride
        self.is_random = pipe.is_random

    def check(self, order: Order) -> None:
        """Refuse what cannot be made. Raises UserError."""
        self.pipe.request(order.prompt, **_choices(order))

    def begin(self, order: Order, start: UInt8[np.ndarray, "f h w 3"] | None) -> HeliosReel:
        """A new session, from text, one frame or a clip. Raises UserError."""
        choices = _choices(order)
        if start is not None and order.start == "image":
            choices["image"] = start[0]
        elif start is not None:
            choices["video"] = start
        return HeliosReel(self.pipe.session(order.prompt, **choices))

    def resume(self, path: Path) -> HeliosReel:
        """The session that was saved. Raises StateError."""
        return HeliosReel(self.pipe.resume(path))

    def make(self, reels: Sequence[Reel]) -> list[UInt8[np.ndarray, "33 h w 3"]]:
        """The next chunk of each."""
        return [chunk.frames for chunk in next_chunks([cast(HeliosReel, reel).session for reel in reels])]

    def warm(self) -> None:
        """Make a chunk that nobody sees, so that the first one that somebody waits for is not the slowest."""
        self.pipe.session(WARM_PROMPT).next_chunk()


def load_maker(
    model: str,
    device: str,
    dtype: str,
    threads: int | None = None,
    speed: SpeedConfig = EXACT,
    loras: Sequence[Lora] = (),
) -> HeliosMaker:
    """Load a model and warm it up, in the thread that will own it.

    On a CPU it gets the threads that suit it, but leaves one core: that one encodes, answers, and may run the browser.
    Where they all compute, each waits for the one that lost its core, busily: a chunk of the embedded model took 0.4 s
    of processor time with one thread and 20 s with two, on two cores that others used too. `threads` overrides this.

    Raises:
        UserError: the model cannot be loaded.
    """
    pipe = HeliosPipeline.from_pretrained(model, device=device, dtype=dtype, speed=speed, loras=loras)
    planned = pipe.engine.num_threads
    use_threads(threads, planned and min(planned, max(1, this_machine(pipe.folder.path).num_cores - 1)))
    maker = HeliosMaker(pipe, Path(model).name or model)
    maker.warm()
    return maker


def _choices(order: Order) -> Choices:
    low, high = (2 * order.motion * sigma for sigma in TRAINED_NOISE)
    return Choices(
        height=order.height,
        width=order.width,
        seed=order.seed,
        steps=order.steps,
        guidance_scale=order.guidance_scale,
        negative_prompt=order.negative_prompt,
        start_noise=StartNoise((low, high), (low, high)),
    )
