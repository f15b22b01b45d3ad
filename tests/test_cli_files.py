"""What users hand to the command line: real clips, damaged files, any text, checkpoints with a wrong tensor."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.commands import SMALL, decoded, run
from tests.media.clips import moving, write_video

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
CLIPS = sorted(REAL.glob("*.mp4"))


@pytest.mark.skipif(not CLIPS, reason="the real clips are not beside this checkout")
@pytest.mark.parametrize("start", ["--video", "--image"])
def test_real_clips_and_a_frame_of_one_start_a_video(start: str, tmp_path: Path, model: tuple[str, str]) -> None:
    file = CLIPS[0]
    if start == "--image":
        file = tmp_path / "frame.png"
        Image.fromarray(decoded(CLIPS[0])[10]).save(file)
    result = run(tmp_path, "generate", "go on", start, str(file), *model, *SMALL, "--num-frames", "34", "-o", "a.mp4")
    assert result.returncode == 0, result.stderr
    assert decoded(tmp_path / "a.mp4").shape == (34, 64, 64, 3)


def short_clip(folder: Path) -> Path:
    return write_video(folder / "short.mp4", moving(20))


def empty_file(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def text_file(folder: Path) -> Path:
    (folder / "notes.mp4").write_text("not a video")
    return folder / "notes.mp4"


def cut_clip(folder: Path) -> Path:
    whole = write_video(folder / "whole.mp4", moving(70)).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 20])
    return folder / "cut.mp4"


def cut_image(folder: Path) -> Path:
    Image.fromarray(moving(1)[0]).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:60])
    return folder / "cut.png"


def huge_image(folder: Path) -> Path:
    Image.new("1", (10_000, 10_000)).save(folder / "huge.png")
    return folder / "huge.png"


BAD_FILES: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "a clip shorter than a chunk": ("--video", short_clip, "33"),
    "an empty video": ("--video", empty_file, "empty.mp4"),
    "text named as a video": ("--video", text_file, "notes.mp4"),
    "a video without its end": ("--video", cut_clip, "cut.mp4"),
    "an image without its end": ("--image", cut_image, "cut.png"),
    "an image of 10,000 x 10,000 pixels": ("--image", huge_image, "huge.png"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_and_nothing_is_left(
    name: str, tmp_path: Path, refused: Callable[..., str], model: tuple[str, str]
) -> None:
    option, make, words = BAD_FILES[name]
    message = refused("generate", "go on", option, str(make(tmp_path)), *model, *SMALL, "-o", "out.mp4")
    assert words in message, message


def test_half_a_surrogate_pair_in_the_prompt_is_refused(refused: Callable[..., str], model: tuple[str, str]) -> None:
    assert "surrogate" in refused("generate", "a red \udcff fish", *model, *SMALL, "-o", "out.mp4")


def test_a_prompt_of_100_000_characters_is_answered(tmp_path: Path, model: tuple[str, str]) -> None:
    # What the text encoder takes is its first tokens; the rest is cut there, as the reference does.
    result = run(tmp_path, "generate", "red fish " * 11_112, *model, *SMALL, "--num-frames", "3", "-o", "a.mp4")
    assert result.returncode == 0, result.stderr
    assert len(decoded(tmp_path / "a.mp4")) == 3


def test_fast_mode_says_that_nothing_is_approximated_where_nothing_would_be_faster(
    tmp_path: Path, model: tuple[str, ...]
) -> None:
    asked = ("generate", "a fish", *model, *SMALL, "--num-frames", "3", "--device", "cpu", "-o")
    fast = run(tmp_path, *asked, "fast.npy", "--mode", "fast")
    assert fast.returncode == 0 and "nothing is approximated: fast mode has nothing to take here" in fast.stderr
    exact = run(tmp_path, *asked, "exact.npy")
    assert exact.returncode == 0 and "approximated" not in exact.stderr
    assert (tmp_path / "fast.npy").read_bytes() == (tmp_path / "exact.npy").read_bytes()


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "file").touch()
    message = refused("generate", "a fish", "--model", "no-such-model", "-o", "file/out.mp4")
    assert "file" in message and "no-such-model" not in message


def drop_one(tensors: dict[str, torch.Tensor]) -> str:
    del tensors["proj_out.weight"]
    return "proj_out.weight"


def add_one(tensors: dict[str, torch.Tensor]) -> str:
    tensors["blocks.0.extra"] = torch.zeros(1)
    return "blocks.0.extra"


def reshape_one(tensors: dict[str, torch.Tensor]) -> str:
    tensors["proj_out.bias"] = torch.zeros(3)
    return "proj_out.bias"


@pytest.mark.parametrize("damage", [drop_one, add_one, reshape_one])
def test_a_checkpoint_with_a_wrong_tensor_is_refused_by_its_name(
    damage: Callable[[dict[str, torch.Tensor]], str], tmp_path: Path, refused: Callable[..., str], fast_folder: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(fast_folder, folder)
    (file,) = (folder / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    name = damage(tensors)
    save_file(tensors, file)
    assert name in refused("generate", "a fish", "--model", str(folder), *SMALL, "-o", "out.mp4")


def test_a_still_and_a_sheet_and_an_animation_come_from_the_same_run(tmp_path: Path, model: tuple[str, str]) -> None:
    for suffix in ("png", "gif", "npy"):
        arguments = ("generate", "a fish", *model, *SMALL, "--num-frames", "40", "-o", f"a.{suffix}")
        assert run(tmp_path, *arguments).returncode == 0
    frames = np.load(tmp_path / "a.npy")
    assert frames.shape == (40, 64, 64, 3)
    with Image.open(tmp_path / "a.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 20
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.width > 64 * 2
