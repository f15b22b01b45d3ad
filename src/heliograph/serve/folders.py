"""Where the files of a video or session lie. Every name is made from checked ids, never from a client's text."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from heliograph.serve.ids import is_id
from heliograph.serve.records import ChunkRecord


@dataclass(frozen=True)
class TakeFolder:
    """The files of one video or session."""

    path: Path

    @property
    def start(self) -> Path:
        """Frames that it begins after (uint8 [f h w 3], npy)."""
        return self.path / "start.npy"

    @property
    def source(self) -> Path:
        """Fragments of a clip that comes before what is made."""
        return self.path / "source.m4s"

    @property
    def video(self) -> Path:
        """The finished video."""
        return self.path / "video.mp4"

    @property
    def thumbnail(self) -> Path:
        """One frame of the finished video."""
        return self.path / "thumbnail.webp"

    @property
    def spritesheet(self) -> Path:
        """Frames of the finished video side by side."""
        return self.path / "spritesheet.jpg"

    def fragment(self, chunk_id: str) -> Path:
        """A chunk's frames, coded."""
        return self._of(chunk_id, "m4s")

    def picture(self, chunk_id: str) -> Path:
        """A chunk's middle frame, small."""
        return self._of(chunk_id, "jpg")

    def state(self, chunk_id: str) -> Path:
        """What the model remembers after a chunk."""
        return self._of(chunk_id, "state")

    def make(self) -> None:
        """Make the folder. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Delete everything in it; what is gone already does not matter."""
        shutil.rmtree(self.path, ignore_errors=True)

    def adopt(self, other: "TakeFolder", chunks: Iterable[ChunkRecord], copies: Iterable[ChunkRecord]) -> None:
        """Share the files of another take's chunks, and its start; neither depends on the other afterwards."""
        self.make()
        for chunk, copy in zip(chunks, copies, strict=True):
            for name in ("fragment", "picture", "state"):
                share(getattr(other, name)(chunk.id), getattr(self, name)(copy.id))
        for name in ("start", "source"):
            share(getattr(other, name), getattr(self, name))

    def _of(self, chunk_id: str, ending: str) -> Path:
        assert is_id(chunk_id, "chunk"), chunk_id
        return self.path / f"{chunk_id}.{ending}"


class Folders:
    """The folders of all videos and sessions."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "takes"
        self.root.mkdir(exist_ok=True)

    def of(self, owner: str) -> TakeFolder:
        """The folder of a video or session."""
        assert is_id(owner, "video") or is_id(owner, "live"), owner
        return TakeFolder(self.root / owner)

    def sweep(self, owners: set[str]) -> None:
        """Delete what a crash left behind: folders of nobody, and files that were not ready."""
        for folder in self.root.iterdir():
            if folder.name not in owners:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for part in folder.glob(".heliograph-*.part"):
                part.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Space left on the disk."""
        return shutil.disk_usage(self.root).free


def share(source: Path, target: Path) -> None:
    """Give a file a second name, where it exists; a copy on disks that cannot."""
    if not source.exists() or target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
