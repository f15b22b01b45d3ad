"""`heliograph evaluate --model M --prompts FILE`: videos are made, once, and judged."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from heliograph.errors import UserError
from heliograph.evaluate.make import MakeOptions, file_name, make_videos
from heliograph.evaluate.run import EvaluateOptions, run_evaluate
from heliograph.evaluate.wanted import Wanted, read_wanted
from tests.commands import decoded

LINES = "a red fish\na blue boat\n"


def options(folder: Path, prompts: str = LINES, **changes: object) -> MakeOptions:
    file = folder.parent / f"{folder.name}.txt"
    file.write_text(prompts, encoding="utf-8")
    folder.mkdir(exist_ok=True)
    values = {"model": "", "prompts": file, "num_frames": 36, "height": 64, "width": 64, "steps": (1, 1, 1)}
    return MakeOptions(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(fast_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list[str]]:
    """A folder of results, its report, and what was said."""
    output = tmp_path_factory.mktemp("made") / "out"
    said: list[str] = []
    make = options(output, model=str(fast_folder))
    run_evaluate(EvaluateOptions((), output, make.prompts, 33, make), said.append)
    return output, json.loads((output / "report.json").read_text(encoding="utf-8")), said


def test_every_prompt_has_its_video_of_the_length_asked_for(made: tuple[Path, dict, list[str]]) -> None:
    output, report, said = made
    assert [decoded(output / "videos" / name).shape for name in ("0001.mp4", "0002.mp4")] == [(36, 64, 64, 3)] * 2
    (folder,) = report["folders"]
    assert [one["prompt"] for one in folder["videos"]] == ["a red fish", "a blue boat"]
    assert folder["made"]["frames_per_second"] > 0 and folder["made"]["settings"]["seed"] == 0
    assert any("made 2/2 · 0002.mp4" in line and "left" in line for line in said)
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "frames/s from prompt to file" in page and "sampling" in page


def test_started_again_it_makes_only_what_is_missing(made: tuple[Path, dict, list[str]], fast_folder: Path) -> None:
    videos = made[0] / "videos"
    kept, wanted = (videos / "0001.mp4").stat().st_mtime_ns, decoded(videos / "0002.mp4")
    (videos / "0002.mp4").unlink()
    (videos / ".making-0002.mp4").write_bytes(b"cut off")
    said: list[str] = []
    make_videos(options(made[0], model=str(fast_folder)), videos, said.append)
    assert said[0] == "1 of 2 videos are there already" and len(said) == 2
    assert (videos / "0001.mp4").stat().st_mtime_ns == kept
    assert (decoded(videos / "0002.mp4") == wanted).all()
    assert not list(videos.glob(".making-*"))


def test_videos_of_other_settings_or_prompts_are_not_mixed(
    made: tuple[Path, dict, list[str]], fast_folder: Path
) -> None:
    videos = made[0] / "videos"
    for changes, words in (
        ({"seed": 7}, r"other settings \(seed\)"),
        ({"steps": (2, 1, 1)}, r"other settings \(sampler\)"),
        ({"prompts": "a green fish\na blue boat\n"}, "made from another prompt"),
    ):
        with pytest.raises(UserError, match=words):
            make_videos(options(made[0], model=str(fast_folder), **changes), videos, lambda _: None)


def test_names_are_heliosbenchs_where_the_prompt_says_how_long() -> None:
    assert file_name(Wanted("7", "x", 240), 240) == "7_240_ori240.mp4"
    assert file_name(Wanted("7", "x"), 120) == "7.mp4"
    assert file_name(Wanted("fish-1", "x", 240), 240) == "fish-1.mp4"


# Files of prompts


def test_json_lines_have_prompts_lengths_and_records(tmp_path: Path) -> None:
    record = {
        **{"scene": "reef", "kind": "fish", "colour": "red", "count": 1, "size": "big"},
        **{"motion": "left", "speed": "slow", "time": "day", "pan": "none", "seed": 3},
    }
    file = tmp_path / "p.jsonl"
    lines = [{"id": "a", "prompt": "x", "num_frames": 66, "record": record}, {"id": "b", "prompt": "y"}]
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    first, second = read_wanted(file)
    assert first.record is not None and first.record.colour == "red" and first.num_frames == 66
    assert second == Wanted("b", "y")
    assert first.as_json() == lines[0] and second.as_json() == lines[1]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.jsonl", '{"id": 1}', "line 1 of .* is no prompt"),
        ("p.jsonl", '{"id": "../x", "prompt": "y"}', "names a file"),
        ("p.jsonl", '{"id": "a", "prompt": "y", "record": {"scene": "moon"}}', "line 1 of .* is no prompt"),
        ("p.csv", "id,prompt,duration\n1,x,long\n", "whole number"),
        ("p.csv", "id,prompt\n1,x\n1,y\n", "more than once"),
        ("p.txt", "\n", "holds no prompt"),
    ],
)
def test_files_of_prompts_that_cannot_be_meant_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        read_wanted(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "tiny"), "without --prompts"),
        ((".", "--seed", "3"), "--seed was given without --model"),
        ((".", "--model", "tiny", "--prompts", "p.txt"), "both --model and folders"),
        (("--model", "tiny", "--prompts", "missing.txt", "--output", "."), "cannot be read"),
        (("--vote", "."), "--vote needs two"),
        ((".", "--weights", "nowhere"), "holds no video"),
        ((".", "--judge", "nowhere"), "holds no video"),
    ],
)
def test_mistakes_of_the_options_are_answered_with_one_line(
    refused: Callable[..., str], arguments: tuple[str, ...], words: str
) -> None:
    assert words in refused("evaluate", *arguments)
