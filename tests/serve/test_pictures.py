"""Small pictures of a finished video."""

from pathlib import Path

import numpy as np

from heliograph.media.mp4 import Mp4Sink
from heliograph.media.target import check_target
from heliograph.serve.pictures import frames_at
from tests.serve.fakes import paint
from tests.serve.test_videos import frames_of


def test_a_frame_that_is_picked_is_the_one_that_plays(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    with Mp4Sink(check_target(video, overwrite=True), 24) as sink:
        for place, num_frames in enumerate((33, 26)):
            sink.write(paint("a", 0, place, 64, 96)[:num_frames])
    every = frames_of(video.read_bytes())
    picked = frames_at(video, {0, 20, 32, 33, 58})
    assert sorted(picked) == [0, 20, 32, 33, 58]
    assert all(np.abs(frame.astype(int) - every[number].astype(int)).max() <= 3 for number, frame in picked.items())
