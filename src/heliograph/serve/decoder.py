"""The process that opens a stranger's file: `python -m heliograph.serve.decoder`, started by `uploads.py` alone.

It limits itself before it looks at the file, reads one picture or clip, writes plain arrays beside it, and answers with
one line of JSON. Whatever a crafted file does to it, the server only sees that it ended.
"""

import json
import resource
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_OUTPUT_BYTES = 2**30


def main() -> None:
    """Read the task from the command line, do it, print the result."""
    task = json.loads(sys.argv[1])
    restrict(task["memory_bytes"], task["cpu_seconds"])
    from heliograph.errors import UserError  # noqa: PLC0415 - nothing is loaded before the limits are set

    try:
        result = decode(task)
    except UserError as error:
        result = {"error": str(error).replace(task["upload"], "the file")}
    except MemoryError:
        result = {"error": "the file needs too much memory to be read; make it smaller first"}
    print(json.dumps(result))


def restrict(memory_bytes: int, cpu_seconds: int) -> None:
    """Bound what this process may use, for good."""
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, MAX_OUTPUT_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def decode(task: Mapping[str, Any]) -> dict[str, Any]:
    """Write `start.npy` (and `source.m4s` where it is asked for) into the task's folder.

    Raises:
        UserError: the file is neither a picture nor a clip, or is larger than allowed.
    """
    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    from heliograph.errors import MediaError  # noqa: PLC0415
    from heliograph.media.frames import read_image  # noqa: PLC0415
    from heliograph.media.limits import MediaLimits  # noqa: PLC0415

    Image.MAX_IMAGE_PIXELS = task["max_pixels"]
    limits = MediaLimits(task["max_pixels"], task["max_frames"], task["max_seconds"], task["max_bytes"])
    upload, folder = Path(task["upload"]), Path(task["folder"])
    size = task["height"], task["width"]
    if _is_still(upload):
        if not task["takes_image"]:
            raise MediaError("the file is a picture; send a clip (mp4, mov, mkv, webm)")
        np.save(folder / "start.npy", read_image(upload, *size, limits)[None])
        return {"kind": "image", "num_frames": 1}
    if not task["takes_video"]:
        raise MediaError("the file is no picture that can be read; send a PNG, JPEG or WebP file")
    return {"kind": "video", "num_frames": _decode_clip(task, upload, folder, limits)}


def _is_still(upload: Path) -> bool:
    """Whether the file is a picture that does not move."""
    from PIL import Image  # noqa: PLC0415

    from heliograph.media.frames import DAMAGE  # noqa: PLC0415

    try:
        with Image.open(upload) as picture:
            return not getattr(picture, "is_animated", False)
    except Image.DecompressionBombError:
        return True  # it is refused for its size when it is read
    except DAMAGE:
        return False


def _decode_clip(task: Mapping[str, Any], upload: Path, folder: Path, limits: Any) -> int:
    """Keep the first and the newest frames of a clip, and encode all of them where they are to be shown."""
    import numpy as np  # noqa: PLC0415

    from heliograph.errors import MediaError  # noqa: PLC0415
    from heliograph.media.frames import iter_video  # noqa: PLC0415
    from heliograph.serve.coding import ChunkCoder  # noqa: PLC0415
    from heliograph.shapes import CHUNK_FRAMES  # noqa: PLC0415

    height, width = task["height"], task["width"]
    coder = ChunkCoder(height, width) if task["keeps_source"] else None
    newest: deque[Any] = deque(maxlen=task["keep_frames"] - 1)
    first: list[Any] = []
    waiting: list[Any] = []
    num_frames = 0
    with (folder / "source.m4s").open("wb") as source:
        for frame in iter_video(upload, height, width, limits):
            num_frames += 1
            if num_frames > limits.max_frames:
                raise MediaError(f"the clip has more than {limits.max_frames} frames at 24 a second; cut it first")
            (newest if first else first).append(frame)
            if coder is not None:
                waiting.append(frame)
                if len(waiting) == CHUNK_FRAMES:
                    source.write(coder.encode(np.stack(waiting), (num_frames - 1) // CHUNK_FRAMES))
                    waiting = []
        if coder is not None and waiting:
            source.write(coder.encode(np.stack(waiting), num_frames // CHUNK_FRAMES))
    if num_frames < CHUNK_FRAMES:
        raise MediaError(f"the clip has {num_frames} frames at 24 a second; send one of at least {CHUNK_FRAMES}")
    np.save(folder / "start.npy", np.stack([*first, *newest]))
    return num_frames


if __name__ == "__main__":
    main()
