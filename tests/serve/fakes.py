"""A maker without a model, for tests of what lies between a client and the engine."""

import hashlib
import json
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from heliograph.errors import StateError, UserError
from heliograph.media.target import write_whole
from heliograph.serve.maker import Said
from heliograph.serve.order import Order
from heliograph.shapes import CHUNK_FRAMES, check_size


@dataclass(frozen=True)
class FakeReel:
    """Its state is the prompts of its chunks; its frames are one colour for each, told from prompt, seed and place."""

    height: int
    width: int
    seed: int
    prompts: tuple[str, ...]
    wishes: list[Any] = field(default_factory=list)  # the prompt in force, guidance, negative prompt

    @property
    def num_chunks(self) -> int:
        return len(self.prompts)

    @property
    def batch_key(self) -> Hashable:
        return self.height, self.width, self.num_chunks == 0

    @property
    def said(self) -> Said:
        return Said(*self.wishes)

    @property
    def shown_prompt(self) -> str:
        return (self.prompts or self.wishes)[-1 if self.prompts else 0]

    def set_prompt(self, prompt: str, transition_chunks: int) -> None:
        if not prompt.strip():
            raise UserError("the prompt is empty; describe what to show")
        self.wishes[0] = prompt

    def set_negative_prompt(self, prompt: str) -> None:
        self.wishes[1] = prompt

    def set_guidance(self, scale: float) -> None:
        self.wishes[2] = scale

    def fork(self) -> "FakeReel":
        return replace(self, wishes=list(self.wishes))

    def save(self, path: Path) -> None:
        values = {**vars(self), "wishes": list(self.wishes)}
        text = json.dumps(values)
        write_whole(path, json.dumps([hashlib.sha256(text.encode()).hexdigest(), text]).encode())


class FakeMaker:
    """Makes chunks at once, or one each time `gate` is released."""

    name = "fake"
    size = (64, 64)
    num_levels = 3
    stride = 8
    is_random = False

    def __init__(self, *, seconds: float = 0.0, gated: bool = False) -> None:
        self.seconds = seconds
        self.gate = threading.Semaphore(0) if gated else None
        self.passes: list[list[tuple[str, int]]] = []
        self.broken_prompts: set[str] = set()

    def check(self, order: Order) -> None:
        check_size(order.height, order.width, self.num_levels)
        if not order.prompt.strip():
            raise UserError("the prompt is empty; describe what to show")
        if order.steps is not None and len(order.steps) != self.num_levels:
            raise UserError(
                f"steps={order.steps} names {len(order.steps)} level(s), but this model has 3; give 3 numbers"
            )

    def begin(self, order: Order, start: np.ndarray | None) -> FakeReel:
        self.check(order)
        seed = order.seed if start is None else order.seed + int(start.mean())
        return FakeReel(
            order.height, order.width, seed, (), [order.prompt, order.negative_prompt, order.guidance_scale]
        )

    def resume(self, path: Path) -> FakeReel:
        try:
            digest, text = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StateError(f"{path} is damaged") from error
        if digest != hashlib.sha256(text.encode()).hexdigest():
            raise StateError(f"{path} is damaged")
        values = json.loads(text)
        return FakeReel(**{**values, "prompts": tuple(values["prompts"])})

    def make(self, reels: Sequence[Any]) -> list[np.ndarray]:
        if self.gate is not None:
            self.gate.acquire()
        time.sleep(self.seconds)
        self.passes.append([(reel.wishes[0], reel.num_chunks) for reel in reels])
        frames = []
        for reel in reels:
            if reel.wishes[0] in self.broken_prompts:
                raise RuntimeError("the engine stumbled")
            frames.append(paint(reel.wishes[0], reel.seed, reel.num_chunks, reel.height, reel.width))
        for reel in reels:
            object.__setattr__(reel, "prompts", (*reel.prompts, reel.wishes[0]))
        return frames


def paint(prompt: str, seed: int, place: int, height: int, width: int) -> np.ndarray:
    """A chunk of one colour with a brighter bar that moves down."""
    digest = hashlib.sha256(f"{prompt} {seed} {place}".encode()).digest()
    frames = np.empty((CHUNK_FRAMES, height, width, 3), np.uint8)
    frames[:] = np.frombuffer(digest[:3], np.uint8) // 2 + 40
    for number, frame in enumerate(frames):
        frame[number * height // CHUNK_FRAMES] += 60
    return frames
