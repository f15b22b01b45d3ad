from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heliograph.media.sink import open_sink
from heliograph.media.stills import (
    LONGEST,
    NUM_CANDIDATES,
    PAPER,
    SHORTEST,
    FrameSampler,
    contact_sheet,
    time_labels,
)
from tests.media.clips import levels, moving
from tests.media.test_mp4 import on_a_full_disk


def test_every_frame_is_on_the_sheet_row_by_row() -> None:
    frames = levels([10, 60, 110, 160, 210], 160, 240)
    sheet = contact_sheet(frames, [0.0, 1.0, 2.0, 3.0, 4.0], columns=2)
    cells = [(24 + row * (160 + 24 + 12), 24 + column * (240 + 12)) for row in range(3) for column in range(2)]
    for frame, (top, left) in zip(frames, cells, strict=False):
        assert np.array_equal(sheet[top : top + 160, left : left + 240], frame)
    top, left = cells[5]
    assert (sheet[top:, left:] == PAPER).all()


def test_each_frame_has_a_readable_time_below_it() -> None:
    sheet = contact_sheet(levels([200] * 3, 160, 240), [0.0, 1.5, 3.0], columns=3)
    for column in range(3):
        left = 24 + column * 252
        label = sheet[184 : 184 + 24, left : left + 240].mean(-1)
        assert (label < 120).sum() > 30, "there is ink"
        assert (label[:, :60] > 240).all() and (label[:, -60:] > 240).all(), "it is in the middle"


@pytest.mark.parametrize(("height", "width"), [(16, 16), (720, 1280), (1280, 720), (2, 2000)])
def test_frames_of_any_size_keep_their_shape_on_a_sheet_of_moderate_size(height: int, width: int) -> None:
    sheet = contact_sheet(np.zeros((1, height, width, 3), np.uint8), [0.0], columns=4)
    rows, columns = np.nonzero((sheet == 0).all(-1))
    tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert SHORTEST <= max(tall, wide) <= LONGEST
    assert abs(tall - max(1, max(tall, wide) * height / max(height, width))) <= 1


@pytest.mark.parametrize(
    ("times", "labels"),
    [
        ([0.0, 1.25, 59.9], ["0.00 s", "1.25 s", "59.90 s"]),
        ([0.0, 61.4, 119.6], ["0:00", "1:01", "2:00"]),
        ([0.0, 1800.0, 3725.0], ["0:00:00", "0:30:00", "1:02:05"]),
    ],
)
def test_times_are_written_to_fit_the_longest(times: list[float], labels: list[str]) -> None:
    assert time_labels(times) == labels


@pytest.mark.parametrize("num_frames", [1, 15, 16, 96, 97, 500, 3000])
def test_sampled_frames_are_even_whatever_the_length_and_few(num_frames: int) -> None:
    sampler = FrameSampler()
    frames = (np.arange(num_frames) % 251).astype(np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    for start in range(0, num_frames, 33):
        sampler.push(frames[start : start + 33])
        assert len(sampler._kept) <= NUM_CANDIDATES
    picked, numbers = sampler.pick(16)
    assert [int(frame[0, 0, 0]) for frame in picked] == [number % 251 for number in numbers]
    assert len(numbers) == min(16, num_frames)
    assert numbers[0] == 0 and numbers[-1] >= num_frames - 1 - num_frames / 48
    spacing = np.diff(numbers)
    assert num_frames == 1 or spacing.max() - spacing.min() <= max(1, num_frames / 48)


def test_a_video_becomes_one_png_with_sixteen_frames(tmp_path: Path) -> None:
    clip = moving(99, 128, 240)
    with open_sink(tmp_path / "a.png", 24) as sink:
        for start in (0, 33, 66):
            sink.write(clip[start : start + 33])
        assert not (tmp_path / "a.png").exists()
    with Image.open(tmp_path / "a.png") as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (24 * 2 + 4 * (128 + 24) + 3 * 12 - 24 + 12, 24 * 2 + 4 * 240 + 3 * 12, 3)
    assert np.array_equal(sheet[24 : 24 + 128, 24 : 24 + 240], clip[0])


def test_aborted_it_shows_what_there_is(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "a.png", 24)
    sink.write(moving(4))
    sink.abort()
    assert Image.open(tmp_path / "a.png").format == "PNG"


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    assert "File too large; no file was left" in on_a_full_disk(tmp_path / "a.png", while_closing=1000)
    assert not list(tmp_path.iterdir())
