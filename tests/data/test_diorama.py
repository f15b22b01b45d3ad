"""The procedural world: exact, endless, legible, and its captions say what is there."""

import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations as pairs
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from heliograph.data.diorama import (
    ATTRIBUTES,
    Record,
    caption,
    describe,
    eval_prompts,
    is_heldout,
    plain_caption,
    sample_record,
    synonyms,
)
from heliograph.data.diorama.lexicon import COLOUR_WORDS, MOTION_WORDS, PAN_WORDS, SIZE_WORDS, SPEED_WORDS, TIME_WORDS
from heliograph.data.diorama.motion import GAP, RADIUS, SPEED, pan_offset, poses, seconds
from heliograph.data.diorama.palette import SCENERY, rgb, subject_rgb
from heliograph.data.diorama.record import (
    COLOURS,
    LIVES_IN,
    MOTIONS,
    PANS,
    SCENES,
    SPEEDS,
    TIMES,
    combinations,
    motions_of,
    sizes_of,
)
from heliograph.data.diorama.render import backdrop, render
from heliograph.errors import UserError

BIRD = Record("meadow", "bird", "red", 2, "medium", "left", "normal", "day", "none", 5)
EVERYWHERE = [
    Record(scene, LIVES_IN[scene][0], "blue", 1, "big", "left", "quick", "day", "none", 3) for scene in SCENES
]


def frames_of(record: Record, first: int = 0, num_frames: int = 3, height: int = 64, width: int = 64) -> torch.Tensor:
    return render([record], [first], num_frames, height, width).frames[0].float()


# --- records --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "fish"}, {"scene": "sea", "kind": "balloon"}, {"count": 4}, {"seed": -1}, {"count": 3, "size": "big"}],
)
def test_what_the_world_does_not_hold_is_refused(wrong):
    with pytest.raises(UserError, match="use"):
        replace(BIRD, **wrong)


def test_a_boat_does_not_circle():
    with pytest.raises(UserError, match="boat"):
        Record("sea", "boat", "red", 1, "small", "circle", "slow", "day", "none", 0)


def test_each_colour_is_held_out_once_and_no_kind_loses_two():
    heldout = [triple for triple in combinations() if is_heldout(*triple)]
    assert sorted(colour for _, _, colour in heldout) == sorted(COLOURS)
    assert len({(scene, kind) for scene, kind, _ in heldout}) == len(heldout)


def test_splits_do_not_meet_and_are_covered():
    drawn = {split: [sample_record(seed, split) for seed in range(150)] for split in ("train", "heldout")}
    assert not any(is_heldout(record.scene, record.kind, record.colour) for record in drawn["train"])
    assert all(is_heldout(record.scene, record.kind, record.colour) for record in drawn["heldout"])
    for attribute in ATTRIBUTES:
        assert {getattr(r, attribute) for r in drawn["train"]} >= {getattr(r, attribute) for r in drawn["heldout"]}


def test_a_seed_always_draws_the_same_record():
    assert sample_record(7, "train") == sample_record(7, "train")
    assert sample_record(7, "train") != sample_record(8, "train")


def test_records_and_captions_need_no_torch():
    code = "import sys, heliograph.data.diorama; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- motion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("motion", "speed"), list(product(MOTIONS, SPEEDS)))
def test_mean_speed_along_the_path_is_the_named_one(motion, speed):
    record = replace(BIRD, motion=motion, speed=speed)
    times = np.arange(0, 60, 0.002)
    state = poses(record, times, 1.0)
    step_x, step_y = np.diff(state.x), np.diff(state.y)
    inside = np.abs(step_x) < 0.1  # not the jump from one side to the other
    across = motion in ("left", "right")
    length = np.abs(step_x) if across else np.hypot(step_x, step_y)  # crossing, the bobbing does not count
    assert length[inside].mean() / 0.002 == pytest.approx(SPEED[speed], rel=0.02)


@pytest.mark.parametrize("motion", ["left", "right"])
def test_subjects_leave_and_are_back_within_a_second(motion):
    record = replace(BIRD, motion=motion, speed="slow", count=1)
    times = np.arange(0, 40, 0.01)
    state = poses(record, times, 1.0)
    away = np.abs(state.x[0] - 0.5) > 0.5 + 1.15 * state.radius
    assert away.any()
    longest = max(len(run) for run in "".join("x" if gone else " " for gone in away).split())
    assert longest * 0.01 < 1
    assert longest * 0.01 == pytest.approx(GAP / SPEED["slow"], abs=0.02)


def test_the_first_frame_shows_every_subject():
    for seed in range(120):
        record = sample_record(seed, "train")
        state = poses(record, seconds(0, 1), 1.0)
        assert ((state.x > 0) & (state.x < 1) & (state.y > 0) & (state.y < 1)).all()


def test_subjects_of_a_clip_keep_apart():
    for seed in range(120):
        record = sample_record(seed, "train")
        state = poses(record, np.arange(0, 10, 0.1), 1.0)
        for a, b in pairs(range(record.count), 2):
            gap = np.hypot(state.x[a] - state.x[b], state.y[a] - state.y[b])
            assert gap.min() > 2.4 * RADIUS[record.size]


def test_motion_is_as_smooth_after_a_day_as_at_the_start():
    day = 24 * 60 * 60 * 24
    for motion in MOTIONS:
        state = poses(replace(BIRD, motion=motion), seconds(day, 25), 1.0)
        steps = np.abs(np.diff(state.x))
        assert steps[steps < 0.5].max() < 2 * SPEED["normal"] / 24
        assert np.abs(np.diff(state.y)).max() < 2 * SPEED["normal"] / 24


def test_sizes_and_speeds_are_far_enough_apart_to_be_told():
    for table in (RADIUS, SPEED):
        values = list(table.values())
        assert all(larger / smaller > 1.3 for smaller, larger in pairwise(values))
    assert min(RADIUS.values()) >= 0.10


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", EVERYWHERE, ids=SCENES)
def test_any_range_of_frames_is_cut_from_the_same_video(record):
    whole = render([record], [0], 6, 48, 48)
    part = render([record], [4], 2, 48, 48)
    assert (whole.frames[:, 4:].int() - part.frames.int()).abs().max() <= 1
    torch.testing.assert_close(whole.mask[:, 4:], part.mask, atol=1e-3, rtol=0)


def test_clips_rendered_together_are_the_same_as_alone():
    records = [sample_record(seed, "train") for seed in range(5)]
    firsts = [10 * i for i in range(5)]
    together = render(records, firsts, 2, 48, 64)
    for i, record in enumerate(records):
        alone = render([record], [firsts[i]], 2, 48, 64)
        assert (together.frames[i].int() - alone.frames[0].int()).abs().max() <= 1
        torch.testing.assert_close(together.mask[i], alone.mask[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("record", EVERYWHERE, ids=SCENES)
def test_a_picture_is_the_same_at_any_size(record):
    small = frames_of(record, num_frames=1)
    large = torch.nn.functional.avg_pool2d(frames_of(record, num_frames=1, height=192, width=192), 3)
    assert (small - large).abs().mean() < 2.5


def test_wide_pictures_are_filled():
    clip = render([BIRD], [0], 1, 64, 96)
    assert clip.frames.shape == (1, 1, 3, 64, 96)
    assert clip.frames.float().std(dim=(3, 4)).min() > 5


@pytest.mark.parametrize("scene", SCENES)
def test_the_mask_is_where_the_picture_differs_from_the_empty_scene(scene):
    kind = LIVES_IN[scene][-1]
    record = Record(scene, kind, "red", 2, "medium", "left", "slow", "day", "none", 11)
    shown = render([record], [5], 1, 96, 96)
    empty = backdrop([record], 5, 96, 96)
    change = (shown.frames[:, 0].int() - empty.int()).abs().amax(1)
    mask = shown.mask[:, 0]
    assert (mask[change > 3] > 0).all()
    assert (change[mask > 0.5] > 3).float().mean() > 0.97


def test_the_mirrored_boat_in_the_water_is_not_in_the_mask():
    record = Record("sea", "boat", "red", 1, "big", "left", "slow", "day", "none", 11)
    shown = render([record], [0], 1, 96, 96)
    change = (shown.frames[:, 0].int() - backdrop([record], 0, 96, 96).int()).abs().amax(1)
    water = change * (shown.mask[:, 0] == 0)
    assert 3 < int(water.max()) < 70


def test_masks_of_more_and_bigger_subjects_cover_more():
    def covered(**changes) -> float:
        return float(render([replace(BIRD, **changes)], [0], 4, 64, 64).mask.mean())

    assert covered(size="small") < covered(size="medium") < covered(size="big")
    assert covered(count=1) < covered(count=2) < covered(count=3)


@pytest.mark.parametrize("scene", SCENES)
def test_the_scene_goes_on_living_without_subjects(scene):
    record = Record(scene, LIVES_IN[scene][0], "red", 1, "small", "left", "slow", "day", "none", 2)
    now, later = (backdrop([record], first, 64, 64).float() for first in (0, 200))
    assert (now - later).abs().max() > 8


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("wrap_seconds", [25, 100, 1000])
def test_nothing_jumps_where_the_scenery_comes_round_again(scene, wrap_seconds):
    record = Record(scene, LIVES_IN[scene][0], "red", 1, "small", "left", "slow", "night", "left", 2)
    times = range(24 * wrap_seconds - 4, 24 * wrap_seconds + 4)
    clip = torch.stack([backdrop([record], first, 48, 48)[0].float() for first in times])
    steps = (clip[1:] - clip[:-1]).abs().mean((1, 2, 3))
    assert steps.max() < 1.6 * steps.median()


def test_a_panning_camera_moves_the_scenery_the_other_way():
    for pan, way in (("left", 1), ("right", -1)):
        record = replace(BIRD, scene="mountains", pan=pan)
        gap = 12
        before, after = (backdrop([record], first, 64, 64)[0, :, 56:].float() for first in (0, gap))
        moved = round(way * abs(float(np.diff(pan_offset(record, seconds(0, gap + 1))[[0, gap]])[0])) * 64)
        assert moved
        errors = {
            shift: float((before[..., 8:-8] - after.roll(-shift, -1)[..., 8:-8]).abs().mean())
            for shift in (-moved, 0, moved)
        }
        assert min(errors, key=lambda shift: errors[shift]) == moved


def test_every_hour_has_its_own_light():
    for scene in SCENES:
        means = [
            backdrop([Record(scene, LIVES_IN[scene][0], "red", 1, "small", "left", "slow", time, "none", 1)], 0, 48, 48)
            .float()
            .mean((0, 2, 3))
            for time in TIMES
        ]
        assert all(float((a - b).abs().max()) > 25 for a, b in pairs(means, 2))


def test_no_scenery_colour_can_be_taken_for_a_subjects():
    for time in TIMES:
        own = {colour: np.array(subject_rgb(colour, time)) for colour in COLOURS}
        for a, b in pairs(own.values(), 2):
            assert np.linalg.norm(a - b) > 0.33
        for part in (rgb(hours[time]) for parts in SCENERY.values() for hours in parts.values()):
            assert min(np.linalg.norm(np.array(part) - colour) for colour in own.values()) > 0.22


@pytest.mark.parametrize("scene", SCENES)
def test_every_tensor_is_made_on_the_asked_device(scene):
    record = Record(scene, LIVES_IN[scene][0], "red", 1, "small", "left", "slow", "night", "left", 1)
    assert render([record], [0], 1, 32, 32, device="meta").frames.device.type == "meta"


@pytest.mark.parametrize(
    ("firsts", "num_frames", "height", "width"),
    [([], 1, 64, 64), ([0, 1], 1, 64, 64), ([-1], 1, 64, 64), ([0], 0, 64, 64), ([0], 1, 16, 16), ([0], 1, 64, 256)],
)
def test_impossible_shots_are_refused(firsts, num_frames, height, width):
    with pytest.raises(UserError, match=r"give|use"):
        render([BIRD], firsts, num_frames, height, width)


# --- captions -------------------------------------------------------------------------------------------------------

WORDS = {
    "colour": COLOUR_WORDS,
    "size": SIZE_WORDS,
    "motion": MOTION_WORDS,
    "speed": SPEED_WORDS,
    "time": TIME_WORDS,
    "pan": PAN_WORDS,
}


def says(text: str, forms: tuple[str, ...]) -> bool:
    return any(re.search(rf"\b{re.escape(form)}\b", text.lower()) for form in forms)


def test_a_caption_names_what_it_claims_and_nothing_else():
    for seed in range(200):
        record = sample_record(seed, "train")
        said = describe(record, seed, "train")
        for attribute, table in WORDS.items():
            forms = table[getattr(record, attribute)].train
            assert says(said.text, forms) == (attribute in said.named), (said, attribute)


def test_training_captions_hold_no_heldout_word():
    heldout = {form for table in WORDS.values() for forms in table.values() for form in forms.heldout}
    for seed in range(200):
        text = caption(sample_record(seed, "train"), seed)
        assert not says(text, tuple(heldout)), text


def test_attributes_are_left_out_in_about_a_fifth_of_the_captions():
    records = [sample_record(seed, "train") for seed in range(250)]
    named = [describe(record, 1, "train").named for record in records]
    share = np.mean(["colour" in names for names in named])
    assert 0.72 < share < 0.88


def test_every_attribute_can_be_told_from_the_plain_caption():
    for attribute, values in (
        ("colour", COLOURS),
        ("motion", MOTIONS),
        ("speed", SPEEDS),
        ("time", TIMES),
        ("pan", PANS),
    ):
        texts = {plain_caption(replace(BIRD, **{attribute: value})) for value in values}
        assert len(texts) == len(values)
    assert plain_caption(BIRD) == (
        "Two medium-sized red birds fly to the left steadily over a meadow by day, the camera stands still."
    )


def test_the_same_record_is_described_in_many_ways_and_each_seed_in_one():
    assert caption(BIRD, 3) == caption(BIRD, 3)
    assert len({caption(BIRD, seed) for seed in range(50)}) > 40


def test_captions_are_tidy_sentences():
    for seed in range(200):
        text = caption(sample_record(seed, "train"), seed)
        assert re.fullmatch(r"[A-Z0-9][^{}]*[a-z]\.", text)
        assert not re.search(r"  | [,;:.]|[,;:] ?[,;:]|\ba [aeiou]|\ban [^aeiou]|(while|as|,)\.", text), text
        assert len(re.findall(r"\w+|[,;:.]", text)) <= 30


def test_eval_prompts_are_heldout_combinations_in_heldout_words():
    prompts = eval_prompts(40, seed=1)
    assert prompts == eval_prompts(40, seed=1)
    assert prompts != eval_prompts(40, seed=2)
    for prompt in prompts:
        assert is_heldout(prompt.record.scene, prompt.record.kind, prompt.record.colour)
        assert re.match(r"(Watch|As the) ", prompt.text) or ": " in prompt.text
        for attribute, table in WORDS.items():
            forms = table[getattr(prompt.record, attribute)]
            assert says(prompt.text, forms.train + forms.heldout), (prompt, attribute)


def test_no_prompts_are_refused():
    with pytest.raises(UserError, match="count=0"):
        eval_prompts(0, seed=1)


def test_synonyms_lead_to_words_that_training_captions_use():
    table = synonyms()
    assert table["crimson"] == "red"
    assert table["yachts"] == "boats"
    assert all(table[canonical] == canonical for canonical in table.values())
    lengths = [len(form) for form in table]
    assert lengths == sorted(lengths, reverse=True)


def test_kinds_move_as_they_can():
    for scene in SCENES:
        for kind in LIVES_IN[scene]:
            for motion, count in product(motions_of(kind), (1, 2, 3)):
                record = Record(scene, kind, "red", count, sizes_of(count)[-1], motion, "quick", "day", "none", 0)
                state = poses(record, np.arange(0, 5, 0.05), 1.0)
                assert ((state.y > 0) & (state.y < 0.8)).all()
                assert (np.abs(state.facing) >= 0.3).all()
