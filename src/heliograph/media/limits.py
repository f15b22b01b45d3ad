"""What a media file may be: the limits, and the checks that need no decoding."""

from dataclasses import dataclass
from pathlib import Path

from heliograph.errors import MediaError


@dataclass(frozen=True)
class MediaLimits:
    """How much of a file is taken before it is refused; the defaults suit a person's own files on their own machine.

    Attributes:
        max_pixels: pixels of one picture. The default admits a 50-megapixel photograph and 8K video.
        max_frames: frames that one read returns (a minute at 24 frames per second).
        max_seconds: seconds of video that one read decodes, whether it keeps them or not.
        max_bytes: size of the file.
    """

    max_pixels: int = 8192 * 8192
    max_frames: int = 60 * 24
    max_seconds: float = 600.0
    max_bytes: int = 4 * 2**30

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            assert value > 0, f"{name}={value} must be above 0"


def check_file(path: Path, limits: MediaLimits) -> None:
    """Refuse what is not an ordinary, readable, non-empty file of at most `limits.max_bytes`.

    Raises:
        MediaError: names the file and what it is instead.
    """
    try:
        if path.is_dir():
            raise MediaError(f"{path} is a folder; give one image or video file")
        if not path.exists():
            raise MediaError(f"{path} does not exist; check the name and the folder")
        if not path.is_file():
            raise MediaError(f"{path} is not an ordinary file; give one image or video file")
        num_bytes = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise MediaError(f"{path} cannot be opened: {error.strerror}; check the name and its permissions") from error
    if num_bytes == 0:
        raise MediaError(f"{path} is empty (0 bytes); give an image or video file")
    if num_bytes > limits.max_bytes:
        raise MediaError(f"{path} has {num_bytes} bytes, more than the limit of {limits.max_bytes}; give a smaller one")


def check_pixels(path: Path, width: int, height: int, limits: MediaLimits) -> None:
    """Refuse a picture of more than `limits.max_pixels` pixels, from its size alone.

    Raises:
        MediaError: names the file, its size and the limit.
    """
    if width * height > limits.max_pixels:
        raise MediaError(
            f"{path} is {width}x{height} = {width * height} pixels, more than the limit of {limits.max_pixels}; "
            "make it smaller first"
        )
