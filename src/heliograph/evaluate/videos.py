"""Which videos there are in a folder, what was asked for in each, and their frames piece by piece."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from heliograph.data.clips import VIDEO_SUFFIXES
from heliograph.errors import UserError
from heliograph.media.decode import at_rate, decode
from heliograph.media.frames import Fit, shown_size, upright
from heliograph.media.limits import MediaLimits
from heliograph.shapes import CHUNK_FRAMES, FPS

LIMITS = MediaLimits(max_seconds=24 * 3600.0)
"""A day of video: nothing is kept but a few frames and some numbers for each."""

BENCH_NAME = re.compile(r"(?P<id>\d+)_(?P<target>\d+)_ori(?P<frames>\d+)")
"""HeliosBench's names of files: id of the prompt, frames asked for, frames made."""

PIECE_BYTES = 32 * 2**20
"""Most bytes of frames that are looked at together, unless one frame is larger."""

UNSTEADY = 0.25
"""How far, of the usual time between frames, another may lie from it in a video of steady rate."""


@dataclass(frozen=True)
class Video:
    """A video to be judged.

    Attributes:
        name: path in the folder, with slashes.
        path: where the file is.
        prompt: what was asked for, or None where that is not known.
    """

    name: str
    path: Path
    prompt: str | None


@dataclass(frozen=True)
class Shape:
    """What a video is like, found by decoding it once.

    Attributes:
        num_frames: frames that are looked at.
        height, width: pixels of a frame as it is shown: upright, with square pixels.
        fps: frames per second.
        is_steady: frames come at equal times. A video where they do not is looked at as a player shows it at 24 frames
            per second.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    is_steady: bool


def find_videos(folder: Path, prompts: Path | None) -> list[Video]:
    """All videos in the folder and those below it, by name, with their prompts.

    A prompt comes from `prompts`, or from the `.txt` file beside the video. `prompts` is a CSV with the columns `id`
    and `prompt` (as HeliosBench has it) for files named `{id}_{target}_ori{frames}.mp4`, or a text file with one prompt
    a line for as many videos, in the order of their names.

    Raises:
        UserError: there is no such folder, no video in it, or the prompts cannot be read or do not fit.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give a folder of videos")
    try:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); check its permissions") from error
    if not paths:
        raise UserError(f"{folder} holds no video; give a folder with {', '.join(sorted(VIDEO_SUFFIXES))} files")
    given = [None] * len(paths) if prompts is None else read_prompts(prompts, paths)
    return [
        Video(path.relative_to(folder).as_posix(), path, _beside(path) if prompt is None else prompt)
        for path, prompt in zip(paths, given, strict=True)
    ]


def read_prompts(file: Path, paths: Sequence[Path]) -> list[str | None]:
    """The prompt of each video from a CSV or a text file, as `find_videos` says; None where a CSV has none for it."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{file} cannot be read as text ({error}); give a CSV or a text file of prompts") from error
    if file.suffix.lower() == ".csv":
        by_id = _by_id(file, text)
        return [by_id.get(number) if (number := bench_id(path)) else None for path in paths]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != len(paths):
        raise UserError(f"{file} has {len(lines)} prompts for {len(paths)} videos; give one prompt a line for each")
    return list(lines)


def bench_id(path: Path) -> str | None:
    """The id of the prompt in a HeliosBench file name, or None."""
    match = BENCH_NAME.fullmatch(path.stem)
    return match["id"] if match else None


def survey(path: Path) -> Shape:
    """Decode a video once, without looking at it, so that damage is found before any work is done.

    Raises:
        MediaError: the file is no video, is damaged before its end, or is too large.
    """
    first, times = None, []
    for timed in decode(path, LIMITS):
        first = first or timed
        times.append(float(timed.time))
    assert first is not None, f"{path}: decode gives a frame or raises"
    height, width = shown_size(first)
    steps = np.diff(times)
    if len(steps) == 0:
        return Shape(1, height, width, float(FPS), is_steady=True)
    usual = float(np.median(steps))
    if usual <= 0 or np.abs(steps - usual).max() > UNSTEADY * usual:
        return Shape(sum(1 for _ in at_rate(decode(path, LIMITS), FPS)), height, width, float(FPS), is_steady=False)
    return Shape(len(times), height, width, round(len(steps) / (times[-1] - times[0]), 3), is_steady=True)


def pieces(path: Path, shape: Shape, lookback: int) -> Iterator[tuple[UInt8[np.ndarray, "f h w 3"], int]]:
    """The frames of a video, some at a time, and how many of each piece belong to the one before.

    Each piece but the first begins with the last `lookback` frames of the one before (fewer if there were fewer), so
    that whatever is measured between frames is measured at the borders, too. Memory is flat.

    Raises:
        MediaError: as `survey`.
    """
    most = max(1, min(CHUNK_FRAMES, PIECE_BYTES // (3 * shape.height * shape.width)))
    decoded = decode(path, LIMITS)
    timed = decoded if shape.is_steady else at_rate(decoded, FPS)
    held: list[UInt8[np.ndarray, "h w 3"]] = []
    num_old = 0
    for frame in timed:
        # A frame of another size than the first is stretched to it, as players do.
        held.append(upright(frame, shape.height, shape.width, Fit.STRETCH))
        if len(held) - num_old == most:
            yield np.stack(held), num_old
            held = held[max(0, len(held) - lookback) :] if lookback else []
            num_old = len(held)
    if len(held) > num_old:
        yield np.stack(held), num_old


def _beside(path: Path) -> str | None:
    """The prompt in the text file beside a video, if there is one."""
    try:
        return path.with_suffix(".txt").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeError):
        return None


def _by_id(file: Path, text: str) -> Mapping[str, str]:
    rows = csv.DictReader(text.splitlines(keepends=True))
    if not {"id", "prompt"} <= set(rows.fieldnames or ()):
        raise UserError(f"{file} has the columns {rows.fieldnames}; a CSV of prompts needs id and prompt")
    try:
        return {row["id"].strip(): row["prompt"].strip() for row in rows if row["id"] and row["prompt"]}
    except csv.Error as error:
        raise UserError(f"{file} is no CSV that can be read ({error}); give the columns id and prompt") from error
