"""Sources of clips, and which frames of them become windows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heliograph.data.clips import (
    SIZES,
    ClipError,
    ClipRecord,
    ClipRules,
    DataError,
    decode_clip,
    length_bucket,
    nearest_size,
    read_source,
)
from heliograph.errors import MediaError
from tests.data.videos import SMALL, caption, write_clip, write_list
from tests.media.clips import levels, shown, write_video

FIRST_OF_EACH_GREY = replace(SMALL, min_frames=33)


def grey_clip(path: Path, num_frames: int) -> ClipRecord:
    """A clip whose frame i has brightness 10 + 2·i, without loss to speak of."""
    return ClipRecord("grey", write_video(path, levels([10 + 2 * i for i in range(num_frames)])), "grey")


def brightness(frame: np.ndarray) -> float:
    return float(frame.mean())


@pytest.mark.parametrize(
    ("num_frames", "stride", "bucket"),
    [(121, 1, 121), (140, 1, 121), (141, 1, 141), (9999, 1, 501), (41, 1, 41), (48, 2, 37), (500, 2, 193)],
)
def test_a_clip_falls_in_the_longest_bucket_it_fills(num_frames: int, stride: int, bucket: int) -> None:
    assert length_bucket(num_frames, stride) == bucket


def test_a_clip_that_fills_no_bucket_of_a_chunk_is_refused() -> None:
    with pytest.raises(ClipError, match="40 frames; the shortest length that is used is 41"):
        length_bucket(40, 1)


def test_a_picture_goes_to_the_bucket_of_the_nearest_shape() -> None:
    assert nearest_size((1080, 1920), SIZES) == (384, 640)
    assert nearest_size((1920, 1080), SIZES) == (640, 384)
    assert nearest_size((500, 500), SIZES) == (512, 512)


def test_of_equally_near_buckets_the_last_wins() -> None:
    assert nearest_size((10, 10), ((20, 10), (10, 20))) == (10, 20)


def test_windows_follow_one_another_without_overlap(tmp_path: Path) -> None:
    record = grey_clip(tmp_path / "a.mp4", 81)
    windows = decode_clip(record, replace(FIRST_OF_EACH_GREY, buckets=((32, 48),)))
    assert windows.num_frames == 81 and windows.windows.shape == (2, 33, 32, 48, 3)
    seen = [brightness(frame) for frame in windows.windows.reshape(66, 32, 48, 3)]
    assert np.allclose(seen, [10 + 2 * i for i in range(66)], atol=2.5)


def test_the_cut_in_time_is_inside_the_clip_and_belongs_to_it(tmp_path: Path) -> None:
    record = grey_clip(tmp_path / "a.mp4", 110)
    starts = {
        seed: brightness(decode_clip(record, replace(FIRST_OF_EACH_GREY, seed=seed)).windows[0, 0]) for seed in range(4)
    }
    again = brightness(decode_clip(record, replace(FIRST_OF_EACH_GREY, seed=3)).windows[0, 0])
    assert starts[3] == again and len({round(start) for start in starts.values()}) > 1
    assert all(9 <= start <= 10 + 2 * (110 - 101) + 3 for start in starts.values())


def test_the_used_part_in_time_counts_in_frames_of_the_file(tmp_path: Path) -> None:
    record = replace(grey_clip(tmp_path / "a.mp4", 100), cut=(20, 61))
    clip = decode_clip(record, FIRST_OF_EACH_GREY)
    assert clip.num_frames == 41 and brightness(clip.windows[0, 0]) == pytest.approx(50, abs=2.5)


def test_every_second_frame_with_stride_2(tmp_path: Path) -> None:
    record = grey_clip(tmp_path / "a.mp4", 73)
    clip = decode_clip(record, replace(FIRST_OF_EACH_GREY, stride=2))
    assert clip.num_frames == 37 and len(clip.windows) == 1
    step = brightness(clip.windows[0, 1]) - brightness(clip.windows[0, 0])
    assert step == pytest.approx(4, abs=1.5)


def test_a_clip_is_taken_at_the_wanted_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "slow.mp4", levels([10 * (i // 2) for i in range(21)]), rate=12)
    clip = decode_clip(ClipRecord("slow", path, "slow"), replace(FIRST_OF_EACH_GREY, fps=24))
    expected = [10 * (i // 4) for i in range(42)]  # of which 41 are taken
    assert shown(clip.windows[0]) in (expected[:33], expected[1:34])


def test_the_used_part_of_the_picture_fills_the_frame(tmp_path: Path) -> None:
    frames = levels([20] * 41, height=64, width=96)
    frames[:, 16:48, 24:72] = 200
    path = write_video(tmp_path / "framed.mp4", frames)
    whole = decode_clip(ClipRecord("a", path, "a"), FIRST_OF_EACH_GREY).windows
    inside = decode_clip(ClipRecord("a", path, "a", crop=(24, 72, 16, 48)), FIRST_OF_EACH_GREY).windows
    assert whole.min() < 40 and inside.min() > 180


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"crop": (0, 97, 0, 64)}, "outside its 96x64 pixels"),
        ({"crop": (0, 64, 0, 64)}, "nearest in shape to 32x32"),
        ({"cut": (0, 40)}, "40 frames of the 81"),
        ({"cut": (500, 600)}, "no frame in its cut"),
    ],
)
def test_a_clip_that_does_not_fit_the_rules_is_refused(
    tmp_path: Path, change: dict[str, tuple[int, ...]], reason: str
) -> None:
    record = ClipRecord("a", write_clip(tmp_path / "a.mp4", 90, 64, 96), "a")
    with pytest.raises(ClipError, match=reason):
        decode_clip(replace(record, **change), SMALL)  # type: ignore[arg-type]


def test_a_file_that_is_no_video_is_a_media_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(MediaError, match="not a video"):
        decode_clip(ClipRecord("a", tmp_path / "a.mp4", "a"), SMALL)


def test_a_folder_gives_each_video_with_a_caption_beside_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.mp4", "deep/a.mkv", "silent.mov", "empty.webm"):
        (tmp_path / name).touch()
    (tmp_path / "notes.md").touch()
    caption(tmp_path / "b.mp4", "  a red fish\n")
    caption(tmp_path / "deep/a.mkv", "a bird")
    caption(tmp_path / "empty.webm", " ")
    records, refusals = read_source(tmp_path)
    assert [(record.id, record.caption) for record in records] == [("b", "a red fish"), ("deep/a", "a bird")]
    assert {(refusal.id, refusal.reason.split(":")[0]) for refusal in refusals} == {
        ("silent", "has no caption"),
        ("empty", "has no caption"),
    }


def test_a_list_gives_its_first_caption_cut_and_crop(tmp_path: Path) -> None:
    record = {"path": "x/a.mp4", "cap": ["one", "two"], "cut": [10, 90], "crop": [0, 4, 1, 3], "fps": 24.0}
    records, refusals = read_source(write_list(tmp_path / "clips.json", [record, {"path": "b.mp4", "cap": "plain"}]))
    assert not refusals
    assert records[0] == ClipRecord("x/a_10-90", tmp_path / "x/a.mp4", "one", (10, 90), (0, 4, 1, 3))
    assert records[1] == ClipRecord("b", tmp_path / "b.mp4", "plain")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("text", "has no path"),
        ({"cap": ["a"]}, "has no path"),
        ({"path": "a.mp4", "cap": []}, "has no caption"),
        ({"path": "a.mp4", "cap": [3]}, "has no caption"),
        ({"path": "a.mp4", "cap": "a", "cut": [5, 5]}, "has cut"),
        ({"path": "a.mp4", "cap": "a", "cut": ["0", "9"]}, "has cut"),
        ({"path": "a.mp4", "cap": "a", "crop": [0, 9, 9]}, "has crop"),
        ({"path": "a.mp4", "cap": "a", "crop": [9, 0, 0, 9]}, "has crop"),
    ],
)
def test_a_bad_record_is_left_out_with_its_reason_and_the_others_stay(
    tmp_path: Path, record: object, reason: str
) -> None:
    good = {"path": "good.mp4", "cap": "good"}
    records, refusals = read_source(write_list(tmp_path / "clips.json", [record, good]))  # type: ignore[list-item]
    assert [kept.id for kept in records] == ["good"] and reason in refusals[0].reason


def test_a_clip_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    twice = [{"path": "a.mp4", "cap": "one"}, {"path": "a.mp4", "cap": "two"}]
    records, refusals = read_source(write_list(tmp_path / "clips.json", twice))
    assert [record.caption for record in records] == ["one"] and "more than once" in refusals[0].reason


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: folder / "nowhere",
        lambda folder: folder,
        lambda folder: write_list(folder / "a.json", []),
        lambda folder: _text(folder / "a.json", "{"),
        lambda folder: _text(folder / "a.json", '{"a": 1}'),
    ],
)
def test_a_source_without_clips_is_a_data_error(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(DataError):
        read_source(make(tmp_path))


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "change",
    [{"kept": ((384, 648),)}, {"kept": ((64, 64),)}, {"kept": ()}, {"stride": 3}, {"min_frames": 32}, {"fps": 0}],
)
def test_rules_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataError):
        ClipRules(**change)  # type: ignore[arg-type]
