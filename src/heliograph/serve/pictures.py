"""Small pictures of what was made, and figures of how it looks."""

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import UInt8
from PIL import Image

from heliograph.media.colour import to_rgb
from heliograph.media.stills import scaled_size
from heliograph.media.target import write_whole
from heliograph.serve.records import Figures

CARD_SIDE = 256
"""Longer side of a chunk's picture, pixels."""

SHEET_SIDE = 320
"""Longer side of one frame on a spritesheet, pixels."""

SHEET_FRAMES, SHEET_COLUMNS = 16, 4


def card(frames: UInt8[np.ndarray, "f h w 3"]) -> bytes:
    """A JPEG of the middle frame."""
    return _encoded(Image.fromarray(frames[len(frames) // 2]), CARD_SIDE, "JPEG")


def figures_of(frames: UInt8[np.ndarray, "f h w 3"]) -> Figures:
    """Colour and sharpness, measured on five frames spread over the chunk."""
    sample = frames[:: max(1, len(frames) // 5)].astype(np.float32) / 255
    luma = sample @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    red, green, blue = (round(float(v), 5) for v in sample.mean(axis=(0, 1, 2)))
    edges = np.abs(np.diff(luma, axis=1)).mean() + np.abs(np.diff(luma, axis=2)).mean()
    saturation = (sample.max(axis=-1) - sample.min(axis=-1)).mean()
    return Figures(
        round(float(luma.mean()), 5), red, green, blue, round(float(saturation), 5), round(float(edges / 2), 5)
    )


def write_stills(video: Path, num_frames: int, height: int, width: int, thumbnail: Path, spritesheet: Path) -> None:
    """The thumbnail (WebP, the middle frame) and the spritesheet (JPEG) of a finished video. Raises OutputError."""
    places = [round(place) for place in np.linspace(0, num_frames - 1, SHEET_FRAMES)]
    kept = frames_at(video, {*places, num_frames // 2})
    middle = Image.fromarray(kept[num_frames // 2])
    write_whole(thumbnail, _encoded(middle, max(height, width), "WEBP"))
    cell_height, cell_width = scaled_size(height, width, min(SHEET_SIDE, max(height, width)))
    rows = SHEET_FRAMES // SHEET_COLUMNS
    sheet = Image.new("RGB", (cell_width * SHEET_COLUMNS, cell_height * rows))
    for number, place in enumerate(places):
        row, column = divmod(number, SHEET_COLUMNS)
        cell = Image.fromarray(kept[place]).resize((cell_width, cell_height), Image.Resampling.LANCZOS)
        sheet.paste(cell, (column * cell_width, row * cell_height))
    write_whole(spritesheet, _encoded(sheet, max(sheet.size), "JPEG"))


def frames_at(video: Path, numbers: set[int]) -> dict[int, UInt8[np.ndarray, "h w 3"]]:
    """Some frames of a video that this server made, by number. No more is decoded than from the key frame before each.

    A long video would else keep the finisher from live sessions for seconds.
    """
    found = {}
    with av.open(f"file:{video}") as container:
        decoder = container.streams.video[0].codec_context
        for first, group in _groups(container):
            wanted = [number - first for number in numbers if first <= number < first + len(group)]
            if not wanted:
                continue
            frames = [frame for packet in group[: max(wanted) + 1] for frame in decoder.decode(packet)]
            frames += decoder.decode(None)
            decoder.flush_buffers()
            found |= {first + offset: to_rgb(frames[offset]) for offset in wanted}
    return found


def _groups(container: InputContainer) -> Iterator[tuple[int, list[av.Packet]]]:
    """Packets from one key frame to the next, and the number of the first; made here, so frames are in order."""
    first, group = 0, []
    for packet in container.demux(video=0):
        if packet.size and packet.is_keyframe and group:
            yield first, group
            first, group = first + len(group), []
        if packet.size:
            group.append(packet)
    yield first, group


def _encoded(picture: Image.Image, side: int, kind: str) -> bytes:
    height, width = scaled_size(picture.height, picture.width, min(side, max(picture.size)))
    buffer = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(buffer, kind, quality=82)
    return buffer.getvalue()
