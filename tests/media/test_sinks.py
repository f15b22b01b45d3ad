import threading
from pathlib import Path

import numpy as np
import pytest

from heliograph.errors import OutputError
from heliograph.media.sink import BackgroundSink, FrameCollector, Sink, open_sink
from tests.media.clips import levels, moving

SUFFIXES = ["mp4", "gif", "png", "npy"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_frames_are_no_file_and_the_old_one_stays(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    with open_sink(path, 24) as sink:
        sink.write(moving(1)[:0])
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"old")
    with open_sink(path, 24, overwrite=True) as sink:
        assert sink.num_frames == 0
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_old_file_is_replaced_where_that_was_asked(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(bytes(1_000_000))
    with open_sink(path, 24, overwrite=True) as sink:
        sink.write(moving(3))
    assert 0 < path.stat().st_size < 200_000
    assert path.read_bytes()[:4] != bytes(4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_single_frame_is_a_video(suffix: str, tmp_path: Path) -> None:
    with open_sink(tmp_path / f"a.{suffix}", 24) as sink:
        sink.write(moving(1))
    assert (tmp_path / f"a.{suffix}").stat().st_size > 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_size_is_refused(suffix: str, tmp_path: Path) -> None:
    with open_sink(tmp_path / f"a.{suffix}", 24) as sink:
        sink.write(moving(2, 32, 48))
        with pytest.raises(AssertionError, match=r"\(48, 32\).*\(32, 48\)"):
            sink.write(moving(2, 48, 32))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_closing_twice_is_closing_once_and_then_no_more_is_taken(suffix: str, tmp_path: Path) -> None:
    sink = open_sink(tmp_path / f"a.{suffix}", 24)
    sink.write(moving(2))
    sink.close()
    before = (tmp_path / f"a.{suffix}").read_bytes()
    sink.close()
    sink.abort()
    assert (tmp_path / f"a.{suffix}").read_bytes() == before
    with pytest.raises(AssertionError, match="closed"):
        sink.write(moving(2))


def test_an_error_in_the_block_is_the_one_that_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_sink(tmp_path / "a.npy", 24) as sink:
        sink.write(moving(2))
        raise ZeroDivisionError
    assert len(np.load(tmp_path / "a.npy")) == 2


def test_collected_frames_are_one_array() -> None:
    clip = moving(10)
    sink: Sink = FrameCollector()
    with sink:
        sink.write(clip[:4])
        sink.write(clip[4:])
    assert isinstance(sink, FrameCollector)
    assert np.array_equal(sink.frames, clip)
    assert sink.num_frames == 10 and sink.path is None
    with pytest.raises(AssertionError):
        sink.write(moving(1, 16, 16))


def test_collected_frames_do_not_change_with_the_writer_s_array() -> None:
    clip, sink = levels([100]), FrameCollector()
    sink.write(clip)
    clip[:] = 0
    assert sink.frames.min() == 100


def test_nothing_collected_is_an_empty_array() -> None:
    assert FrameCollector().frames.shape == (0, 0, 0, 3)


class GatedSink(FrameCollector):
    """Takes a chunk whenever the gate lets one through."""

    def __init__(self, *, is_open: bool = False) -> None:
        super().__init__()
        self.gate = threading.Semaphore(1_000_000 if is_open else 0)
        self.entered = threading.Semaphore(0)
        self.ends: list[str] = []

    def write(self, frames: np.ndarray) -> None:
        self.entered.release()
        assert self.gate.acquire(timeout=20)
        super().write(frames)

    def close(self) -> None:
        self.ends.append(f"close after {self.num_frames}")

    def abort(self) -> None:
        self.ends.append(f"abort after {self.num_frames}")


class BrokenSink(GatedSink):
    """Fails on its second chunk."""

    def __init__(self, error: Exception) -> None:
        super().__init__(is_open=True)
        self.error = error

    def write(self, frames: np.ndarray) -> None:
        if self.num_frames:
            raise self.error
        super().write(frames)


def test_frames_arrive_in_order_through_the_background(tmp_path: Path) -> None:
    clip = moving(30)
    with BackgroundSink(open_sink(tmp_path / "a.npy", 24)) as sink:
        for start in range(0, 30, 3):
            sink.write(clip[start : start + 3])
        assert sink.path == tmp_path / "a.npy"
    assert np.array_equal(np.load(tmp_path / "a.npy"), clip)
    assert sink.num_frames == 30


@pytest.mark.parametrize("max_chunks", [1, 2, 4])
def test_a_slow_sink_blocks_its_writer_only_when_the_queue_is_full(max_chunks: int) -> None:
    inner = GatedSink()
    sink = BackgroundSink(inner, max_chunks)
    sink.write(levels([0]))
    assert inner.entered.acquire(timeout=20)  # one in work, and as many as the queue holds, go without waiting
    for value in range(max_chunks):
        sink.write(levels([value + 1]))
    blocked = threading.Thread(target=lambda: sink.write(levels([200])))
    blocked.start()
    blocked.join(0.05)
    assert blocked.is_alive()
    inner.gate.release()
    blocked.join(20)
    assert not blocked.is_alive()
    inner.gate.release(max_chunks + 1)
    sink.close()
    assert [int(frame[0, 0, 0]) for frame in inner.frames] == [*range(max_chunks + 1), 200]


def test_closing_waits_for_what_was_handed_over() -> None:
    inner = GatedSink()
    sink = BackgroundSink(inner)
    sink.write(levels([1]))
    sink.write(levels([2]))
    closing = threading.Thread(target=sink.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive() and inner.ends == []
    inner.gate.release(2)
    closing.join(20)
    assert inner.ends == ["close after 2"]
    sink.close()
    assert inner.ends == ["close after 2"]


def test_aborting_drops_what_waits_and_keeps_what_is_in_work() -> None:
    inner = GatedSink()
    sink = BackgroundSink(inner)
    for value in (1, 2, 3):
        sink.write(levels([value]))
    assert inner.entered.acquire(timeout=20)
    aborting = threading.Thread(target=sink.abort)
    aborting.start()
    assert sink._is_stopping.wait(20)
    inner.gate.release()
    aborting.join(20)
    assert inner.ends == ["abort after 1"]
    assert not sink._thread.is_alive()


@pytest.mark.parametrize(
    ("error", "kind"), [(OutputError("the disk is full"), OutputError), (KeyError("a bug"), RuntimeError)]
)
def test_an_error_of_the_inner_sink_reaches_the_writer(error: Exception, kind: type[Exception]) -> None:
    inner = BrokenSink(error)
    sink = BackgroundSink(inner)
    with pytest.raises(kind, match=r"the disk is full|a bug") as caught:
        for _ in range(100):  # never blocks for ever, though nobody takes the chunks any more
            sink.write(levels([1]))
        sink.close()
    assert caught.value.__cause__ is error
    with pytest.raises(kind):
        sink.close()
    assert inner.ends == ["abort after 1"]


def test_leaving_by_an_error_aborts_the_inner_sink() -> None:
    inner = GatedSink(is_open=True)
    with pytest.raises(ZeroDivisionError), BackgroundSink(inner) as sink:
        sink.write(levels([1]))
        raise ZeroDivisionError
    assert len(inner.ends) == 1 and inner.ends[0].startswith("abort")


def test_a_real_file_aborted_in_the_background_can_be_read(tmp_path: Path) -> None:
    sink = BackgroundSink(open_sink(tmp_path / "a.npy", 24), max_chunks=1)
    for value in range(5):
        sink.write(levels([value]))
    sink.abort()
    frames = np.load(tmp_path / "a.npy")
    assert 3 <= len(frames) <= 5
    assert [int(frame[0, 0, 0]) for frame in frames] == list(range(len(frames)))
