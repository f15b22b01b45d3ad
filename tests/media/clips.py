"""Clips to write and files to read, made on the spot."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def moving(num_frames: int, height: int = 64, width: int = 96, first: int = 0) -> np.ndarray:
    """A smooth colourful picture that moves; frame `i` depends on `first + i` only."""
    rows, columns = np.mgrid[:height, :width]
    phases = [0.4 * (first + index) for index in range(num_frames)]
    return np.stack(
        [
            np.stack(
                [
                    128 + 110 * np.sin(columns / 17 + phase),
                    128 + 110 * np.sin(rows / 13 - phase),
                    128 + 110 * np.cos((rows + columns) / 23 + phase),
                ],
                axis=-1,
            )
            for phase in phases
        ]
    ).astype(np.uint8)


def levels(values: Sequence[int], height: int = 32, width: int = 48) -> np.ndarray:
    """One grey frame for each value, so that a frame can be told from its brightness."""
    return np.stack([np.full((height, width, 3), value, np.uint8) for value in values])


def shown(frames: np.ndarray) -> list[int]:
    """The grey values of such frames, to the nearest ten."""
    return [round(float(frame.mean()) / 10) * 10 for frame in frames]


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    times: Sequence[int] | None = None,
    rate: int = 24,
    movflags: str = "",
    prepare: Callable[[av.VideoStream], None] | None = None,
) -> Path:
    """A video by plain PyAV, apart from the code under test; `times` count in 1/rate."""
    options = {"movflags": movflags} if movflags else {}
    with av.open(str(path), "w", options=options) as container:
        track = container.add_stream("libx264", rate=rate, options={"crf": "10", "preset": "ultrafast"})
        track.height, track.width, track.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        track.codec_context.time_base = Fraction(1, rate)
        track.gop_size = 12
        if prepare is not None:
            prepare(track)
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = index if times is None else times[index], Fraction(1, rate)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def stored_frames(path: Path) -> np.ndarray:
    """Every frame of a file, by plain PyAV."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
