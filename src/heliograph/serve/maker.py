"""The engine as the server sees it: something that begins, resumes and goes on with reels of chunks.

A reel is one video under way. Everything here is called from the one thread that owns the model.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from heliograph.serve.order import Order


class Said(NamedTuple):
    """What the next chunk is made from."""

    prompt: str
    negative_prompt: str
    guidance_scale: float | None
    unknown_words: tuple[str, ...] = ()
    """Of the prompt, those that say nothing to the model."""


@runtime_checkable
class Reel(Protocol):
    """One video under way, chunk by chunk."""

    @property
    def num_chunks(self) -> int:
        """Chunks made so far, which is the index of the next one."""
        ...

    @property
    def batch_key(self) -> Hashable:
        """Reels with the same key may make their next chunk in one pass."""
        ...

    @property
    def said(self) -> Said:
        """What the next chunk is made from, once every blend is over."""
        ...

    @property
    def shown_prompt(self) -> str:
        """The prompt that weighs most in the chunk made last."""
        ...

    def set_prompt(self, prompt: str, transition_chunks: int) -> None:
        """From the next chunk on, blended over `transition_chunks`. Raises UserError."""
        ...

    def set_negative_prompt(self, prompt: str) -> None:
        """From the next chunk on. Raises UserError."""
        ...

    def set_guidance(self, scale: float) -> None:
        """From the next chunk on. Raises UserError."""
        ...

    def fork(self) -> "Reel":
        """The same at this moment; going on with one leaves the other as it is."""
        ...

    def save(self, path: Path) -> None:
        """Store it in one file, written whole; safe in any thread on a fork. Raises OutputError."""
        ...


@runtime_checkable
class Maker(Protocol):
    """A loaded model."""

    name: str
    """What clients call it."""

    size: tuple[int, int]
    """Height and width, in pixels, that it was trained at."""

    num_levels: int
    """Pyramid levels, for lists of steps."""

    stride: int
    """Pixels per latent cell: with the levels it says which sizes there are."""

    is_random: bool
    """Whether it was never trained, so that only noise comes out."""

    def check(self, order: Order) -> None:
        """Refuse an order that cannot be made, before anything is computed; safe in any thread. Raises UserError."""
        ...

    def begin(self, order: Order, start: UInt8[np.ndarray, "f h w 3"] | None) -> Reel:
        """A new reel; `start` holds one frame for an image, several for a clip."""
        ...

    def resume(self, path: Path) -> Reel:
        """The reel that was saved. Raises StateError."""
        ...

    def make(self, reels: Sequence[Reel]) -> list[UInt8[np.ndarray, "33 h w 3"]]:
        """The next chunk of each reel, in one pass; all have one batch key. Where it raises, all are as before."""
        ...
