"""Motion, smoothness, seams, freezes, loops and cuts of clips whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.evaluate.metrics.change import LARGEST, MEAN, changes
from heliograph.evaluate.metrics.colour import brightness
from heliograph.evaluate.metrics.cuts import find_cuts
from heliograph.evaluate.metrics.freeze import frozen_fraction, longest_freeze
from heliograph.evaluate.metrics.loops import find_loop, self_similarity
from heliograph.evaluate.metrics.motion import component_motion, flow_means, motion, signed_motion
from heliograph.evaluate.metrics.seams import seam_ratio, steps
from heliograph.evaluate.metrics.smoothness import blend_errors, smoothness, smoothness_drift
from heliograph.evaluate.metrics.thumbnails import thumbnails
from tests.evaluate import known

FULL = {"height": 192, "width": 640, "cell": 8}

# Motion


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, -3), (3, 4)])
def test_a_pan_of_known_speed_moves_at_that_speed(right: int, down: int) -> None:
    means = flow_means(known.pan(3, right, down, **FULL))
    assert motion(means) == pytest.approx(np.hypot(right, down), rel=0.06)
    assert signed_motion(means) == pytest.approx(abs(right + down) / 2, rel=0.08)
    assert component_motion(means) == pytest.approx((abs(right) + abs(down)) / 2, rel=0.08)


def test_opposite_motions_cancel_in_the_signed_form_only() -> None:
    means = flow_means(known.pan(3, 3, -3, **FULL))
    assert signed_motion(means) < 0.1
    assert component_motion(means) == pytest.approx(3, rel=0.08)


def test_speed_is_that_of_a_picture_640_wide() -> None:
    small = flow_means(known.pan(3, right=1, height=96, width=320, cell=8))
    large = flow_means(known.pan(3, right=4, height=192, width=1280, cell=16))
    assert motion(small) == pytest.approx(2, rel=0.08)
    assert motion(large) == pytest.approx(2, rel=0.08)


def test_a_still_picture_does_not_move() -> None:
    assert motion(flow_means(known.still(3))) < 0.1


# Smoothness


def test_still_pictures_and_fades_are_foretold_exactly() -> None:
    assert smoothness(blend_errors(known.still(5))) == 1
    assert smoothness(blend_errors(known.lit([0, 4, 8, 12, 16]))) > 0.998


def test_faster_motion_is_foretold_less_well() -> None:
    scores = [smoothness(blend_errors(known.pan(5, right=speed))) for speed in (0, 1, 3)]
    assert scores[0] > scores[1] > scores[2]


def test_smoothness_looks_at_odd_frames_between_even_ones() -> None:
    levels = [100, 110, 100, 100, 100, 130, 100, 100]  # frames 1 and 5 are off; 7 has no neighbour after it
    errors = blend_errors(known.lit(np.array(levels) - 100.0))
    assert smoothness(errors) == pytest.approx((255 - (10 + 0 + 30) / 3) / 255, abs=1e-3)


def test_smoothness_drift_sees_an_end_that_judders() -> None:
    calm, judder = known.still(20), known.pan(20, right=3)
    assert smoothness_drift(blend_errors(known.still(40))) == 0
    assert smoothness_drift(blend_errors(np.concatenate([calm, judder]))) > 0.01


# Seams


def test_jumps_at_chunk_borders_only_are_a_seam() -> None:
    drawn = np.random.default_rng(0).uniform(-1, 1, 99)
    seamless = brightness(known.lit(drawn))
    seamed = brightness(known.lit(drawn + 10.0 * (np.arange(99) // 33)))
    assert 0.3 < seam_ratio(steps(seamless), 33, 0.05) < 3
    assert seam_ratio(steps(seamed), 33, 0.05) > 8
    assert seam_ratio(steps(seamed), 30, 0.05) < 3  # the same video, asked about other borders


def test_a_steady_fade_and_a_frozen_video_have_no_seam() -> None:
    assert seam_ratio(np.full(98, 0.7), 33, 0.05) == pytest.approx(1)
    assert seam_ratio(np.zeros(98), 33, 0.05) == 1


def test_a_cut_inside_a_chunk_does_not_hide_a_seam() -> None:
    jumps = np.full(98, 0.5)
    jumps[[32, 65]] = 5
    with_cut = jumps.copy()
    with_cut[10] = 200
    assert seam_ratio(with_cut, 33, 0.0) == seam_ratio(jumps, 33, 0.0) == 10


@given(st.integers(1, 33))
def test_a_video_of_one_chunk_has_no_border(num_frames: int) -> None:
    with pytest.raises(ValueError, match="no border"):
        seam_ratio(np.zeros(num_frames - 1), 33, 0.05)


# Freezes


def test_a_frozen_clip_is_frozen_and_a_moving_one_is_not() -> None:
    assert frozen_fraction(changes(known.still(20))) == 1
    assert frozen_fraction(changes(known.pan(20))) == 0


def test_a_freeze_in_the_middle_is_found_with_its_length() -> None:
    moving = known.pan(10)
    clip = np.concatenate([moving, np.repeat(moving[-1:], 15, axis=0), moving])
    assert longest_freeze(changes(clip)) == 15
    assert frozen_fraction(changes(clip)) == pytest.approx(15 / 34)


def test_one_small_thing_that_moves_is_no_freeze() -> None:
    clip = known.still(10, height=64, width=96)
    for index, frame in enumerate(clip):
        frame[20:28, 10 + 5 * index : 18 + 5 * index] = 255
    assert frozen_fraction(changes(clip)) == 0
    assert changes(clip)[:, MEAN].max() < 3 < changes(clip)[:, LARGEST].min()


def test_faint_coding_noise_does_not_hide_a_freeze() -> None:
    grain = np.random.default_rng(0).integers(-1, 2, (10, known.HEIGHT, known.WIDTH, 3))
    assert frozen_fraction(changes(known.eight_bit(known.still(10).astype(float) + grain))) == 1


# Loops


@pytest.mark.parametrize("period", [16, 25])
def test_a_looped_clip_repeats_after_its_period(period: int) -> None:
    once = np.stack([known.eight_bit(known.texture(seed)) for seed in range(period)])
    loop = find_loop(thumbnails(np.concatenate([once] * 3)))
    assert loop.score > 0.99
    assert loop.period == period


def test_a_pan_that_goes_on_and_noise_and_stillness_never_come_back() -> None:
    wide = known.eight_bit(known.texture(3, known.HEIGHT, 300, cell=20))
    window = np.stack([wide[:, 2 * index : 2 * index + known.WIDTH] for index in range(100)])
    drawn = np.random.default_rng(0).integers(0, 255, (60, 36, 64, 3), np.uint8)
    assert find_loop(thumbnails(known.still(60))).score == 0
    assert find_loop(thumbnails(drawn)).score < 0.2
    assert find_loop(thumbnails(known.lit(np.arange(60) * 0.5))).score == 0
    assert find_loop(thumbnails(window)).score < 0.7


@settings(max_examples=20)
@given(st.integers(2, 40), st.integers(0, 1000))
def test_self_similarity_is_the_mean_distance_of_frames_that_far_apart(num_frames: int, seed: int) -> None:
    pictures = np.random.default_rng(seed).integers(0, 255, (num_frames, 18, 32), np.uint8)
    rows = pictures.reshape(num_frames, -1).astype(np.float64)
    typical = 2 * ((rows - rows.mean(axis=0)) ** 2).mean()
    found = self_similarity(pictures)
    assert found[0] == pytest.approx(1)
    for lag in range(1, len(found)):
        assert found[lag] == pytest.approx(1 - ((rows[lag:] - rows[:-lag]) ** 2).mean() / typical, abs=1e-9)


# Cuts


@given(st.integers(1, 29))
def test_a_cut_is_found_at_its_frame(at: int) -> None:
    clip = np.concatenate([known.pan(at, seed=1), known.pan(30 - at, seed=2)])
    assert find_cuts(thumbnails(clip)) == [at]


def test_several_cuts_are_found() -> None:
    assert find_cuts(thumbnails(np.concatenate([known.pan(8, seed=seed) for seed in range(4)]))) == [8, 16, 24]


def test_what_is_no_cut_is_taken_for_none() -> None:
    flash = known.lit([0.0] * 20)
    flash[9:11] = 255
    dissolve = known.eight_bit(
        np.stack([known.texture(1) * (1 - w) + known.texture(2) * w for w in np.linspace(0, 1, 20)])
    )
    calm = {
        "still": known.still(20),
        "pan": known.pan(20, right=3),
        "flicker": known.lit([20.0 * (-1) ** index for index in range(20)]),
        "fade": known.lit(np.arange(20) * 3.0),
        "flash": flash,
        "noise": known.grainy(20, 30.0),
        "dissolve": dissolve,
        "one grey": np.full((20, 8, 8, 3), 90, np.uint8),
    }
    assert {name: found for name, clip in calm.items() if (found := find_cuts(thumbnails(clip)))} == {}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (1, 40), (7, 5)])
def test_tiny_pictures_are_measured(height: int, width: int) -> None:
    clip = np.random.default_rng(0).integers(0, 255, (4, height, width, 3), np.uint8)
    for read in (flow_means, changes, blend_errors, thumbnails):
        assert np.isfinite(read(clip)).all()


@pytest.mark.parametrize("num_frames", [0, 1, 2, 3])
def test_very_short_clips_have_numbers_or_none_but_never_break(num_frames: int) -> None:
    clip = known.still(max(1, num_frames))[:num_frames]
    assert len(changes(clip)) == max(0, num_frames - 1)
    assert len(flow_means(clip)) == max(0, num_frames - 1)
    assert len(blend_errors(clip)) == max(0, num_frames - 2)
    if num_frames:
        assert find_cuts(thumbnails(clip)) == []
        assert find_loop(thumbnails(clip)).score == 0
