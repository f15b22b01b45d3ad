"""The checkers read clean and damaged clips rightly, notice every kind of mistake, and admit to seeing nothing."""

from dataclasses import replace
from math import pi

import numpy as np
import pytest
import torch

from heliograph.data.diorama import Record
from heliograph.data.diorama.motion import SPEED, poses, seconds
from heliograph.data.diorama.record import MOTIONS, SCENES, SPEEDS
from heliograph.data.diorama.render import backdrop, render
from heliograph.errors import UserError
from heliograph.evaluate.paths import accounts, common_path
from heliograph.evaluate.sight import clip_look, components, find, shrink, sight, unlike
from heliograph.evaluate.truth import Reader, check

CASES = {
    "reef": Record("reef", "jellyfish", "pink", 2, "medium", "up and down", "normal", "night", "left", 21),
    "meadow": Record("meadow", "butterfly", "white", 3, "small", "circle", "quick", "day", "none", 22),
    "sea": Record("sea", "boat", "green", 1, "big", "back and forth", "quick", "sunset", "right", 23),
    "desert": Record("desert", "bird", "yellow", 2, "big", "right", "slow", "day", "none", 24),
    "mountains": Record("mountains", "balloon", "blue", 1, "small", "left", "quick", "night", "none", 25),
}

SHORT = Record("meadow", "bird", "red", 1, "big", "right", "normal", "day", "none", 26)
"""A clip of one chunk is enough for all that is asked of it."""


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def filmed(record: Record, num_frames: int = 33, size: int = 64) -> np.ndarray:
    return render([record], [0], num_frames, size, size).frames[0].permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture(scope="module")
def short_clip() -> np.ndarray:
    return filmed(SHORT)


@pytest.mark.parametrize("scene", SCENES)
def test_clean_clips_are_read_right(reader, scene):
    record = CASES[scene]
    result = reader.check(filmed(record, 72), record)
    assert {name for name, right in result.items() if not right} == set()
    assert ("direction" in result) == (record.motion in ("left", "right"))
    assert {"motion", "speed", "pan", "count"} <= set(result)


@pytest.mark.parametrize(
    "wrong",
    [
        {"colour": "orange"},
        {"count": 2},
        {"size": "medium"},
        {"kind": "balloon"},
        {"motion": "left"},
        {"speed": "quick"},
        {"time": "sunset"},
        {"pan": "left"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_each_mistake_is_noticed(reader, short_clip, wrong):
    result = reader.check(short_clip, replace(SHORT, **wrong))
    assert not result[next(iter(wrong))]


def test_another_scene_is_noticed(reader, short_clip):
    result = reader.check(short_clip, replace(SHORT, scene="mountains"))
    assert not result["scene"]
    assert result["time"]


def test_a_mirrored_clip_goes_the_other_way(reader, short_clip):
    readings = reader.read(short_clip[:, :, ::-1].copy(), SHORT)
    assert readings["direction"].value == "left"
    assert readings["kind"].value == "bird"


def test_a_clip_played_backwards_goes_the_other_way(reader, short_clip):
    assert reader.read(short_clip[::-1].copy(), SHORT)["direction"].value == "left"


def test_a_clip_played_at_double_speed_is_quicker(reader):
    record = replace(SHORT, speed="slow")
    assert reader.read(filmed(record, 66)[::3].copy(), record)["speed"].value == "quick"


@pytest.mark.parametrize("damage", ["noise", "dark", "bright", "coarse"])
def test_damage_does_not_change_what_is_read(reader, short_clip, damage):
    values = short_clip.astype(np.float64)
    if damage == "noise":
        values = values + np.random.default_rng(0).normal(0, 15, values.shape)
    elif damage == "coarse":
        values = values.reshape(33, 32, 2, 32, 2, 3).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    else:
        values = values * {"dark": 0.9, "bright": 1.1}[damage]
    assert all(reader.check(values.clip(0, 255).astype(np.uint8), SHORT).values())


def test_an_empty_scene_shows_no_subject(reader):
    empty = backdrop([SHORT], 0, 64, 64)[0].permute(1, 2, 0).numpy()
    clip = np.repeat(empty[None], 12, axis=0)
    readings = reader.read(clip, SHORT)
    assert readings["colour"].value is None
    assert readings["scene"].value == "meadow"
    result = reader.check(clip, SHORT)
    assert not any(result[name] for name in ("kind", "colour", "count", "size", "direction", "speed"))


def test_a_single_clip_needs_no_reader(reader, short_clip):
    assert check(short_clip, SHORT) == reader.check(short_clip, SHORT)


def test_motions_about_a_place_are_not_judged_in_one_chunk(reader):
    record = replace(SHORT, motion="circle")
    result = reader.check(filmed(record), record)
    assert "motion" not in result
    assert "direction" not in result


@pytest.mark.parametrize("shape", [(5, 64, 64, 3), (12, 16, 64, 3)])
def test_clips_too_small_to_read_are_refused(reader, shape):
    with pytest.raises(UserError, match="too small"):
        reader.read(np.zeros(shape, np.uint8), SHORT)


def test_components_are_what_is_connected():
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 1:3, 1:3] = True
    mask[0, 3, 3] = True  # touches at a corner
    mask[0, 6:, 5:] = True
    mask[1, 2:4, :] = True
    numbers = components(mask)
    assert len(numbers[0].unique()) == 3
    assert len(numbers[1].unique()) == 2
    assert numbers[0, 1, 1] == numbers[0, 3, 3] != numbers[0, 7, 7]
    assert not set(numbers[0].unique().tolist()[1:]) & set(numbers[1].unique().tolist()[1:])


def test_blobs_know_their_place_size_and_border():
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 10:20, 30:40] = True
    mask[0, 50:, :6] = True
    blobs = find(mask, least=0.001)
    assert blobs.whole.tolist() == [True, False]
    assert blobs.x[0] == pytest.approx(35 / 64)
    assert blobs.y[0] == pytest.approx(15 / 64)
    assert blobs.area.tolist() == pytest.approx([100 / 64**2, 84 / 64**2])


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("speed", SPEEDS)
def test_an_exact_path_is_explained_by_its_own_motion_and_speed(motion, speed):
    record = replace(SHORT, motion=motion, speed=speed, size="medium")
    state = poses(record, seconds(0, 99), 1.0)
    inside = np.abs(state.x[0] - 0.5) < 0.4
    path = common_path(np.arange(99.0)[inside], state.x[0][inside], state.y[0][inside], 99)
    best = accounts(path, 1)[0]
    assert (best.motion, best.speed) == (motion, speed)


def test_a_path_in_pieces_is_still_a_circle():
    angle = 2 * pi * SPEED["normal"] / (2 * pi * 0.11) * np.arange(99) / 24
    seen = np.ones(99, bool)
    seen[30:36] = seen[70:80] = False
    x, y = 0.5 + 0.11 * np.cos(angle), 0.4 + 0.11 * np.sin(angle)
    path = common_path(np.arange(99.0)[seen], x[seen], y[seen], 99)
    assert len(path.pieces()) == 3
    best = accounts(path, 1)[0]
    assert (best.motion, best.speed) == ("circle", "normal")


def test_nothing_followed_is_not_explained():
    assert accounts(common_path(np.zeros(0), np.zeros(0), np.zeros(0), 9), 1) == []


def test_a_darker_clip_is_known_for_the_same_scene(short_clip):
    usual = sight("meadow", "day").usual
    away, gain = unlike(clip_look(shrink(short_clip)), usual)
    darker_away, darker_gain = unlike(clip_look(shrink((short_clip * 0.9).astype(np.uint8))), usual)
    assert gain == pytest.approx(1, abs=0.04)
    assert darker_gain / gain == pytest.approx(0.9, abs=0.02)
    assert darker_away == pytest.approx(away, abs=0.01)
