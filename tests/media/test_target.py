import os
from pathlib import Path

import pytest

from heliograph.errors import OutputError
from heliograph.media.sink import open_sink
from heliograph.media.target import GrowingFile, check_target, part_of, put_in_place


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip.avi", r"ends in \.avi; use one of \.mp4, \.gif, \.png, \.npy"),
        ("clip", r"has no ending; use one of \.mp4"),
        ("missing/clip.mp4", "missing does not exist; create it first"),
        ("folder.mp4", "is a folder"),
        ("old.mp4", "exists already.*--overwrite"),
        ("pipe.mp4", "not an ordinary file"),
        ("old.mp4/clip.mp4", "cannot write|does not exist"),
        ("x" * 300 + ".mp4", "File name too long"),
        ("a\0b.mp4", "NUL"),
    ],
)
def test_a_bad_place_is_refused_at_once_and_left_as_it_was(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "old.mp4").write_bytes(b"old")
    os.mkfifo(tmp_path / "pipe.mp4")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=message) as caught:
        open_sink(tmp_path / name, 24)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "old.mp4").read_bytes() == b"old"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        open_sink(tmp_path / "a.mp4", 24)
    tmp_path.chmod(0o700)


def test_a_place_the_system_refuses_is_reported_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *, exist_ok: bool) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match=r"a.mp4: Permission denied; choose another place"):
        open_sink(tmp_path / "a.mp4", 24)


@pytest.mark.parametrize("suffix", ["mp4", "gif", "png", "npy"])
def test_opening_makes_no_file_and_a_capital_suffix_is_the_same(suffix: str, tmp_path: Path) -> None:
    with open_sink(tmp_path / f"a.{suffix.upper()}", 24) as sink:
        assert sink.path == tmp_path / f"a.{suffix.upper()}"
    assert not list(tmp_path.iterdir())


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.npy").symlink_to(tmp_path / "real" / "a.npy")
    assert check_target(tmp_path / "link.npy", overwrite=False).file == (tmp_path / "real" / "a.npy").resolve()


def test_put_in_place_replaces_in_one_step(tmp_path: Path) -> None:
    target = check_target(tmp_path / "a.gif", overwrite=False)
    part = part_of(target)
    part.write_bytes(b"new")
    put_in_place(part, target)
    assert (tmp_path / "a.gif").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.gif"]


def test_a_growing_file_is_cut_back_to_its_last_good_end(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    file = GrowingFile(check_target(path, overwrite=False))
    file.append(b"headgood")
    file._write(b"half", at=file.end)  # what a write that failed on the way leaves behind
    file.rewrite_start(b"HEAD")
    file.close()
    file.close()
    assert path.read_bytes() == b"HEADgood"


def test_a_file_that_appeared_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = check_target(tmp_path / "a.npy", overwrite=False)
    (tmp_path / "a.npy").write_bytes(b"somebody else's")
    with pytest.raises(FileExistsError):
        GrowingFile(target)
    assert (tmp_path / "a.npy").read_bytes() == b"somebody else's"
