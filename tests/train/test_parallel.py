"""Several processes: the same losses and weights as one process with the same batches, however weights are laid out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from heliograph.errors import UserError
from heliograph.train.ema import EmaConfig
from heliograph.train.parallel import joined
from tests.small import relative_error
from tests.train.workers import ALONE, Case, in_processes, run_steps, together

AVERAGED = EmaConfig(cap=0.5, start=0)

CASES = {
    f"{stage}-{layout}": Case(stage, layout, steps=2, ema=AVERAGED)
    for stage in ("adapter", "whole", "distill")
    for layout in ("replicate", "shard")
} | {"accumulated": Case("adapter", "replicate", steps=1, accumulation=2)}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes made of every case."""
    folder = tmp_path_factory.mktemp("two")
    in_processes(2, together, CASES, folder)
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("name", CASES)
def test_two_processes_make_the_steps_of_one(name: str, of_two: dict[str, Any], tmp_path: Path) -> None:
    case = CASES[name]
    one = run_steps(replace(case, accumulation=2 * case.accumulation), ALONE, tmp_path)
    two = of_two[name]
    first, *later = zip(one["figures"], two["figures"], strict=True)
    assert first[1] == pytest.approx(first[0], rel=1e-6, abs=1e-7)
    # After an update weights agree up to rounding. R1 is the square of a difference of two nearly equal logits, weighed
    # 100 times: it and the gradient through it show that rounding a hundred times larger than anything else.
    for expected, figures in later:
        assert figures == pytest.approx(expected, rel=1e-4 if case.stage == "distill" else 1e-5, abs=1e-7)
    assert two["weights"].keys() == one["weights"].keys()
    # Adam divides by the gradient's own size: where that is next to nothing, so is what is known of its sign
    for part in ("weights", "averages"):
        worst = max((relative_error(two[part][key], weight) for key, weight in one[part].items()), default=0.0)
        assert worst < (2e-3 if case.stage == "distill" else 1e-4), part


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.ema])
def test_averages_are_shared_out_over_processes(name: str, of_two: dict[str, Any]) -> None:
    whole = sum(average.nbytes for average in of_two[name]["averages"].values())
    assert 0.45 * whole < of_two[name]["average_bytes"] < 0.6 * whole


def test_a_model_shows_its_shared_out_averages_and_gets_its_weights_back(of_two: dict[str, Any]) -> None:
    for name, case in CASES.items():
        if case.ema:
            shown, after = of_two[name]["shown"], of_two[name]["after"]
            assert all(torch.equal(shown[key], average) for key, average in of_two[name]["averages"].items())
            assert all(torch.equal(after[key], weight) for key, weight in of_two[name]["trained"].items())


def test_one_process_agrees_with_itself() -> None:
    assert ALONE.agree(wish=True) and not ALONE.agree(wish=False)
    assert torch.equal(ALONE.mean(torch.arange(3.0)), torch.arange(3.0))


def test_without_torchrun_there_is_one_process() -> None:
    with joined("cpu") as place:
        assert place.is_alone and place.is_first and place.device.type == "cpu"


@pytest.mark.parametrize("device", ["cuda" if not torch.cuda.is_available() else "gpu", "toaster"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(UserError, match=device), joined(device):
        pass
