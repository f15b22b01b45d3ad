"""The embedded model: it is there and complete, small, loads as trained, and does what its card says it does.

Recorded on 200 prompts of three chunks: see docs/evidence.md. Asserted with a margin below, on 20 fixed prompts of
three chunks.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from heliograph.checkpoint import find_model
from heliograph.config import Guidance, SpeedConfig
from heliograph.embedded.score import ScorePlan, score
from heliograph.pipeline import HeliosPipeline


@pytest.fixture(scope="module")
def folder() -> Path:
    return find_model("tiny")


@pytest.fixture(scope="module")
def pipeline() -> HeliosPipeline:
    return HeliosPipeline.from_pretrained("tiny", device="cpu")


def test_it_is_the_one_in_the_package_and_small(folder):
    assert folder.parts[-3:] == ("heliograph", "assets", "tiny")
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 40e6


def test_it_has_a_card(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("Apache-2.0", "Limits", "Scores", "Training"))


def test_it_says_that_it_is_trained_and_how_it_is_sampled(pipeline):
    assert not pipeline.is_random
    assert pipeline.engine.size == (128, 128)
    assert pipeline.engine.sampler.steps == (2, 1, 1)
    assert pipeline.engine.sampler.guidance == Guidance(1.35, levels=1)


def test_twenty_prompts_are_followed_nearly_as_often_as_recorded(pipeline):
    shares = score(pipeline, ScorePlan(num_prompts=20, num_chunks=3)).shares
    assert shares["scene"] >= 0.9
    assert shares["time"] >= 0.9
    assert shares["colour"] >= 0.85
    assert shares["kind"] >= 0.8
    assert shares["count"] >= 0.7
    assert shares["direction"] >= 0.65


def test_the_prompt_decides_and_the_seed_repeats(pipeline):
    day, night = (
        pipeline(f"a big red fish swims over a coral reef {time}", num_frames=33, seed=3).frames
        for time in ("by day", "at night")
    )
    assert day.mean() > night.mean() + 20
    again = pipeline("a big red fish swims over a coral reef by day", num_frames=33, seed=3).frames
    assert (again == day).all()


def test_a_second_core_takes_a_branch_of_guidance_and_changes_nothing(monkeypatch):
    frames, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for cores in (1, 2):
            monkeypatch.setattr("heliograph.engine.tuning.count_cores", lambda cores=cores: cores)
            one = HeliosPipeline.from_pretrained("tiny", device="cpu", dtype="float32")
            assert (one.engine.second_thread is not None) == (cores > 1) == (not one.engine.pairs_branches)
            frames.append(one("a big red fish swims over a coral reef", num_frames=66, seed=3).frames)
    finally:
        torch.set_num_threads(threads)
    assert (frames[0] == frames[1]).all()


@pytest.mark.parametrize("speed", [SpeedConfig(history_reuse="level"), SpeedConfig(fp8=True)], ids=["reuse", "fp8"])
def test_it_runs_approximated_as_it_is_sampled_and_shows_nearly_the_same(pipeline, speed):
    other = HeliosPipeline.from_pretrained("tiny", device="cpu", speed=speed)
    exact, rough = (
        one("a big red fish swims over a coral reef", num_frames=66, seed=3).frames for one in (pipeline, other)
    )
    apart = np.abs(exact.astype(np.int16) - rough).mean()
    assert 0 < apart < 5
