"""Where a result goes: the checks before any work, files that grow, and files that appear whole."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from heliograph.errors import OutputError


@dataclass(frozen=True)
class Target:
    """A file that may be written.

    Attributes:
        path: as the user gave it; for messages.
        file: the same with links followed; what is opened.
        overwrite: an existing file may be replaced.
    """

    path: Path
    file: Path
    overwrite: bool


def check_target(path: str | Path, *, overwrite: bool) -> Target:
    """Refuse a place that cannot be written, now rather than after the work; nothing is left there.

    Raises:
        OutputError: the file exists and `overwrite` is off, is no ordinary file, or its folder is missing or
            not writable.
    """
    path = Path(path)
    if "\0" in str(path):
        raise OutputError(f"{str(path)!r} is not a file name; leave out the NUL character")
    target = Target(path, Path(os.path.realpath(path)), overwrite)
    try:
        if target.file.exists():
            _check_replaceable(target)
        if not target.file.parent.is_dir():
            raise OutputError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
        probe = part_of(target)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another place") from error
    return target


def part_of(target: Target) -> Path:
    """A new name beside the target, for a file that is not ready to be seen; short, so that it is valid anywhere."""
    return target.file.with_name(f".heliograph-{secrets.token_hex(6)}.part")


def put_in_place(part: Path, target: Target) -> None:
    """Give a finished file its name in one step, after its bytes are on the disk."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target.file)


def write_whole(path: str | Path, data: bytes, *, overwrite: bool = True) -> None:
    """Write a small file: a reader sees the old one or the new one, also after a crash.

    Raises:
        OutputError: it cannot be written; what was there before is untouched.
    """
    target = check_target(path, overwrite=overwrite)
    part = part_of(target)
    try:
        part.write_bytes(data)
        put_in_place(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}; free some space or choose another place") from error


class GrowingFile:
    """A file that is good up to `end` at any moment, however the program ends.

    Each append goes to the system at once; what a failed one left behind is cut off by `close`.
    """

    def __init__(self, target: Target) -> None:
        """Create the file, or empty it where the target may be overwritten. Raises OSError."""
        self._file = target.file.open("w+b" if target.overwrite else "x+b", buffering=0)
        self.end = 0

    def append(self, data: bytes | memoryview) -> None:
        """Add bytes at the end. Raises OSError, for example on a full disk; `end` then stays where it was."""
        self._write(data, at=self.end)
        self.end += memoryview(data).nbytes

    def rewrite_start(self, data: bytes) -> None:
        """Replace the first bytes of the file by as many others. Raises OSError."""
        assert len(data) <= self.end, f"{len(data)} bytes do not lie inside the {self.end} written"
        self._write(data, at=0)

    def close(self) -> None:
        """Cut off what lies after `end`, wait for the disk, close. Raises OSError. May be called again."""
        if self._file.closed:
            return
        try:
            self._file.truncate(self.end)
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _write(self, data: bytes | memoryview, *, at: int) -> None:
        self._file.seek(at)
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self._file.write(rest) :]


def _check_replaceable(target: Target) -> None:
    """An existing file may be replaced if that was asked for and it is an ordinary file that can be written."""
    if target.file.is_dir():
        raise OutputError(f"{target.path} is a folder; give a file in it, for example {target.path}/out.mp4")
    if not target.file.is_file():
        raise OutputError(f"{target.path} is not an ordinary file; choose another name")
    if not target.overwrite:
        raise OutputError(f"{target.path} exists already; choose another name or allow it with --overwrite")
    with target.file.open("ab"):
        pass
