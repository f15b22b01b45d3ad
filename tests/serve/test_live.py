"""Live sessions: what plays, who watches, and what can be done while it runs."""

import asyncio
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from heliograph.pipeline import HeliosPipeline
from heliograph.serve.helios import HeliosMaker
from heliograph.serve.settings import Limits
from heliograph.serve.viewers import Media, Skipped, Viewer
from tests.serve.fakes import FakeMaker
from tests.serve.harness import HTTP, Running, running
from tests.serve.test_videos import clip, frames_of, png
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        tmp_path_factory.mktemp("studio"), limits=Limits(min_free_bytes=1, max_live=50, max_live_per_client=50)
    ) as s:
        yield s


class Watcher:
    """A viewer over a socket that keeps all it is told."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.media: list[tuple[int, bytes]] = []
        self.header = b""
        self.events: list[dict[str, Any]] = []

    def step(self) -> dict[str, Any]:
        event = json.loads(self.socket.recv(timeout=10))
        assert event["v"] == 1
        if event["type"] in ("media", "header"):
            data = self.socket.recv(timeout=10)
            assert isinstance(data, bytes) and len(data) == event["bytes"]
            if event["type"] == "header":
                self.header = data
            else:
                self.media.append((event["position"], data))
        else:
            self.events.append(event)
        return event

    def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        deadline = time.monotonic() + 15
        while True:
            assert time.monotonic() < deadline, f"no {kind} with {fields} came"
            event = self.step()
            if event["type"] == kind and all(event.get(k) == v for k, v in fields.items()):
                return event

    def say(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"v": 1, "type": kind, **fields}))

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.say(kind, id="q", **fields)
        deadline = time.monotonic() + 15
        while True:
            assert time.monotonic() < deadline, f"{kind} was not answered"
            event = self.step()
            if event.get("id") == "q":
                return event

    def chunks(self) -> list[tuple[int, str]]:
        return [(event["chunk"], event["prompt"]) for event in self.events if event["type"] == "chunk"]


@contextmanager
def watching(live: Running, session: str, **options: Any) -> Iterator[Watcher]:
    url = f"{live.url.replace('http', 'ws')}/v1/live/{session}"
    with connect(url, max_size=2**24, compression=None, **options) as socket:
        yield Watcher(socket)


def begin(live: Running, prompt: str = "a red fish", **choices: Any) -> str:
    answer = HTTP.post(f"{live.url}/v1/live", json={"prompt": prompt, "seed": 1, "pace": 40, **choices})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def post(live: Running, session: str, action: str, **body: Any) -> httpx.Response:
    return HTTP.post(f"{live.url}/v1/live/{session}/{action}", json=body)


# Watching


def test_the_picture_is_one_header_and_fragments_that_follow_each_other(server: Running) -> None:
    with watching(server, begin(server)) as watcher:
        hello = watcher.step()
        assert (
            hello["type"] == "hello" and hello["version"] == 1 and hello["mime_type"].startswith("video/mp4; codecs=")
        )
        watcher.until("media", position=4)
    assert [position for position, _ in watcher.media] == list(range(5))
    assert watcher.header.count(b"moov") == 1
    data = watcher.header + b"".join(data for _, data in watcher.media)
    with av.open(io.BytesIO(data)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
    assert [packet.pts // 512 for packet in packets] == list(range(5 * 33))
    assert all(packets[33 * place].is_keyframe for place in range(5))


def test_a_late_viewer_begins_with_the_chunk_that_plays(server: Running) -> None:
    session = begin(server)
    with watching(server, session) as first:
        first.until("media", position=6)
        with watching(server, session) as late:
            late.until("media")
            position, data = late.media[0]
            assert position >= 4
            frames = frames_of(late.header + data)
            assert len(frames) == 33


def test_plain_http_gives_each_viewer_one_video_from_time_zero(server: Running) -> None:
    session = begin(server)
    with watching(server, session) as first:
        first.until("media", position=5)
        data = b""
        with HTTP.stream("GET", f"{server.url}/v1/live/{session}/stream.mp4") as answer:
            assert answer.headers["content-type"] == "video/mp4"
            for piece in answer.iter_bytes():
                data += piece
                if data.count(b"moof") >= 4:
                    break
    assert data.count(b"moov") == 1
    whole = data[: data.rindex(b"moof") - 4]
    with av.open(io.BytesIO(whole)) as container:
        times = [packet.pts // 512 for packet in container.demux(video=0) if packet.pts is not None]
    assert times == list(range(len(times))) and len(times) > 33


def test_an_ordinary_player_plays_the_address(server: Running) -> None:
    session = begin(server)
    with av.open(f"{server.url}/v1/live/{session}/stream.mp4", timeout=20) as player:
        frames = [frame for frame, _ in zip(player.decode(video=0), range(70), strict=False)]
    assert len(frames) == 70 and frames[0].width == 64


def test_making_is_held_to_two_chunks_ahead_of_what_plays(server: Running) -> None:
    session = begin(server, pace=0.1)
    production = server.studio.lives.running(session)
    assert production is not None
    with watching(server, session) as watcher:
        watcher.until("chunk", chunk=1)
        assert production.pace.num_taken == 2
        assert production.pace.num_taken - production.pace.head(time.monotonic()) <= 2


def test_several_viewers_see_the_same_frames(server: Running) -> None:
    session = begin(server)
    with watching(server, session) as first, watching(server, session) as second:
        for watcher in (first, second):
            watcher.until("media", position=5)
    both = [dict(watcher.media) for watcher in (first, second)]
    common = both[0].keys() & both[1].keys()
    assert len(common) >= 3 and all(both[0][position] == both[1][position] for position in common)


def test_a_viewer_that_reads_nothing_holds_nobody_up(server: Running) -> None:
    session = begin(server, pace=1000)
    with watching(server, session, max_queue=1, close_timeout=0.2), watching(server, session) as quick:
        quick.until("media", position=12)


def test_a_slow_viewer_misses_chunks_and_is_told_how_many() -> None:
    async def play() -> list[Any]:
        viewer = Viewer()
        skipped = sum(viewer.put(Media(position, b"")) for position in range(8))
        viewer.put("state")
        viewer.end()
        items = []
        while (item := await viewer.get()) is not None:
            items.append(item)
        return [skipped, *items]

    assert asyncio.run(play()) == [6, Skipped(6), Media(6, b""), Media(7, b""), "state"]


def test_an_abandoned_session_stops_and_can_be_opened_again(tmp_path: Path) -> None:
    with running(tmp_path, abandon_seconds=0.3) as live:
        session = begin(live)
        with watching(live, session) as watcher:
            last = watcher.until("chunk", chunk=3)
        wait_for(lambda: HTTP.get(f"{live.url}/v1/live/{session}").json()["status"] == "stopped")
        num_passes = len(live.maker.passes)
        time.sleep(0.1)
        assert len(live.maker.passes) == num_passes
        with watching(live, session) as watcher:
            watcher.until("media")
            assert watcher.until("chunk")["chunk"] > last["chunk"]


def test_nothing_is_made_for_nobody_beyond_the_first_two_chunks(server: Running) -> None:
    session = begin(server, "nobody", pace=1000)
    wait_for(lambda: len(server.studio.store.chunks(session)) == 2)
    time.sleep(0.1)
    assert len(server.studio.store.chunks(session)) == 2


# Steering


def test_a_prompt_changes_with_the_chunk_that_the_answer_names(server: Running) -> None:
    with watching(server, begin(server)) as watcher:
        watcher.until("chunk", chunk=2)
        ack = watcher.ask("steer", prompt="a blue fish")
        assert ack["type"] == "ack" and ack["of"] == "steer"
        watcher.until("chunk", prompt="a blue fish")
        shown = watcher.chunks()
        assert [prompt for place, prompt in shown if place >= ack["chunk"]] == ["a blue fish"]
        assert ack["chunk"] <= 2 + 3


def test_everything_can_be_steered_over_http_too(server: Running) -> None:
    session = begin(server)
    wait_for(lambda: server.studio.store.chunks(session))
    body = {"prompt": "rain", "negative_prompt": "snow", "guidance_scale": 3.0, "transition_chunks": 2, "pace": 2}
    ack = post(server, session, "prompt", **body).json()
    assert ack["object"] == "live.ack" and ack["chunk"] >= 1
    now = HTTP.get(f"{server.url}/v1/live/{session}").json()
    assert (now["prompt"], now["negative_prompt"], now["guidance_scale"], now["pace"]) == ("rain", "snow", 3.0, 2)


def test_a_mistake_while_steering_changes_nothing(server: Running) -> None:
    with watching(server, begin(server)) as watcher:
        for message in (
            {"type": "steer", "prompt": ""},
            {"type": "steer", "prompt": " "},
            {"type": "fly"},
            {"type": "rewind", "chunk": 10**6},
        ):
            watcher.socket.send(json.dumps({"v": 1, **message}))
            error = watcher.until("error")["error"]
            assert error["message"] and error["type"] in ("invalid_request_error", "not_found_error")
        watcher.socket.send(b"\x00\x01")
        assert "JSON" in watcher.until("error")["error"]["message"]
        watcher.socket.send("{")
        watcher.until("error")
        watcher.until("chunk", prompt="a red fish")


def test_a_paused_session_makes_nothing_until_it_is_resumed(server: Running) -> None:
    session = begin(server)
    with watching(server, session) as watcher:
        watcher.until("chunk", chunk=1)
        ack = watcher.ask("pause")
        wait_for(
            lambda: server.studio.lives.running(session).pace.num_taken == len(server.studio.store.chunks(session))
        )  # pyright: ignore
        made = len(server.studio.store.chunks(session))
        time.sleep(0.2)
        assert len(server.studio.store.chunks(session)) == made == ack["chunk"]
        assert HTTP.get(f"{server.url}/v1/live/{session}").json()["status"] == "paused"
        watcher.ask("resume")
        watcher.until("chunk", chunk=made)


def test_rewinding_goes_on_from_an_earlier_chunk_and_keeps_the_old_branch(server: Running) -> None:
    session = begin(server)
    with watching(server, session) as watcher:
        watcher.until("chunk", chunk=5)
        ack = watcher.ask("rewind", chunk=2, prompt="a storm")
        assert ack["chunk"] == 3
        taken = watcher.until("chunk", prompt="a storm")
        assert taken["chunk"] == 3 and taken["position"] == ack["position"]
        positions = [position for position, _ in watcher.media]
        assert positions == sorted(set(positions)), "the stream goes on without a break"
        old = next(e for e in watcher.events if e["type"] == "chunk" and e["chunk"] == 5)
        back = watcher.ask("rewind", chunk_id=old["chunk_id"])
        assert back["chunk"] == 6
        assert watcher.until("chunk", chunk=6)["prompt"] == "a red fish"
    rows = HTTP.get(f"{server.url}/v1/live/{session}/chunks", params={"first": 3}).json()["data"]
    assert {row["prompt"] for row in rows if row["chunk"] == 3} == {"a red fish", "a storm"}
    assert len({row["parent"] for row in rows if row["chunk"] == 3}) == 1


def test_a_fork_is_a_session_of_its_own_with_the_same_beginning(server: Running) -> None:
    session = begin(server)
    with watching(server, session) as watcher:
        watcher.until("chunk", chunk=4)
        answer = watcher.ask("fork", chunk=1, prompt="a whale")
        fork = answer["session"]
        assert fork["forked_from"] == session and fork["fork_chunk"] == 1
    with watching(server, fork["id"]) as watcher:
        first = watcher.until("chunk", chunk=3)
        assert first["prompt"] == "a whale"
    assert HTTP.delete(f"{server.url}/v1/live/{session}").json()["deleted"] is True
    rows = HTTP.get(f"{server.url}/v1/live/{fork['id']}/chunks").json()["data"]
    assert [row["prompt"] for row in rows[:3]] == ["a red fish", "a red fish", "a whale"]
    picture = HTTP.get(f"{server.url}/v1/live/{fork['id']}/chunks/{rows[0]['chunk_id']}/thumbnail")
    assert picture.headers["content-type"] == "image/jpeg" and picture.content[:2] == b"\xff\xd8"


def test_a_session_that_is_replayed_from_a_fork_gives_the_real_models_frames(fast_folder: Path, tmp_path: Path) -> None:
    maker = HeliosMaker(HeliosPipeline.from_pretrained(fast_folder, device="cpu"), "fast")
    with running(tmp_path, maker) as live:
        session = begin(live, pace=100)
        with watching(live, session) as watcher:
            watcher.until("chunk", chunk=3)
            watcher.ask("pause")
            fork = watcher.ask("fork", chunk=0)["session"]["id"]
            with watching(live, fork) as other:
                other.until("chunk", chunk=3)
        chunks = [live.studio.store.chunks(name) for name in (session, fork)]
        files = [
            [live.studio.folders.of(c.owner).fragment(c.id).read_bytes() for c in rows if c.place < 4]
            for rows in chunks
        ]
    assert files[0] == files[1]


def test_the_path_that_was_taken_downloads_as_one_video(server: Running) -> None:
    session = begin(server)
    with watching(server, session) as watcher:
        watcher.until("chunk", chunk=4)
        watcher.ask("rewind", chunk=1, prompt="a storm")
        watcher.until("chunk", chunk=3, prompt="a storm")
        watcher.ask("pause")
    data = HTTP.get(f"{server.url}/v1/live/{session}/video.mp4").content
    assert len(frames_of(data)) % 33 == 0 and len(frames_of(data)) >= 4 * 33


# Starting


def test_a_session_begins_from_a_picture_or_a_clip(server: Running, tmp_path: Path) -> None:
    form = {"prompt": "snow", "pace": "40"}
    for field, name, data in (("image", "a.png", png()), ("video", "a.mp4", clip(tmp_path / "a.mp4").read_bytes())):
        answer = HTTP.post(f"{server.url}/v1/live", data=form, files={field: (name, data)})
        assert answer.status_code == 200 and answer.json()["start"] == field
        with watching(server, answer.json()["id"]) as watcher:
            watcher.until("media")
    both = {"image": ("a.png", png()), "video": ("b.png", png())}
    assert HTTP.post(f"{server.url}/v1/live", data=form, files=both).status_code == 400


def test_a_session_is_still_there_after_a_restart_with_its_chunks(tmp_path: Path) -> None:
    with running(tmp_path) as live:
        session = begin(live)
        with watching(live, session) as watcher:
            watcher.until("chunk", chunk=3)
            saved = watcher.ask("save", name="my fish")["session"]
            assert saved["saved"] is True and saved["name"] == "my fish"
        before = live.studio.store.path(live.studio.store.session(session).tip)  # pyright: ignore
    with running(tmp_path) as live:
        listed = HTTP.get(f"{live.url}/v1/live").json()["data"]
        assert [(item["id"], item["name"], item["status"]) for item in listed] == [(session, "my fish", "stopped")]
        with watching(live, session) as watcher:
            assert watcher.until("chunk")["chunk"] >= len(before) - 1
        after = live.studio.store.chunks(session)
        assert [chunk.id for chunk in after[: len(before) - 1]] == [chunk.id for chunk in before[:-1]]


def test_a_damaged_state_costs_one_chunk_of_a_session(tmp_path: Path) -> None:
    with running(tmp_path) as live:
        session = begin(live)
        with watching(live, session) as watcher:
            watcher.until("chunk", chunk=3)
    with running(tmp_path) as live:
        tip = live.studio.store.session(session).tip  # pyright: ignore
        line = live.studio.store.path(tip)
        live.studio.folders.of(session).state(line[-1].id).write_bytes(b"rubbish")
        with watching(live, session) as watcher:
            assert watcher.until("chunk")["chunk"] == line[-1].place


def test_old_unsaved_sessions_make_room_and_saved_ones_stay(tmp_path: Path) -> None:
    limits = Limits(min_free_bytes=1, max_stored_sessions=2)
    with running(tmp_path, limits=limits) as live:
        kept = begin(live)
        post(live, kept, "save", name="kept")
        sessions = [kept]
        for _ in range(4):
            with watching(live, sessions[-1]) as watcher:
                watcher.until("chunk")  # what is stored last was touched last
                watcher.ask("stop")
            sessions.append(begin(live))
        listed = {item["id"] for item in HTTP.get(f"{live.url}/v1/live").json()["data"]}
    assert kept in listed and listed == {kept, *sessions[-3:]}


def test_a_long_session_forgets_its_oldest_chunks(tmp_path: Path) -> None:
    with running(tmp_path, limits=Limits(min_free_bytes=1, max_session_chunks=5)) as live:
        session = begin(live, pace=1000)
        with watching(live, session) as watcher:
            watcher.until("chunk", chunk=12)
            rows = live.studio.store.chunks(session)
            assert rows[0].place >= 12 - 5 and len(rows) <= 7
            assert "chunks" in watcher.ask("rewind", chunk=0)["error"]["message"]
        wait_for(lambda: len(list(live.studio.folders.of(session).path.glob("*.state"))) <= 6)


def test_a_session_whose_engine_stumbles_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    maker = FakeMaker()
    maker.broken_prompts = {"bad"}
    with running(tmp_path, maker) as live:
        good, bad = begin(live, "good"), begin(live, "a red fish")
        with watching(live, good) as well, watching(live, bad) as ill:
            well.until("chunk", chunk=1)
            ill.say("steer", prompt="bad")
            assert "log" in ill.until("error")["error"]["message"]
            well.until("chunk", chunk=8)


def test_too_many_sessions_or_messages_are_refused(tmp_path: Path) -> None:
    limits = Limits(min_free_bytes=1, max_live=2, max_viewers=1, max_messages_per_second=5)
    with running(tmp_path, limits=limits) as live:
        sessions = [begin(live), begin(live)]
        refused = HTTP.post(f"{live.url}/v1/live", json={"prompt": "one more"})
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        with watching(live, sessions[0]) as first:
            with watching(live, sessions[0]) as second:
                assert second.step()["type"] == "error"
                with pytest.raises(ConnectionClosed):
                    second.step()
            with suppress(ConnectionClosed):  # which may come before the last of them is sent
                for _ in range(12):
                    first.say("ping")
            assert first.until("error")["error"]["code"] == "messages"
            with pytest.raises(ConnectionClosed) as closed:
                first.until("never")
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4429


def test_an_unknown_session_is_told_before_the_socket_closes(server: Running) -> None:
    with watching(server, "live_" + "0" * 32) as watcher:
        assert watcher.step()["error"]["code"] == "not_found"
        with pytest.raises(ConnectionClosed) as closed:
            watcher.step()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4404
    assert HTTP.get(f"{server.url}/v1/live/nothing").status_code == 404
    assert HTTP.get(f"{server.url}/v1/live/protocol").json()["client"]
