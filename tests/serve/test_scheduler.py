"""Whose turn it is."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest

from heliograph.serve.maker import Reel
from heliograph.serve.scheduler import LIVE, VIDEO, Production, choose
from heliograph.serve.settings import Limits
from tests.serve.fakes import FakeMaker
from tests.serve.harness import HTTP, running
from tests.waiting import wait_for


class Wish:
    """A production that wants `wants` chunks."""

    def __init__(
        self, name: str, rank: int, group: Hashable = None, wants: int = 1000, wait: float | None = None
    ) -> None:
        self.name, self.rank, self.group, self.wants, self.wait = name, rank, group or name, wants, wait

    def seconds_to_wait(self, now: float) -> float | None:
        return self.wait if not self.wants else 0.0

    def attend(self) -> None: ...
    def reel(self) -> Reel: ...  # pyright: ignore
    def taken(self, after: Reel, seconds: float) -> None: ...
    def deliver(self, after: Reel, frames: Any) -> Any: ...
    def fail(self, error: Exception) -> None: ...


def served(productions: list[Production], num: int) -> list[str]:
    """Who gets each of the next turns."""
    turns: dict[Hashable, int] = {}
    names = []
    for number in range(num):
        line = choose(productions, turns, 0.0)
        if not line:
            break
        turns[line[0].group] = number
        line[0].wants -= 1  # pyright: ignore
        names.append(line[0].name)
    return names


def test_live_sessions_take_turns() -> None:
    assert served([Wish(name, LIVE) for name in "abc"], 7) == list("abcabca")


def test_live_goes_before_videos_and_videos_fill_the_gaps() -> None:
    assert served([Wish("video", VIDEO), Wish("live", LIVE, wants=2)], 4) == ["live", "live", "video", "video"]


def test_videos_go_round_the_clients_and_each_clients_in_order() -> None:
    line: list[Production] = [Wish(f"a{n}", VIDEO, "anna", wants=2) for n in range(3)]
    line += [Wish("b0", VIDEO, "ben", wants=2)]
    assert served(line, 99) == ["a0", "b0", "a0", "b0", "a1", "a1", "a2", "a2"]


def test_a_newcomer_is_served_next() -> None:
    productions: list[Production] = [Wish("a", LIVE), Wish("b", LIVE)]
    turns: dict[Hashable, int] = {"a": 7, "b": 8}
    assert choose([*productions, Wish("new", LIVE)], turns, 0.0)[0].name == "new"


@pytest.mark.parametrize("wait", [None, 2.0])
def test_who_wants_nothing_now_is_not_in_line(wait: float | None) -> None:
    assert choose([Wish("a", LIVE, wants=0, wait=wait)], {}, 0.0) == []


def test_live_sessions_of_one_shape_share_passes_and_videos_are_made_alone(tmp_path: Path) -> None:
    maker = FakeMaker(gated=True)
    with running(tmp_path, maker, limits=Limits(min_free_bytes=1)) as live:
        video = HTTP.post(f"{live.url}/v1/videos", json={"prompt": "video", "seconds": 4}).json()["id"]
        assert maker.gate is not None
        for prompt in ("one", "two", "three"):
            HTTP.post(f"{live.url}/v1/live", json={"prompt": prompt})
        HTTP.post(f"{live.url}/v1/live", json={"prompt": "wide", "size": "128x64"})
        maker.gate.release(100)
        wait_for(lambda: HTTP.get(f"{live.url}/v1/videos/{video}").json()["status"] == "completed")
    together = [sorted(prompt for prompt, _ in made) for made in maker.passes]
    assert ["one", "three", "two"] in together
    assert all(made in (["video"], ["wide"]) or not {"video", "wide"} & set(made) for made in together)


def test_one_session_that_fails_in_a_pass_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    maker = FakeMaker(gated=True)
    maker.broken_prompts = {"bad"}
    with running(tmp_path, maker) as live:
        video = HTTP.post(f"{live.url}/v1/videos", json={"prompt": "video", "seconds": 8}).json()["id"]
        names = [HTTP.post(f"{live.url}/v1/live", json={"prompt": p}).json()["id"] for p in ("good", "bad")]
        assert maker.gate is not None
        maker.gate.release(100)
        wait_for(lambda: HTTP.get(f"{live.url}/v1/videos/{video}").json()["status"] == "completed")
        wait_for(lambda: len(live.studio.store.chunks(names[0])) == 2)
        assert [chunk.place for chunk in live.studio.store.chunks(names[0])] == [0, 1]
        assert HTTP.get(f"{live.url}/v1/live/{names[1]}").json()["status"] == "stopped"
