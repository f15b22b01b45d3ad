import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from heliograph.errors import OutputError
from heliograph.media.frames import read_video
from heliograph.media.mp4 import FragmentEncoder
from heliograph.media.sink import open_sink
from tests.media.clips import levels, moving, shown, stored_frames

ROOT = Path(__file__).parents[2]


def boxes(path: Path) -> list[str]:
    """Names of the file's outermost boxes."""
    data, start, names = path.read_bytes(), 0, []
    while start < len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        names.append(data[start + 4 : start + 8].decode())
        start += size
    return names


def test_frames_survive_within_a_few_levels(tmp_path: Path) -> None:
    clip = moving(40)
    with open_sink(tmp_path / "a.mp4", 24) as sink:
        sink.write(clip)
    assert np.abs(read_video(tmp_path / "a.mp4", 64, 96).astype(int) - clip).mean() < 3


@pytest.mark.parametrize(
    "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (255, 128, 0)]
)
def test_saturated_colours_come_back(colour: tuple[int, int, int], tmp_path: Path) -> None:
    clip = np.zeros((3, 32, 48, 3), np.uint8) + np.array(colour, np.uint8)
    with open_sink(tmp_path / "a.mp4", 24) as sink:
        sink.write(clip)
    assert np.abs(read_video(tmp_path / "a.mp4", 32, 48).astype(int) - clip).max() <= 3
    # The same by PyAV alone, which follows the file's tags.
    assert np.abs(stored_frames(tmp_path / "a.mp4").astype(int) - clip).max() <= 3


def test_a_pass_through_the_file_does_not_darken(tmp_path: Path) -> None:
    clip = moving(12, 128, 128)
    with open_sink(tmp_path / "a.mp4", 24) as sink:
        sink.write(clip)
    shift = (read_video(tmp_path / "a.mp4", 128, 128).astype(float) - clip).mean((0, 1, 2))
    assert np.abs(shift).max() < 0.5


def test_the_file_says_bt709_and_24_frames_per_second(tmp_path: Path) -> None:
    with open_sink(tmp_path / "a.mp4", 24) as sink:
        sink.write(moving(36))
    with av.open(str(tmp_path / "a.mp4")) as container:
        track = container.streams.video[0]
        coded = track.codec_context
        assert (coded.colorspace, coded.color_primaries, coded.color_trc, coded.color_range) == (1, 1, 1, 1)
        assert (coded.name, coded.pix_fmt, track.average_rate, track.frames) == ("h264", "yuv420p", 24, 36)
        assert container.duration == 1_500_000


def test_it_can_be_read_after_every_write_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    values = [10 * index for index in range(20)]
    with open_sink(path, 24) as sink:
        for start in (0, 5, 10, 15):
            sink.write(levels(values[start : start + 5]))
            assert shown(read_video(path, 32, 48)) == values[: start + 5]
            assert set(boxes(path)) == {"ftyp", "moov", "moof", "mdat"}
            assert sink.num_frames == start + 5
    assert shown(read_video(path, 32, 48)) == values


def test_closed_it_is_a_plain_file_with_its_index_in_front(tmp_path: Path) -> None:
    with open_sink(tmp_path / "a.mp4", 24) as sink:
        sink.write(moving(5))
    names = boxes(tmp_path / "a.mp4")
    assert "moof" not in names
    assert names.index("moov") < names.index("mdat")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]


def test_closing_encodes_nothing_again(tmp_path: Path) -> None:
    for name in ("closed", "aborted"):
        sink = open_sink(tmp_path / f"{name}.mp4", 24)
        sink.write(moving(40))
        sink.close() if name == "closed" else sink.abort()
    assert "moof" in boxes(tmp_path / "aborted.mp4")
    assert np.array_equal(stored_frames(tmp_path / "closed.mp4"), stored_frames(tmp_path / "aborted.mp4"))


def test_every_write_and_every_33_frames_begin_with_a_key_frame(tmp_path: Path) -> None:
    with open_sink(tmp_path / "a.mp4", 24) as sink:
        for num_frames in (33, 5, 70, 1):
            sink.write(moving(num_frames))
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [index for index, packet in enumerate(packets) if packet.is_keyframe] == [0, 33, 38, 71, 104, 108]
    assert [packet.pts for packet in packets] == [512 * index for index in range(109)]


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with open_sink(tmp_path / f"{name}.mp4", 24) as sink:
            sink.write(moving(20))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_fragment_plays_with_the_header_alone(tmp_path: Path) -> None:
    encoder = FragmentEncoder(32, 48, 24)
    encoder.encode(levels([50] * 3))
    second = encoder.encode(levels([100, 150]))
    (tmp_path / "joined.mp4").write_bytes(encoder.header + second)
    assert boxes(tmp_path / "joined.mp4") == ["ftyp", "moov", "moof", "mdat"]
    assert shown(stored_frames(tmp_path / "joined.mp4")) == [100, 150]
    with av.open(str(tmp_path / "joined.mp4")) as container:
        assert next(container.decode(video=0)).time == pytest.approx(3 / 24)


def test_the_mime_type_names_the_profile_of_the_stream() -> None:
    assert re.fullmatch(r'video/mp4; codecs="avc1\.6400[0-9a-f]{2}"', FragmentEncoder(64, 96, 24).mime_type)


@pytest.mark.parametrize("size", [(33, 48), (32, 49)])
def test_odd_sides_are_refused_and_leave_no_file(size: tuple[int, int], tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "a.mp4", 24)
    with pytest.raises(OutputError, match=f"{size[1]}x{size[0]}.*even"):
        sink.write(moving(3, *size))
    sink.close()
    assert not list(tmp_path.iterdir())


def test_an_interrupt_in_the_middle_of_a_write_leaves_the_chunks_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: FragmentEncoder, frames: np.ndarray) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_sink(tmp_path / "a.mp4", 24) as sink:
        sink.write(moving(7))
        monkeypatch.setattr(FragmentEncoder, "encode", interrupt)
        sink.write(moving(7))
    assert len(read_video(tmp_path / "a.mp4", 64, 96)) == 7


def test_an_interrupt_in_the_first_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: FragmentEncoder, frames: np.ndarray) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(FragmentEncoder, "encode", interrupt)
    with pytest.raises(KeyboardInterrupt), open_sink(tmp_path / "a.mp4", 24) as sink:
        sink.write(moving(7))
    assert not list(tmp_path.iterdir())


def test_an_interrupt_while_closing_leaves_the_fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(fragmented: Path, plain: Path) -> int:
        plain.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("heliograph.media.mp4.make_plain", interrupt)
    sink = open_sink(tmp_path / "a.mp4", 24)
    sink.write(moving(7))
    with pytest.raises(KeyboardInterrupt):
        sink.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]
    assert len(read_video(tmp_path / "a.mp4", 64, 96)) == 7


KILLED = """
import sys
from heliograph.media.sink import open_sink
from tests.media.clips import moving

sink = open_sink(sys.argv[1], 24)
for start in range(0, 10_000, 11):
    sink.write(moving(11, first=start))
    print(sink.num_frames, flush=True)
"""


def test_a_killed_program_leaves_every_frame_it_had_written(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        written = [int(child.stdout.readline()) for _ in range(3)][-1]
        child.kill()
        written = max([written, *(int(line) for line in child.stdout)])
    assert child.returncode == -signal.SIGKILL
    frames = read_video(path, 64, 96)
    assert len(frames) >= written >= 33
    assert np.abs(frames[:33].astype(int) - moving(33)).mean() < 3


FULL = """
import resource, signal, sys
import numpy as np
from heliograph.errors import OutputError
from heliograph.media.sink import open_sink

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, limit_writes, limit_close = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
noise = np.random.default_rng(0).integers(0, 256, (11, 64, 96, 3)).astype(np.uint8)
try:
    with open_sink(path, 24) as sink:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_writes, resource.RLIM_INFINITY))
        for _ in range(6):
            sink.write(noise)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_close, resource.RLIM_INFINITY))
except OutputError as error:
    print(error)
"""


def on_a_full_disk(path: Path, *, while_writing: int = resource.RLIM_INFINITY, while_closing: int = 0) -> str:
    """The error of a child process that may make no file larger than so many bytes."""
    arguments = [sys.executable, "-c", FULL, str(path), str(while_writing), str(while_closing)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_is_reported_with_what_can_be_played(tmp_path: Path) -> None:
    message = on_a_full_disk(tmp_path / "a.mp4", while_writing=150_000)
    match = re.search(r"a.mp4: File too large; the (\d+) frames \((.*) seconds\)", message)
    assert match is not None, message
    assert 11 <= int(match[1]) < 66
    assert float(match[2]) == pytest.approx(int(match[1]) / 24, abs=0.01)
    assert len(read_video(tmp_path / "a.mp4", 64, 96)) == int(match[1])
    assert set(boxes(tmp_path / "a.mp4")) == {"ftyp", "moov", "moof", "mdat"}


def test_a_disk_too_full_for_the_first_frames_leaves_no_file(tmp_path: Path) -> None:
    assert "no file was left" in on_a_full_disk(tmp_path / "a.mp4", while_writing=5000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [1000, 200_000])
def test_a_disk_too_full_for_the_plain_copy_keeps_the_fragments(limit: int, tmp_path: Path) -> None:
    message = on_a_full_disk(tmp_path / "a.mp4", while_closing=limit)
    assert "the 66 frames (2.75 seconds)" in message
    assert len(read_video(tmp_path / "a.mp4", 64, 96)) == 66
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    clip, process = moving(2), psutil.Process()
    with open_sink(tmp_path / "a.mp4", 24) as sink:
        for _ in range(20):
            sink.write(clip)
        before = process.memory_info().rss
        for _ in range(60):
            sink.write(clip)
        grown = process.memory_info().rss - before
    assert grown < 8 * 2**20
