import re
from pathlib import Path

import numpy as np
import pytest

from heliograph.media.arrays import npy_header
from heliograph.media.sink import open_sink
from heliograph.media.target import GrowingFile
from tests.media.clips import moving
from tests.media.test_mp4 import on_a_full_disk


def test_frames_are_exact_and_the_file_is_valid_after_every_write(tmp_path: Path) -> None:
    path, clip = tmp_path / "a.npy", moving(20)
    with open_sink(path, 24) as sink:
        for start in (0, 5, 10, 15):
            sink.write(clip[start : start + 5])
            assert np.array_equal(np.load(path), clip[: start + 5])
            assert np.array_equal(np.load(path, mmap_mode="r"), clip[: start + 5])
    assert np.array_equal(np.load(path), clip)


def test_the_header_never_changes_its_length() -> None:
    assert len({len(npy_header("|u1", (num_frames, 384, 640, 3))) for num_frames in (0, 9, 10, 33, 10**6, 10**12)}) == 1


def test_frames_that_are_not_contiguous_are_written_as_they_look(tmp_path: Path) -> None:
    clip = moving(6)
    with open_sink(tmp_path / "a.npy", 24) as sink:
        sink.write(clip[::2, :, ::-1])
    assert np.array_equal(np.load(tmp_path / "a.npy"), clip[::2, :, ::-1])


def test_a_stop_between_frames_and_header_leaves_the_frames_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: GrowingFile, data: bytes) -> None:
        raise KeyboardInterrupt

    clip = moving(8)
    with pytest.raises(KeyboardInterrupt), open_sink(tmp_path / "a.npy", 24) as sink:
        sink.write(clip[:5])
        monkeypatch.setattr(GrowingFile, "rewrite_start", interrupt)
        sink.write(clip[5:])
    assert np.array_equal(np.load(tmp_path / "a.npy"), clip[:5])
    assert np.array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), clip[:5])


def test_a_full_disk_is_reported_with_what_can_be_loaded(tmp_path: Path) -> None:
    message = on_a_full_disk(tmp_path / "a.npy", while_writing=500_000)
    match = re.search(r"the (\d+) frames", message)
    assert match is not None, message
    assert np.load(tmp_path / "a.npy").shape == (int(match[1]), 64, 96, 3)
