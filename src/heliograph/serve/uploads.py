"""Pictures and clips that clients send: taken in within limits, and decoded by a process of their own."""

import asyncio
import base64
import binascii
import json
import logging
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from starlette.datastructures import UploadFile

from heliograph.serve.errors import ApiError, bad_request
from heliograph.serve.folders import TakeFolder
from heliograph.serve.settings import UploadLimits
from heliograph.shapes import CHUNK_FRAMES

logger = logging.getLogger(__name__)

KEPT_FRAMES = 1 + 3 * CHUNK_FRAMES
"""Frames of a clip that a start needs: the first, and the newest three chunks."""

MAX_REPLY_BYTES = 4096
_DATA_URL = re.compile(r"data:[A-Za-z0-9.+/-]*(?:;[A-Za-z0-9=._-]+)*;base64,")


@dataclass(frozen=True)
class Wanted:
    """What a field may hold, and what becomes of it.

    Attributes:
        field: its name, for messages.
        height: pixels that frames are brought to.
        width: pixels.
        takes: which files are understood.
        keeps_source: a clip is shown again before what is made.
    """

    field: str
    height: int
    width: int
    takes: Literal["image", "video", "either"] = "either"
    keeps_source: bool = False


@dataclass(frozen=True)
class Decoded:
    """A decoded file, in a folder that lasts as long as the request."""

    folder: Path
    kind: Literal["image", "video"]
    num_frames: int

    def move_to(self, take: TakeFolder) -> None:
        """Make it the start of a video or session. Raises OSError."""
        shutil.move(self.folder / "start.npy", take.start)
        source = self.folder / "source.m4s"
        if source.exists() and source.stat().st_size:
            shutil.move(source, take.source)


class Uploads:
    """Takes files in; few at a time are decoded, the others wait."""

    def __init__(self, data_dir: Path, limits: UploadLimits) -> None:
        """Files lie in `data_dir` while they are looked at; what a crash left there is deleted."""
        self._root = data_dir / "uploads"
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True)
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.num_at_once)

    @asynccontextmanager
    async def decoded(self, value: object, wanted: Wanted) -> AsyncIterator[Decoded]:
        """The file in a field: a file of a form, or a data URL.

        Raises:
            ApiError: 400 or 413, it is too large, damaged, or of another kind.
        """
        folder = Path(tempfile.mkdtemp(dir=self._root))
        try:
            upload = folder / "upload"
            await self._take_in(value, wanted.field, upload)
            async with self._slots:
                decoded = await self._decode(upload, folder, wanted)
            yield decoded
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def own(self, video: Path, wanted: Wanted) -> AsyncIterator[Decoded]:
        """The same for a video that this server made. Raises ApiError."""
        folder = Path(tempfile.mkdtemp(dir=self._root))
        try:
            async with self._slots:
                decoded = await self._decode(video, folder, wanted)
            yield decoded
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _take_in(self, value: object, field: str, upload: Path) -> None:
        limit = self._limits.max_bytes
        if isinstance(value, UploadFile):
            with upload.open("wb") as file:
                while piece := await value.read(2**20):
                    file.write(piece)
                    if file.tell() > limit:
                        raise _too_large(field, limit)
        else:
            data = _from_data_url(value, field, limit)
            upload.write_bytes(data)
        if upload.stat().st_size == 0:
            raise bad_request(f"{field} is an empty file; send a picture or a clip", field, "invalid_file")

    async def _decode(self, upload: Path, folder: Path, wanted: Wanted) -> Decoded:
        limits = self._limits
        task = {
            "upload": str(upload),
            "folder": str(folder),
            "height": wanted.height,
            "width": wanted.width,
            "takes_image": wanted.takes != "video",
            "takes_video": wanted.takes != "image",
            "keeps_source": wanted.keeps_source,
            "keep_frames": KEPT_FRAMES,
            "max_pixels": limits.max_pixels,
            "max_frames": limits.max_frames,
            "max_seconds": limits.max_seconds,
            "max_bytes": limits.max_bytes,
            "memory_bytes": limits.memory_bytes,
            "cpu_seconds": limits.cpu_seconds,
        }
        reply = await self._run(task, wanted.field)
        if "error" in reply:
            raise bad_request(f"{wanted.field}: {reply['error']}", wanted.field, "invalid_file")
        decoded = Decoded(folder, reply["kind"], int(reply["num_frames"]))
        _check_arrays(decoded, wanted)
        return decoded

    async def _run(self, task: dict[str, Any], field: str) -> dict[str, Any]:
        """Run the decoder; one that dies or takes too long is the file's fault."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "heliograph.serve.decoder", json.dumps(task)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=task["folder"],
            env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._limits.wall_seconds):
                reply = await process.stdout.read(MAX_REPLY_BYTES)
                code = await process.wait()
        except TimeoutError:
            raise bad_request(
                f"{field}: reading the file took longer than {self._limits.wall_seconds:g} s; send a smaller one",
                field,
                "invalid_file",
            ) from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        try:
            return json.loads(reply)
        except ValueError:
            logger.warning("a decoder ended with %s", code)
            raise bad_request(
                f"{field}: the file could not be read within the limits, or is damaged; send another",
                field,
                "invalid_file",
            ) from None


def _from_data_url(value: object, field: str, limit: int) -> bytes:
    """The bytes in `data:…;base64,…`. Nothing is ever fetched for a client."""
    if not isinstance(value, str):
        raise bad_request(f"{field} is no file; upload one as multipart/form-data", field, "invalid_file")
    match = _DATA_URL.match(value[:200])
    if match is None:
        what = "URLs are not fetched here" if "://" in value[:64] else f"{field} is no file"
        raise bad_request(f"{what}; upload the file, or send data:image/png;base64,...", field, "invalid_file")
    if len(value) * 3 // 4 > limit + 3:
        raise _too_large(field, limit)
    try:
        return base64.b64decode(value[match.end() :], validate=True)
    except binascii.Error:
        raise bad_request(f"{field} holds damaged base64; encode the file again", field, "invalid_file") from None


def _too_large(field: str, limit: int) -> ApiError:
    return ApiError(413, f"{field} is larger than {limit} bytes; send a smaller file", param=field, code="too_large")


def _check_arrays(decoded: Decoded, wanted: Wanted) -> None:
    """The decoder may have been taken over: believe nothing about what it wrote."""
    try:
        frames = np.load(decoded.folder / "start.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise bad_request(f"{wanted.field}: the file could not be read; send another", wanted.field) from error
    expected = 1 if decoded.kind == "image" else min(decoded.num_frames, KEPT_FRAMES)
    if frames.dtype != np.uint8 or frames.shape != (expected, wanted.height, wanted.width, 3):
        raise bad_request(f"{wanted.field}: the file could not be read; send another", wanted.field)
