"""Training examples from a cache of the procedural world: a chunk of a clip, what is remembered before it, its text."""

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from heliograph.data.clips import DataError
from heliograph.data.loader import Drawing
from heliograph.data.selection import Selection
from heliograph.data.world import Texts, Tokens
from heliograph.data.world_cache import BYTE, LATE_CHUNK, Worldly, read_cache_info, read_parts
from heliograph.seeds import RequestSeeds
from heliograph.shapes import CHUNK_LATENTS
from heliograph.train.stage import Batch


class WorldCacheSource:
    """Batches from a cache by number: an epoch is a random order of all clips, of each of which one chunk is shown.

    `text` or `tokens` gives what a batch holds of the captions; the other is None. The whole cache lies in the memory
    of `device`, where batches are made: a GPU that trains a small network would wait for latents from elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        world: Worldly,
        drawing: Drawing,
        selection: Selection,
        text: Texts | None = None,
        tokens: Tokens | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Read all parts into memory.

        Raises:
            DataError: a part is missing or damaged, or no clip is to be shown.
        """
        self.info = read_cache_info(folder)
        self.world, self.drawing, self.selection = world, drawing, selection
        # Late chunks have no number in their video, which absolute positions would need.
        num_clips = self.info.num_clips - (self.info.num_late if drawing.is_aligned else 0)
        records = {clip: world.record(clip) for clip in range(num_clips)}
        self._scenes = {clip: r.scene for clip, r in records.items() if world.accepts(selection.shows, r)}
        self._clips = list(self._scenes)
        if not self._clips:
            raise DataError(f"none of the {self.info.num_clips} clips in {folder} is of the kind that is to be shown")
        scenes = set(self._scenes.values())
        begun = [clip for clip in self._clips if not self.info.is_late(clip)]
        self._elsewhere = {here: [clip for clip in begun if self._scenes[clip] != here] for here in scenes}
        if selection.change_share and len(scenes) == 1:
            raise DataError(f"all clips in {folder} show one scene, which changes into no other; use change_share=0")
        self.text, self.tokens = text, tokens
        self._latents, self._anchors, self._shares = (rows.to(device) for rows in read_parts(folder, self.info))
        self._seeds = RequestSeeds(drawing.seed)
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def batch(self, number: int) -> tuple[Batch, ...]:
        """The draws of batch `number`: the same clips and captions, a chunk of each for every draw."""
        visits = range(number * self.drawing.batch_size, (number + 1) * self.drawing.batch_size)
        clips = [self._clip(visit) for visit in visits]
        captions = [
            self.world.caption(self.world.record(clip), visit) for clip, visit in zip(clips, visits, strict=True)
        ]
        text = None if self.text is None else self.text(captions).float().cpu()
        tokens = None if self.tokens is None else self.tokens(captions).cpu()
        return tuple(self._draw(clips, f"{number}/{draw}", text, tokens) for draw in range(self.drawing.num_draws))

    def example(self, clip: int, chunk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """History (c m h w), chunk (c t h w), anchor (c 1 h w) and weights (1 t h w) of a chunk of a clip."""
        history, target, anchor, weight = (rows[0] for rows in self._examples([clip], [chunk], [False]))
        return history, target, anchor, weight

    def fingerprint(self) -> str:
        """What the clips are."""
        still = f"still starts {self.selection.still_share}, " if self.selection.still_share else ""
        opening = f"opening {self.selection.opening_share}, " if self.selection.opening_share else ""
        change = f"changed {self.selection.change_share}, " if self.selection.change_share else ""
        kind = "" if len(self._clips) == self.info.num_clips else f"{len(self._clips)} clips of it, "
        weight = f"subject weight {self.selection.subject_weight}, "
        return f"world cache, {self.info}, {kind}{weight}{still}{opening}{change}seed {self.drawing.seed}"

    def _clip(self, visit: int) -> int:
        epoch, position = divmod(visit, len(self._clips))
        return self._order(epoch)[position]

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(self._clips)
        random.Random(f"{self.drawing.seed}/world/{epoch}").shuffle(order)
        return order

    def _draw(
        self,
        clips: Sequence[int],
        purpose: str,
        text: Float[Tensor, "b l d"] | None,
        tokens: Int[Tensor, "b l"] | None,
    ) -> Batch:
        generator = self._seeds.generator(f"world cache/{purpose}")
        chunks = torch.randint(self.info.num_chunks, (len(clips),), generator=generator).tolist()
        if self.selection.opening_share:
            opens = (torch.rand(len(clips), generator=generator) < self.selection.opening_share).tolist()
            chunks = [0 if is_first else chunk for is_first, chunk in zip(opens, chunks, strict=True)]
        chunks = [self._shown(clip, chunk) for clip, chunk in zip(clips, chunks, strict=True)]
        stills = (torch.rand(len(clips), generator=generator) < self.selection.still_share).tolist()
        if self.drawing.is_aligned:
            chunks = chunks[:1] * len(clips)
            stills = [still and chunks[0] == 0 for still in stills]
        history, chunk, anchor, weight = self._examples(clips, chunks, stills)
        if self.selection.change_share:
            before, first = self._draw_changes(clips, chunks, stills, generator)
            old_history, old_chunk, anchor, _ = self._examples(before, chunks, stills)
            past, now = self._shares_of_new(chunks, first).split([self.drawing.memory_frames, CHUNK_LATENTS], dim=2)
            history, chunk = torch.lerp(old_history, history, past), torch.lerp(old_chunk, chunk, now)
        weights = weight if self.selection.subject_weight != 1 else None
        return Batch(chunk, history, anchor, text, tokens, weights, chunks[0] if self.drawing.is_aligned else 0)

    def _shown(self, clip: int, chunk: int) -> int:
        """The chunk that is shown where `chunk` was drawn: of late clips one with a past, the first for an opening."""
        return LATE_CHUNK + chunk % (self.info.num_chunks - LATE_CHUNK) if self.info.is_late(clip) else chunk

    def _draw_changes(
        self, clips: Sequence[int], chunks: Sequence[int], stills: Sequence[bool], generator: torch.Generator
    ) -> tuple[list[int], list[int]]:
        """For every example the clip that comes before it, itself where none does, and the first chunk after that."""
        before, first = list(clips), [0] * len(clips)
        draws = torch.rand(len(clips), 3, generator=generator).tolist()
        for row, (changes, which, when) in enumerate(draws):
            if changes < self.selection.change_share and chunks[row] > 0 and not stills[row]:
                others = self._elsewhere[self._scenes[clips[row]]]
                before[row], first[row] = others[int(which * len(others))], 1 + int(when * chunks[row])
        return before, first

    def _shares_of_new(self, chunks: Sequence[int], first: Sequence[int]) -> Float[Tensor, "b 1 n 1 1"]:
        """What a clip has in each remembered frame and each frame of its chunk: more and more through chunk `first`."""
        device = self._latents.device
        chunks_since = torch.tensor(chunks, device=device) - torch.tensor(first, device=device)
        frames = torch.arange(-self.drawing.memory_frames, CHUNK_LATENTS, device=device)
        shares = (chunks_since[:, None] + (frames + 1) / CHUNK_LATENTS).clamp(0, 1)
        return rearrange(shares, "b n -> b 1 n 1 1")

    def _examples(
        self, clips: Sequence[int], chunks: Sequence[int], stills: Sequence[bool]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """History, chunk, anchor and weights of some chunks; `stills` have the first picture alone before them.

        Chunks are encoded one by one, each with its first frame by itself, so that frame stands for a still picture.
        """
        device = self._latents.device
        clip, chunk = torch.tensor(clips, device=device), torch.tensor(chunks, device=device)
        is_still = rearrange(torch.tensor(stills, device=device), "b -> b 1 1 1 1")
        target = self._latents[clip, chunk].float()
        picture = target[:, :, :1]
        history = torch.where(is_still, _only_newest(picture, self.drawing.memory_frames), self._before(clip, chunk))
        is_first = rearrange(chunk == 0, "b -> b 1 1 1 1")
        anchor = torch.where(is_still, picture, self._anchors[clip].float().masked_fill(is_first, 0))
        share = self._shares[clip, chunk].float() / BYTE
        return history, target, anchor, (1 + (self.selection.subject_weight - 1) * share)[:, None]

    def _before(self, clip: Int[Tensor, " b"], chunk: Int[Tensor, " b"]) -> Float[Tensor, "b c m h w"]:
        """The remembered latent frames before each chunk, oldest first, zero before the clip begins."""
        memory = self.drawing.memory_frames
        frame = chunk[:, None] * CHUNK_LATENTS + torch.arange(-memory, 0, device=chunk.device)
        known = frame.clamp(min=0)
        frames = self._latents[clip[:, None], known // CHUNK_LATENTS, :, known % CHUNK_LATENTS].float()
        return rearrange(frames.masked_fill(rearrange(frame < 0, "b m -> b m 1 1 1"), 0), "b m c h w -> b c m h w")


def _only_newest(picture: Float[Tensor, "b c 1 h w"], memory_frames: int) -> Float[Tensor, "b c m h w"]:
    """The history of videos that start from a picture: the picture as the newest frame, and nothing before it."""
    return torch.nn.functional.pad(picture, (0, 0, 0, 0, memory_frames - 1, 0))
