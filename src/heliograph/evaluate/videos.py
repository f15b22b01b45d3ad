"""Which videos there are in a folder, what was asked for in each, and their frames piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from heliograph.data.clips import VIDEO_SUFFIXES
from heliograph.data.diorama.record import Record
from heliograph.errors import UserError
from heliograph.evaluate.wanted import PROMPTS_FILE, Wanted, match
from heliograph.media.decode import at_rate, decode
from heliograph.media.frames import Fit, shown_size, upright
from heliograph.media.limits import MediaLimits
from heliograph.shapes import CHUNK_FRAMES, FPS

LIMITS = MediaLimits(max_seconds=24 * 3600.0)
"""A day of video: nothing is kept but a few frames and some numbers for each."""

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
        record: the clip of the procedural world that was asked for, where it was one.
    """

    name: str
    path: Path
    prompt: str | None
    record: Record | None = None


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

    A prompt comes from the file `prompts` (see `wanted.read_wanted`), or from `prompts.jsonl` in the folder, or else
    from the `.txt` file beside the video. Files whose names begin with a dot are passed over: they are not finished.

    Raises:
        UserError: there is no such folder, no video in it, or the prompts cannot be read or do not fit.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give a folder of videos")
    try:
        paths = sorted(path for path in folder.rglob("*") if _is_video(path))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); check its permissions") from error
    if not paths:
        raise UserError(f"{folder} holds no video; give a folder with {', '.join(sorted(VIDEO_SUFFIXES))} files")
    carried = folder / PROMPTS_FILE
    file = prompts or (carried if carried.is_file() else None)
    given = [None] * len(paths) if file is None else match(file, paths)
    return [_video(folder, path, wanted) for path, wanted in zip(paths, given, strict=True)]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def _video(folder: Path, path: Path, wanted: Wanted | None) -> Video:
    name = path.relative_to(folder).as_posix()
    if wanted is None:
        return Video(name, path, _beside(path))
    return Video(name, path, wanted.prompt, wanted.record)


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
