from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from heliograph.errors import MediaError
from heliograph.media.decode import TimedFrame, _timed, at_rate
from heliograph.media.frames import Fit, MediaLimits, iter_video, read_first_frame, read_video
from tests.media.clips import levels, moving, shown, write_video

KEEP = {"height": 32, "width": 48}


def test_frames_come_back_in_order_and_colour(tmp_path: Path) -> None:
    clip = moving(30)
    frames = read_video(write_video(tmp_path / "a.mp4", clip), 64, 96)
    assert frames.shape == clip.shape
    assert np.abs(frames.astype(int) - clip).mean() < 3


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (130, 40, 200)])
def test_a_small_file_that_names_no_colour_matrix_is_bt601(colour: tuple[int, int, int], tmp_path: Path) -> None:
    clip = np.zeros((3, 32, 48, 3), np.uint8) + np.array(colour, np.uint8)
    path = write_video(tmp_path / "a.mp4", clip)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.colorspace == 2
    assert np.abs(read_video(path, 32, 48).astype(int) - clip).max() <= 3


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov"])
def test_a_steady_video_at_the_rate_is_unchanged(suffix: str, tmp_path: Path) -> None:
    values = [10 * (index % 25) for index in range(72)]
    path = write_video(tmp_path / f"a.{suffix}", levels(values))
    assert shown(read_video(path, **KEEP)) == values


def test_a_faster_video_is_thinned_and_a_slower_one_held(tmp_path: Path) -> None:
    values = [10 * index for index in range(24)]
    fast = write_video(tmp_path / "fast.mp4", levels(values), rate=48)
    slow = write_video(tmp_path / "slow.mp4", levels(values), rate=12)
    assert shown(read_video(fast, **KEEP)) == values[::2]
    assert shown(read_video(slow, **KEEP)) == [value for value in values for _ in range(2)]


def test_an_unsteady_video_shows_the_frame_that_is_on_the_screen(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", levels([50, 100, 150, 200]), times=[0, 1, 4, 6])
    assert shown(read_video(path, **KEEP))[:7] == [50, 100, 100, 100, 150, 150, 200]
    assert shown(read_video(path, **KEEP, fps=None)) == [50, 100, 150, 200]


@settings(max_examples=50)
@given(
    gaps=st.lists(st.fractions(0, Fraction(1, 4), max_denominator=1000), max_size=20),
    last=st.fractions(Fraction(1, 1000), Fraction(1, 4), max_denominator=1000),
    fps=st.integers(1, 60),
)
def test_at_each_moment_the_latest_frame_is_shown(gaps: list[Fraction], last: Fraction, fps: int) -> None:
    times = [sum(gaps[:index], Fraction(0)) for index in range(len(gaps) + 1)]
    frame: av.VideoFrame = av.VideoFrame(16, 16)
    timed = [TimedFrame(frame, time, last, Fraction(1)) for time in times]
    slack = Fraction(1, 4 * fps)
    result = list(at_rate(timed, fps))
    for index, each in enumerate(result):
        latest = max(k for k, time in enumerate(times) if time <= Fraction(index, fps) + slack)
        assert each is timed[latest]
    end = times[-1] + last
    assert len(result) == max(1, sum(1 for k in range(fps * 6) if Fraction(k, fps) + slack < end))


def test_no_frames_at_any_rate_are_no_frames() -> None:
    assert list(at_rate([], 24)) == []


def test_the_last_frames_are_the_end_of_the_whole(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(40))
    whole = read_video(path, 64, 96)
    assert np.array_equal(read_video(path, 64, 96, last=7), whole[-7:])
    assert np.array_equal(read_video(path, 64, 96, last=99), whole)
    assert np.array_equal(read_first_frame(path, 64, 96), whole[0])
    assert np.array_equal(np.stack(list(iter_video(path, 64, 96))), whole)


def test_too_few_frames_are_refused_with_both_counts(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", moving(20))
    with pytest.raises(MediaError, match=r"short.mp4 has 20 frames.*at least 33"):
        read_video(path, 64, 96, last=5, min_frames=33)
    assert len(read_video(path, 64, 96, min_frames=20)) == 20


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_a_turned_video_is_shown_upright(degrees: int, tmp_path: Path) -> None:
    clip = moving(4, 64, 64)
    path = write_video(tmp_path / "a.mp4", clip, prepare=lambda track: track.set_display_rotation(degrees))
    upright = np.rot90(clip, degrees // 90, axes=(1, 2))
    assert np.abs(read_video(path, 64, 64).astype(int) - upright).mean() < 3


def test_a_turned_video_has_its_sides_swapped(tmp_path: Path) -> None:
    clip = moving(4, 64, 96)
    path = write_video(tmp_path / "a.mp4", clip, prepare=lambda track: track.set_display_rotation(-90))
    assert np.abs(read_video(path, 96, 64).astype(int) - np.rot90(clip, -1, axes=(1, 2))).mean() < 3


def test_crop_counts_in_shown_shape_not_in_pixels(tmp_path: Path) -> None:
    """A file of square size whose pixels are twice as wide as high shows a 2:1 picture."""

    def widen(track: av.VideoStream) -> None:
        track.codec_context.sample_aspect_ratio = Fraction(2)

    clip = moving(3, 64, 64)
    path = write_video(tmp_path / "a.mp4", clip, prepare=widen)
    picture = Image.fromarray(read_video(path, 64, 64, fit=Fit.STRETCH)[0])
    expected = np.asarray(picture.resize((64, 64), Image.Resampling.LANCZOS, box=(16, 0, 48, 64)))
    assert np.array_equal(read_video(path, 64, 64)[0], expected)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (MediaLimits(max_frames=10), "more than the limit of 10 frames"),
        (MediaLimits(max_seconds=0.5), "longer than the limit of 0.5 seconds"),
        (MediaLimits(max_pixels=64 * 95), "96x64 = 6144 pixels"),
        (MediaLimits(max_bytes=1000), "more than the limit of 1000"),
    ],
)
def test_every_limit_is_kept(limits: MediaLimits, message: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(24))
    with pytest.raises(MediaError, match=message):
        read_video(path, 64, 96, limits)


def test_a_frame_that_lies_hours_ahead_does_not_fill_memory(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", levels([50, 100]), times=[0, 24 * 3600 * 5])
    with pytest.raises(MediaError, match="longer than the limit"):
        read_video(path, **KEEP)


def huge_gif(path: Path) -> Path:
    """A GIF of a single pixel on a screen of 10,000 by 10,000, in 40 bytes."""
    size = (10_000).to_bytes(2, "little")
    head = b"GIF89a" + size + size + b"\x80\0\0" + bytes(6)
    path.write_bytes(head + b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0\x3b")
    return path


def huge_mp4(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "crf": "51"})
        track.width, track.height, track.pix_fmt = 8208, 8208, "yuv420p"
        container.mux(track.encode(av.VideoFrame(8208, 8208, "yuv420p")))
        container.mux(track.encode(None))
    return path


@pytest.mark.parametrize(("make", "message"), [(huge_gif, "above 67108864 pixels"), (huge_mp4, "8208x8208 = 67371264")])
def test_a_huge_video_is_refused_before_decoding(
    make: Callable[[Path], Path], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "big.mp4")
    monkeypatch.setattr("heliograph.media.decode._decoded", None)
    with pytest.raises(MediaError, match=message):
        read_video(path, 64, 64)


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=44100)
        for index in range(5):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, index * 1024
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def without_frames(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=24)
        track.width, track.height, track.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    return path


def playlist(path: Path) -> Path:
    other = write_video(path.with_name("secret.ts"), moving(5))
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{other}\n#EXT-X-ENDLIST\n")
    return path


def joined(path: Path) -> Path:
    write_video(path.with_name("secret.mp4"), moving(5))
    path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    return path


def picture(path: Path) -> Path:
    Image.fromarray(moving(1)[0]).save(path, format="PNG")
    return path


def headless(path: Path) -> Path:
    """Cut before its index, which stands at the end."""
    write_video(path, moving(30))
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def text(path: Path) -> Path:
    path.write_text("this is no video\n" * 50)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "does not exist"),
        (lambda path: path.parent, "is a folder"),
        (text, "not a video"),
        (picture, "not a video"),
        (headless, "cut short"),
        (playlist, "not a video"),
        (joined, "not a video"),
        (sound_only, "no video in it .sound only"),
        (without_frames, "no video in it"),
    ],
)
def test_a_bad_video_is_refused_by_name(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4")
    for read in (read_video, read_first_frame):
        with pytest.raises(MediaError, match=message) as caught:
            read(path, 64, 96)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_video_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(MediaError, match=r"a.mp4 is empty"):
        read_video(tmp_path / "a.mp4", 64, 96)


def test_a_name_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "plain.mp4", moving(3)).rename(tmp_path / "http:x.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read_video("http:x.mp4", 64, 96)) == 3


@pytest.mark.parametrize("fraction", [0.4, 0.6, 0.9])
def test_a_cut_video_gives_the_frames_up_to_the_cut(fraction: float, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(60), movflags="faststart")
    whole = read_video(path, 64, 96)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    frames = read_video(path, 64, 96)
    assert 10 <= len(frames) < 60
    assert np.array_equal(frames, whole[: len(frames)])
    with pytest.raises(MediaError, match=rf"has {len(frames)} frames.*at least 60"):
        read_video(path, 64, 96, min_frames=60)


def test_damage_in_the_middle_is_reported_with_the_frames_before_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(60), movflags="faststart")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 6000] = bytes(6000)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"a.mp4 is damaged: decoding failed after \d\d frames"):
        read_video(path, 64, 96)


def test_a_recording_that_begins_between_key_frames_starts_at_the_next(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.ts", moving(60))
    whole = read_video(path, 64, 96)
    packets = 188
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 4 // packets * packets :])
    frames = read_video(path, 64, 96)
    assert 24 <= len(frames) <= 48
    assert np.array_equal(frames[-24:], whole[-24:])


def test_frames_without_a_time_follow_one_another(tmp_path: Path) -> None:
    with av.open(str(write_video(tmp_path / "a.mp4", moving(2), rate=25))) as container:
        frames = [av.VideoFrame(16, 16) for _ in range(3)]
        timed = list(_timed(frames, container.streams.video[0]))
    assert [each.time for each in timed] == [0, Fraction(1, 25), Fraction(2, 25)]
