"""Networks of the report: architecture, preparation, windows and scores, with small random stand-ins for weights."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from heliograph.errors import CheckpointError, UserError
from heliograph.evaluate.networks.amt import AmtS
from heliograph.evaluate.networks.amt_parts import warp
from heliograph.evaluate.networks.judge import Judge, NoAnswerError
from heliograph.evaluate.networks.load import NetworkOptions, load_watchers
from heliograph.evaluate.networks.smoothness import SmoothnessWatch, between
from heliograph.evaluate.networks.vit import from_transformers, vision_tower
from heliograph.evaluate.networks.vocabulary import Vocabulary
from heliograph.evaluate.networks.windows import clip_pictures, ends, middles, strides
from heliograph.evaluate.run import EvaluateOptions, run_evaluate
from tests.evaluate import known
from tests.evaluate.networks import standins
from tests.media.clips import write_video
from tests.small import wave


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for write in (standins.write_clip, standins.write_amt, standins.write_viclip):
        write(folder)
    return folder


# Architecture


def test_the_vision_tower_is_clips() -> None:
    theirs = standins.scatter(standins.small_clip())
    ours = vision_tower(from_transformers(theirs.state_dict()))
    pictures = wave((2, 3, standins.SIDE, standins.SIDE), 0.4)
    with torch.no_grad():
        want = theirs.get_image_features(pixel_values=pictures)
    want = want if isinstance(want, torch.Tensor) else want.pooler_output
    torch.testing.assert_close(ours(pictures[:, None]), want, rtol=1e-4, atol=1e-4)


def test_between_two_frames_lies_one_that_follows_both() -> None:
    torch.manual_seed(0)
    network = AmtS().eval()
    one, other = torch.rand(1, 3, 128, 144), torch.rand(1, 3, 128, 144)
    with torch.no_grad():
        made, back = network(one, other), network(other, one)
        brighter = network(one * 0.5 + 0.2, other * 0.5 + 0.2)
    assert made.shape == one.shape and made.min() >= 0 and made.max() <= 1
    assert not torch.equal(made, back)
    assert (brighter.mean() - made.mean()).abs() < 0.2  # the mean is taken away and given back


def test_warping_fetches_what_the_motion_points_at() -> None:
    picture = wave((1, 2, 9, 11), 0.2)
    flow = torch.zeros(1, 2, 9, 11)
    flow[:, 0] = 2
    torch.testing.assert_close(warp(picture, flow)[..., :9], picture[..., 2:], rtol=0, atol=1e-5)
    assert torch.equal(warp(picture, 0 * flow).round(decimals=4), picture.round(decimals=4))


def test_a_text_is_cut_into_known_pieces_and_its_end_always_fits() -> None:
    vocabulary = Vocabulary(standins.MERGES)
    numbers = {"start": 512 + len(standins.MERGES), "end": 513 + len(standins.MERGES)}
    red, fish = 512 + 2, 512 + 4
    assert vocabulary.tokens(" Red\n FISH ", 6).tolist() == [[numbers["start"], red, fish, numbers["end"], 0, 0]]
    long = vocabulary.tokens("red " * 40, 8)[0].tolist()
    assert long == [numbers["start"], *[red] * 6, numbers["end"]]
    assert vocabulary.tokens("größer 🐟", 32).max() == numbers["end"]  # bytes that are in no word


# Windows and preparation


def test_frames_that_are_shown_are_the_references() -> None:
    assert middles(0, 80, 8) == [4, 14, 24, 34, 44, 54, 64, 74]
    assert middles(68, 80, 8) == [68, 69, 71, 72, 74, 75, 77, 78]
    assert middles(0, 3, 8) == [0, 1, 2, 2, 2, 2, 2, 2]
    assert strides(0, 81, 16) == [5 * index for index in range(16)]
    assert strides(70, 80, 16) == list(range(70, 80))
    assert ends(80, 8) == ((0, 12), (68, 80)) and ends(20, 8) == ((0, 8), (12, 20)) and ends(5, 8) == ((0, 5), (0, 5))


def test_pictures_are_prepared_as_clip_was_trained() -> None:
    frames = np.full((2, 20, 40, 3), 128, np.uint8)
    frames[:, :, :10], frames[:, :, 30:] = 0, 255
    made = clip_pictures(frames, 20)
    grey = (torch.tensor(128 / 255) - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    torch.testing.assert_close(made, grey[None, :, None, None].expand(2, 3, 20, 20))
    assert clip_pictures(known.still(1, height=33, width=65), 28).shape == (1, 3, 28, 28)


class Blend(torch.nn.Module):
    """A stand-in that makes the middle of two frames."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return (before + after) / 2


def test_a_made_frame_has_the_size_of_its_neighbours() -> None:
    before, after = known.still(1, height=37)[0], known.still(1, height=37)[0]
    made = between(Blend(), before, after)
    assert made.shape == before.shape and np.abs(made.astype(int) - before).max() <= 1


@pytest.mark.parametrize("num_frames", [40, 41])
def test_smoothness_looks_at_odd_frames_of_the_video_and_of_its_ends(num_frames: int) -> None:
    clip = known.still(num_frames, height=16)
    clip[-3] += 40  # an odd frame of the last 15 % where these begin with an odd frame, whatever it is in the video
    watch = SmoothnessWatch(Blend(), num_frames)
    for at in range(0, num_frames, 7):
        watch.push(clip[at : at + 7])
    whole, drift = (score.value for score in watch.scores())
    assert whole is not None and drift is not None
    errors = {num_frames - 4: 20, num_frames - 3: 40, num_frames - 2: 20}
    odd = [errors.get(index, 0) for index in range(1, num_frames - 1, 2)]
    part = max(4, int(0.15 * num_frames))
    last = [errors.get(index, 0) for index in range(num_frames - part + 1, num_frames - 1, 2)]
    assert whole == pytest.approx(1 - np.mean(odd) / 255, abs=0.003)
    assert drift == pytest.approx(np.mean(last) / 255, abs=0.004)


# Files


def test_only_the_networks_that_are_there_are_used(weights: Path, tmp_path: Path) -> None:
    found = load_watchers(NetworkOptions(weights, device="cpu"))
    assert [one.names[0] for one in found] == ["aesthetic", "motion smoothness", "semantic"]
    assert all("sha256" in one.title for one in found)
    assert load_watchers(NetworkOptions()) == []
    standins.write_amt(tmp_path)
    assert [one.names[0] for one in load_watchers(NetworkOptions(tmp_path))] == ["motion smoothness"]


def test_a_folder_without_networks_and_a_damaged_file_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        load_watchers(NetworkOptions(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="none of the networks"):
        load_watchers(NetworkOptions(tmp_path))
    (tmp_path / "amt-s.pth").write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match=r"amt-s\.pth cannot be used"):
        load_watchers(NetworkOptions(tmp_path))
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "amt-s.pth")
    with pytest.raises(CheckpointError, match=r"amt-s\.pth cannot be used"):
        load_watchers(NetworkOptions(tmp_path))


# The judge


def test_the_judge_sees_sixteen_pictures_and_answers_with_a_number() -> None:
    frames = list(known.still(16))
    with standins.judge(" 4.\n") as (address, asked):
        assert Judge(address, "some-model", "secret").rate(frames) == 4
    (request,) = asked
    assert request["path"] == "/v1/chat/completions" and request["key"] == "Bearer secret"
    assert request["model"] == "some-model" and request["temperature"] == 0
    text, *pictures = request["messages"][0]["content"]
    assert "16 frames" in text["text"] and len(pictures) == 16
    head, data = pictures[0]["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (known.WIDTH, known.HEIGHT)


def test_a_busy_judge_is_asked_again_and_a_wrong_answer_is_no_rating() -> None:
    with standins.judge(503, 429, "2") as (address, asked):
        assert Judge(address, "m", wait_seconds=0.0).rate(list(known.still(1))) == 2
        assert len(asked) == 3
    for answer, words in (("perhaps", "no number"), ("17", "no number"), (401, "answered 401"), ("4.5", "no number")):
        with standins.judge(answer) as (address, asked), pytest.raises(NoAnswerError, match=words):
            Judge(address, "m", wait_seconds=0.0).rate(list(known.still(1)))
    with pytest.raises(NoAnswerError, match="cannot be reached"):
        Judge("http://127.0.0.1:9/v1", "m", wait_seconds=0.0).rate(list(known.still(1)))
    with pytest.raises(UserError, match="is no address"):
        Judge("file:///etc/passwd", "m")


# Through the verb


def test_all_of_heliosbench_is_measured_where_everything_is_given(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "a.mp4", known.pan(16, right=2, height=32))
    (folder / "a.txt").write_text("a red fish", encoding="utf-8")
    write_video(folder / "b.mp4", known.still(16, height=32))

    def evaluate(address: str) -> dict:
        networks = NetworkOptions(weights, address, "stand-in", None, "cpu")
        run_evaluate(EvaluateOptions((folder,), tmp_path / "out", None, 33, networks=networks), lambda _: None)
        return json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))

    with standins.judge("I cannot say", "I cannot say", "3", "5", "1", "4") as (address, asked):
        first = evaluate(address)["folders"][0]
        again = evaluate(address)["folders"][0]
        num_asked = len(asked)
        report = evaluate(address)
        assert len(asked) == num_asked  # what was answered is not asked again
    assert "no number from 1 to 5" in next(iter(first["not_measured"]["naturalness"]))
    assert again["scores"]["naturalness"]["num"] == 2
    scores = {one["video"]: one["scores"] for one in report["folders"][0]["videos"]}
    assert all(scores["a.mp4"][name] is not None for name in ("aesthetic", "semantic", "motion smoothness drift"))
    assert -1 <= scores["a.mp4"]["semantic"] <= 1
    assert scores["b.mp4"]["semantic"] is None
    assert report["folders"][0]["not_measured"]["semantic"] == {"its prompt is not known": 1}
    card = report["folders"][0]["heliosbench"]["corrected"]
    assert card["weight"] == pytest.approx(1) and card["total"] is not None
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "stand-in at http" in page and "not measured: needs" not in page
