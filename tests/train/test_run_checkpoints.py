"""Checkpoints on disk: whole or absent, whoever is killed when, and however full the disk is."""

import json
import random
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch

from heliograph.errors import CheckpointError, OutputError
from heliograph.train.checkpoint import Checkpoints
from tests.train.workers import ALONE, Case, start, train_and_save

ROUNDS = 10


def store(folder: Path) -> Checkpoints:
    return Checkpoints(folder, ALONE)


def finished(folder: Path) -> int:
    """Steps of the newest checkpoint, which must be complete."""
    newest = store(folder / "checkpoints").newest()
    return newest.step if newest else 0


def test_a_run_that_is_killed_ten_times_loses_only_unfinished_steps(tmp_path: Path) -> None:
    case = Case("adapter", max_steps=10_000, checkpoint_every=1)
    luck = random.Random(0)
    reached = 0
    for _ in range(ROUNDS):
        process = start(train_and_save, case, tmp_path)
        while finished(tmp_path) <= reached:
            assert process.is_alive(), "the run ended by itself"
            time.sleep(0.01)
        time.sleep(luck.uniform(0, 0.15))  # anywhere in a step or in the writing of the next checkpoint
        process.kill()
        process.join()
        reached = finished(tmp_path)
    resumed = case.trainer(ALONE, tmp_path)
    assert resumed.resume() and resumed.step == reached
    straight = case.trainer(ALONE, tmp_path / "straight")
    for _ in range(reached):
        straight.take_step()
    expected, got = straight._tensors(), resumed._tensors()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_what_a_killed_process_left_half_written_goes_with_the_next_checkpoint(tmp_path: Path) -> None:
    for step in (7, 8):
        (tmp_path / f".partial-{step:08}").mkdir()
        (tmp_path / f".partial-{step:08}" / "__9_0.distcp").write_text("half")
    path = store(tmp_path).save(8, {"a": torch.zeros(1)}, {})
    assert list(tmp_path.iterdir()) == [path] and not (path / "__9_0.distcp").exists()


def test_looking_at_a_run_leaves_what_it_is_writing_alone(tmp_path: Path) -> None:
    (tmp_path / ".partial-00000007").mkdir()
    assert store(tmp_path).newest() is None and (tmp_path / ".partial-00000007").is_dir()


def test_tensors_and_state_come_back(tmp_path: Path) -> None:
    saved = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(4, dtype=torch.int64)}
    store(tmp_path).save(12, saved, {"loader": {"batches": 3}})
    newest = store(tmp_path).newest()
    assert newest is not None and (newest.step, newest.state) == (12, {"loader": {"batches": 3}})
    loaded = {name: torch.zeros_like(tensor) for name, tensor in saved.items()}
    store(tmp_path).load(newest, loaded)
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)


def test_a_disk_with_too_little_room_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path).save(1, {"a": torch.zeros(8)}, {})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(OutputError, match=r"step 2 could not be written.*0.00 GB are free.*--resume"):
        store(tmp_path).save(2, {"a": torch.zeros(8)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_disk_that_fills_up_while_writing_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    store(tmp_path).save(1, {"a": torch.zeros(8)}, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OutputError, match=r"step 2 could not be written.*free space"):
            store(tmp_path).save(2, {"a": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    newest = store(tmp_path).newest()
    assert newest is not None and newest.step == 1 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["state.json", ".metadata", "__0_0.distcp"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    path = store(tmp_path).save(3, {"a": torch.zeros(1000)}, {})
    (path / damage).write_bytes((path / damage).read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"step-00000003.* is damaged"):
        newest = store(tmp_path).newest()
        assert newest is not None
        store(tmp_path).load(newest, {"a": torch.zeros(1000)})


def test_state_is_plain_json(tmp_path: Path) -> None:
    path = store(tmp_path).save(3, {"a": torch.zeros(1)}, {"data": "waves"})
    assert json.loads((path / "state.json").read_text()) == {"data": "waves"}
