"""Memory: what the model knows of the video so far, in three tiers and an anchor (Helios, multi-term memory).

A `History` is a small immutable value. It is all one must keep of a video to go on with it, and its size does not
depend on how long the video is.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.config import MemoryConfig

Latents = Float[Tensor, "b c t h w"]


@dataclass(frozen=True)
class Tier:
    """Remembered latents of one compression and the frame index of each, relative to the model's window."""

    latents: Float[Tensor, "b c t h w"]
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Tiers:
    """What the transformer sees of the past: `long` (compressed 4×), `mid` (2×), `short` (anchor and newest frame).

    `chunk_frames` are the frame indices of the chunk that is being made.
    """

    long: Tier
    mid: Tier
    short: Tier
    chunk_frames: tuple[int, ...]


@dataclass(frozen=True)
class FrameIndices:
    """Frame indices 0 … n−1 in the order anchor, long, mid, newest, chunk; the same for every chunk of a video."""

    long: tuple[int, ...]
    mid: tuple[int, ...]
    short: tuple[int, ...]
    chunk: tuple[int, ...]


def frame_indices(memory: MemoryConfig, chunk_latents: int, num_chunks: int = 0) -> FrameIndices:
    """Indices of the chunk that comes after `num_chunks` others, and of the history before it.

    Relative positions are the same for all: with 16 + 2 + 1 frames, the anchor and a chunk of 9, no index is ever above
    28. Absolute ones move on with the chunks; the anchor stays at 0.
    """
    first = int(memory.keeps_anchor)
    if memory.positions == "absolute":
        first += num_chunks * chunk_latents
    long_end = first + memory.long
    mid_end = long_end + memory.mid
    short_end = mid_end + memory.short
    anchor = (0,) if memory.keeps_anchor else ()
    return FrameIndices(
        long=tuple(range(first, long_end)),
        mid=tuple(range(long_end, mid_end)),
        short=anchor + tuple(range(mid_end, short_end)),
        chunk=tuple(range(short_end, short_end + chunk_latents)),
    )


@dataclass(frozen=True)
class History:
    """The newest latent frames, oldest first, the anchor frame, and how many chunks have been made.

    Frames that do not exist yet are zero; the model was trained to read zeros as nothing. Latents are float32.
    """

    latents: Float[Tensor, "b c t h w"]
    anchor: Float[Tensor, "b c 1 h w"] | None
    num_chunks: int
    memory: MemoryConfig

    @classmethod
    def empty(
        cls, shape: tuple[int, int, int, int], memory: MemoryConfig, device: torch.device | str = "cpu"
    ) -> "History":
        """The start of a video made from text alone; `shape` is (batch, channels, latent height, latent width)."""
        b, c, h, w = shape
        return cls(torch.zeros(b, c, memory.num_frames, h, w, device=device), None, 0, memory)

    @classmethod
    def from_image(
        cls, anchor: Float[Tensor, "b c 1 h w"], newest: Float[Tensor, "b c 1 h w"], memory: MemoryConfig
    ) -> "History":
        """The start from an image: its latent is the anchor, the last latent of it standing still the newest frame."""
        return cls(_newest(newest, memory.num_frames), _own(anchor), 0, memory)

    @classmethod
    def from_video(
        cls, anchor: Float[Tensor, "b c 1 h w"] | None, latents: Float[Tensor, "b c t h w"], memory: MemoryConfig
    ) -> "History":
        """The start from a clip: its newest latent frames fill the tiers, its first frame is the anchor.

        Where no anchor is known (None), the first frame that is made becomes it.
        """
        return cls(_newest(latents, memory.num_frames), None if anchor is None else _own(anchor), 0, memory)

    def push(self, chunk: Float[Tensor, "b c t h w"]) -> "History":
        """The history after `chunk`: oldest frames are forgotten; the first frame ever made becomes the anchor."""
        anchor = _own(chunk[:, :, :1]) if self.anchor is None else self.anchor
        latents = _newest(torch.cat([self.latents, chunk.float()], dim=2), self.memory.num_frames)
        return replace(self, latents=latents, anchor=anchor, num_chunks=self.num_chunks + 1)

    def with_anchor(self, anchor: Float[Tensor, "b c 1 h w"]) -> "History":
        """The same history kept to another look: `anchor` replaces the first frame."""
        return replace(self, anchor=_own(anchor))

    def tiers(self, chunk_latents: int) -> Tiers:
        """The three tiers with their frame indices, for a chunk of `chunk_latents` latent frames."""
        m = self.memory
        long, mid, short = self.latents.split([m.long, m.mid, m.short], dim=2)
        if m.keeps_anchor:
            anchor = torch.zeros_like(short[:, :, :1]) if self.anchor is None else self.anchor
            short = torch.cat([anchor, short], dim=2)
        frames = frame_indices(m, chunk_latents, self.num_chunks)
        return Tiers(Tier(long, frames.long), Tier(mid, frames.mid), Tier(short, frames.short), frames.chunk)


def _own(latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
    """A float32 copy: what the caller does with its tensor later does not change the history."""
    return latents.to(torch.float32, copy=True)


def _newest(latents: Float[Tensor, "b c t h w"], count: int) -> Float[Tensor, "b c t2 h w"]:
    """The last `count` frames, float32, with zeros before them where there are fewer."""
    latents = _own(latents[:, :, -count:])  # a copy, so that the frames before these can be freed
    missing = count - latents.shape[2]
    return torch.cat([latents.new_zeros(*latents.shape[:2], missing, *latents.shape[3:]), latents], dim=2)
