"""The verbs `train` and `prepare` from end to end, on small models, and what they say to a user's mistakes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from heliograph.checkpoint import load_transformer, open_model
from heliograph.data.prepare import prepare as prepare_clips
from heliograph.errors import CheckpointError, OutputError, UserError
from heliograph.media.lock import hold_folder
from heliograph.train import presets, run
from heliograph.train.presets import TRAINING
from heliograph.train.start import NetworkSizes
from heliograph.train_cli import prepare, train
from tests.data.videos import SMALL, caption, encoders, write_clip

SIZES = NetworkSizes(num_layers=2, num_attention_heads=2, attention_head_dim=12, ffn_dim=32, rope_dim=(4, 4, 4))


@pytest.fixture
def tiny(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny presets with an even smaller network, and the random tiny model in the embedded model's place."""
    from dataclasses import replace

    smaller = {
        name: replace(config, network=SIZES if config.network else None, size=(64, 64), batch_size=1)
        for name, config in TRAINING.items()
    }
    monkeypatch.setattr(presets, "TRAINING", smaller)
    return tiny_folder


@pytest.fixture(scope="module")
def shards(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prepared clips of 64×64 pixels."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("data")
    (folder / "clips").mkdir()
    for name in "ab":
        caption(write_clip(folder / "clips" / f"{name}.mp4", 81, 64, 64), f"a clip named {name}")
    rules = replace(SMALL, buckets=((64, 64),), kept=((64, 64),))
    prepare_clips(folder / "clips", folder / "shards", encoders(tiny_folder), rules)
    return folder / "shards"


def call(*arguments: object) -> list[str]:
    """Run the verb; a user's mistake is raised as it is."""
    result = CliRunner().invoke(train, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def steps(output: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_a_run_makes_a_model_that_the_next_phase_starts_from(tiny: Path, shards: Path, tmp_path: Path) -> None:
    first = ("tiny-adapt-init", "--start", tiny, "--data", shards, "--output", tmp_path / "adapt", "--device", "cpu")
    rate = ("--log-every", 1, "--checkpoint-every", 1)
    call(*first, *rate, "--max-steps", 1, "--sample-every", 1)
    with pytest.raises(UserError, match="holds a run already; go on with --resume"):
        call(*first, *rate, "--max-steps", 2)
    call(*first, *rate, "--max-steps", 2, "--resume", "--sample-every", 0)
    assert steps(tmp_path / "adapt") == [1, 2]
    assert list((tmp_path / "adapt" / "tensorboard").glob("events.*"))
    sheet = np.array(Image.open(tmp_path / "adapt" / "samples" / "step-00000001-0.png"))
    assert sheet.std() > 1
    model = tmp_path / "adapt" / "model"
    network = load_transformer(open_model(str(model)), torch.float32, torch.device("cpu"))
    assert len(network.blocks) == 2 and network.proj_out.weight.any()

    second = ("tiny-multiscale-post", "--start", model, "--data", shards, "--output", tmp_path / "multiscale")
    call(*second, "--max-steps", 1, "--sample-every", 0, "--device", "cpu", "--quiet")
    trained = tmp_path / "multiscale" / "model"
    assert open_model(str(trained)).index.is_cfg_zero_star and (trained / "trained").is_dir()


def test_distillation_runs_from_a_model_and_its_teacher(tiny: Path, shards: Path, tmp_path: Path) -> None:
    call(
        *("tiny-distill-dmd", "--start", tiny, "--scores", tiny, "--data", shards, "--output", tmp_path / "run"),
        *("--max-steps", 1, "--sample-every", 0, "--log-every", 1, "--device", "cpu", "--quiet"),
    )
    assert open_model(str(tmp_path / "run" / "model")).index.is_distilled
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {"loss/student", "loss/critic", "student/dmd"} <= json.loads(line).keys()


def test_the_world_trains_without_any_data_folder(tiny: Path, tmp_path: Path) -> None:
    call(
        *("tiny-adapt-init", "--start", tiny, "--data", "diorama", "--output", tmp_path / "run", "--device", "cpu"),
        *("--max-steps", 1, "--sample-every", 0, "--quiet"),
    )
    assert (tmp_path / "run" / "model" / "model_index.json").is_file()


def test_torchrun_trains_in_two_processes_and_goes_on_where_they_stopped(
    tiny: Path, shards: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "heliograph.cli", "train", "tiny-adapt-post", "--from", str(tiny), "--data", str(shards)]
    command += ["--output", str(tmp_path / "run"), "--batch-size", "1", "--log-every", "1", "--sample-every", "0"]
    command += ["--layout", "shard", "--device", "cpu", "--checkpoint-every", "1", "--max-steps"]
    for rest in (("1",), ("2", "--resume")):
        result = subprocess.run([*command, *rest], capture_output=True, text=True, timeout=400, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("samples/s") == 1, result.stderr  # the first process alone speaks
    assert steps(tmp_path / "run") == [1, 2]
    assert open_model(str(tmp_path / "run" / "model")).index.class_name == "HeliosPipeline"


def test_a_dry_run_says_the_cost_and_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    lines = call("tiny-adapt-init", "--start", tiny, "--dry-run", "--output", tmp_path / "run", "--learning-rate", 0.5)
    assert any("stage.optimiser.learning_rate = 0.5" in line for line in lines) and not (tmp_path / "run").exists()
    values = json.loads("\n".join(call("distill-gan", "--dry-run", "--devices", 8, "--json")))
    assert values["devices"] == 8 and [role["role"] for role in values["roles"]] == [
        "student",
        "teacher and critic",
        "heads",
    ]


@pytest.mark.parametrize("name", TRAINING)
def test_a_dry_run_of_every_preset_tells_settings_parameters_tokens_and_memory(name: str, tiny: Path) -> None:
    start = ("--start", tiny) if name.startswith("tiny") else ()
    scores = ("--scores", tiny) if start and TRAINING[name].scores else ()
    lines = call(name, "--dry-run", *start, *scores)
    assert lines[0] == f"preset {name}"
    text = "\n".join(lines)
    assert "loop.max_steps = " in text and "optimiser.learning_rate = " in text
    assert "parameters, " in text and " of them trained" in text and "tokens on 1 device(s)" in text
    assert "GB on each device" in text and any(line.startswith("student ") for line in lines)
    assert lines[-1].startswith(("fits: ", "does not fit: ")) and " GB" in lines[-1]


MISTAKES: Sequence[tuple[tuple[str, ...], str]] = [
    (("stage-one",), "no training preset 'stage-one'"),
    (("tiny-adapt-init", "--data", "SHARDS"), "no place for the run: give --output"),
    (("tiny-adapt-init", "--output", "OUT"), "no data: give --data"),
    (("tiny-adapt-init", "--data", "TINY", "--output", "OUT"), "so it is no prepared data"),
    (
        ("tiny-adapt-init", "--data", "SHARDS", "--share", "1", "--share", "2", "--output", "OUT"),
        "2 shares for 1 folders",
    ),
    (("tiny-adapt-init", "--data", "SHARDS", "--data", "diorama", "--output", "OUT"), "cannot be mixed"),
    (("tiny-distill-ode", "--data", "SHARDS", "--output", "OUT"), "trains on ODE pairs"),
    (("tiny-adapt-init", "--scores", "TINY", "--data", "SHARDS", "--output", "OUT"), "no teacher and critic"),
    (("tiny-adapt-init", "--batch-size", "3", "--data", "SHARDS", "--output", "OUT"), "no 3 clips of one size"),
    (("tiny-adapt-init", "--batch-size", "0", "--data", "SHARDS", "--output", "OUT"), "batch_size=0"),
    (("tiny-distill-dmd", "--layout", "shard", "--learning-rate", "-1", "--data", "SHARDS"), "cannot train"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_named_before_anything_is_trained(
    arguments: tuple[str, ...], message: str, tiny: Path, shards: Path, tmp_path: Path
) -> None:
    places = {"SHARDS": str(shards), "TINY": str(tiny), "OUT": str(tmp_path / "out")}
    with pytest.raises(UserError, match=message):
        call(*(places.get(argument, argument) for argument in arguments), "--start", tiny, "--device", "cpu")
    assert not (tmp_path / "out" / "run.json").exists()  # the next try is no second run


def test_data_of_another_model_are_refused(tiny: Path, shards: Path, tmp_path: Path) -> None:
    from heliograph.tiny import TinySizes, write_random_tiny

    write_random_tiny(tmp_path / "other", sizes=TinySizes(text_dim=48))
    with pytest.raises(UserError, match="16 channels, text of width 32; this network reads 16 and 48"):
        call("tiny-adapt-init", "--start", tmp_path / "other", "--data", shards, "--output", tmp_path / "run")


def test_another_run_is_not_gone_on_with(tiny: Path, shards: Path, tmp_path: Path) -> None:
    arguments = (
        "tiny-adapt-init",
        "--start",
        tiny,
        "--data",
        shards,
        "--output",
        tmp_path,
        "--quiet",
        "--sample-every",
        0,
    )
    call(*arguments, "--max-steps", 1)
    with pytest.raises(UserError, match="holds another run: loop was"):
        call(*arguments, "--max-steps", 2, "--resume", "--seed", 5)


def test_two_runs_do_not_write_one_folder(tiny: Path, tmp_path: Path) -> None:
    with hold_folder(tmp_path), pytest.raises(OutputError, match="another run is writing"):
        call("tiny-adapt-init", "--start", tiny, "--data", "diorama", "--output", tmp_path, "--device", "cpu")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_start_that_is_no_model_is_refused(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model_index.json"):
        call("tiny-adapt-init", "--start", tmp_path, "--data", shards, "--output", tmp_path / "run")


def test_a_signal_stops_after_the_step_and_the_old_handler_returns() -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with run._stop_on_signal() as wants_stop:
        assert not wants_stop()
        # To this thread: sent to the process, another thread may take it, and Python hears of it a moment later.
        signal.raise_signal(signal.SIGTERM)
        assert wants_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_prepare_tells_what_it_made_and_left_out(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    caption(write_clip(tmp_path / "clips" / "a.mp4", 90, 32, 48), "a clip")
    caption(write_clip(tmp_path / "clips" / "b.mp4", 40, 32, 48), "a short clip")
    arguments = [str(tmp_path / "clips"), "--output", str(tmp_path / "out"), "--model", str(tiny_folder)]
    arguments += ["--size", "32x48", "--min-frames", "81", "--workers", "0", "--device", "cpu"]
    result = CliRunner().invoke(prepare, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "clips 2/2 · " in result.output and "1 of 2 clips, 1 of them new" in result.output
    assert "1 clips were left out; the reasons are in" in result.output
    again = CliRunner().invoke(prepare, arguments, catch_exceptions=False)
    assert "1 of 2 clips, 0 of them new" in again.output


def test_prepare_makes_ode_pairs_that_the_regression_trains_on(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red fish\n")
    arguments = [str(tmp_path / "prompts.txt"), "--ode-pairs", "--model", str(tiny), "--size", "64x64"]
    arguments += ["--steps", "1,1,1", "--chunks", "2", "--negative-prompt", "", "--output", str(tmp_path / "pairs")]
    result = CliRunner().invoke(prepare, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0 and "pairs of 1 prompts, 1 of them new" in result.output, result.output
    with pytest.raises(UserError, match="holds other pairs"):
        CliRunner().invoke(prepare, [*arguments, "--guidance-scale", "2", "--device", "cpu"], catch_exceptions=False)
    call(
        *("tiny-distill-ode", "--start", tiny, "--data", tmp_path / "pairs", "--output", tmp_path / "run"),
        *("--max-steps", 1, "--sample-every", 0, "--device", "cpu", "--quiet"),
    )
    followed = [*arguments[:-1], str(tmp_path / "followed"), "--student", str(tiny), "--device", "cpu", "--every", "2"]
    assert CliRunner().invoke(prepare, followed, catch_exceptions=False).exit_code == 0
    info = json.loads((tmp_path / "followed" / "pairs.json").read_text())
    assert (info["student"], info["num_chunks"], info["every"]) == (str(tiny), 2, 2)
    with pytest.raises(
        UserError, match="--student tiny has text_dim=128, its teacher 32; name a model that was distilled"
    ):
        CliRunner().invoke(prepare, [*arguments, "--student", "tiny", "--device", "cpu"], catch_exceptions=False)
    with pytest.raises(
        UserError, match="--share weighs folders of clips; tiny-distill-ode trains on every prompt alike"
    ):
        call(
            *("tiny-distill-ode", "--start", tiny, "--data", tmp_path / "pairs", "--share", 1),
            *("--output", tmp_path / "shared"),
        )
    with pytest.raises(UserError, match="holds ODE pairs, and tiny-adapt-init trains on clips"):
        call("tiny-adapt-init", "--start", tiny, "--data", tmp_path / "pairs", "--output", tmp_path / "other")


def test_prepare_fails_where_no_clip_could_be_taken(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"no video")
    caption(tmp_path / "clips" / "a.mp4", "a clip")
    arguments = [str(tmp_path / "clips"), "--output", str(tmp_path / "out"), "--model", str(tiny_folder)]
    with pytest.raises(UserError, match="none of the 1 clips"):
        CliRunner().invoke(
            prepare, [*arguments, "--size", "32x48", "--workers", "0", "--device", "cpu"], catch_exceptions=False
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--size", "31x48"), "multiples of 16"),
        (("--fps", "often"), "no rate"),
        (("--workers", "-1"), "workers=-1"),
        (("--min-frames", "5"), "min_frames=5"),
    ],
)
def test_prepare_names_a_mistake(change: tuple[str, str], message: str, tiny_folder: Path, tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--output", str(tmp_path / "out"), "--model", str(tiny_folder), *change]
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(prepare, arguments, catch_exceptions=False)


def test_a_size_that_is_none_is_explained() -> None:
    result = CliRunner().invoke(prepare, ["clips", "--output", "out", "--size", "big"])
    assert result.exit_code == 2 and "384x640" in result.output
