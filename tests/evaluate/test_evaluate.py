"""`heliograph evaluate` from folders to a report."""

import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from heliograph.cli import app
from heliograph.errors import OutputError
from heliograph.evaluate import run
from heliograph.evaluate.catalogue import METRICS
from heliograph.evaluate.plots import mean_curve, number
from heliograph.evaluate.run import EvaluateOptions, run_evaluate
from heliograph.evaluate.scores import ScoreFile
from heliograph.media.lock import hold_folder
from tests.evaluate import known
from tests.media.clips import write_video

DATA = Path(__file__).parents[3] / "shared" / "data"


class Tags(HTMLParser):
    """Checks that tags close in order, and collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def options(*folders: Path, output: Path, **changes: object) -> EvaluateOptions:
    return EvaluateOptions(folders, output, **{"prompts": None, "chunk_frames": 33, **changes})  # type: ignore[arg-type]


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "scores.jsonl").read_text(encoding="utf-8").splitlines()]


def evaluated(*folders: Path, output: Path, **changes: object) -> tuple[dict, str]:
    """Report as JSON and page, and what was said on the way is thrown away."""
    run_evaluate(options(*folders, output=output, **changes), lambda _: None)
    page = (output / "report.html").read_text(encoding="utf-8")
    return json.loads((output / "report.json").read_text(encoding="utf-8")), page


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good videos and several that are hard or bad."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "pan.mp4", known.pan(40, right=2, height=16))
    (folder / "pan.txt").write_text("a <b>fish</b> & more", encoding="utf-8")
    write_video(folder / "still.mp4", known.still(40, height=16))
    write_video(folder / "one.mp4", known.still(1, height=16))
    write_video(folder / "uneven.mp4", known.pan(4, height=16), times=[0, 1, 4, 5])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video", encoding="utf-8")
    whole = (folder / "pan.mp4").read_bytes()
    (folder / "damaged.mp4").write_bytes(whole[: len(whole) // 2])  # its index, at the end, is gone
    return folder


@pytest.fixture(scope="module")
def first(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str, Path]:
    """A report of them."""
    output = tmp_path_factory.mktemp("output")
    return *evaluated(clips, output=output), output


def scores(report: dict, video: str) -> dict[str, Any]:
    return next(one["scores"] for one in report["folders"][0]["videos"] if one["video"] == video)


def test_good_videos_are_scored_and_bad_ones_are_named_with_the_reason(first: tuple[dict, str, Path]) -> None:
    report, page, _ = first
    (folder,) = report["folders"]
    assert [one["video"] for one in folder["videos"]] == ["one.mp4", "pan.mp4", "still.mp4", "uneven.mp4"]
    refused = {one["video"]: one["reason"] for one in folder["refused"]}
    assert set(refused) == {"damaged.mp4", "empty.mp4", "text.mp4"}
    assert "is empty (0 bytes)" in refused["empty.mp4"]
    assert all(name in page for name in refused)


def test_a_pan_and_a_still_video_are_told_apart(first: tuple[dict, str, Path]) -> None:
    pan, still = scores(first[0], "pan.mp4"), scores(first[0], "still.mp4")
    assert pan["motion"] > 5 and still["motion"] < 0.5
    assert still["frozen"] == 1 and pan["frozen"] == 0
    assert still["brightness drift"] < 0.5 and pan["scene cuts"] == 0
    assert 0.3 < pan["picture seam"] < 3


def test_a_video_of_one_frame_has_what_one_frame_can_tell(first: tuple[dict, str, Path]) -> None:
    found = scores(first[0], "one.mp4")
    assert found["brightness"] == pytest.approx(scores(first[0], "still.mp4")["brightness"], abs=2)
    assert {name for name, value in found.items() if value is not None} == {
        m.name for m in METRICS if m.min_frames == 1
    }
    assert "has 1 of the 2 frames that are needed" in first[0]["folders"][0]["not_measured"]["motion"]


def test_there_is_one_line_for_each_video_and_metric(first: tuple[dict, str, Path]) -> None:
    lines = [(one["video"], one["metric"]) for one in lines_of(first[2]) if "metric" in one]
    assert len(lines) == len(set(lines)) == 4 * len(METRICS)


def test_the_page_needs_nothing_else_and_shows_what_users_wrote_as_text(first: tuple[dict, str, Path]) -> None:
    page = first[1]
    reader = Tags()
    reader.feed(page)
    assert reader.open == []
    assert all(source.startswith("data:image/jpeg;base64,") for source in reader.sources)
    assert len(reader.sources) == 4 and "<script" not in page and "http" not in page
    assert "a &lt;b&gt;fish&lt;/b&gt; &amp; more" in page
    assert page.count("<polyline") >= 8 * 2
    assert all(metric.name in page for metric in METRICS)


def test_what_was_not_measured_is_said_and_never_guessed(first: tuple[dict, str, Path]) -> None:
    bench = first[0]["folders"][0]["heliosbench"]
    assert [row["name"] for row in bench["reference"]["rows"] if row["raw"] is not None] == ["motion amplitude"]
    assert bench["corrected"]["total"] is None
    assert first[1].count("not measured: needs") == 8


def test_started_again_it_measures_only_what_is_new(
    clips: Path, first: tuple[dict, str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (first[2] / "scores.jsonl").read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if '"still.mp4"' not in line or '"flicker"' not in line]
    (tmp_path / "scores.jsonl").write_text("\n".join(kept) + '\n{"video": "half', encoding="utf-8")
    surveyed: list[str] = []
    survey = run.survey
    monkeypatch.setattr(run, "survey", lambda path: surveyed.append(path.name) or survey(path))
    report, _ = evaluated(clips, output=tmp_path)
    assert set(surveyed) == {"damaged.mp4", "empty.mp4", "text.mp4", "still.mp4"}
    assert report["folders"] == first[0]["folders"]
    added = (tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines()[len(kept) + 1 :]
    assert [(one["video"], one["metric"]) for one in map(json.loads, added)] == [("still.mp4", "flicker")]


def test_a_video_that_was_changed_is_measured_again(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "a.mp4", known.lit([0.0] * 3))
    before, _ = evaluated(folder, output=tmp_path / "out")
    write_video(folder / "a.mp4", known.lit([40.0] * 4))
    after, _ = evaluated(folder, output=tmp_path / "out")
    assert scores(after, "a.mp4")["brightness"] == pytest.approx(scores(before, "a.mp4")["brightness"] + 40, abs=2)


def test_two_folders_stand_side_by_side_with_a_paired_test(tmp_path: Path) -> None:
    for name, offset in (("before", 0.0), ("after", 12.0)):
        for index in range(3):
            path = tmp_path / name / f"{index}_120_ori{3 + len(name)}.mp4"
            path.parent.mkdir(exist_ok=True)
            write_video(path, known.lit(offset + np.zeros(3), seed=index))
    write_video(tmp_path / "after" / "alone.mp4", known.still(3))
    report, page = evaluated(tmp_path / "before", tmp_path / "after", output=tmp_path / "out")
    found = {one["metric"]: one for one in report["comparison"]}
    assert found["brightness"]["difference"]["mean"] == pytest.approx(12, abs=1)
    assert found["brightness"]["difference"]["num"] == 3  # by their ids, though the names differ
    assert found["brightness"]["p"] == pytest.approx(2 / 2**3)
    assert found["brightness"]["p_together"] >= found["brightness"]["p"]
    assert "before" in page and "after" in page and "sign-flip" in page


def test_folders_without_a_common_video_are_shown_without_a_test(tmp_path: Path) -> None:
    for parent in "ab":
        (tmp_path / parent / "videos").mkdir(parents=True)
        write_video(tmp_path / parent / "videos" / f"{parent}.mp4", known.still(2))
    report, page = evaluated(tmp_path / "a" / "videos", tmp_path / "b" / "videos", output=tmp_path / "out")
    assert report["comparison"] == [] and "nothing can be paired" in page
    assert [folder["name"] for folder in report["folders"]] == ["videos (A)", "videos (B)"]


def test_a_folder_of_bad_files_only_still_gets_a_report(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"")
    report, page = evaluated(tmp_path / "videos", output=tmp_path / "out")
    assert report["folders"][0]["scores"]["motion"] is None
    assert "a.mp4" in page


# The command line


def test_the_verb_says_where_the_report_is(clips: Path, first: tuple[dict, str, Path]) -> None:
    done = CliRunner().invoke(app, ["evaluate", str(clips), "--output", str(first[2])])
    assert done.exit_code == 0
    assert done.stdout.strip() == str(first[2] / "report.html")
    assert re.search(r"pan.mp4: 40 frames", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing",), "there is no folder missing"),
        ((".",), "holds no video"),
        (tuple("abcdefg"), "7 folders were given"),
        ((), "0 folders were given"),
        ((".", "."), "given twice"),
    ],
)
def test_mistakes_are_answered_with_one_line(
    refused: Callable[..., str], arguments: tuple[str, ...], words: str
) -> None:
    assert words in refused("evaluate", *arguments)


def test_without_opencv_the_verb_says_how_to_install_it(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliograph.evaluate.verb.find_spec", lambda _: None)
    assert "pip install 'heliograph[evaluate]'" in refused("evaluate", ".")


def test_help_loads_no_opencv() -> None:
    assert CliRunner().invoke(app, ["evaluate", "--help"]).exit_code == 0
    source = (Path(run.__file__).parent / "verb.py").read_text(encoding="utf-8")
    assert not re.search(r"^(import|from) (cv2|numpy|heliograph\.evaluate)", source, re.MULTILINE)
    assert "cv2" in sys.modules  # loaded here by the metrics, not by the verb


def test_a_place_that_cannot_be_written_is_refused(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot make"):
        run_evaluate(options(clips, output=tmp_path / "file" / "out"), lambda _: None)
    (tmp_path / "scores.jsonl").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        ScoreFile(tmp_path / "scores.jsonl")


def test_one_run_at_a_time_writes_a_folder(clips: Path, tmp_path: Path) -> None:
    with hold_folder(tmp_path), pytest.raises(OutputError, match="another run"):
        run_evaluate(options(clips, output=tmp_path), lambda _: None)


# Plots


def test_numbers_are_short_and_never_rounded_away() -> None:
    given = [0.0, 1.0, 0.12345, 12.345, 1234.5, 0.000123, -5.678, 0.00001]
    assert [number(value) for value in given] == ["0", "1", "0.123", "12.3", "1234", "0.000123", "-5.68", "1e-05"]


def test_the_mean_of_curves_of_different_length_is_at_the_same_share_of_each() -> None:
    assert mean_curve([[0.0, 1.0], [0.0, 0.5, 1.0]]) == pytest.approx([0, 0.5, 1])
    assert mean_curve([[2.0], [0.0, 4.0]]) == pytest.approx([1, 3])


# Real clips


@pytest.mark.skipif(not DATA.is_dir(), reason="the two real clips are not here")
def test_motion_amplitude_of_the_references_own_videos_is_what_it_reports(tmp_path: Path) -> None:
    report, page = evaluated(DATA, output=tmp_path, prompts=DATA / "helios_t2v_prompts.csv")
    (folder,) = report["folders"]
    amplitude = folder["heliosbench"]["reference"]["rows"][1]
    assert amplitude["raw"] == pytest.approx(0.1290, abs=0.001)
    assert amplitude["rating"] == 3
    assert folder["refused"] == []
    assert all(value is not None for one in folder["videos"] for value in one["scores"].values())
    assert "wooly mammoths" in page
