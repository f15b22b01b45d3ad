"""A video file to its frames and their times, one after another.

A file may come from a stranger: only ordinary containers are opened (a "video" may otherwise be a playlist that names
other files), and nothing but the file itself.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import EOFError as EndOfFileError
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.stream import VideoStream

from heliograph.errors import MediaError
from heliograph.media.limits import MediaLimits, check_file, check_pixels
from heliograph.shapes import FPS

CONTAINERS = "mov,matroska,avi,mpegts,mpeg,gif,apng,flv,ogg,asf,ivf,mxf"
"""FFmpeg's short names of the containers that are opened."""

KNOWN_KINDS = "mp4, mov, mkv, webm, avi, gif"
"""The ones worth naming to a user."""


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame and how it is shown.

    Attributes:
        time: seconds from the video's first frame to this one.
        duration: seconds it stays.
        pixel_aspect: width of one pixel over its height.
    """

    frame: av.VideoFrame
    time: Fraction
    duration: Fraction
    pixel_aspect: Fraction


def decode(path: Path, limits: MediaLimits) -> Iterator[TimedFrame]:
    """Every frame of the video in the order it is shown; times never go back. One frame is in memory at a time.

    A file that was cut off gives the frames up to the cut.

    Raises:
        MediaError: the file is no video, is damaged before its end, or is larger than `limits` allow.
    """
    check_file(path, limits)
    with _opened(path, limits) as container:
        track = _picture_track(path, container)
        if not track.width or not track.height:
            raise MediaError(
                f"{path} has no picture size, or one above {limits.max_pixels} pixels; make it smaller first"
            )
        check_pixels(path, track.width, track.height, limits)
        track.codec_context.options = {"max_pixels": str(limits.max_pixels)}  # the size may grow on the way
        if container.duration is not None:
            _check_seconds(path, container.duration / 1_000_000, limits)
        for timed in _timed(_frames(path, container, track), track):
            _check_seconds(path, float(timed.time), limits)
            yield timed


def at_rate(frames: Iterable[TimedFrame], fps: int) -> Iterator[TimedFrame]:
    """The frame that is on the screen at 0, 1/fps, 2/fps, … until the last one's time is over; at least one if any.

    A frame that comes up to a quarter of 1/fps late counts as on time: containers round their times, to milliseconds
    for example, and a steady video must come through unchanged.
    """
    slack = Fraction(1, 4 * fps)
    num_shown = 0
    on_screen = None
    for timed in frames:
        while on_screen is not None and Fraction(num_shown, fps) + slack < timed.time:
            yield on_screen
            num_shown += 1
        on_screen = timed
    if on_screen is None:
        return
    end = on_screen.time + on_screen.duration
    while num_shown == 0 or Fraction(num_shown, fps) + slack < end:
        yield on_screen
        num_shown += 1


@contextmanager
def _opened(path: Path, limits: MediaLimits) -> Iterator[InputContainer]:
    """The container, closed again at the end; a file of another kind is a MediaError."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file", "max_pixels": str(limits.max_pixels)}
    try:
        container = av.open(f"file:{path}", mode="r", options=options)
    except (FFmpegError, UnicodeError) as error:
        raise MediaError(
            f"{path} is not a video that can be read, or it is cut short; give a whole video file ({KNOWN_KINDS})"
        ) from error
    with container:
        yield container


def _picture_track(path: Path, container: InputContainer) -> VideoStream:
    """The first track of moving pictures; cover art of a song is none."""
    for track in container.streams.video:
        if track.codec_context is None:
            raise MediaError(f"{path} holds video of an unknown coding; convert it to H.264 mp4 first")
        if not track.disposition & Disposition.attached_pic:
            return track
    kind = "sound" if container.streams.audio else "no frames"
    raise MediaError(f"{path} has no video in it ({kind} only); give a video file")


def _check_seconds(path: Path, seconds: float, limits: MediaLimits) -> None:
    if seconds > limits.max_seconds:
        raise MediaError(
            f"{path} is longer than the limit of {limits.max_seconds:g} seconds (at least {seconds:.1f}); cut it first"
        )


def _frames(path: Path, container: InputContainer, track: VideoStream) -> Iterator[av.VideoFrame]:
    """Decoded frames. A packet that fails is the end of a file that was cut off, unless more data follow it."""
    num_frames = 0
    is_damaged = False
    for packet in _packets(container, track):
        if is_damaged and packet.size:
            raise MediaError(f"{path} is damaged: decoding failed after {num_frames} frames; give a whole file")
        frames, is_sound = _decoded(packet)
        for frame in frames:
            num_frames += 1
            yield frame
        # A recording may begin in the middle of a group: what comes before its first key frame is passed over.
        is_damaged = is_damaged or (not is_sound and num_frames > 0)
    if num_frames == 0:
        raise MediaError(f"{path} holds no frame that can be decoded; give a whole video file ({KNOWN_KINDS})")


def _packets(container: InputContainer, track: VideoStream) -> Iterator[av.Packet]:
    """Packets up to the end of the file, or to the point where the container can be read no further."""
    packets = container.demux(track)
    while True:
        try:
            packet = next(packets, None)
        except (InvalidDataError, EndOfFileError):
            return
        if packet is None:
            return
        yield packet


def _decoded(packet: av.Packet) -> tuple[list[av.VideoFrame], bool]:
    """The packet's good frames, and whether all of it was good."""
    try:
        frames = [frame for frame in packet.decode() if isinstance(frame, av.VideoFrame)]
    except FFmpegError:
        return [], False
    good = [frame for frame in frames if not frame.is_corrupt]
    return good, len(good) == len(frames)


def _timed(frames: Iterable[av.VideoFrame], track: VideoStream) -> Iterator[TimedFrame]:
    """Give each frame its time from the first one on; a frame without a time follows the one before."""
    usual = 1 / (track.average_rate or track.guessed_rate or Fraction(FPS))
    pixel_aspect = track.sample_aspect_ratio or Fraction(1)
    origin = None
    earliest = expected = Fraction(0)
    for frame in frames:
        clock = frame.time_base or track.time_base or Fraction(0)
        stamp = None if frame.pts is None or not clock else frame.pts * clock
        if origin is None:
            origin = stamp or Fraction(0)
        time = max(earliest, expected if stamp is None else stamp - origin)
        duration = frame.duration * clock if frame.duration > 0 and clock else usual
        yield TimedFrame(frame, time, duration, pixel_aspect)
        earliest, expected = time, time + duration
