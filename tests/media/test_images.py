import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from heliograph.errors import MediaError
from heliograph.media.frames import Fit, MediaLimits, middle_box, read_image
from tests.media.clips import moving


def saved(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def test_an_image_of_the_asked_size_is_unchanged(tmp_path: Path) -> None:
    picture = moving(1)[0]
    assert np.array_equal(read_image(saved(tmp_path / "a.png", picture), 64, 96), picture)


def test_camera_orientation_is_applied(tmp_path: Path) -> None:
    picture = moving(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    path = saved(tmp_path / "a.png", picture, exif=exif)
    assert np.array_equal(read_image(path, 96, 64), np.rot90(picture, -1))


def test_crop_keeps_the_middle_undistorted(tmp_path: Path) -> None:
    picture = moving(1, 32, 96)[0]
    path = saved(tmp_path / "a.png", picture)
    assert np.array_equal(read_image(path, 32, 32), picture[:, 32:64])


def test_stretch_is_what_diffusers_does(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", moving(1, 50, 70)[0])
    processor = VaeImageProcessor(vae_scale_factor=8, resample="lanczos")
    with Image.open(path) as picture:
        expected = np.asarray(processor.resize(picture, height=32, width=64))
    assert np.array_equal(read_image(path, 32, 64, fit=Fit.STRETCH), expected)


@pytest.mark.parametrize(("width", "height", "aspect"), [(100, 50, 1.0), (50, 100, 1.0), (30, 20, 1.5), (7, 1000, 3.3)])
def test_middle_box_has_the_aspect_and_touches_two_sides(width: int, height: int, aspect: float) -> None:
    left, top, right, bottom = middle_box(width, height, aspect)
    assert (right - left) / (bottom - top) == pytest.approx(aspect)
    assert left + right == pytest.approx(width) and top + bottom == pytest.approx(height)
    assert left == pytest.approx(0) or top == pytest.approx(0)
    assert left >= -1e-9 and top >= -1e-9


def test_see_through_parts_are_white(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[:4] = (200, 10, 30, 255)
    picture[4:] = (1, 2, 3, 0)
    frame = read_image(saved(tmp_path / "a.png", picture), 8, 8)
    assert (frame[:4] == (200, 10, 30)).all()
    assert (frame[4:] == 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    frame = read_image(saved(tmp_path / "a.png", grey), 8, 8)
    assert np.array_equal(frame[..., 0], (grey >> 8).astype(np.uint8))


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("P", "png"), ("1", "png"), ("LA", "png"), ("CMYK", "jpg")])
def test_every_colour_mode_becomes_rgb(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (16, 16), "white").convert(mode).save(path)
    assert (read_image(path, 16, 16) >= 250).all()


def test_of_a_moving_image_the_first_frame_is_taken(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    assert (read_image(tmp_path / "a.gif", 8, 8) == (255, 0, 0)).all()


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG that promises a size and ends there: whoever decodes it finds it damaged."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(data + struct.pack(">I", 8) + b"IDAT" + bytes(8))
    return path


@pytest.mark.parametrize("side", [10_000, 40_000])
def test_a_huge_image_is_refused_from_its_header_without_a_warning(side: int, tmp_path: Path) -> None:
    path = png_header(tmp_path / "big.png", side, side)
    with warnings.catch_warnings(), pytest.raises(MediaError, match=f"big.png.*{side * side}.*make it smaller"):
        warnings.simplefilter("error")
        read_image(path, 64, 64)


def test_the_pixel_limit_is_exact(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", moving(1, 10, 10)[0])
    assert read_image(path, 10, 10, MediaLimits(max_pixels=100)).shape == (10, 10, 3)
    with pytest.raises(MediaError, match=r"10x10 = 100 pixels.*limit of 99"):
        read_image(path, 10, 10, MediaLimits(max_pixels=99))


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def text(path: Path) -> Path:
    path.write_text("this is no picture\n" * 20)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "a.png", "does not exist"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: fifo(folder / "a.png"), "not an ordinary file"),
        (lambda folder: png_header(folder / "a.png", 8, 8), "damaged or cut short"),
        (lambda folder: cut(saved(folder / "a.jpg", moving(1)[0])), "damaged or cut short"),
        (lambda folder: cut(saved(folder / "a.webp", moving(1)[0])), "damaged or cut short"),
        (lambda folder: text(folder / "a.png"), "not an image"),
        (lambda folder: saved(folder / "a.tiff", np.zeros((8, 8), np.float32)), "8 bits per colour"),
    ],
)
def test_a_bad_image_is_refused_by_name(make, message: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(MediaError, match=message) as caught:
        read_image(path, 8, 8)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(MediaError, match=r"a.png is empty"):
        read_image(tmp_path / "a.png", 8, 8)


def test_a_file_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", moving(1)[0])
    with pytest.raises(MediaError, match="more than the limit of 100"):
        read_image(path, 8, 8, MediaLimits(max_bytes=100))
