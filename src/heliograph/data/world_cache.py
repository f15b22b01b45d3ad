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
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from heliograph.data.clips import DataError
from heliograph.data.diorama import Record
from heliograph.data.diorama.render import render
from heliograph.data.world import cell_share, unit_pixels
from heliograph.errors import OutputError
from heliograph.media.target import write_whole
from heliograph.shapes import CHUNK_FRAMES, FPS
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


def write_parts(folder: Path, parts: Sequence[int], info: CacheInfo, world: Worldly, codec: LatentCodec) -> None:
    """Render and encode some parts where `codec` is: all of their clips at once on a GPU, one by one on a CPU."""
    clips = [clip for part in parts for clip in _clips_of(part, info)]
    at_once = len(clips) if codec.device.type == "cuda" else 1
    groups = [clips[first : first + at_once] for first in range(0, len(clips), at_once)]
    encoded = [
        encode_clips([world.record(clip) for clip in group], [info.first_frame(clip) for clip in group], info, codec)
        for group in groups
    ]
    counts = [len(_clips_of(part, info)) for part in parts]
    columns = (torch.cat(column).cpu().split(counts) for column in zip(*encoded, strict=True))
    for part, latents, anchors, shares in zip(parts, *columns, strict=True):
        shown = (BYTE * shares).round().to(torch.uint8)
        tensors = {"latents": latents.half(), "anchors": anchors.half(), "shares": shown}
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}  # pieces of what was made together
        write_whole(_part_file(folder, part), save(whole))


def encode_clips(
    records: Sequence[Record], firsts: Sequence[int], info: CacheInfo, codec: LatentCodec
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (b n c t h w), anchors (b c 1 h w) and shares (b n t h w) of clips from a frame of their videos on.

    A share is how much of a latent cell shows a subject, in [0, 1]. All are made, and stay, where `codec` is.
    """
    place, count = (info.height, info.width, codec.device), len(records)
    footage = render(records, firsts, info.num_chunks * CHUNK_FRAMES, *place)
    chunks = [torch.cat([unit_pixels(clip) for clip in part]) for part in footage.frames.split(CHUNK_FRAMES, dim=1)]
    latents = torch.stack([codec.encode_chunk(chunk) for chunk in chunks], dim=1)
    beginnings = torch.cat([unit_pixels(clip) for clip in render(records, [0] * count, 1, *place).frames])
    shares = [
        torch.stack([cell_share(mask, codec.stride) for mask in clip.split(CHUNK_FRAMES)]) for clip in footage.mask
    ]
    return latents, codec.encode_image(beginnings[:, :, 0]), torch.stack(shares)


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


def read_parts(folder: Path, info: CacheInfo) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (clip n c t h w), anchors (clip c 1 h w), both float16, and shares (clip n t h w) in 255ths of all clips.

    Raises:
        DataError: a part is missing or damaged.
    """
    parts = [_read_part(_part_file(folder, part)) for part in range(_num_parts(info))]
    latents, anchors, shares = (torch.cat([part[name] for part in parts]) for name in ("latents", "anchors", "shares"))
    return latents, anchors, shares


def _num_parts(info: CacheInfo) -> int:
    return -(-info.num_clips // CLIPS_PER_PART)


def _clips_of(part: int, info: CacheInfo) -> range:
    return range(part * CLIPS_PER_PART, min((part + 1) * CLIPS_PER_PART, info.num_clips))


def _part_file(folder: Path, part: int) -> Path:
    return folder / PARTS_FOLDER / f"{part:05}.safetensors"


def _read_part(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} is missing or damaged ({error}); delete it and make the cache again") from error
