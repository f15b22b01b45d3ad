"""Evidence: what is measured of long videos, what changes and starts are judged by, and the page that is written."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from heliograph.data.diorama.record import LIVES_IN, Record, is_heldout
from heliograph.data.diorama.render import render
from heliograph.embedded.checking import DAMAGES, check_checkers
from heliograph.embedded.endurance import KEPT, METRICS, NUM_MOMENTS, PROPERTIES, measured, moments, summed_up
from heliograph.embedded.evidence import write_evidence
from heliograph.embedded.levels import PASTS
from heliograph.embedded.mix import mixed_record
from heliograph.embedded.results import merge_results
from heliograph.embedded.score import heldout_prompts
from heliograph.embedded.steering import GIVEN_CHUNKS, STARTS, TRUE, other_record, steered, steering
from heliograph.engine.session import Session
from heliograph.errors import UserError
from heliograph.evaluate.truth import Reader
from heliograph.pipeline import HeliosPipeline
from heliograph.shapes import CHUNK_FRAMES

RECORD = replace(mixed_record(3), motion="circle", pan="none", speed="slow")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return render([RECORD], [0], 132, 64, 64).frames[0].permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture(scope="module")
def checked() -> dict:
    return check_checkers(1, 64, lambda line: None)


def test_a_true_clip_keeps_what_it_shows_and_has_no_seams_or_faults(clip):
    found = measured(clip, RECORD, Reader())
    assert found["kept"] == dict.fromkeys(KEPT, (True,) * NUM_MOMENTS)
    assert found["metrics"]["frozen"] == 0 and found["metrics"]["scene cuts"] == 0
    assert 0.8 < found["metrics"]["picture seam"] < 1.25


def test_glances_at_a_video_begin_with_it_and_end_with_it():
    firsts = moments(4323)
    assert firsts[0] == 0 and firsts[-1] == 4323 - 96 and len(firsts) == NUM_MOMENTS
    assert 0 <= max(np.diff(firsts)) - min(np.diff(firsts)) <= 1
    assert set(moments(50)) == {0}, "a video that is shorter than a glance is read as a whole"


def test_kept_shares_are_of_videos_for_each_moment_and_of_moments_for_each_video(clip):
    video = measured(clip, RECORD, Reader())
    never = video | {"kept": video["kept"] | {"kind": (False,) * NUM_MOMENTS}}
    half = video | {"kept": video["kept"] | {"kind": (True, False) * (NUM_MOMENTS // 2)}}
    side = summed_up([video, never, half])
    assert side["kept_by_video"]["kind"] == [1, 0, 0.5] and side["kept_by_video"]["scene"] == [1, 1, 1]
    assert side["kept"]["kind"] == pytest.approx([2 / 3, 1 / 3] * (NUM_MOMENTS // 2))


def test_a_clip_that_darkens_and_changes_its_colour_is_seen_to(clip):
    faded = (clip * np.linspace(1, 0.6, len(clip))[:, None, None, None]).astype(np.uint8)
    faded[-96:] = faded[-96:, :, :, ::-1]
    still, found = (measured(frames, RECORD, Reader()) for frames in (clip, faded))
    assert found["metrics"]["brightness drift"] > still["metrics"]["brightness drift"] + 10
    assert not found["kept"]["colour"][-1]


def test_a_change_of_colour_is_to_another_combination_that_training_knew():
    for seed in range(60):
        record = mixed_record(seed, "heldout")
        other = other_record(record, "colour")
        assert other.colour != record.colour and not is_heldout(other.scene, other.kind, other.colour)
        assert other_record(record, "time").time != record.time


def test_a_change_of_scene_keeps_the_subject_where_it_can_live_there():
    scenes = set()
    for seed in range(60):
        record = mixed_record(seed, "heldout")
        other = other_record(record, "scene")
        scenes.add(other.scene)
        assert other.scene != record.scene and other.colour == record.colour
        assert not is_heldout(other.scene, other.kind, other.colour)
        stays = record.kind in LIVES_IN[other.scene] and not is_heldout(other.scene, record.kind, other.colour)
        assert (other.kind == record.kind) == stays
    assert len(scenes) > 3


class Projector(HeliosPipeline):
    """A pipeline whose videos are the true clip, whatever they are asked for."""

    def __init__(self, record: Record) -> None:
        self.engine: Any = SimpleNamespace(size=(64, 64))
        self.record = record

    def session(self, prompt: str, *, seed: int, image: Any = None, video: Any = None) -> Session:
        """The clip from its beginning, or from where the one that is given ends."""
        given = _true(self.record, 0, GIVEN_CHUNKS)
        assert image is None or np.array_equal(image, given[0])
        assert video is None or np.array_equal(video, given)
        return Projection(self.record, 0 if video is None else GIVEN_CHUNKS)


class Projection(Session):
    """A session that goes on showing the true clip."""

    def __init__(self, record: Record, chunk: int) -> None:
        self.record, self.chunk = record, chunk

    def next_chunk(self) -> Any:
        """Its next frames."""
        self.chunk += 1
        return SimpleNamespace(frames=_true(self.record, self.chunk - 1, 1))

    def set_prompt(self, prompt: str, *, transition_chunks: int = 1) -> None:
        """Nothing changes."""


def _true(record: Record, chunk: int, count: int) -> np.ndarray:
    footage = render([record], [CHUNK_FRAMES * chunk], CHUNK_FRAMES * count, 64, 64)
    return footage.frames[0].permute(0, 2, 3, 1).numpy()


def test_true_clips_are_read_where_the_videos_that_start_from_them_are():
    kept = json.dumps(steered(Projector(heldout_prompts(1)[0].record), 0))
    found = steering([json.loads(kept)])
    for name in STARTS:
        assert found[name] == found[TRUE + name]
        assert found[name]["scene"]["mean"] == found[name]["kind"]["mean"] == 1
    assert found["scene"]["before"]["mean"] == found["scene"]["no cut"]["mean"] == 1
    assert found["scene"]["after"]["mean"] == 0


def test_the_checkers_are_checked_on_every_damage(checked):
    assert set(checked) == set(DAMAGES)
    assert all(each["share"] in (0, 1) and each["num"] == 1 for read in checked.values() for each in read.values())
    assert checked["clean"]["scene"]["share"] == 1


def test_the_page_shows_every_stored_result(clip, checked, tmp_path: Path):
    folder = tmp_path / "evidence"
    video = measured(clip, RECORD, Reader())
    about = {"weights": "abc", "steps": [2, 2, 2], "guidance_scale": 1.0, "commit": "c0ffee"}
    side = summed_up([video, video])
    share = {"mean": 0.5, "low": 0.1, "high": 0.9}
    start = {"num": 2, "scene": share, "kind": share, "colour": share}
    change = {"num": 2, "before": share, "after": share, "kept": share, "no cut": share}
    scores = {
        "plan": {"num_chunks": 3, "num_prompts": 4},
        "shares": {"scene": 0.75},
        "counts": {"scene": 4},
        "seconds_per_chunk": 0.1,
    }
    merge_results(folder / "embedded.json", {"as shipped": scores})
    merge_results(folder / "stages.json", {"after ODE, 2,2,2": scores})
    merge_results(folder / "bars.json", {"endurance": about | {"seconds": 180, "model": side, "world": side}})
    starts = {whose + name: start for name in STARTS for whose in ("", TRUE)}
    steering = starts | {"colour": change, "time": change, "scene": change}
    merge_results(folder / "bars.json", {"steering": about | steering})
    error = {side: {"mean": 0.0125, "low": 0.01, "high": 0.02, "num": 6} for side in ("near", "elsewhere")}
    errors = {past: [error] * 3 for past in PASTS}
    levels = {"weights": "c0ffee", "commit": "1234567", "num": 6, "num_points": 8, "errors": errors}
    merge_results(folder / "bars.json", {"levels": levels})
    merge_results(folder / "checkers.json", {"64 px": checked})
    write_evidence(folder, tmp_path / "evidence.md")
    page = (tmp_path / "evidence.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in page for name in METRICS)
    assert "| after ODE, 2,2,2 | 75 % [30, 95] |" in page
    assert "75 % [30, 95]" in page and "c0ffee" in page and "| 64 px | clean | 1 |" in page
    assert all((folder / f"drift-{name}.svg").read_text().startswith("<svg xmlns") for name in PROPERTIES)
    assert "| kind | 100 % | 100 % [100, 100] | 100 % | 100 % | 100 % [100, 100] | 100 % |" in page
    assert "| true clip of video | 2 | 50 % [10, 90] |" in page
    assert page.count("| 0.0125 [0.01, 0.02] ") == 4 * 6
    assert set(json.loads((folder / "bars.json").read_text())) == {"endurance", "steering", "levels"}


def test_a_page_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="holds no results"):
        write_evidence(tmp_path, tmp_path / "evidence.md")
