"""H.264 in mp4: fragments that can be played as soon as they are made, and the file made of them.

A fragmented mp4 needs no index at its end: a header, then one fragment per chunk. It plays as far as it goes, whenever
the writing stops, and is what a browser takes as a live stream. A complete file is copied, without encoding again, into
a plain mp4 with its index in front, which every player knows the length of.
"""

import io
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from jaxtyping import UInt8

from heliograph.errors import OutputError
from heliograph.media.colour import to_yuv
from heliograph.media.filesink import FileSink
from heliograph.media.target import GrowingFile, Target, part_of, put_in_place

X264_OPTIONS = {"preset": "veryfast", "crf": "18", "bf": "0", "x264-params": "mbtree=0"}
"""Visually clean at several times real time on two cores. Without B-frames a frame is shown in the order it is stored,
so fragments join without a shift. Without `mbtree`, which makes key frames better than the rest, one sees less of them:
there is one in every chunk. It costs 45 % more bytes (64×64, six videos) and a third of the jump."""

ENCODER_THREADS = 4
"""The same everywhere: the number changes the bytes that come out."""

FRAGMENTED = "empty_moov+default_base_moof+frag_keyframe+frag_discont+skip_trailer"
"""Header without an index, one fragment per key frame with its own absolute time, nothing after the last."""


class FragmentEncoder:
    """Frames to fragmented mp4: `header` once, then `encode` for each chunk; the bytes joined are a video.

    Every fragment starts with a key frame and depends on no other, so a viewer can join at any of them.

    Attributes:
        header: the initialisation segment (`ftyp` and `moov` boxes).
        mime_type: what a browser's media source is opened with, for example `video/mp4; codecs="avc1.64001e"`.
        num_frames: frames encoded so far, which is the time of the next one.
    """

    def __init__(self, height: int, width: int, fps: int) -> None:
        """`height` and `width` in pixels are even: colour is stored at half resolution."""
        assert height % 2 == 0 and width % 2 == 0, f"{width}x{height} is odd"
        self._size = height, width
        self._fps = fps
        self._num_fragments = 0
        self.num_frames = 0
        buffer = io.BytesIO()
        with self._container(buffer) as container:
            self._track(container)
            container.start_encoding()
        self.header = buffer.getvalue()
        self.mime_type = f'video/mp4; codecs="avc1.{_profile(self.header)}"'

    def encode(self, frames: UInt8[np.ndarray, "f h w 3"]) -> bytes:
        """One fragment (`moof` and `mdat` boxes) with at least one frame; the next in time after the last call's."""
        assert len(frames) and frames.shape[1:3] == self._size, f"frames {frames.shape} in a video of {self._size}"
        self._num_fragments += 1
        buffer = io.BytesIO()
        with self._container(buffer) as container:
            track = self._track(container)
            for offset, picture in enumerate(frames):
                frame = to_yuv(picture)
                frame.pts, frame.time_base = self.num_frames + offset, Fraction(1, self._fps)
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
        self.num_frames += len(frames)
        data = buffer.getvalue()
        assert data.startswith(self.header), "a fragment must decode with the header of the first"
        return data[len(self.header) :]

    def _container(self, buffer: io.BytesIO) -> OutputContainer:
        options = {
            "movflags": FRAGMENTED,
            "fragment_index": str(max(1, self._num_fragments)),
            "avoid_negative_ts": "disabled",  # else every fragment would be moved to time 0
        }
        return av.open(buffer, "w", format="mp4", options=options)

    def _track(self, container: OutputContainer) -> VideoStream:
        track = container.add_stream("libx264", rate=self._fps, options=X264_OPTIONS)
        track.height, track.width = self._size
        track.pix_fmt = "yuv420p"
        track.codec_context.time_base = Fraction(1, self._fps)
        track.codec_context.gop_size = 10_000  # one key frame per fragment: the first
        track.codec_context.thread_count = ENCODER_THREADS
        track.codec_context.colorspace = Colorspace.ITU709
        track.codec_context.color_range = ColorRange.MPEG
        track.codec_context.color_primaries = ColorPrimaries.BT709
        track.codec_context.color_trc = ColorTrc.BT709
        return track


class Mp4Sink(FileSink):
    """An mp4 file that plays as far as it goes while it is written, and is a plain mp4 after `close`.

    A chunk's fragment is handed to the system before `write` returns. `abort` leaves the fragmented file.
    """

    def __init__(self, target: Target, fps: int) -> None:
        super().__init__(target, fps)
        self._encoder: FragmentEncoder | None = None
        self._file: GrowingFile | None = None
        self._plain: Path | None = None

    def _append(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        if self._encoder is None or self._file is None:
            height, width = frames.shape[1:3]
            if height % 2 or width % 2:
                raise OutputError(
                    f"{self.path} cannot be {width}x{height}: H.264 needs even sides; "
                    "choose an even height and width, or write .npy"
                )
            self._encoder = FragmentEncoder(height, width, self.fps)
            self._file = GrowingFile(self._target)
            self._file.append(self._encoder.header)
        self._file.append(self._encoder.encode(frames))

    def _finish(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._plain = part_of(self._target)
        num_copied = make_plain(self._target.file, self._plain)
        assert num_copied >= self.num_frames, f"{num_copied} of {self.num_frames} frames were copied"
        put_in_place(self._plain, self._target)

    def _stop(self) -> None:
        if self._file is not None:
            self._file.close()

    def _rescue(self) -> bool:
        with suppress(OSError):
            self._stop()
        if self._plain is not None:
            self._plain.unlink(missing_ok=True)
        if self._file is not None and self.num_frames == 0:
            self._target.file.unlink(missing_ok=True)
        return self.num_frames > 0


def make_plain(fragmented: Path, plain: Path, max_frames: int | None = None) -> int:
    """Copy the coded frames of an mp4, at most `max_frames`, into a new one with its index in front; return how many.

    Raises OSError, for example on a full disk; an incomplete file may be left then.
    """
    num_frames = 0
    with (
        av.open(f"file:{fragmented}") as source,
        av.open(f"file:{plain}", "w", format="mp4", options={"movflags": "faststart"}) as copy,
    ):
        track = source.streams.video[0]
        copied_track = copy.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.dts is None or num_frames == max_frames:  # the empty packet at the end; no B-frames to wait for
                continue
            packet.stream = copied_track
            copy.mux(packet)
            num_frames += 1
    return num_frames


def _profile(header: bytes) -> str:
    """Profile, constraints and level as six hexadecimal digits, from the `avcC` box (ISO 14496-15)."""
    start = header.index(b"avcC") + 5
    return header[start : start + 3].hex()
