"""Videos and captions as one finds them: lists and folders of clips, and the frames of a clip cut into windows.

Imports no torch, so that worker processes that only decode start quickly.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from heliograph.errors import MediaError, UserError
from heliograph.media.colour import to_rgb
from heliograph.media.decode import TimedFrame, at_rate, decode
from heliograph.media.frames import Fit, fill
from heliograph.media.limits import MediaLimits
from heliograph.shapes import CHUNK_FRAMES, LATENT_STRIDE, PATCH

Size = tuple[int, int]
"""Height and width in pixels."""

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi"})
"""Files of a folder that are taken for videos."""

LENGTHS: dict[int, tuple[int, ...]] = {
    1: (*range(501, 240, -20), 221, 193, 181, 161, 141, 121, 101, 81, 61, 41, 21),
    2: (193, 177, 161, 156, 145, 133, 129, 121, 113, 109, 97, 85, 81, 73, 65, 61, 49, 37, 25),
}
"""Length buckets in frames, longest first, for each stride (every frame, every second frame)."""

SIZES: tuple[Size, ...] = (
    (768, 320),
    (768, 384),
    (640, 384),
    (768, 512),
    (576, 448),
    (512, 512),
    (448, 576),
    (512, 768),
    (384, 640),
    (384, 768),
    (320, 768),
)
"""Size buckets (height, width) of the 640 family."""

MIN_FRAMES = 121
"""Fewest frames of a clip that the released models were trained on: at least three chunks."""


class DataError(UserError):
    """Training data cannot be used: the source, the prepared folder, or the two do not belong together."""


class ClipError(UserError):
    """One clip cannot be used; the others can."""


@dataclass(frozen=True)
class ClipRecord:
    """One clip of a source, not yet looked at.

    `cut` is the used part [start, end) in frames of the file (end None: to its end); `crop` the used part of the
    picture as (left, right, top, bottom) in upright pixels, or None.
    """

    id: str
    path: Path
    caption: str
    cut: tuple[int, int | None] = (0, None)
    crop: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Refusal:
    """A clip that is left out, and why; the reason is written for whoever owns the clip."""

    id: str
    path: str
    reason: str


@dataclass(frozen=True)
class ClipRules:
    """Which clips are taken, and what is made of them.

    Attributes:
        buckets: sizes among which each clip finds the nearest in shape.
        kept: the buckets that are wanted; clips of the others are left out.
        min_frames: fewest frames, after `fps` and `stride`.
        stride: 1 takes every frame, 2 every second one.
        fps: frames per second that a clip is shown at; None takes frames as the file has them.
        seed: of the place in time that a longer clip is cut at.
    """

    buckets: tuple[Size, ...] = SIZES
    kept: tuple[Size, ...] = ((384, 640),)
    min_frames: int = MIN_FRAMES
    stride: int = 1
    fps: int | None = 24
    seed: int = 0

    def __post_init__(self) -> None:
        cell = LATENT_STRIDE * PATCH
        for height, width in (*self.buckets, *self.kept):
            if height < cell or width < cell or height % cell or width % cell:
                raise DataError(f"size {height}x{width} is no size for the model; use multiples of {cell} pixels")
        if not self.kept or not set(self.kept) <= set(self.buckets):
            raise DataError(f"the sizes {_names(self.kept)} are not among {_names(self.buckets)}; choose some of those")
        if self.stride not in LENGTHS:
            raise DataError(f"stride={self.stride} is not known; use 1 or 2")
        if self.min_frames < CHUNK_FRAMES:
            raise DataError(f"min_frames={self.min_frames} is less than one chunk; use {CHUNK_FRAMES} or more")
        if self.fps is not None and not 1 <= self.fps <= 240:
            raise DataError(f"fps={self.fps} is out of range; use 1 to 240, or none to take frames as they are")


@dataclass(frozen=True)
class DecodedClip:
    """Windows of 33 frames, one after another without overlap, and the length bucket they were cut from."""

    record: ClipRecord
    num_frames: int
    windows: UInt8[np.ndarray, "n 33 h w 3"]


def read_source(source: Path) -> tuple[list[ClipRecord], list[Refusal]]:
    """The clips of a JSON list, or of a folder of videos with a `.txt` caption beside each, in a fixed order.

    A record of the list has `path` (relative to the list's folder), `cap` (a list of captions, the first counts, or
    one caption) and, if wanted, `cut` [start, end) and `crop` [left, right, top, bottom]; other fields are passed over.

    Raises:
        DataError: the source is missing, is neither, or holds no clip at all.
    """
    if source.is_dir():
        found = [_from_sidecar(path, source) for path in _videos(source)]
    elif source.is_file():
        found = [_from_json(value, index, source.parent) for index, value in enumerate(_json_list(source))]
    else:
        raise DataError(f"there is no {source}; give a folder of videos with captions, or a JSON list of clips")
    if not found:
        raise DataError(f"{source} holds no clip; give a folder of videos with captions, or a JSON list of clips")
    return _once(found)


def decode_clip(record: ClipRecord, rules: ClipRules) -> DecodedClip:
    """The windows of a clip, in the nearest size and length bucket; memory holds these windows alone.

    The file is decoded twice: first its frames are counted, which also finds damage before any work is done.

    Raises:
        ClipError: the clip is too short, of an unwanted shape, or its `cut` or `crop` is not inside the video.
        MediaError: the file is missing, damaged or no video.
    """
    num_available, picture_size = _measure(record, rules)
    if num_available < rules.min_frames:
        raise ClipError(f"has {num_available} frames of the {rules.min_frames} that are needed; give a longer clip")
    height, width = nearest_size(picture_size, rules.buckets)
    if (height, width) not in rules.kept:
        raise ClipError(f"is nearest in shape to {height}x{width}; wanted is {_names(rules.kept)}")
    num_frames = length_bucket(num_available, rules.stride)
    first = random.Random(f"{rules.seed}/{record.id}").randint(0, num_available - num_frames)
    num_windows = num_frames // CHUNK_FRAMES
    windows = np.empty((num_windows * CHUNK_FRAMES, height, width, 3), np.uint8)
    for index, timed in enumerate(islice(_frames(record, rules), first, first + len(windows))):
        windows[index] = _pixels(timed, record, height, width)
    return DecodedClip(record, num_frames, windows.reshape(num_windows, CHUNK_FRAMES, height, width, 3))


def try_decode(record: ClipRecord, rules: ClipRules) -> DecodedClip | Refusal:
    """The windows of a clip, or why there are none; what worker processes run."""
    try:
        return decode_clip(record, rules)
    except (ClipError, MediaError) as error:
        return Refusal(record.id, str(record.path), " ".join(str(error).split()))


def length_bucket(num_frames: int, stride: int) -> int:
    """The longest bucket that `num_frames` fill, at least one chunk long.

    Raises:
        ClipError: they fill none.
    """
    fitting = [length for length in LENGTHS[stride] if CHUNK_FRAMES <= length <= num_frames]
    if not fitting:
        shortest = min(length for length in LENGTHS[stride] if length >= CHUNK_FRAMES)
        raise ClipError(f"has {num_frames} frames; the shortest length that is used is {shortest}")
    return fitting[0]


def nearest_size(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket (H, W) whose shape is nearest to that of `size` (h, w): least |h·W − w·H|, the last of equal ones."""
    height, width = size
    return min(reversed(buckets), key=lambda bucket: abs(height * bucket[1] - width * bucket[0]))


def _names(sizes: Sequence[Size]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in sizes)


# Sources


def _videos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)


def _from_sidecar(path: Path, folder: Path) -> ClipRecord | Refusal:
    name = path.relative_to(folder).with_suffix("").as_posix()
    sidecar = path.with_suffix(".txt")
    try:
        caption = sidecar.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError):
        return Refusal(name, str(path), f"has no caption: {sidecar.name} is missing or cannot be read")
    if not caption:
        return Refusal(name, str(path), f"has no caption: {sidecar.name} is empty")
    return ClipRecord(name, path, caption)


def _json_list(file: Path) -> list[Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON ({error}); give a list of clips") from error
    if not isinstance(values, list):
        raise DataError(f"{file} holds a JSON {type(values).__name__}; give a list of clips")
    return values


def _from_json(value: Any, index: int, folder: Path) -> ClipRecord | Refusal:
    """One record of a list; what is wrong with it is a reason to leave it out, not to stop."""
    if not isinstance(value, dict) or not isinstance(value.get("path"), str) or not value["path"]:
        return Refusal(f"record {index}", "", "has no path")
    path = folder / value["path"]
    captions = value.get("cap")
    caption = captions[0] if isinstance(captions, list) and captions else captions
    if not isinstance(caption, str) or not caption.strip():
        return Refusal(f"record {index}", str(path), "has no caption in cap")
    cut = _numbers(value.get("cut"), 2)
    if value.get("cut") is not None and (cut is None or not 0 <= cut[0] < cut[1]):
        return Refusal(f"record {index}", str(path), f"has cut={value['cut']!r}; use [start, end) in frames")
    crop = _numbers(value.get("crop"), 4)
    if value.get("crop") is not None and (crop is None or not (0 <= crop[0] < crop[1] and 0 <= crop[2] < crop[3])):
        return Refusal(f"record {index}", str(path), f"has crop={value['crop']!r}; use [left, right, top, bottom]")
    name = Path(value["path"]).with_suffix("").as_posix()
    return ClipRecord(
        id=f"{name}_{cut[0]}-{cut[1]}" if cut else name,
        path=path,
        caption=caption.strip(),
        cut=(cut[0], cut[1]) if cut else (0, None),
        crop=(crop[0], crop[1], crop[2], crop[3]) if crop else None,
    )


def _numbers(value: Any, count: int) -> list[int] | None:
    """A list of `count` whole numbers, or None."""
    is_fitting = isinstance(value, list) and len(value) == count
    return value if is_fitting and all(type(number) is int for number in value) else None


def _once(found: Sequence[ClipRecord | Refusal]) -> tuple[list[ClipRecord], list[Refusal]]:
    """Records apart from refusals; of several records of one clip the first counts."""
    records: dict[str, ClipRecord] = {}
    refusals: list[Refusal] = []
    for entry in found:
        if isinstance(entry, Refusal):
            refusals.append(entry)
        elif entry.id in records:
            refusals.append(Refusal(entry.id, str(entry.path), "is in the source more than once; the first counts"))
        else:
            records[entry.id] = entry
    return list(records.values()), refusals


# Frames


def _measure(record: ClipRecord, rules: ClipRules) -> tuple[int, Size]:
    """How many frames the clip gives, and the size of its used picture; nothing is converted."""
    num_frames, first = 0, None
    for timed in _frames(record, rules):
        first = first or timed
        num_frames += 1
    if first is None:
        raise ClipError(f"has no frame in its cut {list(record.cut)}; correct the cut")
    return num_frames, _used_size(first, record)


def _frames(record: ClipRecord, rules: ClipRules) -> Iterator[TimedFrame]:
    """The frames of the used part in time, at the wanted rate and stride."""
    start, end = record.cut
    part = _from_zero(islice(decode(record.path, MediaLimits()), start, end))
    shown = part if rules.fps is None else at_rate(part, rules.fps)
    return islice(shown, 0, None, rules.stride)


def _from_zero(frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    """The same frames with times from the first of them on."""
    origin = None
    for timed in frames:
        origin = timed.time if origin is None else origin
        yield replace(timed, time=timed.time - origin)


def _used_size(timed: TimedFrame, record: ClipRecord) -> Size:
    """Height and width of the used picture as it is shown: upright, cropped, with square pixels."""
    height, width = timed.frame.height, timed.frame.width
    is_lying = round(timed.frame.rotation / 90) % 2 == 1
    if is_lying:
        height, width = width, height
    if record.crop is not None:
        left, right, top, bottom = record.crop
        if right > width or bottom > height:
            raise ClipError(f"has crop={list(record.crop)} outside its {width}x{height} pixels; correct the crop")
        height, width = bottom - top, right - left
    aspect = 1 / timed.pixel_aspect if is_lying else timed.pixel_aspect
    return height, max(1, round(width * aspect))


def _pixels(timed: TimedFrame, record: ClipRecord, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """One frame upright, cropped, and brought to the wanted size about its middle."""
    quarter_turns = round(timed.frame.rotation / 90)  # counter-clockwise, as numpy counts
    picture = Image.fromarray(np.rot90(to_rgb(timed.frame), quarter_turns))
    if record.crop is not None:
        left, right, top, bottom = record.crop
        picture = picture.crop((left, top, right, bottom))
    aspect = float(timed.pixel_aspect)
    return fill(picture, height, width, Fit.CROP, 1 / aspect if quarter_turns % 2 else aspect)
