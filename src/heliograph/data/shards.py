"""Prepared training data on disk: shards of latents and text embeddings, and the index that says what is in them.

    dataset.json                what all clips have in common; written once
    index.jsonl                 one line for each clip
    skipped.jsonl               one line for each clip that was left out, with the reason
    shards/00000.safetensors    latents and text of some clips

A shard is put in place whole before its clips are named in the index, and a last line that was cut off does not count:
the index never names what is not there. Latents are normalised, each window of 33 frames encoded on its own.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from heliograph.data.clips import DataError, Refusal, Size
from heliograph.errors import OutputError
from heliograph.media.lock import hold_folder
from heliograph.media.target import write_whole

FORMAT = 1
"""Version of the layout."""

DATASET_FILE, INDEX_FILE, SKIPPED_FILE = "dataset.json", "index.jsonl", "skipped.jsonl"

SHARD_FOLDER = "shards"

LATENT_DTYPE = torch.float16
"""Half the space of float32; its rounding (a 2048th of a value) is far below the noise of the posterior."""

SHARD_BYTES = 256 * 2**20
"""A shard is closed when it holds this much: about 24 clips of five windows at 384×640."""


@dataclass(frozen=True)
class Dataset:
    """What all clips of a prepared folder have in common.

    Attributes:
        model: name of the model whose autoencoder and text encoder made the data.
        channels: of the latents.
        text_rows, text_dim: a text embedding as the transformer takes it; rows after a clip's own are zero.
        rules: the rules the clips were chosen by, as JSON.
    """

    model: str
    channels: int
    text_rows: int
    text_dim: int
    rules: Mapping[str, Any]
    format: int = FORMAT


@dataclass(frozen=True)
class ClipEntry:
    """One line of the index: where a clip is and what it holds.

    `num_windows` windows of `height` × `width` pixels were cut from `num_frames` frames (the length bucket).
    """

    id: str
    shard: str
    key: str
    caption: str
    num_windows: int
    num_frames: int
    height: int
    width: int

    @property
    def bucket(self) -> tuple[int, int, int]:
        """What the clips of one batch have in common."""
        return self.num_frames, self.height, self.width


@dataclass(frozen=True)
class EncodedClip:
    """A clip ready to be stored; `text` has the rows of its own tokens alone."""

    id: str
    caption: str
    num_frames: int
    latents: Float[Tensor, "n c t h w"]
    text: Float[Tensor, "l d"]
    size: Size


class ShardWriter:
    """Adds clips to a prepared folder, shard by shard. What an earlier run stored stays.

    Use as a context manager; leaving it, also by an error, stores the clips of the unfinished shard.
    """

    def __init__(self, folder: Path, dataset: Dataset, shard_bytes: int = SHARD_BYTES) -> None:
        """Open or make the folder.

        Raises:
            DataError: the folder holds data of another model or made by other rules.
            OutputError: it cannot be written.
        """
        self.folder = folder
        self._shard_bytes = shard_bytes
        try:
            (folder / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another place") from error
        self._lock = hold_folder(folder)
        _settle_dataset(folder, dataset)
        entries = list(read_index(folder))
        self.stored = {entry.id for entry in entries}
        _rewrite_index(folder / INDEX_FILE, entries)
        write_whole(folder / SKIPPED_FILE, b"")  # clips left out are tried again: someone may have mended them
        used = [int(path.stem) for path in (folder / SHARD_FOLDER).glob("*.safetensors") if path.stem.isdigit()]
        self._next_shard = max(used, default=-1) + 1
        self._pending: list[EncodedClip] = []
        self._pending_bytes = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self._lock.close()

    def add(self, clip: EncodedClip) -> None:
        """Take a clip; it is on disk when its shard is full or flushed."""
        self._pending.append(clip)
        self._pending_bytes += clip.latents.numel() * LATENT_DTYPE.itemsize + clip.text.nbytes
        if self._pending_bytes >= self._shard_bytes:
            self.flush()

    def skip(self, refusal: Refusal) -> None:
        """Note a clip that is left out."""
        _append(self.folder / SKIPPED_FILE, _line(asdict(refusal)))

    def flush(self) -> None:
        """Store the clips taken so far.

        Raises:
            OutputError: the disk is full or fails; the shards before this one are untouched.
        """
        if not self._pending:
            return
        name = f"{self._next_shard:05}.safetensors"
        tensors: dict[str, Tensor] = {}
        lines = []
        for number, clip in enumerate(self._pending):
            key = f"{number:04}"
            tensors[f"{key}.latents"] = clip.latents.to(LATENT_DTYPE).contiguous()
            tensors[f"{key}.text"] = clip.text.contiguous()
            height, width = clip.size
            entry = ClipEntry(clip.id, name, key, clip.caption, len(clip.latents), clip.num_frames, height, width)
            lines.append(_line(asdict(entry)))
        write_whole(self.folder / SHARD_FOLDER / name, save(tensors))
        _append(self.folder / INDEX_FILE, "".join(lines))
        self.stored |= {clip.id for clip in self._pending}
        self._next_shard += 1
        self._pending, self._pending_bytes = [], 0


@dataclass(frozen=True)
class ShardFolder:
    """A prepared folder that is read from. Reads are independent of each other and may come from several threads."""

    path: Path
    dataset: Dataset
    entries: tuple[ClipEntry, ...] = field(repr=False)

    def latents(self, entry: ClipEntry, first: int, last: int) -> Float[Tensor, "n c t h w"]:
        """Windows `first` to `last` (not included) of a clip, float32; nothing else is read."""
        return self._read(entry, "latents", slice(first, last)).float()

    def anchor(self, entry: ClipEntry) -> Float[Tensor, "c 1 h w"]:
        """The first latent frame of a clip, float32."""
        return self._read(entry, "latents", (0, slice(None), slice(0, 1))).float()

    def text(self, entry: ClipEntry) -> Float[Tensor, "l d"]:
        """The clip's text embedding, float32, with zero rows up to the length that the transformer takes."""
        rows = self._read(entry, "text", slice(None)).float()
        return torch.nn.functional.pad(rows, (0, 0, 0, self.dataset.text_rows - len(rows)))

    def _read(self, entry: ClipEntry, part: str, where: Any) -> Tensor:
        file = self.path / SHARD_FOLDER / entry.shard
        try:
            with safe_open(file, framework="pt") as shard:
                return shard.get_slice(f"{entry.key}.{part}")[where]
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{file} is missing or damaged ({error}); delete {self.path} and prepare it again"
            ) from error


def open_shards(folder: Path) -> ShardFolder:
    """A prepared folder.

    Raises:
        DataError: it is none, of another version, damaged, or holds no clip.
    """
    dataset = _read_dataset(folder)
    entries = tuple(read_index(folder))
    if not entries:
        raise DataError(f"{folder} holds no clip; see {folder / SKIPPED_FILE} for the reasons, and prepare it again")
    return ShardFolder(folder, dataset, entries)


def read_index(folder: Path) -> Iterator[ClipEntry]:
    """The lines of the index; a last line that was cut off is passed over.

    Raises:
        DataError: a line is damaged.
    """
    file = folder / INDEX_FILE
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            yield ClipEntry(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"line {number} of {file} is damaged ({error}); delete {folder} and prepare again"
            ) from error


def _settle_dataset(folder: Path, dataset: Dataset) -> None:
    """Write what all clips have in common, or compare it with what is there."""
    if (folder / DATASET_FILE).exists():
        there = _read_dataset(folder)
        wanted = json.loads(json.dumps(asdict(dataset)))
        differing = [name for name, value in asdict(there).items() if value != wanted[name]]
        if differing:
            given = "; ".join(f"{name} is {asdict(there)[name]} there and {wanted[name]} now" for name in differing)
            raise DataError(f"{folder} was prepared differently: {given}. Use another folder, or the same settings")
        return
    if any(folder.glob("*.jsonl")):
        raise DataError(f"{folder} holds an index but no {DATASET_FILE}; use another folder")
    write_whole(folder / DATASET_FILE, json.dumps(asdict(dataset), indent=2).encode() + b"\n")


def _read_dataset(folder: Path) -> Dataset:
    file = folder / DATASET_FILE
    if not file.is_file():
        raise DataError(f"{folder} holds no {DATASET_FILE}, so it is no prepared data; make it with heliograph prepare")
    try:
        dataset = Dataset(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{file} is damaged ({error}); prepare the data again in another folder") from error
    if dataset.format != FORMAT:
        raise DataError(f"{folder} has format {dataset.format}, this version reads {FORMAT}; prepare the data again")
    return dataset


def _rewrite_index(file: Path, entries: list[ClipEntry]) -> None:
    """The index without a torn last line."""
    write_whole(file, "".join(_line(asdict(entry)) for entry in entries).encode())


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _append(file: Path, text: str) -> None:
    """Add whole lines and wait until they are on the disk."""
    try:
        with file.open("a", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise OutputError(f"{file} could not be written ({error.strerror}); free space and start again") from error
