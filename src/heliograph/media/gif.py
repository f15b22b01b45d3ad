"""GIF, for places that play nothing better.

At most 12 frames per second, since size grows with the frames. Each chunk gets its own 256 colours, so a scene may
change and no more than one chunk is in memory; a fixed dither pattern keeps still parts still.
"""

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.stream import VideoStream
from jaxtyping import UInt8

from heliograph.media.filesink import FileSink
from heliograph.media.target import Target, part_of, put_in_place

GIF_FPS = 12
"""Most frames per second that are kept."""

DITHER = "dither=bayer:bayer_scale=4"
"""A pattern fixed to the screen, faint."""


class GifSink(FileSink):
    """A GIF that repeats for ever; it appears under its name when it is closed or aborted."""

    def __init__(self, target: Target, fps: int) -> None:
        super().__init__(target, fps)
        self._part: Path | None = None
        self._container: OutputContainer | None = None
        self._track: VideoStream | None = None

    def _append(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        if self._track is None:
            self._open(*frames.shape[1:3])
        assert self._track is not None and self._container is not None
        first = self.num_frames
        chosen = [index for index in range(len(frames)) if is_kept(first + index, self.fps)]
        for frame in paletted(frames[chosen], [first + index for index in chosen], self.fps):
            self._container.mux(self._track.encode(frame))

    def _open(self, height: int, width: int) -> None:
        self._part = part_of(self._target)
        self._container = av.open(f"file:{self._part}", "w", format="gif", options={"loop": "0"})
        self._track = self._container.add_stream("gif", rate=min(self.fps, GIF_FPS))
        self._track.height, self._track.width, self._track.pix_fmt = height, width, "pal8"
        self._track.codec_context.time_base = Fraction(1, self.fps)

    def _finish(self) -> None:
        if self._track is None or self._container is None or self._part is None:
            return
        self._container.mux(self._track.encode(None))
        self._container.close()
        put_in_place(self._part, self._target)

    def _stop(self) -> None:
        self._finish()

    def _rescue(self) -> bool:
        if self._container is not None:
            with suppress(OSError):
                self._container.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)
        return False


def is_kept(index: int, fps: int) -> bool:
    """Whether frame `index` of a video of `fps` is shown at `GIF_FPS`: evenly spaced, the first always."""
    return index == 0 or fps <= GIF_FPS or index * GIF_FPS // fps > (index - 1) * GIF_FPS // fps


def paletted(frames: UInt8[np.ndarray, "f h w 3"], times: list[int], fps: int) -> Iterator[av.VideoFrame]:
    """The frames in the 256 colours that suit all of them best; `times` are counted in 1/fps."""
    if not len(frames):
        return
    height, width = frames.shape[1:3]
    graph = _palette_graph(height, width, Fraction(1, fps))
    for picture, time in zip(frames, times, strict=True):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = time, Fraction(1, fps)
        graph.push(frame)
    graph.push(None)
    for _ in times:
        frame = graph.pull()
        assert isinstance(frame, av.VideoFrame)
        yield frame


def _palette_graph(height: int, width: int, time_base: Fraction) -> Graph:
    """Frames in; once the last one is in, a palette is made of all of them and they come out in its colours."""
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=VideoFormat("rgb24"), time_base=time_base)
    split, choose = graph.add("split"), graph.add("palettegen")
    use, drain = graph.add("paletteuse", DITHER), graph.add("buffersink")
    source.link_to(split)
    split.link_to(choose, 0, 0)
    split.link_to(use, 1, 0)
    choose.link_to(use, 0, 1)
    use.link_to(drain)
    graph.configure()
    return graph
