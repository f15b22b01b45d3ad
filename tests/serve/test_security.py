"""What docs/security.md promises."""

import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from heliograph.errors import UserError
from heliograph.pipeline import START_FRAMES
from heliograph.serve import uploads
from heliograph.serve.guards import allowed_hosts
from heliograph.serve.server import serve
from heliograph.serve.settings import Limits, Settings, UploadLimits
from tests.serve.fakes import FakeMaker
from tests.serve.harness import HTTP, Running, running
from tests.serve.test_videos import clip, png
from tests.waiting import wait_for

KEY = "a key that nobody guesses"
SMALL = UploadLimits(
    max_bytes=300_000, max_pixels=500_000, max_seconds=3.0, max_frames=60, cpu_seconds=5, wall_seconds=20.0
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = Limits(min_free_bytes=1, upload=SMALL, max_body_bytes=600_000)
    with running(tmp_path_factory.mktemp("open"), limits=limits) as live:
        yield live


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = Limits(min_free_bytes=1, max_failed_keys=1000)
    with running(tmp_path_factory.mktemp("locked"), limits=limits, api_key=KEY) as live:
        yield live


# The key


def test_every_route_but_health_asks_for_the_key(locked: Running) -> None:
    paths = HTTP.get(f"{locked.url}/openapi.json", headers={"Authorization": f"Bearer {KEY}"}).json()["paths"]
    asked = [(method, path) for path, methods in paths.items() for method in methods]
    assert len(asked) > 20
    some = {"{video_id}": "video_" + "0" * 32, "{session_id}": "live_" + "0" * 32, "{chunk_id}": "chunk_" + "0" * 32}
    for method, path in [
        *asked,
        ("get", "/"),
        ("get", "/static/app.js"),
        ("get", "/openapi.json"),
        ("get", "/nothing"),
    ]:
        for name, value in some.items():
            path = path.replace(name, value)  # noqa: PLW2901
        answer = HTTP.request(method, locked.url + path)
        assert (answer.status_code == 401) != (path in ("/healthz", "/readyz")), (method, path)
        wrong = HTTP.request(method, locked.url + path, headers={"Authorization": "Bearer wrong"})
        assert wrong.status_code == answer.status_code


def test_the_right_key_opens_every_way_in(locked: Running) -> None:
    client = locked.client(KEY)
    assert client.videos.list().data == []
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(f"{locked.url.replace('http', 'ws')}/v1/live/live_{'0' * 32}"),
    ):
        pass
    assert refused.value.response.status_code == 401
    with httpx.Client(base_url=locked.url) as browser:
        assert "API key" in browser.get("/").text
        assert browser.post("/login", data={"key": "wrong"}).headers["location"] == "/?wrong"
        answer = browser.post("/login", data={"key": KEY})
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and KEY not in cookie
        assert browser.get("/").status_code == 200 and browser.get("/v1/videos").status_code == 200
        browser.cookies.set("heliograph", "0" * 64)
        assert browser.get("/v1/videos").status_code == 401


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, locked: Running) -> None:
    compared = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(left)
        return left == right

    monkeypatch.setattr("heliograph.serve.guards.secrets.compare_digest", compare)
    for key in ("x", KEY[:-1] + "?", KEY):
        HTTP.get(f"{locked.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    assert compared == [b"x", KEY[:-1].encode() + b"?", KEY.encode()]


def test_who_guesses_keys_is_slowed_down(tmp_path: Path) -> None:
    with running(tmp_path, limits=Limits(min_free_bytes=1, max_failed_keys=3), api_key=KEY) as live:
        statuses = [
            HTTP.get(f"{live.url}/v1/models", headers={"Authorization": "Bearer no"}).status_code for _ in range(5)
        ]
        assert statuses == [401, 401, 401, 429, 429]
        assert HTTP.get(f"{live.url}/healthz").status_code == 200


# Browsers


def test_answers_tell_browsers_to_trust_nothing_else(server: Running) -> None:
    for path in ("/", "/static/app.js", "/v1/videos", "/nothing"):
        headers = HTTP.get(server.url + path, headers={"Origin": "https://evil.example"}).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert not [name for name in headers if name.startswith("access-control")]


def test_the_page_asks_no_other_place_for_anything() -> None:
    static = Path(uploads.__file__).parent / "static"
    for file in static.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text, file
        assert file.suffix != ".html" or file.name == "login.html" or ("style=" not in text and "onclick" not in text)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "file://"])
def test_pages_of_other_sites_may_change_and_watch_nothing(server: Running, origin: str) -> None:
    refused = HTTP.post(f"{server.url}/v1/live", json={"prompt": "p"}, headers={"Origin": origin})
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "origin"
    with (
        pytest.raises(InvalidStatus) as caught,
        connect(f"{server.url.replace('http', 'ws')}/v1/live/live_{'0' * 32}", additional_headers={"Origin": origin}),
    ):
        pass
    assert caught.value.response.status_code == 403


def test_a_name_that_is_not_this_servers_is_refused(server: Running, tmp_path: Path) -> None:
    refused = HTTP.get(f"{server.url}/v1/videos", headers={"Host": "evil.example"})
    assert refused.status_code == 403 and "--allow-host" in refused.json()["error"]["message"]
    names = allowed_hosts(Settings(tmp_path, host="0.0.0.0", allowed_hosts=("studio.example",)))
    assert names is not None and "studio.example" in names and "evil.example" not in names
    assert allowed_hosts(Settings(tmp_path, host="0.0.0.0")) is None


def test_it_listens_to_this_machine_alone_unless_told_otherwise(tmp_path: Path) -> None:
    assert Settings(tmp_path).host == "127.0.0.1"


# Names and paths


@pytest.mark.parametrize(
    "name",
    [
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "video_" + "g" * 32,
        "video_" + "0" * 31,
        "live_" + "0" * 32,
        "%00",
        "a" * 5000,
    ],
)
def test_no_path_is_made_from_what_a_client_writes(server: Running, name: str) -> None:
    for path in (f"/v1/videos/{name}", f"/v1/videos/{name}/content", f"/v1/live/{name}/video.mp4", f"/static/{name}"):
        answer = HTTP.get(server.url + path)
        assert answer.status_code in (400, 404), (path, answer.status_code)
        assert b"root:" not in answer.content


def test_ids_are_long_random_and_never_repeat(server: Running) -> None:
    names = {HTTP.post(f"{server.url}/v1/videos", json={"prompt": "p", "seconds": 0.1}).json()["id"] for _ in range(20)}
    assert len(names) == 20
    bits = [int(name.removeprefix("video_"), 16) for name in names]
    assert all(bit.bit_length() > 96 for bit in bits)


# Uploads


def send(server: Running, data: bytes, name: str = "a.png", field: str = "input_reference") -> httpx.Response:
    form = {"prompt": "p", "seconds": "0.1"}
    return HTTP.post(f"{server.url}/v1/videos", data=form, files={field: (name, data)})


def bomb() -> bytes:
    """A PNG of a few kilobytes that says it has 30000 × 30000 pixels."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(b"\0" * 3_000_000, 9)
    size = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", size) + part(b"IDAT", pixels) + part(b"IEND", b"")


def test_a_picture_bomb_is_refused_by_its_size(server: Running) -> None:
    answer = send(server, bomb())
    assert (answer.status_code == 400 and "large" in answer.json()["error"]["message"]) or "pixels" in answer.text


def test_files_that_are_too_much_are_refused(server: Running, tmp_path: Path) -> None:
    assert send(server, b"\0" * 400_000).status_code == 413
    assert HTTP.post(f"{server.url}/v1/videos", content=b"\0" * 700_000).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    assert HTTP.post(f"{server.url}/v1/videos", content=pieces()).status_code == 413
    assert "cut it" in send(server, clip(tmp_path / "long.mp4", 66).read_bytes(), "a.mp4").text


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "ffconcat version 1.0\nfile /etc/passwd\n", "<svg/>", "<html>"],
)
def test_lists_that_name_other_files_are_no_clips(server: Running, text: str) -> None:
    answer = send(server, text.encode(), "a.m3u8")
    assert answer.status_code == 400 and "root:" not in answer.text


def test_damaged_uploads_never_hurt_the_server(server: Running, tmp_path: Path) -> None:
    dice = random.Random(7)
    whole = {"a.png": png(), "a.mp4": clip(tmp_path / "a.mp4").read_bytes()}
    for kind in ("JPEG", "WEBP", "GIF", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(buffer, kind)
        whole[f"a.{kind.lower()}"] = buffer.getvalue()
    for name, data in whole.items():
        cut = data[: dice.randrange(1, len(data))]
        spoilt = bytearray(data)
        for _ in range(12):
            spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
        for harmed in (cut, bytes(spoilt)):
            answer = send(server, harmed, name)
            assert answer.status_code in (200, 400), (name, answer.text)
    assert HTTP.get(f"{server.url}/healthz").status_code == 200
    wait_for(lambda: not list((server.studio.settings.data_dir / "uploads").iterdir()))


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"memory_bytes": 64 * 2**20}, "limits"), ({"cpu_seconds": 0}, "limits"), ({"wall_seconds": 0.01}, "longer than")],
)
def test_a_decoder_that_takes_too_much_is_ended(tmp_path: Path, limits: dict[str, int], words: str) -> None:
    with running(tmp_path, limits=Limits(min_free_bytes=1, upload=replace(SMALL, **limits))) as live:
        answer = send(live, png())
        assert answer.status_code == 400 and words in answer.json()["error"]["message"]
        assert HTTP.get(f"{live.url}/healthz").status_code == 200


def test_the_decoder_keeps_what_a_start_needs() -> None:
    assert uploads.KEPT_FRAMES == START_FRAMES


# Limits of each client, and the rest


def test_many_orders_at_once_are_accepted_or_told_to_wait_and_none_is_lost(tmp_path: Path) -> None:
    with running(tmp_path, FakeMaker(gated=True), limits=Limits(min_free_bytes=1, max_jobs=20)) as live:
        with ThreadPoolExecutor(10) as crowd:
            answers = list(
                crowd.map(
                    lambda n: HTTP.post(f"{live.url}/v1/videos", json={"prompt": f"p{n}", "seconds": 0.1}), range(50)
                )
            )
        accepted = [answer.json()["id"] for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert len(accepted) == 20 and {answer.status_code for answer in refused} == {429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        live.maker.gate.release(1000)
        wait_for(
            lambda: all(HTTP.get(f"{live.url}/v1/videos/{name}").json()["status"] == "completed" for name in accepted)
        )


def test_a_fault_inside_is_told_without_details(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.studio.store, "jobs", lambda **_: 1 / 0)
    answer = HTTP.get(f"{server.url}/v1/videos")
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal" and "Zero" not in answer.text
    assert answer.headers["connection"] == "close"  # else the next request of a client that keeps it would be reset


def test_a_port_in_use_is_named(tmp_path: Path, server: Running) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
        serve(Settings(tmp_path, port=port), FakeMaker, lambda _address: None)


def test_figures_for_prometheus_are_there(server: Running) -> None:
    HTTP.post(f"{server.url}/v1/videos", json={"prompt": "p", "seconds": 0.1})
    wait_for(lambda: b'heliograph_jobs_total{status="completed"}' in HTTP.get(f"{server.url}/metrics").content)
    text = HTTP.get(f"{server.url}/metrics").text
    for name in (
        "chunk_seconds_bucket",
        "real_time_factor",
        "open_jobs",
        "live_sessions",
        "first_frame_seconds",
        "viewers",
    ):
        assert f"heliograph_{name}" in text
    assert json.loads(HTTP.get(f"{server.url}/readyz").text) == {"status": "ready"}
