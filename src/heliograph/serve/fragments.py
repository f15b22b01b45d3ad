"""Fragments of mp4 moved in time, and joined into files.

A fragment is encoded once and used many times: at its place in the recording, at another in a viewer's stream after a
rewind, at a third in a fork. Only its time and number differ (ISO 14496-12: `tfdt` and `mfhd`), so they are rewritten.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from heliograph.media.mp4 import make_plain
from heliograph.media.target import Target, part_of, put_in_place
from heliograph.shapes import FPS

_NESTED = (b"moov", b"trak", b"mdia", b"moof", b"traf")


def ticks_per_frame(header: bytes) -> int:
    """Units of the track's clock in one frame, from the header of a fragmented mp4 at 24 frames per second."""
    place = next(start for kind, start in _boxes(header) if kind == b"mdhd")
    version = header[place + 8]
    (timescale,) = struct.unpack_from(">I", header, place + (28 if version == 1 else 20))
    assert timescale % FPS == 0, timescale
    return timescale // FPS


def retimed(fragment: bytes, first_frame: int, sequence: int, ticks: int) -> bytes:
    """The same frames from frame number `first_frame` of a stream on.

    Args:
        fragment: one or more `moof` and `mdat` pairs, in order.
        first_frame: frames before it in the stream.
        sequence: number of the first `moof`; a stream's are rising.
        ticks: of `ticks_per_frame`.
    """
    moved = bytearray(fragment)
    base = None
    number = sequence
    for kind, start in _boxes(fragment):
        if kind == b"mfhd":
            struct.pack_into(">I", moved, start + 12, number)
            number += 1
        elif kind == b"tfdt":
            assert fragment[start + 8] == 1, "the clock of a fragment has 64 bits"
            (time,) = struct.unpack_from(">Q", fragment, start + 12)
            base = time if base is None else base
            struct.pack_into(">Q", moved, start + 12, time - base + first_frame * ticks)
    assert base is not None, "no fragment"
    return bytes(moved)


def join(header: bytes, fragments: Iterable[bytes], video: Path, num_frames: int) -> None:
    """Write a plain mp4 of the first `num_frames` frames, whole, replacing what was there. Raises OSError."""
    target = Target(video, video, overwrite=True)
    growing, plain = part_of(target), part_of(target)
    try:
        with growing.open("xb") as file:
            file.write(header)
            file.writelines(fragments)
        make_plain(growing, plain, num_frames)
        put_in_place(plain, target)
    finally:
        growing.unlink(missing_ok=True)
        plain.unlink(missing_ok=True)


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Kind and place of every box; those that hold boxes come before what is in them."""
    place = 0
    while place < len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        assert size >= 8 and place + size <= len(data), f"a damaged box at {place}"
        yield kind, place
        place += 8 if kind in _NESTED else size
