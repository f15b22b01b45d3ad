"""The whole way with the embedded model: OpenAI's client, a killed server, live steering, and the page in a browser."""

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver import Chrome

from heliograph.serve.helios import HeliosMaker, load_maker
from tests.serve.browser import Page
from tests.serve.harness import HTTP, Running, running
from tests.serve.test_live import begin, watching
from tests.serve.test_videos import frames_of
from tests.waiting import wait_for

DAY = "a big red fish swims over a coral reef by day"
NIGHT = "a big white owl flies over snowy mountains at night"
FAST = (1, 1, 1)
"""Steps of `speed: fast`, which keep these tests short; a picture by day stays brighter than one at night."""


@pytest.fixture(scope="module")
def maker() -> HeliosMaker:
    return load_maker("tiny", "cpu", "float32")


@pytest.fixture(scope="module")
def server(maker: HeliosMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("studio"), maker) as live:
        yield live


def plain_frames(maker: HeliosMaker, folder: Path, seed: int, num_frames: int) -> np.ndarray:
    """What `heliograph generate` writes."""
    path = folder / "plain.mp4"
    maker.pipe(DAY, num_frames=num_frames, seed=seed, steps=FAST).save(path)
    return frames_of(path.read_bytes())


def test_an_ordered_video_is_what_the_command_line_makes(server: Running, maker: HeliosMaker, tmp_path: Path) -> None:
    client = server.client()
    video = client.videos.create_and_poll(
        prompt=DAY, poll_interval_ms=50, extra_body={"seconds": 2.75, "seed": 3, "speed": "fast"}
    )
    assert (video.status, video.model, video.size) == ("completed", "tiny", "128x128")
    got = frames_of(client.videos.download_content(video.id).read())
    assert np.array_equal(got, plain_frames(maker, tmp_path, 3, 66))


def test_a_killed_server_of_the_command_line_loses_no_frame(maker: HeliosMaker, tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = (sys.executable, "-c", "from heliograph.cli import main; main()", "serve", "--port", "0")
    with subprocess.Popen((*command, "--data-dir", data), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[1]
        wait_for(lambda: HTTP.get(f"{url}/readyz").status_code == 200)
        order = {"prompt": DAY, "seconds": 33 * 6 / 24, "seed": 5, "speed": "fast"}
        name = HTTP.post(f"{url}/v1/videos", json=order).json()["id"]
        wait_for(lambda: HTTP.get(f"{url}/v1/videos/{name}").json()["progress"])
        server.kill()
    with running(data, maker) as live:
        job = live.studio.store.job(name)
        assert job is not None and job.status == "in_progress" and job.num_done >= 1
        wait_for(lambda: HTTP.get(f"{live.url}/v1/videos/{name}").json()["status"] == "completed")
        got = frames_of(HTTP.get(f"{live.url}/v1/videos/{name}/content").content)
    assert np.array_equal(got, plain_frames(maker, tmp_path, 5, 33 * 6))


def test_a_changed_prompt_is_seen_within_three_chunks_and_a_rewind_undoes_it(server: Running) -> None:
    session = begin(server, DAY, speed="fast", pace=4)
    with watching(server, session) as watcher:
        watcher.until("chunk", chunk=2)
        production = server.studio.lives.running(session)
        assert production is not None
        plays = int(production.pace.head(time.monotonic()))
        ack = watcher.ask("steer", prompt=NIGHT)
        assert ack["position"] - plays <= 3
        night = watcher.until("chunk", chunk=ack["chunk"])
        day = [event for event in watcher.events if event["type"] == "chunk" and event["prompt"] == DAY]
        assert night["prompt"] == NIGHT
        assert night["figures"]["luma"] < 0.9 * day[-1]["figures"]["luma"]
        watcher.ask("rewind", chunk=0, prompt=DAY)
        again = watcher.until("chunk", chunk=1)
        watcher.ask("pause")
        folder = server.studio.folders.of(session)
        first, second = (folder.fragment(event["chunk_id"]).read_bytes() for event in (day[1], again))
    assert first == second, "the same history, prompt and seed give the same chunk"


def test_words_that_say_nothing_to_the_model_are_named(server: Running) -> None:
    session = begin(server, "a purple dragon flies over the castle by day", speed="fast", pace=4)
    state = f"{server.url}/v1/live/{session}"
    with watching(server, session) as watcher:
        watcher.until("chunk", chunk=0)
        assert HTTP.get(state).json()["unknown_words"] == ["dragon", "castle"]
        watcher.ask("steer", prompt=DAY)
        assert HTTP.get(state).json()["unknown_words"] == []


def test_a_session_goes_on_from_a_picture(server: Running, maker: HeliosMaker, tmp_path: Path) -> None:
    red = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(red, "PNG")
    form: dict[str, Any] = {"prompt": DAY, "speed": "fast", "motion": "0", "seed": "1"}
    answer = HTTP.post(f"{server.url}/v1/live", data=form, files={"image": ("red.png", red.getvalue())})
    with watching(server, answer.json()["id"]) as watcher:
        watcher.until("media")
        frames = frames_of(watcher.header + watcher.media[0][1])
    started, plain = (first.mean(axis=(0, 1)) for first in (frames[0], plain_frames(maker, tmp_path, 1, 33)[0]))
    assert started[0] / started[2] > 1.3 * plain[0] / plain[2]


def test_the_page_plays_it_and_shows_another_prompt(server: Running, browser: Chrome) -> None:
    page = Page(browser, server.url)
    page.run("document.querySelector('[name=speed][value=fast]').click(); document.getElementById('blend').value = '0'")
    page.play(DAY, pace=1)
    assert page.text("model") == "tiny · 128x128"
    page.write(NIGHT)
    page.get("go").click()
    wait_for(lambda: page.text("caption") == NIGHT)
    by_day = page.run(BRIGHTNESS, "first")
    wait_for(lambda: page.run(BRIGHTNESS, "last") < 0.9 * by_day)  # a chunk is led in from the one before
    browser.get("about:blank")


BRIGHTNESS = """
    const pictures = [...document.querySelectorAll('.chunk img')].filter(image => image.complete);
    const pen = new OffscreenCanvas(64, 64).getContext('2d');
    pen.drawImage(arguments[0] === 'first' ? pictures[0] : pictures.at(-1), 0, 0, 64, 64);
    return pen.getImageData(0, 0, 64, 64).data.reduce((sum, value) => sum + value, 0);
"""
