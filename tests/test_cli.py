"""The command line as a user meets it: a real process, its files, its exit code and its one line of error."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import SMALL, decoded, run
from tests.media.clips import moving, write_video


def test_a_prompt_becomes_an_mp4_with_exactly_the_frames_asked_for(tmp_path: Path, model: tuple[str, str]) -> None:
    result = run(tmp_path, "generate", "a red fish", *model, *SMALL, "--num-frames", "50", "-o", "fish.mp4")
    assert result.returncode == 0, result.stderr
    assert "chunk 2/2" in result.stderr and "real time" in result.stderr and "50 frames" in result.stderr
    assert decoded(tmp_path / "fish.mp4").shape == (50, 64, 64, 3)


def test_without_output_the_file_is_named_after_the_prompt_and_never_overwritten(
    tmp_path: Path, model: tuple[str, str]
) -> None:
    for _ in range(2):
        assert run(tmp_path, "generate", "A red fish!", *model, *SMALL, "--num-frames", "3").returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-red-fish-seed0-2.mp4", "a-red-fish-seed0.mp4"]


def test_latents_only_writes_whole_chunks_of_latents(tmp_path: Path, model: tuple[str, str]) -> None:
    arguments = ("generate", "a fish", *model, *SMALL, "--num-frames", "40", "--latents-only", "-o", "fish.npy")
    assert run(tmp_path, *arguments).returncode == 0
    latents = np.load(tmp_path / "fish.npy")
    assert latents.shape == (18, 16, 8, 8)
    assert latents.dtype == np.float32


def test_image_video_and_timeline_are_read_from_files(tmp_path: Path, model: tuple[str, str]) -> None:
    write_video(tmp_path / "clip.mp4", moving(70))
    Image.fromarray(moving(1)[0]).save(tmp_path / "start.jpg")
    (tmp_path / "story.txt").write_text("0:00 a red fish\n0:01 +1 a blue fish\n")
    rest = (*model, *SMALL, "--num-frames", "34", "--quiet")
    for index, start in enumerate(
        (("go on", "--video", "clip.mp4"), ("swim", "--image", "start.jpg"), ("--timeline", "story.txt"))
    ):
        result = run(tmp_path, "generate", *start, *rest, "-o", f"{index}.npy")
        assert result.returncode == 0, result.stderr
        assert np.load(tmp_path / f"{index}.npy").shape == (34, 64, 64, 3)


def test_ctrl_c_leaves_a_playable_file_and_says_what_is_in_it(tmp_path: Path, model: tuple[str, str]) -> None:
    command = (sys.executable, "-m", "heliograph.cli", "generate", "a fish", *model, *SMALL, "--seconds", "600")
    process = subprocess.Popen([*command, "-o", "long.mp4"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "chunk 3/" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert "long.mp4" in rest and "frames" in rest and "Traceback" not in rest
    assert len(decoded(tmp_path / "long.mp4")) >= 66


def test_kill_leaves_a_playable_file(tmp_path: Path, model: tuple[str, str]) -> None:
    command = (sys.executable, "-m", "heliograph.cli", "generate", "a fish", *model, *SMALL, "--seconds", "600")
    process = subprocess.Popen([*command, "-o", "long.mp4"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "chunk 5/" in line:
            break
    process.kill()
    process.wait(60)
    assert len(decoded(tmp_path / "long.mp4")) >= 33


def test_memory_is_flat_after_the_first_minute_of_ten(tmp_path: Path, model: tuple[str, str]) -> None:
    command = (sys.executable, "-m", "heliograph.cli", "generate", "a fish", *model, *SMALL)
    process = subprocess.Popen(
        [*command, "--seconds", "600", "-o", "long.mp4"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    resident = {}
    for line in process.stderr:
        for chunk in (44, 437):  # a minute, and the end of ten
            if line.startswith(f"chunk {chunk}/437"):
                status = Path(f"/proc/{process.pid}/status").read_text()
                resident[chunk] = int(status.split("VmRSS:")[1].split()[0]) / 1024
    assert process.wait(60) == 0
    assert resident[437] - resident[44] < 50, resident


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no prompt"),
        (("",), "prompt is empty"),
        (("a", "--timeline", "x.txt"), "both PROMPT and --timeline"),
        (("--timeline", "x.txt"), "x.txt"),
        (("a", "--seconds", "nan"), "seconds=nan"),
        (("a", "--seconds", "-1"), "seconds=-1"),
        (("a", "--seconds", "x"), "'x' is not a valid float"),
        (("a", "--num-frames", "0"), "num_frames=0"),
        (("a", "--num-frames", "99999999999"), "num_frames=99999999999"),
        (("a", "--seconds", "1", "--num-frames", "1"), "both seconds"),
        (("a", "--height", "100", "--width", "64"), "height=100"),
        (("a", "--steps", "2,x"), "2,2,2"),
        (("a", "--steps", "2,2"), "2 level(s)"),
        (("a", "--seed", "-5"), "seed=-5"),
        (("a", "--guidance-scale", "inf"), "guidance_scale=inf"),
        (("a", "--image-noise", "0.5"), "0.111,0.135"),
        (("a", "--image-noise", "0.9,0.1"), "0.9 to 0.1"),
        (("a", "--image", "x.png"), "x.png"),
        (("a", "--video", "x.mp4"), "x.mp4"),
        (("a", "-o", "out.avi"), ".mp4, .gif, .png, .npy"),
        (("a", "-o", "missing/out.mp4"), "missing"),
        (("a", "--latents-only", "-o", "out.mp4"), ".npy"),
        (("a", "--latents-only", "--match-chunks"), "--latents-only makes none"),
        (("a", "--device", "tpu"), "tpu"),
        (("a", "--dtype", "int3"), "int3"),
        (("a", "--nonsense"), "--nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_answered_with_one_line_and_exit_2(
    refused: Callable[..., str], model: tuple[str, str], arguments: tuple[str, ...], words: str
) -> None:
    message = refused("generate", *arguments, *model)
    assert words in message, message


def test_an_existing_file_is_only_replaced_when_asked(
    tmp_path: Path, refused: Callable[..., str], model: tuple[str, str]
) -> None:
    (tmp_path / "out.mp4").write_text("precious")
    arguments = ("generate", "a fish", *model, *SMALL, "--num-frames", "3", "-o", "out.mp4")
    assert "--overwrite" in refused(*arguments)
    assert (tmp_path / "out.mp4").read_text() == "precious"
    assert run(tmp_path, *arguments, "--overwrite").returncode == 0
    assert len(decoded(tmp_path / "out.mp4")) == 3


def test_an_unknown_model_is_answered_with_what_is_accepted(refused: Callable[..., str]) -> None:
    message = refused("generate", "a fish", "--model", "no-such-model")
    assert "tiny" in message and "no-such-model" in message


def test_doctor_explains_the_machine_and_the_model(tmp_path: Path, model: tuple[str, str]) -> None:
    result = run(tmp_path, "doctor", *model)
    assert result.returncode == 0, result.stderr
    assert "torch" in result.stdout and "GB" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train",), "Missing argument 'PRESET'"),
        (("train", "stage-one"), "no training preset 'stage-one'"),
        (("train", "stage-one"), "tiny-adapt-init, tiny-adapt-post"),
        (("train", "tiny-adapt-init"), "give --output DIR"),
        (("train", "tiny-adapt-init", "--size", "64"), "384x640"),
        (("train", "tiny-adapt-init", "--size", "60x64", "--dry-run"), "60"),
        (("train", "tiny-adapt-init", "--max-steps", "0", "--dry-run"), "too small"),
        (("train", "tiny-adapt-init", "--devices", "0", "--dry-run"), "x>=1"),
        (("train", "tiny-adapt-init", "--layout", "heap"), "'replicate', 'shard'"),
        (("train", "tiny-distill-dmd", "--start", "nowhere", "--dry-run"), "nowhere"),
        (("prepare", "clips"), "--output"),
        (("prepare", "clips", "--output", "out", "--size", "big"), "384x640"),
        (("prepare", "clips", "--output", "out", "--min-frames", "5"), "min_frames=5"),
        (("prepare", "prompts.txt", "--ode-pairs", "--output", "out"), "prompts.txt cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_in_training_is_answered_with_one_line_and_exit_2(
    refused: Callable[..., str], arguments: tuple[str, ...], words: str
) -> None:
    message = refused(*arguments)
    assert words in message, message


@pytest.mark.parametrize("verb", [(), ("generate",), ("doctor",), ("train",), ("prepare",)])
def test_help_shows_an_example_without_loading_pytorch(verb: tuple[str, ...]) -> None:
    code = f"""
import sys
from heliograph.cli import main
sys.argv = ["heliograph", *{verb!r}, "--help"]
try:
    main()
except SystemExit as leave:
    assert leave.code == 0
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert all(f"heliograph {name} " in result.stdout for name in verb)
