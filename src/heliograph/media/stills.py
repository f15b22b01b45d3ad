"""A video on one page: evenly spaced frames with their times."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from heliograph.media.filesink import FileSink
from heliograph.media.target import Target, part_of, put_in_place

NUM_CANDIDATES = 96
"""Most small frames kept in memory while a video grows: 28 MiB. Six times as many as are shown, so that those come out
nearly evenly spaced whatever the length."""

NUM_SHOWN = 16
"""Most frames on a sheet that is written for a video."""

COLUMNS = 4
"""Frames side by side on such a sheet."""

SHORTEST, LONGEST = 200, 320
"""Longer side of one frame on a sheet, pixels: smaller frames are enlarged, so that the time fits, larger reduced."""

PAPER, INK = (250, 250, 248), (70, 72, 76)
"""Colours of the sheet and of the writing on it."""


@dataclass(frozen=True)
class SheetLayout:
    """Where things are on a sheet, all in pixels: cells of one picture and its label, between margins."""

    columns: int
    rows: int
    width: int
    height: int
    margin: int
    label: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        across, down = self.corner(self.columns * self.rows - 1)
        return across + self.width + 2 * self.margin, down + self.height + self.label + self.margin

    def corner(self, index: int) -> tuple[int, int]:
        """Left and top of picture `index`, row by row."""
        row, column = divmod(index, self.columns)
        return (
            2 * self.margin + column * (self.width + self.margin),
            2 * self.margin + row * (self.height + self.label + self.margin),
        )


def contact_sheet(
    frames: UInt8[np.ndarray, "f h w 3"], times: Sequence[float], columns: int
) -> UInt8[np.ndarray, "sheet_h sheet_w 3"]:
    """The frames row by row, at most `columns` side by side, each above its time in seconds.

    Frames are brought to a longer side of `SHORTEST` to `LONGEST` pixels; their shape is kept.
    """
    assert len(frames) == len(times), f"{len(frames)} frames and {len(times)} times"
    assert len(frames) >= 1 and columns >= 1, f"{len(frames)} frames in {columns} columns"
    layout = _layout(len(frames), *frames.shape[1:3], columns=columns)
    sheet = Image.new("RGB", layout.size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=round(layout.label * 0.62))
    for index, (frame, label) in enumerate(zip(frames, time_labels(times), strict=True)):
        left, top = layout.corner(index)
        sheet.paste(_scaled(frame, layout.width, layout.height), (left, top))
        middle = top + layout.height + layout.label // 2
        draw.text((left + layout.width // 2, middle), label, fill=INK, font=font, anchor="mm")
    return np.array(sheet)


def time_labels(times: Sequence[float]) -> list[str]:
    """Times in words that fit the longest: `1.25 s` under a minute, then `m:ss`, from an hour on `h:mm:ss`."""
    longest = max(times)
    if longest < 60:
        return [f"{time:.2f} s" for time in times]
    seconds = [round(time) for time in times]
    if longest < 3600:
        return [f"{time // 60}:{time % 60:02}" for time in seconds]
    return [f"{time // 3600}:{time // 60 % 60:02}:{time % 60:02}" for time in seconds]


class FrameSampler:
    """Keeps evenly spaced small frames of a video of unknown length; never more than `NUM_CANDIDATES`.

    Whenever there are too many, every second one goes and the spacing doubles.
    """

    def __init__(self) -> None:
        self._kept: list[UInt8[np.ndarray, "h w 3"]] = []
        self._stride = 1
        self._num_seen = 0

    def push(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Take the next frames of the video; all have one size."""
        for index, frame in enumerate(frames, start=self._num_seen):
            if index % self._stride:
                continue
            if len(self._kept) == NUM_CANDIDATES:
                self._kept = self._kept[::2]
                self._stride *= 2
                if index % self._stride:
                    continue
            self._kept.append(_small(frame))
        self._num_seen += len(frames)

    def pick(self, num: int) -> tuple[UInt8[np.ndarray, "n h w 3"], list[int]]:
        """At most `num` of the kept frames, evenly spaced from the first to the last, and their frame numbers."""
        assert self._kept, "no frame has been pushed"
        num = min(num, len(self._kept))
        chosen = [round(position) for position in np.linspace(0, len(self._kept) - 1, num)]
        return np.stack([self._kept[index] for index in chosen]), [index * self._stride for index in chosen]


class SheetSink(FileSink):
    """A contact sheet of the whole video as a PNG; it appears when it is closed or aborted. Memory is flat."""

    def __init__(self, target: Target, fps: int) -> None:
        super().__init__(target, fps)
        self._sampler = FrameSampler()
        self._part: Path | None = None

    def _append(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        self._sampler.push(frames)

    def _finish(self) -> None:
        if self.num_frames == 0:
            return
        frames, numbers = self._sampler.pick(NUM_SHOWN)
        sheet = contact_sheet(frames, [number / self.fps for number in numbers], COLUMNS)
        self._part = part_of(self._target)
        Image.fromarray(sheet).save(self._part, format="PNG")
        put_in_place(self._part, self._target)

    def _stop(self) -> None:
        self._finish()

    def _rescue(self) -> bool:
        if self._part is not None:
            self._part.unlink(missing_ok=True)
        return False


def _layout(num_frames: int, height: int, width: int, *, columns: int) -> SheetLayout:
    """Pictures of the same shape, a margin that grows with them, and no empty column."""
    columns = min(columns, num_frames)
    side = min(max(height, width, SHORTEST), LONGEST)
    shown_height, shown_width = scaled_size(height, width, side)
    return SheetLayout(
        columns=columns,
        rows=math.ceil(num_frames / columns),
        width=shown_width,
        height=shown_height,
        margin=round(side * 0.05),
        label=round(side * 0.1),
    )


def scaled_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of the same shape whose longer one is `side`."""
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _scaled(frame: UInt8[np.ndarray, "h w 3"], width: int, height: int) -> Image.Image:
    picture = Image.fromarray(frame)
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.LANCZOS)


def _small(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "small_h small_w 3"]:
    """A copy no larger than a sheet shows it."""
    height, width = scaled_size(*frame.shape[:2], side=min(max(frame.shape[:2]), LONGEST))
    return np.array(_scaled(frame, width, height))
