"""Images and videos of a user to frames of one size.

A picture of another shape than asked for is cropped about its middle (`Fit.CROP`) or squeezed (`Fit.STRETCH`, which is
what the reference does), then resized by Lanczos. See the reference's pre-processing.
"""

import struct
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from heliograph.errors import MediaError
from heliograph.media.colour import to_rgb
from heliograph.media.decode import TimedFrame, at_rate, decode
from heliograph.media.limits import MediaLimits, check_file, check_pixels
from heliograph.shapes import FPS

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What Pillow raises on a file that is cut short or damaged."""


class Fit(Enum):
    """How a picture of another shape fills the frame."""

    CROP = "crop"
    """Cut equal strips off both ends of the longer way; nothing is distorted."""

    STRETCH = "stretch"
    """Squeeze it, as the reference does."""


def read_image(
    path: str | Path, height: int, width: int, limits: MediaLimits | None = None, fit: Fit = Fit.CROP
) -> UInt8[np.ndarray, "h w 3"]:
    """The image as the camera meant it (EXIF orientation), in RGB, `height` by `width` pixels.

    See-through parts are shown on white. Of a moving image the first frame is taken.

    Raises:
        MediaError: the file is missing, no image, damaged, or larger than `limits` (`MediaLimits()`) allow.
    """
    path, limits = Path(path), limits or MediaLimits()
    check_file(path, limits)
    with _opened(path) as picture:
        check_pixels(path, picture.width, picture.height, limits)
        try:
            upright = ImageOps.exif_transpose(picture)
            return fill(_as_rgb(upright), height, width, fit)
        except DAMAGE as error:
            raise MediaError(f"{path} is damaged or cut short ({error}); give a whole image file") from error


def read_first_frame(
    path: str | Path, height: int, width: int, limits: MediaLimits | None = None, fit: Fit = Fit.CROP
) -> UInt8[np.ndarray, "h w 3"]:
    """The very first frame of a video; nothing after it is decoded. Arguments and errors as for `iter_video`."""
    return next(iter_video(path, height, width, limits, fit=fit, fps=None))


def read_video(
    path: str | Path,
    height: int,
    width: int,
    limits: MediaLimits | None = None,
    *,
    fit: Fit = Fit.CROP,
    fps: int | None = FPS,
    last: int | None = None,
    min_frames: int = 1,
) -> UInt8[np.ndarray, "f h w 3"]:
    """The frames of a video, all of them or the last `last`; arguments as for `iter_video`.

    Memory is bounded by `last`, or else by `limits.max_frames`, however long the video is.

    Raises:
        MediaError: as `iter_video`, or the whole video has fewer than `min_frames` frames, or more would be returned
            than `limits.max_frames`.
    """
    path, limits = Path(path), limits or MediaLimits()
    assert last is None or 1 <= last <= limits.max_frames, f"last={last} is not in 1..{limits.max_frames}"
    kept: deque[UInt8[np.ndarray, "h w 3"]] = deque(maxlen=last)
    num_frames = 0
    for frame in iter_video(path, height, width, limits, fit=fit, fps=fps):
        num_frames += 1
        kept.append(frame)
        if len(kept) > limits.max_frames:
            raise MediaError(f"{path} has more than the limit of {limits.max_frames} frames; cut it first")
    if num_frames < min_frames:
        rate = "" if fps is None else f" at {fps} frames per second"
        raise MediaError(f"{path} has {num_frames} frames{rate}; at least {min_frames} are needed, give a longer video")
    return np.stack(kept)


def iter_video(
    path: str | Path,
    height: int,
    width: int,
    limits: MediaLimits | None = None,
    *,
    fit: Fit = Fit.CROP,
    fps: int | None = FPS,
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames of a video one after another, upright, in RGB, `height` by `width` pixels; memory is flat.

    With `fps` the video is shown at that steady rate: at each 1/fps the frame that is on the screen then. With `None`
    every frame comes as the file has it. A file that was cut off gives the frames up to the cut.

    Raises:
        MediaError: the file is missing, no video, damaged before its end, or larger than `limits` (`MediaLimits()`)
            allow.
    """
    path, limits = Path(path), limits or MediaLimits()
    timed = decode(path, limits)
    return _filled(timed if fps is None else at_rate(timed, fps), height, width, fit)


def upright(timed: TimedFrame, height: int, width: int, fit: Fit) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a decoded frame, turned as its file says, filling `height` by `width`."""
    quarter_turns = round(timed.frame.rotation / 90)  # counter-clockwise, as numpy counts
    picture = Image.fromarray(np.rot90(to_rgb(timed.frame), quarter_turns))
    aspect = float(timed.pixel_aspect)
    return fill(picture, height, width, fit, 1 / aspect if quarter_turns % 2 else aspect)


def shown_size(timed: TimedFrame) -> tuple[int, int]:
    """Height and width of a decoded frame as it is shown: upright, with square pixels."""
    height, width, aspect = timed.frame.height, timed.frame.width, timed.pixel_aspect
    if round(timed.frame.rotation / 90) % 2 == 1:
        height, width, aspect = width, height, 1 / aspect
    return height, max(1, round(width * aspect))


def fill(
    picture: Image.Image, height: int, width: int, fit: Fit, pixel_aspect: float = 1.0
) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB picture made `height` by `width` by Lanczos, unchanged if it has that size already.

    `pixel_aspect` is the width of one of its pixels over the height.
    """
    box = (0.0, 0.0, float(picture.width), float(picture.height))
    if fit is Fit.CROP:
        box = middle_box(picture.width, picture.height, width / height / pixel_aspect)
    if picture.size == (width, height) and box == (0.0, 0.0, width, height):
        return np.array(picture)
    return np.array(picture.resize((width, height), Image.Resampling.LANCZOS, box=box))


def middle_box(width: int, height: int, aspect: float) -> tuple[float, float, float, float]:
    """The largest box of `aspect` (width over height) in the middle: left, top, right, bottom."""
    box_width, box_height = min(float(width), height * aspect), min(float(height), width / aspect)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def _opened(path: Path) -> Image.Image:
    """The image with its header read and no more."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns of large pictures; the limit here is firm and comes right after.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path)
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path} is far too large ({error}); make it smaller first") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{path} is not an image that can be read; give a PNG, JPEG or WebP file") from error
    except DAMAGE as error:
        raise MediaError(f"{path} is damaged or cut short ({error}); give a whole image file") from error


def _as_rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB of any kind of image; see-through parts over white."""
    if picture.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 bits per colour")
    if picture.mode.startswith("I"):  # 16-bit grey: Pillow would clip instead of scale
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")


def _filled(frames: Iterable[TimedFrame], height: int, width: int, fit: Fit) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Turn each frame into pixels once, also where it is shown several times."""
    latest, pixels = None, None
    for timed in frames:
        if pixels is None or timed is not latest:
            latest, pixels = timed, upright(timed, height, width, fit)
        yield pixels
