"""The Videos API, through OpenAI's own client."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from heliograph.media.mp4 import Mp4Sink
from heliograph.media.target import check_target
from tests.serve.fakes import FakeMaker, paint
from tests.serve.harness import Running, running
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("studio")) as live:
        yield live


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return server.client()


def finished(client: openai.OpenAI, video_id: str) -> openai.types.Video:
    return client.videos.poll(video_id, poll_interval_ms=20)


def make(client: openai.OpenAI, prompt: str = "a red fish", **choices: object) -> openai.types.Video:
    return client.videos.create_and_poll(prompt=prompt, poll_interval_ms=20, **choices)  # pyright: ignore


def frames_of(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def clip(path: Path, num_frames: int = 40) -> Path:
    with Mp4Sink(check_target(path, overwrite=True), 24) as sink:
        sink.write(np.concatenate([paint("clip", 0, 0, 64, 96), paint("clip", 1, 0, 64, 96)])[:num_frames])
    return path


# What the client does


def test_a_video_is_created_polled_and_downloaded(client: openai.OpenAI) -> None:
    video = make(client, seconds="4", extra_body={"seed": 3})
    assert (video.status, video.progress, video.seconds, video.size, video.model) == (
        "completed",
        100,
        "4",
        "64x64",
        "fake",
    )
    assert video.completed_at is not None and video.completed_at >= video.created_at and video.error is None
    frames = frames_of(client.videos.download_content(video.id).read())
    assert frames.shape == (96, 64, 64, 3)
    for place in range(3):
        want = paint("a red fish", 3, place, 64, 64)[: 96 - 33 * place]
        assert np.abs(frames[33 * place :][:33].astype(int) - want.astype(int)).mean() < 6


def test_variants_are_a_small_picture_and_a_sheet(client: openai.OpenAI) -> None:
    video = make(client, seconds="4")
    thumbnail = Image.open(io.BytesIO(client.videos.download_content(video.id, variant="thumbnail").read()))
    sheet = Image.open(io.BytesIO(client.videos.download_content(video.id, variant="spritesheet").read()))
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (64, 64))
    assert (sheet.format, sheet.size) == ("JPEG", (256, 256))


def test_a_part_of_the_file_can_be_asked_for(server: Running, client: openai.OpenAI) -> None:
    video = make(client, extra_body={"seconds": 1})
    with server.http() as http:
        whole = http.get(f"/v1/videos/{video.id}/content")
        part = http.get(f"/v1/videos/{video.id}/content", headers={"Range": "bytes=4-11"})
    assert part.status_code == 206 and part.content == whole.content[4:12]
    assert whole.headers["content-type"] == "video/mp4"


def test_pages_of_the_list_follow_each_other_both_ways(client: openai.OpenAI) -> None:
    ids = [make(client, f"fish {number}", extra_body={"seconds": 1}).id for number in range(5)]
    newest = [video.id for _, video in zip(range(5), client.videos.list(limit=2), strict=False)]
    assert newest == ids[::-1]
    oldest = [video.id for video in client.videos.list(limit=3, order="asc")]
    assert oldest[-5:] == ids and len(set(oldest)) == len(oldest)
    page = client.videos.list(limit=2, after=ids[3])
    assert [video.id for video in page.data] == [ids[2], ids[1]]


def test_a_deleted_video_is_gone_with_its_files(server: Running, client: openai.OpenAI) -> None:
    video = make(client, extra_body={"seconds": 1})
    gone = client.videos.delete(video.id)
    assert gone.deleted is True and gone.object == "video.deleted" and gone.id == video.id
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)
    assert not server.studio.folders.of(video.id).path.exists()


def test_a_remix_is_the_same_order_with_another_prompt(server: Running, client: openai.OpenAI) -> None:
    video = make(client, seconds="4", extra_body={"seed": 9})
    remix = finished(client, client.videos.remix(video.id, prompt="a blue fish").id)
    assert remix.remixed_from_video_id == video.id and remix.prompt == "a blue fish" and remix.seconds == "4"
    again = make(client, "a blue fish", seconds="4", extra_body={"seed": 9})
    read = [client.videos.download_content(v.id).read() for v in (remix, again)]
    assert read[0] == read[1]


def test_an_edit_begins_after_the_given_clip(server: Running, tmp_path: Path) -> None:
    with server.http() as http, clip(tmp_path / "in.mp4").open("rb") as file:
        posted = http.post("/v1/videos/edits", data={"prompt": "snow falls"}, files={"video": ("in.mp4", file)})
    assert posted.status_code == 200, posted.text
    video = finished(server.client(), posted.json()["id"])
    assert video.status == "completed" and video.seconds == "1.667"
    job = server.studio.store.job(video.id)
    assert job is not None and job.plan.order.start == "video" and job.plan.num_frames == 40


def test_an_extension_of_a_clip_shows_it_first(server: Running, client: openai.OpenAI, tmp_path: Path) -> None:
    source = clip(tmp_path / "in.mp4")
    with server.http() as http:
        posted = http.post(
            "/v1/videos/extensions",
            data={"prompt": "snow falls", "seconds": "1", "size": "64x64"},
            files={"video": ("in.mp4", source.read_bytes(), "video/mp4")},
        )
    assert posted.status_code == 200, posted.text
    video = finished(client, posted.json()["id"])
    frames = frames_of(client.videos.download_content(video.id).read())
    assert frames.shape == (64, 64, 64, 3)
    given = paint("clip", 0, 0, 64, 96)[:, :, 16:80]
    assert np.abs(frames[:33].astype(int) - given.astype(int)).mean() < 8


def test_an_extension_of_a_video_made_here_goes_on_from_its_last_chunk(server: Running, client: openai.OpenAI) -> None:
    video = make(client, seconds="4", extra_body={"seed": 5})
    with server.http() as http:
        body = {"prompt": "a storm", "seconds": 4, "video": {"id": video.id}}
        posted = http.post("/v1/videos/extensions", json=body)
        form = http.post("/v1/videos/extensions", data={"prompt": "x", "seconds": "4", "video[id]": video.id})
    assert posted.status_code == form.status_code == 200
    longer = finished(client, posted.json()["id"])
    assert longer.seconds == "8"
    frames = frames_of(client.videos.download_content(longer.id).read())
    assert len(frames) == 192
    prompts = ["a red fish"] * 3 + ["a storm"] * 3
    for place, prompt in enumerate(prompts):
        want = paint(prompt, 5, place, 64, 64)[: 192 - 33 * place]
        assert np.abs(frames[33 * place :][:33].astype(int) - want.astype(int)).mean() < 6
    client.videos.delete(video.id)
    remix = finished(client, client.videos.remix(longer.id, prompt="the sun").id)
    assert remix.status == "completed" and remix.seconds == "8"


@pytest.mark.parametrize("way", ["json", "form", "multipart", "list"])
def test_numbers_are_understood_however_they_are_written(server: Running, way: str) -> None:
    with server.http() as http:
        if way == "json":
            posted = http.post("/v1/videos", json={"prompt": "p", "seconds": 1, "seed": 7, "steps": [2, 2, 2]})
        elif way == "form":
            posted = http.post("/v1/videos", data={"prompt": "p", "seconds": "1", "seed": "7", "steps": "[2,2,2]"})
        else:
            pairs = {"prompt": (None, "p"), "seconds": (None, "1"), "seed": (None, "7")}
            steps = [("steps[]", (None, "2"))] * 3 if way == "list" else [("steps", (None, "2,2,2"))]
            posted = http.post("/v1/videos", files=[*pairs.items(), *steps])
    assert posted.status_code == 200, posted.text
    job = server.studio.store.job(posted.json()["id"])
    assert job is not None and (job.plan.order.seed, job.plan.order.steps, job.plan.num_frames) == (7, (2, 2, 2), 24)


def png(colour: str = "navy") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 48), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_reference_picture_is_taken_as_a_file_and_as_a_data_url(server: Running, client: openai.OpenAI) -> None:
    by_file = make(client, input_reference=("a.png", png()), extra_body={"seconds": 1, "seed": 1})
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    with server.http() as http:
        by_url = http.post("/v1/videos", json={"prompt": "a red fish", "seconds": 1, "seed": 1, "input_reference": url})
        nested = {"prompt": "a red fish", "input_reference[image_url]": url, "seconds": "1", "seed": "1"}
        by_form = http.post("/v1/videos", data=nested)
    assert by_url.status_code == by_form.status_code == 200
    videos = [by_file, *(finished(client, r.json()["id"]) for r in (by_url, by_form))]
    files = {client.videos.download_content(video.id).read() for video in videos}
    assert len(files) == 1


# Mistakes


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "prompt", "required"),
        ({"prompt": " "}, "prompt", "describe"),
        ({"prompt": "p", "seconds": 0}, "seconds", "greater than 0"),
        ({"prompt": "p", "seconds": "soon"}, "seconds", "number"),
        ({"prompt": "p", "seconds": 5000}, "seconds", "ask for less"),
        ({"prompt": "p", "size": "720x1280"}, "size", "multiple of 64"),
        ({"prompt": "p", "size": "big"}, "size", "pattern"),
        ({"prompt": "p", "size": "4096x4096"}, "size", "smaller"),
        ({"prompt": "p", "model": "sora-2"}, "model", "'fake'"),
        ({"prompt": "p", "steps": [2, 2]}, "steps", "give 3"),
        ({"prompt": "p", "guidence": 3}, "guidence", "Extra"),
        ({"prompt": "p", "input_reference": "https://example.com/a.png"}, "input_reference", "not fetched"),
        ({"prompt": "p", "input_reference": "data:image/png;base64,@@"}, "input_reference", "base64"),
        ({"prompt": "p", "input_reference": {"file_id": "f"}}, "input_reference", "image_url"),
        ({"prompt": ["p"]}, "prompt", "string"),
    ],
)
def test_a_mistake_is_named_with_what_to_send(server: Running, body: dict[str, object], param: str, words: str) -> None:
    with server.http() as http:
        answer = http.post("/v1/videos", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param and words in error["message"] and error["type"] == "invalid_request_error"


def test_the_client_raises_with_our_message(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.videos.create(prompt="p", size="720x1280")
    assert "multiple of 64" in caught.value.message and caught.value.param == "size"
    with pytest.raises(openai.NotFoundError) as missing:
        client.videos.retrieve("video_" + "0" * 32)
    assert missing.value.code == "not_found"


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b"{", 400),
        ("application/json", b"[]", 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/json", b'{"prompt": "' + b"p" * 2_000_000 + b'"}', 413),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nrubbish", 400),
        ("text/plain", b"prompt", 415),
        ("application/json; charset=utf-8", b'{"prompt": "\xff"}', 400),
        ("application/json", rb'{"prompt": "\ud800"}', 400),
        ("application/json", b'{"prompt": "p", "seed": 1e400}', 400),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(server: Running, content_type: str, content: bytes, status: int) -> None:
    with server.http() as http:
        answer = http.post("/v1/videos", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == status and answer.json()["error"]["message"]


def test_an_unknown_route_answers_in_the_same_form(server: Running) -> None:
    with server.http() as http:
        assert http.get("/v1/nothing").json()["error"]["code"] == "unknown_route"
        assert http.put("/v1/videos").json()["error"]["type"] == "invalid_request_error"


def test_a_job_that_fails_is_told_with_status_200(tmp_path: Path) -> None:
    maker = FakeMaker()
    maker.broken_prompts = {"bad"}
    with running(tmp_path, maker) as live:
        video = make(live.client(), "bad")
        assert video.status == "failed" and video.error is not None
        assert video.error.code == "generation_failed" and "log" in video.error.message
        assert make(live.client(), "good", extra_body={"seconds": 1}).status == "completed"


def test_an_unfinished_video_has_no_content_and_says_when_to_ask_again(tmp_path: Path) -> None:
    with running(tmp_path, FakeMaker(gated=True)) as live:
        client = live.client()
        video = client.videos.create(prompt="p")
        answer = httpx.get(f"{live.url}/v1/videos/{video.id}")
        assert answer.headers["openai-poll-after-ms"] and answer.json()["status"] in ("queued", "in_progress")
        with pytest.raises(openai.BadRequestError, match="nothing to download"):
            client.videos.download_content(video.id)
        live.maker.gate.release(2)
        wait_for(lambda: client.videos.retrieve(video.id).progress == 66)
        assert client.videos.retrieve(video.id).status == "in_progress"


def test_deleting_a_video_under_way_frees_its_turn(tmp_path: Path) -> None:
    with running(tmp_path, FakeMaker(gated=True)) as live:
        client = live.client()
        first, second = (client.videos.create(prompt=p, seconds="12") for p in ("first", "second"))
        live.maker.gate.release()
        wait_for(lambda: client.videos.retrieve(first.id).progress > 0)
        client.videos.delete(first.id)
        live.maker.gate.release(2)  # one chunk of the first may be under way
        wait_for(lambda: client.videos.retrieve(second.id).progress > 0)
        assert sum(prompt == "first" for made in live.maker.passes for prompt, _ in made) <= 2
        assert not live.studio.folders.of(first.id).path.exists()
