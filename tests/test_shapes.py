"""Arithmetic between frames, chunks and pixels, and what is said when it does not work out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.errors import UserError
from heliograph.shapes import (
    CHUNK_FRAMES,
    MAX_FRAMES,
    MAX_SIDE,
    check_size,
    chunks_for,
    frames_for,
    size_multiple,
)
from tests.small import steady


def test_a_chunk_of_nine_latent_frames_is_33_frames() -> None:
    assert CHUNK_FRAMES == 33


@pytest.mark.parametrize(
    ("num_frames", "want"),
    [
        (1, 1),
        (33, 1),
        (34, 2),
        (66, 2),
        (81, 3),
        (99, 3),
        (132, 4),
        (231, 7),
        (240, 8),
        (264, 8),
        (726, 22),
        (1452, 44),
    ],
)
def test_chunk_counts_are_the_published_ones(num_frames: int, want: int) -> None:
    assert chunks_for(num_frames) == want


@steady
@given(st.integers(1, MAX_FRAMES))
def test_chunks_cover_the_frames_with_none_to_spare(num_frames: int) -> None:
    count = chunks_for(num_frames)
    assert (count - 1) * CHUNK_FRAMES < num_frames <= count * CHUNK_FRAMES


@pytest.mark.parametrize("num_frames", [0, -5, MAX_FRAMES + 1])
def test_a_frame_count_out_of_range_is_refused(num_frames: int) -> None:
    with pytest.raises(UserError, match=rf"num_frames={num_frames} is out of range; use 1 to {MAX_FRAMES}"):
        chunks_for(num_frames)


@pytest.mark.parametrize(("seconds", "want"), [(1.0, 24), (1.375, 33), (10.0, 240), (0.001, 1), (86400.0, MAX_FRAMES)])
def test_seconds_are_24_frames_each(seconds: float, want: int) -> None:
    assert frames_for(seconds) == want


@pytest.mark.parametrize("seconds", [0.0, -1.0, 86400.5, math.inf, math.nan])
def test_a_duration_out_of_range_is_refused(seconds: float) -> None:
    with pytest.raises(UserError, match=rf"seconds={seconds} is out of range; use a number above 0, up to 86400"):
        frames_for(seconds)


def test_every_level_doubles_the_multiple_of_16_pixels() -> None:
    assert [size_multiple(n) for n in (1, 2, 3)] == [16, 32, 64]


@pytest.mark.parametrize(
    ("height", "width", "num_levels"), [(384, 640, 3), (640, 384, 3), (704, 1280, 3), (480, 832, 1), (16, 16, 1)]
)
def test_sizes_of_whole_patches_on_every_level_are_accepted(height: int, width: int, num_levels: int) -> None:
    check_size(height, width, num_levels)


@pytest.mark.parametrize(
    ("height", "width", "num_levels", "said"),
    [
        (480, 832, 3, r"height=480 .*3 level.*multiple of 64 .*448 or 512"),
        (384, 650, 3, r"width=650 .*multiple of 64 .*640 or 704"),
        (384, 650, 1, r"width=650 .*multiple of 16 .*640 or 656"),
        (0, 640, 3, r"height=0 .*64 or 128"),
        (-64, 640, 3, r"height=-64 .*64 or 128"),
        (384, 5000, 3, r"width=5000 .*up to 4096.*4032 or 4096"),
    ],
)
def test_a_wrong_size_is_refused_with_the_two_nearest_right_ones(
    height: int, width: int, num_levels: int, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_size(height, width, num_levels)


@steady
@given(st.integers(1, MAX_SIDE), st.integers(1, 4))
def test_the_sizes_that_a_refusal_names_are_accepted(side: int, num_levels: int) -> None:
    try:
        check_size(side, 640, num_levels)
    except UserError as error:
        words = str(error).replace(",", " ").split()
        low, high = int(words[-3]), int(words[-1])
        check_size(low, high, num_levels)
        assert high - low == size_multiple(num_levels)
        assert low <= side <= high or side < low == size_multiple(num_levels)
    else:
        assert side % size_multiple(num_levels) == 0
