from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heliograph.media.gif import is_kept
from heliograph.media.sink import open_sink
from tests.media.clips import moving
from tests.media.test_mp4 import on_a_full_disk


def opened(path: Path) -> tuple[np.ndarray, list[int], int]:
    """Frames, how long each stays in milliseconds, and the loop count, by Pillow."""
    frames, durations = [], []
    with Image.open(path) as picture:
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            durations.append(picture.info["duration"])
            frames.append(np.asarray(picture.convert("RGB")))
        return np.stack(frames), durations, picture.info["loop"]


def closest(frames: np.ndarray, clip: np.ndarray) -> list[int]:
    """For each frame the number of the clip's frame that it is most like."""
    return [int(np.abs(clip.astype(int) - frame).mean((1, 2, 3)).argmin()) for frame in frames]


def test_every_second_frame_is_there_at_the_right_time_for_ever(tmp_path: Path) -> None:
    clip = moving(72)
    with open_sink(tmp_path / "a.gif", 24) as sink:
        for start in (0, 33, 66):
            sink.write(clip[start : start + 33])
    frames, durations, loop = opened(tmp_path / "a.gif")
    assert closest(frames, clip[:16])[:8] == list(range(0, 16, 2))
    assert np.abs(frames.astype(int) - clip[::2]).mean() < 12
    assert loop == 0
    assert sum(durations) == pytest.approx(3000, abs=20)
    assert set(durations) <= {80, 90}


def test_each_chunk_has_its_own_colours(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 96).astype(np.uint8)
    scenes = np.zeros((3, 4, 64, 96, 3), np.uint8)
    for channel in range(3):
        scenes[channel, ..., channel] = ramp
    with open_sink(tmp_path / "a.gif", 12) as sink:
        for scene in scenes:
            sink.write(scene)
    frames, _, _ = opened(tmp_path / "a.gif")
    for index, scene in enumerate(scenes):
        assert np.abs(frames[4 * index + 1].astype(int) - scene[0]).mean() < 2


@pytest.mark.parametrize("fps", [1, 8, 12, 16, 24, 25, 30, 60])
def test_frames_are_kept_evenly_and_at_most_twelve_a_second(fps: int) -> None:
    kept = [index for index in range(10 * fps) if is_kept(index, fps)]
    assert kept[0] == 0
    assert len(kept) == 10 * min(fps, 12)
    assert len(set(np.diff(kept))) <= 2


def test_single_frames_may_be_written_one_by_one(tmp_path: Path) -> None:
    clip = moving(6)
    with open_sink(tmp_path / "a.gif", 24) as sink:
        for frame in clip:
            sink.write(frame[None])
    frames, _, _ = opened(tmp_path / "a.gif")
    assert closest(frames, clip) == [0, 2, 4]


def test_it_appears_whole_and_the_old_one_stays_until_then(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(b"old")
    with open_sink(path, 24, overwrite=True) as sink:
        sink.write(moving(4))
        assert path.read_bytes() == b"old"
    assert len(opened(path)[0]) == 2


def test_aborted_it_shows_what_there_is(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "a.gif", 24)
    sink.write(moving(8))
    sink.abort()
    assert len(opened(tmp_path / "a.gif")[0]) == 4


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    assert "File too large; no file was left" in on_a_full_disk(tmp_path / "a.gif", while_writing=60_000)
    assert not list(tmp_path.iterdir())
