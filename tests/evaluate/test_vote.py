"""Blind votes: what is shown gives nothing away, every vote is kept, and the result is what the votes say."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from heliograph.errors import UserError
from heliograph.evaluate.vote import count, sign_test
from heliograph.evaluate.vote_server import open_ballot, vote_app
from tests.evaluate import known
from tests.media.clips import levels, write_video
from tests.small import steady


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Four prompts, dark in the first folder and light in the second."""
    for name, level in (("first", 40), ("second", 200)):
        (tmp_path / name).mkdir()
        for index in range(4):
            write_video(tmp_path / name / f"{index}.mp4", levels([level + index] * 3, 64, 64))
            (tmp_path / name / f"{index}.txt").write_text(f"prompt <{index}>", encoding="utf-8")
    write_video(tmp_path / "second" / "alone.mp4", known.still(2))
    return tmp_path / "first", tmp_path / "second"


def client(folders: tuple[Path, Path], output: Path) -> tuple[TestClient, str]:
    """The page's server, and the word without which it takes no vote."""
    found = TestClient(vote_app(open_ballot(folders, output), ("first", "second")), base_url="http://127.0.0.1:1")
    return found, found.get("/").text.split('token = "')[1].split('"')[0]


def test_votes_for_one_folder_are_counted_for_it_on_whichever_side_it_was(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    http, token = client(folders, tmp_path / "out")
    seen, sides = [], Counter()
    for _ in range(4):
        state = http.get("/state").json()
        assert "first" not in json.dumps(state) and "second" not in json.dumps(state)
        clips = {side: http.get(f"/clip/{state['index']}/{side}").content for side in ("left", "right")}
        light = {(folders[1] / f"{index}.mp4").read_bytes() for index in range(4)}
        (better,) = (side for side, data in clips.items() if data in light)
        sides[better] += 1
        seen.append(state["prompt"])
        last = http.post("/vote", json={"index": state["index"], "choice": better, "token": token}).json()
    assert sorted(seen) == [f"prompt <{index}>" for index in range(4)]
    assert last["index"] is None and last["result"]["second"] == 4 and last["result"]["first"] == 0
    assert "second is preferred to first in 100%" in last["words"]
    stored = json.loads((tmp_path / "out" / "votes.json").read_text(encoding="utf-8"))
    assert set(stored["votes"].values()) == {"second"} and stored["result"]["share"] == 1


def test_votes_survive_and_can_be_taken_back(folders: tuple[Path, Path], tmp_path: Path) -> None:
    http, token = client(folders, tmp_path / "out")
    first = http.get("/state").json()
    http.post("/vote", json={"index": first["index"], "choice": "same", "token": token})
    http, token = client(folders, tmp_path / "out")
    state = http.get("/state").json()
    assert state["done"] == 1 and state["prompt"] != first["prompt"]
    back = http.post("/vote", json={"index": 0, "choice": "back", "token": token}).json()
    assert back["done"] == 0 and back["prompt"] == first["prompt"]
    assert http.post("/vote", json={"index": 0, "choice": "back", "token": token}).json()["done"] == 0


def test_nobody_else_may_vote_or_look(folders: tuple[Path, Path], tmp_path: Path) -> None:
    http, token = client(folders, tmp_path / "out")
    assert http.post("/vote", json={"index": 0, "choice": "left", "token": "guess"}).status_code == 403
    assert http.post("/vote", json={"index": 9, "choice": "left", "token": token}).status_code == 404
    assert http.post("/vote", json={"index": 0, "choice": "best", "token": token}).status_code == 422
    assert http.get("/clip/9/left").status_code == 404 and http.get("/clip/0/middle").status_code == 422
    assert http.get("/state", headers={"host": "evil.example"}).status_code == 403
    assert http.get("/state").json()["done"] == 0


def test_votes_on_other_folders_and_folders_that_share_nothing_are_refused(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    open_ballot(folders, tmp_path / "out")
    with pytest.raises(UserError, match="has votes on"):
        open_ballot((folders[1], folders[0]), tmp_path / "out")
    (tmp_path / "third").mkdir()
    write_video(tmp_path / "third" / "x.mp4", known.still(2))
    with pytest.raises(UserError, match="nothing to vote on"):
        open_ballot((folders[0], tmp_path / "third"), tmp_path / "other")
    (tmp_path / "out" / "votes.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="no votes that can be read"):
        open_ballot(folders, tmp_path / "out")


@steady
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 9))
def test_intervals_hold_the_share_and_the_test_is_even(first: int, second: int, same: int) -> None:
    found = count(["first"] * first + ["second"] * second + ["same"] * same)
    assert (found.first, found.second, found.same) == (first, second, same)
    if first + second:
        assert found.low is not None and found.high is not None and found.p is not None and found.share is not None
        assert 0 <= found.low <= found.share + 1e-12 and found.share - 1e-12 <= found.high <= 1
        other = count(["first"] * second + ["second"] * first)
        assert other.p == found.p and other.low == pytest.approx(1 - found.high)


def test_chances_are_those_of_the_books() -> None:
    assert sign_test(8, 10) == pytest.approx(2 * (45 + 10 + 1) / 1024)
    assert sign_test(5, 10) == 1


# The whole thing


def test_a_person_votes_with_the_keyboard_in_a_browser(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    from tests.serve.browser import chromium

    command = [
        sys.executable,
        "-m",
        "heliograph.cli",
        "evaluate",
        "--vote",
        *map(str, folders),
        "-o",
        str(tmp_path / "v"),
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[2]
            with chromium() as browser:
                wait = WebDriverWait(browser, 60)
                browser.get(address)

                def done() -> str:
                    return browser.find_element(By.ID, "count").text

                for index, key in enumerate([Keys.ARROW_LEFT, "2", Keys.ARROW_DOWN, Keys.ARROW_RIGHT]):
                    wait.until(lambda _, index=index: done() == f"{index} of 4")
                    playing = "return [...document.querySelectorAll('video')].every((v) => v.readyState >= 2)"
                    wait.until(lambda b, playing=playing: b.execute_script(playing))
                    ActionChains(browser).send_keys(key).perform()
                wait.until(lambda _: done() == "4 of 4")
                assert "is preferred to first" in browser.find_element(By.ID, "end").text
                assert [log for log in browser.get_log("browser") if log["level"] == "SEVERE"] == []
            server.send_signal(signal.SIGINT)
            rest = server.stdout.read()
            server.wait(60)
        finally:
            server.kill()  # whatever failed, nothing is left running
    assert "4 of 4 votes" in rest and server.returncode in (0, 130)
