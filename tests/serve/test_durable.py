"""What was accepted or finished survives whatever happens to the server."""

import contextlib
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

import httpx
import pytest

from heliograph.errors import OutputError
from heliograph.pipeline import HeliosPipeline
from heliograph.serve import finisher, jobs
from heliograph.serve.helios import HeliosMaker
from heliograph.serve.settings import Limits
from tests.serve.fake_server import process
from tests.serve.fakes import FakeMaker
from tests.serve.harness import HTTP, running
from tests.waiting import wait_for


def ready(url: str) -> None:
    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return HTTP.get(f"{url}/readyz").status_code == 200
        return False

    wait_for(answers)


def video(url: str, video_id: str) -> dict[str, object]:
    return HTTP.get(f"{url}/v1/videos/{video_id}").json()


def test_ten_kills_at_random_moments_change_no_byte_of_any_video(tmp_path: Path) -> None:
    orders = [{"prompt": f"fish {n}", "seconds": 33 * 14 / 24, "seed": n} for n in range(3)]
    moments = random.Random(20260304)
    ids: list[str] = []
    for _ in range(10):  # 42 chunks of 0.05 s take longer than all of it: every kill meets work
        with process(tmp_path / "killed", seconds=0.05) as server:
            if not ids:
                ready(server.url)
                ids = [HTTP.post(f"{server.url}/v1/videos", json=order).json()["id"] for order in orders]
            time.sleep(moments.uniform(0.0, 0.25))  # also while it opens what is there
            server.kill()
    with running(tmp_path / "killed") as live:
        jobs_left = [live.studio.store.job(name) for name in ids]
        assert any(job is not None and job.completed_at is None for job in jobs_left), "the kills came too late"
        wait_for(lambda: all(video(live.url, name)["status"] == "completed" for name in ids))
        killed = [HTTP.get(f"{live.url}/v1/videos/{name}/content").content for name in ids]
        assert not list(live.studio.folders.root.glob("*/.heliograph-*"))
    with running(tmp_path / "calm") as live:
        ids = [HTTP.post(f"{live.url}/v1/videos", json=order).json()["id"] for order in orders]
        wait_for(lambda: all(video(live.url, name)["status"] == "completed" for name in ids))
        calm = [HTTP.get(f"{live.url}/v1/videos/{name}/content").content for name in ids]
    assert killed == calm


def test_a_video_of_the_real_model_goes_on_bit_for_bit_in_another_server(fast_folder: Path, tmp_path: Path) -> None:
    maker = HeliosMaker(HeliosPipeline.from_pretrained(fast_folder, device="cpu"), "fast")
    order = {"prompt": "a red fish", "seconds": 5, "seed": 4}
    videos = []
    for stops in (True, False):
        folder = tmp_path / str(stops)
        with running(folder, maker) as live:
            name = HTTP.post(f"{live.url}/v1/videos", json=order).json()["id"]
            wait_for(lambda live=live, name=name: video(live.url, name)["progress"] != 0)
            if stops:
                live.stop()
        with running(folder, maker) as live:
            wait_for(lambda live=live, name=name: video(live.url, name)["status"] == "completed")
            videos.append(HTTP.get(f"{live.url}/v1/videos/{name}/content").content)
    assert videos[0] == videos[1]


def test_sigterm_stores_the_chunk_under_way_and_ends_normally(tmp_path: Path) -> None:
    with process(tmp_path / "data", seconds=0.05) as server:
        ready(server.url)
        name = HTTP.post(f"{server.url}/v1/videos", json={"prompt": "p", "seconds": 100}).json()["id"]
        wait_for(lambda: video(server.url, name)["progress"] != 0)
        assert server.process.pid is not None
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.end() == 0
        assert server.said() == ""
    with running(tmp_path / "data", FakeMaker(gated=True)) as live:
        job = live.studio.store.job(name)
        assert job is not None and job.status == "in_progress" and job.num_done >= 1


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with process(tmp_path / "data") as first, process(tmp_path / "data") as second:
        ready(first.url)
        assert second.end() != 0 and not second.url
        assert "another server uses" in second.said()
        assert HTTP.get(f"{first.url}/healthz").status_code == 200


def test_a_damaged_database_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    database = tmp_path / "data" / "heliograph.sqlite3"
    database.write_bytes(b"rubbish" * 1000)
    with process(tmp_path / "data") as server:
        assert server.end() != 0
        assert "cannot be used" in server.said()
    assert database.read_bytes() == b"rubbish" * 1000


@pytest.mark.parametrize("harm", ["state", "all states", "fragment", "first fragment"])
def test_damaged_files_of_a_video_under_way_are_made_again(tmp_path: Path, harm: str) -> None:
    order = {"prompt": "p", "seconds": 33 * 6 / 24, "seed": 1}
    with running(tmp_path, FakeMaker(gated=True)) as live:
        name = HTTP.post(f"{live.url}/v1/videos", json=order).json()["id"]
        live.maker.gate.release(4)
        wait_for(lambda: live.studio.store.job(name).num_done == 4)  # pyright: ignore
        live.studio.scheduler.finisher.stop()  # nothing more is stored
        chunks, folder = live.studio.store.chunks(name), live.studio.folders.of(name)
        if harm == "state":
            folder.state(chunks[-1].id).write_bytes(b"[]")
        elif harm == "all states":
            for state in folder.path.glob("*.state"):
                state.write_bytes(state.read_bytes()[:50])
        else:
            folder.fragment(chunks[0 if harm.startswith("first") else -1].id).unlink()
        live.maker.gate.release(1000)
    contents = []
    for folder in (tmp_path, tmp_path / "calm"):
        with running(folder) as live:
            if folder != tmp_path:
                name = HTTP.post(f"{live.url}/v1/videos", json=order).json()["id"]
            wait_for(lambda live=live, name=name: video(live.url, name)["status"] == "completed")
            contents.append(HTTP.get(f"{live.url}/v1/videos/{name}/content").content)
    assert contents[0] == contents[1]


def test_a_full_disk_holds_a_video_up_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_full = True
    write_whole = jobs.write_whole

    def write(path: Path, data: bytes) -> None:
        if is_full:
            raise OutputError(f"cannot write {path}: No space left on device; free some space")
        write_whole(path, data)

    monkeypatch.setattr(jobs, "write_whole", write)
    monkeypatch.setattr(finisher, "RETRY_SECONDS", 0.02)
    with running(tmp_path) as live:
        name = HTTP.post(f"{live.url}/v1/videos", json={"prompt": "p", "seconds": 4}).json()["id"]
        wait_for(lambda: live.studio.scheduler.finisher.trouble)
        refused = HTTP.post(f"{live.url}/v1/videos", json={"prompt": "p"})
        assert refused.status_code == 507 and refused.json()["error"]["code"] == "storage_full"
        assert HTTP.get(f"{live.url}/readyz").status_code == 503
        assert video(live.url, name)["status"] == "in_progress"
        is_full = False
        wait_for(lambda: video(live.url, name)["status"] == "completed")
        assert HTTP.get(f"{live.url}/readyz").status_code == 200


def test_an_order_that_cannot_be_stored_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as live:

        def fail(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(live.studio.store, "add_job", fail)
        refused = HTTP.post(f"{live.url}/v1/videos", json={"prompt": "p"})
        assert refused.status_code == 507 and "disk" in refused.json()["error"]["message"]
        assert not list(live.studio.folders.root.iterdir())


def test_too_little_free_space_refuses_new_work(tmp_path: Path) -> None:
    with running(tmp_path, limits=Limits(min_free_bytes=2**62)) as live:
        assert HTTP.post(f"{live.url}/v1/videos", json={"prompt": "p"}).status_code == 507
        assert HTTP.get(f"{live.url}/readyz").status_code == 503
