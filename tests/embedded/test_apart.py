"""Measuring video by video in several processes: each is kept, none is made twice."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from heliograph.embedded.apart import kept_beside, measured_apart
from heliograph.embedded.endurance import METRICS
from heliograph.embedded.measuring import endurance, steering
from heliograph.pipeline import HeliosPipeline


def size_and_number(pipeline: HeliosPipeline, number: int, fails_at: int | None = None) -> dict[str, Any]:
    """Stands for a measurement; fails at one video."""
    if number == fails_at:
        raise ValueError(f"video {number} fails")
    return {"height": pipeline.engine.size[0], "number": number}


def test_videos_are_measured_in_their_order_whoever_takes_them_and_none_twice(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "001.json").write_text('{"number": "from before"}')
    found = measured_apart("tiny", size_and_number, 4, tmp_path, 2, told.append)
    assert [each["number"] for each in found] == [0, "from before", 2, 3] and found[0]["height"] > 0
    assert told == ["2/4 videos", "3/4 videos", "4/4 videos"]
    assert measured_apart("tiny", size_and_number, 4, tmp_path, 2, told.append) == found and len(told) == 3


def test_what_was_measured_before_a_failure_is_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="video 1 fails"):
        measured_apart("tiny", partial(size_and_number, fails_at=1), 2, tmp_path, 1, lambda _: None)
    assert [file.name for file in tmp_path.iterdir()] == ["000.json"]
    assert len(measured_apart("tiny", size_and_number, 2, tmp_path, 1, lambda _: None)) == 2


def test_what_is_kept_belongs_to_one_model_and_one_question_and_goes_at_the_end(tmp_path: Path) -> None:
    pipeline = HeliosPipeline.from_pretrained("tiny", device="cpu")
    with pytest.raises(ValueError, match="stopped"), kept_beside(tmp_path / "bars.json", "long", pipeline, 2) as first:
        raise ValueError("stopped")
    with kept_beside(tmp_path / "bars.json", "long", pipeline, 3) as other:
        assert other != first and set(tmp_path.iterdir()) == {first, other}
    with kept_beside(tmp_path / "bars.json", "long", pipeline, 2) as again:
        assert again == first
    assert list(tmp_path.iterdir()) == []


def test_long_videos_are_measured_beside_true_clips_and_shown(tmp_path: Path) -> None:
    arguments = ["tiny", str(tmp_path / "bars.json"), "--videos", "2", "--chunks", "4", "--workers", "2"]
    result = CliRunner().invoke(endurance, [*arguments, "--film", str(tmp_path / "film.png")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "bars.json").read_text())["endurance"]
    assert found["seconds"] == 5.5 and found["model"]["num"] == found["world"]["num"] == 2
    assert set(found["model"]["metrics"]) == set(METRICS) and found["world"]["metrics"]["scene cuts"]["mean"] == 0
    height, width = HeliosPipeline.from_pretrained("tiny", device="cpu").engine.size
    assert Image.open(tmp_path / "film.png").size == (12 * width, 2 * height)
    assert {file.name for file in tmp_path.iterdir()} == {"bars.json", "film.png"}


def test_no_processes_and_no_videos_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    for wrong in (["--workers", "0"], ["--videos", "0"]):
        for command in (endurance, steering):
            result = CliRunner().invoke(command, ["tiny", str(tmp_path / "bars.json"), *wrong])
            assert result.exit_code == 2 and "0 is not in the range x>=1" in result.output
    assert list(tmp_path.iterdir()) == []
