"""Ground truth through the verb: true clips are right, false ones are not; the distance sees what it says it sees."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from heliograph.data.diorama.record import Record
from heliograph.data.diorama.render import render
from heliograph.evaluate.frechet import distance, features, frechet
from heliograph.evaluate.run import EvaluateOptions, run_evaluate
from heliograph.evaluate.truth import Reader
from heliograph.evaluate.truth_watch import identity, small
from heliograph.evaluate.wanted import Wanted
from heliograph.media.sink import open_sink
from tests.evaluate import known

RED_FISH = Record("reef", "fish", "red", 1, "big", "left", "normal", "day", "none", 5)


def clip(record: Record, num_frames: int = 24, size: int = 64) -> np.ndarray:
    return render([record], [0], num_frames, size, size).frames[0].permute(0, 2, 3, 1).numpy()


def test_a_true_clip_follows_its_prompt_and_another_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    shown = {"true": RED_FISH, "false": replace(RED_FISH, colour="yellow", time="night")}
    lines = [json.dumps(Wanted(name, "a big red fish", record=RED_FISH).as_json()) for name in shown]
    (folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name, record in shown.items():
        with open_sink(folder / f"{name}.mp4", 24) as sink:
            sink.write(clip(record))
    report = run_evaluate(EvaluateOptions((folder,), tmp_path / "out", None, 12), lambda _: None)
    scores = {one["video"]: one["scores"] for one in report.as_json()["folders"][0]["videos"]}
    assert scores["true.mp4"]["prompt following"] == 1 and scores["true.mp4"]["identity"] == 1
    assert scores["false.mp4"]["colour right"] == scores["false.mp4"]["time right"] == 0
    assert scores["false.mp4"]["scene right"] == 1
    right = report.folders[0].mean("colour right")
    assert right is not None and right.low is not None and right.high is not None
    assert right.mean == 0.5 and 0 < right.low < 0.1 and 0.9 < right.high < 1  # two videos say little
    assert "Ground truth" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    again = (tmp_path / "out" / "scores.jsonl").stat().st_size
    run_evaluate(EvaluateOptions((folder,), tmp_path / "out", None, 12), lambda _: None)
    assert (tmp_path / "out" / "scores.jsonl").stat().st_size == again  # nothing was read twice


def test_identity_is_kept_by_the_same_subject_and_lost_by_another() -> None:
    reader, red, blue = Reader(), clip(RED_FISH, 9), clip(replace(RED_FISH, colour="blue"), 9)
    empty = np.repeat(known.still(1, height=64, width=64) // 8, 9, axis=0)
    assert identity([red, red], reader, RED_FISH) == 1
    assert identity([red, blue], reader, RED_FISH) == 0.5  # a fish, but not a red one
    assert identity([red, empty], reader, RED_FISH) == 0
    assert identity([empty, empty], reader, RED_FISH) == 0


def test_large_clips_are_read_at_the_height_of_the_checkers() -> None:
    large = np.stack([cv2.resize(frame, (128, 128), interpolation=cv2.INTER_NEAREST) for frame in clip(RED_FISH, 2)])
    assert np.array_equal(np.stack(small(large)), clip(RED_FISH, 2))


# The distance


RECORDS = [replace(RED_FISH, seed=seed, colour=("red", "blue", "white")[seed % 3]) for seed in range(12)]


@pytest.fixture(scope="module")
def true_clips() -> list[np.ndarray]:
    return [clip(record, 33) for record in RECORDS]


def test_true_clips_are_at_the_floor_and_every_fault_is_seen(true_clips: list[np.ndarray]) -> None:
    whole = distance([features(one) for one in true_clips], RECORDS, 64, 64)
    assert whole is not None and 0 < whole.floor < whole.floor_high and whole.value < 1.5 * whole.floor_high
    others = np.concatenate([features(clip(replace(record, seed=record.seed + 100), 33)) for record in RECORDS])

    def value(change) -> float:
        return frechet(np.concatenate([features(change(one)) for one in true_clips]), others)

    noise = np.random.default_rng(0)
    faults = {
        "blur": lambda one: np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in one]),
        "noise": lambda one: known.eight_bit(one + 20 * noise.standard_normal(one.shape)),
        "dark": lambda one: (one * 0.6).astype(np.uint8),
        "grey": lambda one: np.repeat(one.mean(-1, keepdims=True).astype(np.uint8), 3, -1),
        "all alike": lambda _: true_clips[0],
    }
    least = 1.3 * value(lambda one: one)
    assert {name: found for name, change in faults.items() if (found := value(change)) < least} == {}


def test_the_distance_of_normal_distributions_is_the_formula() -> None:
    draws = np.random.default_rng(0)
    one = draws.standard_normal((4000, 30))
    assert frechet(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet(one, one + 2) == pytest.approx(30 * 4, rel=1e-6)
    assert frechet(one, 3 * one) == pytest.approx(30 * (3 - 1) ** 2, rel=0.1)


def test_few_videos_have_no_distance(true_clips: list[np.ndarray]) -> None:
    assert distance([features(one) for one in true_clips[:5]], RECORDS[:5], 64, 64) is None
    assert distance([features(one) for one in true_clips], RECORDS, 64, 200) is None
