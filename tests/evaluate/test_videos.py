"""Finding videos and prompts in folders, and reading frames piece by piece."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from heliograph.errors import MediaError, UserError
from heliograph.evaluate import series
from heliograph.evaluate.videos import find_videos, pieces, survey
from tests.evaluate import known
from tests.media.clips import levels, shown, write_video


def named(folder: Path, *names: str) -> Path:
    """Files that are only looked at by name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"-")
    return folder


def prompts_of(folder: Path, prompts: Path | None) -> dict[str, str | None]:
    return {video.name: video.prompt for video in find_videos(folder, prompts)}


def test_prompts_of_a_heliosbench_csv_belong_to_the_ids_in_file_names(tmp_path: Path) -> None:
    folder = named(tmp_path / "videos", "2_240_ori81.mp4", "239_120_ori129.mp4", "other.mp4", "notes.md")
    file = tmp_path / "prompts.csv"
    file.write_text('id,prompt,duration\n2,"A mammoth, walking",240\n239,"Fire\nat night",120\n', encoding="utf-8")
    assert prompts_of(folder, file) == {
        "2_240_ori81.mp4": "A mammoth, walking",
        "239_120_ori129.mp4": "Fire\nat night",
        "other.mp4": None,
    }


def test_a_text_file_has_one_prompt_a_line_in_the_order_of_names(tmp_path: Path) -> None:
    folder = named(tmp_path / "videos", "b.mp4", "a.mp4", "c/d.webm")
    file = tmp_path / "prompts.txt"
    file.write_text("first\n\nsecond\nthird\n", encoding="utf-8")
    assert prompts_of(folder, file) == {"a.mp4": "first", "b.mp4": "second", "c/d.webm": "third"}


def test_a_text_file_beside_a_video_is_its_prompt(tmp_path: Path) -> None:
    folder = named(tmp_path, "a.mp4", "b.mp4")
    (folder / "a.txt").write_text(" a red fish \n", encoding="utf-8")
    assert prompts_of(folder, None) == {"a.mp4": "a red fish", "b.mp4": None}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.txt", "one\ntwo\n", "2 prompts for 1 videos"),
        ("p.csv", "number,text\n1,x\n", "needs id and prompt"),
        ("missing.csv", None, "cannot be read as text"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    folder = named(tmp_path / "videos", "a.mp4")
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        find_videos(folder, tmp_path / name)


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no video"):
        find_videos(tmp_path, None)
    with pytest.raises(UserError, match="there is no folder"):
        find_videos(tmp_path / "missing", None)


def test_a_survey_says_what_a_video_is_like(tmp_path: Path) -> None:
    shape = survey(write_video(tmp_path / "a.mp4", known.pan(30), rate=30))
    assert (shape.num_frames, shape.height, shape.width) == (30, known.HEIGHT, known.WIDTH)
    assert shape.fps == pytest.approx(30) and shape.is_steady


def test_a_video_of_variable_frame_rate_is_looked_at_as_it_is_shown(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", levels([50, 100, 200]), times=[0, 1, 4], rate=24)
    shape = survey(path)
    frames = np.concatenate([frames[old:] for frames, old in pieces(path, shape, 1)])
    assert not shape.is_steady and shape.fps == 24
    assert len(frames) == shape.num_frames
    assert shown(frames)[:5] == [50, 100, 100, 100, 200]


@pytest.mark.parametrize("num_frames", [1, 2, 33, 34, 70])
def test_series_of_pieces_are_those_of_all_frames_at_once(tmp_path: Path, num_frames: int) -> None:
    path = write_video(tmp_path / "a.mp4", known.pan(num_frames, right=2, height=16))
    shape = survey(path)
    names = [name for name in series.ALL if name != "flow"] + (["flow"] if num_frames == 34 else [])
    cut = list(pieces(path, shape, series.lookback(names)))
    whole = np.concatenate([frames[old:] for frames, old in cut])
    assert len(whole) == shape.num_frames == num_frames
    assert max(len(frames) - old for frames, old in cut) <= 33
    in_pieces, at_once = series.read_series(cut, names), series.read_series([(whole, 0)], names)
    for name in names:
        assert len(in_pieces[name]) == max(0, num_frames - series.ALL[name].reach)
        # Sums over a picture may differ in their last bits with where it lies in memory.
        np.testing.assert_allclose(in_pieces[name], at_once[name], rtol=1e-6)


def test_an_odd_size_and_pixels_that_are_not_square_are_shown_as_players_do(tmp_path: Path) -> None:
    def flat_pixels(track: av.VideoStream) -> None:
        track.codec_context.sample_aspect_ratio = Fraction(2)

    path = write_video(tmp_path / "wide.mp4", known.pan(3), prepare=flat_pixels)
    assert survey(path).width == 2 * known.WIDTH
    (frames, _), *_ = pieces(path, survey(path), 0)
    assert frames.shape == (3, known.HEIGHT, 2 * known.WIDTH, 3)


def test_a_video_of_odd_height_and_width_is_measured(tmp_path: Path) -> None:
    def every_pixel(track: av.VideoStream) -> None:
        track.pix_fmt = "yuv444p"  # the only way that H.264 has odd sizes

    frames = known.pan(6, right=1, height=37, width=65)
    path = write_video(tmp_path / "odd.mp4", frames, prepare=every_pixel)
    shape = survey(path)
    assert (shape.height, shape.width, shape.num_frames) == (37, 65, 6)
    read = series.read_series(pieces(path, shape, 2), series.ALL)
    assert all(np.isfinite(rows).all() and len(rows) == 6 - series.ALL[name].reach for name, rows in read.items())


def test_a_file_that_is_no_video_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="nothing"):
        survey(named(tmp_path, "nothing.mp4") / "nothing.mp4")
