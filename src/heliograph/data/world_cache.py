"""Clips of the procedural world, rendered and encoded once: where rendering would cost as much as training.

cache.json                 what is in it and whose latents they are
parts/00000.safetensors    latents of some clips (float16), their anchors, and how much of each cell shows a subject

Captions are not stored: each visit to a clip draws another one. Made again, only missing parts are rendered.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from heliograph.data.clips import DataError
from heliograph.data.diorama import Record
from heliograph.data.diorama.render import render
from heliograph.data.loader import Drawing
from heliograph.data.selection import Selection
from heliograph.data.world import Texts, Tokens, cell_share, unit_pixels
from heliograph.errors import OutputError
from heliograph.media.target import write_whole
from heliograph.seeds import RequestSeeds
from heliograph.shapes import CHUNK_FRAMES, CHUNK_LATENTS, FPS
from heliograph.train.stage import Batch
from heliograph.vae import LatentCodec

CACHE_FILE, PARTS_FOLDER = "cache.json", "parts"

CLIPS_PER_PART = 50

LATE_CHUNK = 2
"""The first chunk of a late clip that is shown: those before it are its past."""

LATEST_FRAME = 180 * FPS
"""Late clips begin before this."""

BYTE = 255
"""A share of 1, as it is stored."""


@dataclass(frozen=True)
class CacheInfo:
    """What all parts have in common; `code` is a digest of the autoencoder's weights.

    The last `num_late` clips begin somewhere in the first minutes of their video. Short clips from its beginning never
    show what long videos are made of: a subject that has been away and comes back.
    """

    num_clips: int
    num_chunks: int
    height: int
    width: int
    code: str
    num_late: int = 0

    def __post_init__(self) -> None:
        if min(self.num_clips, self.num_chunks) < 1:
            raise DataError(f"{self} holds nothing; use 1 or more clips and chunks")
        if not 0 <= self.num_late < self.num_clips:
            raise DataError(f"num_late={self.num_late} of {self.num_clips} clips; some must show how videos begin")
        if self.num_late and self.num_chunks <= LATE_CHUNK:
            raise DataError(f"{self.num_chunks} chunks are all past for late clips; use {LATE_CHUNK + 1} or more")

    def is_late(self, clip: int) -> bool:
        """Whether a clip begins in the middle of its video."""
        return clip >= self.num_clips - self.num_late

    def first_frame(self, clip: int) -> int:
        """Number of the video's frame that the clip begins with."""
        return random.Random(f"late {clip}").randrange(1, LATEST_FRAME) if self.is_late(clip) else 0


@dataclass(frozen=True)
class Worldly:
    """Which world is cached: the record of each clip number, the caption for each visit to a record, kinds of clips.

    `kinds` says for a name whether a record is of that kind; "all" is every record and needs no entry.
    """

    record: Callable[[int], Record]
    caption: Callable[[Record, int], str]
    kinds: Mapping[str, Callable[[Record], bool]] = field(default_factory=dict)

    def accepts(self, kind: str, record: Record) -> bool:
        """Whether the record is of the kind."""
        return kind == "all" or self.kinds[kind](record)


def code_digest(codec: LatentCodec) -> str:
    """Digest of what decides the latents of `codec`: its encoder's weights and the statistics."""
    config = codec.autoencoder.config
    digest = hashlib.blake2b(json.dumps([list(config.latents_mean), list(config.latents_std)]).encode(), digest_size=8)
    state = {} if not isinstance(codec.autoencoder, torch.nn.Module) else codec.autoencoder.state_dict()
    for name in sorted(name for name in state if not name.startswith(("decoder.", "refiner."))):
        digest.update(name.encode() + state[name].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def missing_parts(folder: Path, info: CacheInfo) -> list[int]:
    """Numbers of the parts that are still to be rendered; takes the folder for this cache.

    Raises:
        DataError: it holds another cache.
        OutputError: it cannot be written.
    """
    file = folder / CACHE_FILE
    if file.exists():
        there = read_cache_info(folder)
        if there != info:
            raise DataError(f"{folder} holds another cache: {there} there, {info} now; use another folder")
    else:
        try:
            (folder / PARTS_FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another place") from error
        write_whole(file, json.dumps(asdict(info), indent=2).encode() + b"\n")
    return [part for part in range(_num_parts(info)) if not _part_file(folder, part).exists()]


def write_part(folder: Path, part: int, info: CacheInfo, world: Worldly, codec: LatentCodec) -> None:
    """Render and encode one part, on the CPU."""
    first = part * CLIPS_PER_PART
    clips = range(first, min(first + CLIPS_PER_PART, info.num_clips))
    rows = [_encode(world.record(clip), info.first_frame(clip), info, codec) for clip in clips]
    latents, anchors, shares = (torch.stack(column).contiguous() for column in zip(*rows, strict=True))
    tensors = {"latents": latents.half(), "anchors": anchors.half(), "shares": (BYTE * shares).round().to(torch.uint8)}
    write_whole(_part_file(folder, part), save(tensors))


def _encode(record: Record, first: int, info: CacheInfo, codec: LatentCodec) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (n c t h w), anchor (c 1 h w) and shares (n t h w) of a clip from frame `first` of its video on."""
    footage = render([record], [first], info.num_chunks * CHUNK_FRAMES, info.height, info.width)
    frames = unit_pixels(footage.frames[0])
    beginning = unit_pixels(render([record], [0], 1, info.height, info.width).frames[0])
    latents = torch.cat([codec.encode_chunk(chunk) for chunk in frames.split(CHUNK_FRAMES, dim=2)])
    shares = torch.stack([cell_share(mask, codec.stride) for mask in footage.mask[0].split(CHUNK_FRAMES)])
    return latents, codec.encode_image(beginning[:, :, 0])[0], shares


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
        parts = [_read_part(_part_file(folder, part)) for part in range(_num_parts(self.info))]
        self._latents, self._anchors, self._shares = (
            torch.cat([part[name] for part in parts]).to(device) for name in ("latents", "anchors", "shares")
        )
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
        """The chunk that is shown where `chunk` was drawn: of late clips one with a past."""
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

    def example(self, clip: int, chunk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """History (c m h w), chunk (c t h w), anchor (c 1 h w) and weights (1 t h w) of a chunk of a clip."""
        history, target, anchor, weight = (rows[0] for rows in self._examples([clip], [chunk], [False]))
        return history, target, anchor, weight

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


def read_cache_info(folder: Path) -> CacheInfo:
    """What `cache.json` says.

    Raises:
        DataError: it is missing or damaged.
    """
    file = folder / CACHE_FILE
    try:
        return CacheInfo(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(f"{folder} holds no {CACHE_FILE}; make a cache of the world first") from None
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{file} is damaged ({error}); make the cache again in another folder") from error


def _num_parts(info: CacheInfo) -> int:
    return -(-info.num_clips // CLIPS_PER_PART)


def _part_file(folder: Path, part: int) -> Path:
    return folder / PARTS_FOLDER / f"{part:05}.safetensors"


def _read_part(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} is missing or damaged ({error}); delete it and make the cache again") from error
