"""Brightness, colour, contrast, sharpness and noise of frames, and their drift and flicker over time."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.evaluate.drift import CURVE_POINTS, curve, drift, portion, scattered_drift
from heliograph.evaluate.metrics.colour import brightness, saturation, warmth
from heliograph.evaluate.metrics.contrast import contrast
from heliograph.evaluate.metrics.flicker import flicker
from heliograph.evaluate.metrics.noise import noise
from heliograph.evaluate.metrics.picture import grey, shrunk
from heliograph.evaluate.metrics.sharpness import sharpness
from tests.evaluate import known

PROPERTIES = (brightness, saturation, warmth, contrast, sharpness, noise)


def one_colour(*colour: int) -> np.ndarray:
    return np.full((1, 8, 10, 3), colour, np.uint8)


@given(st.integers(0, 255))
def test_a_grey_frame_has_its_brightness_and_nothing_else(level: int) -> None:
    frame = one_colour(level, level, level)
    assert brightness(frame)[0] == pytest.approx(level)
    assert [measure(frame)[0] for measure in PROPERTIES[1:]] == [0.0] * 5


def test_colours_have_their_saturation_and_warmth() -> None:
    assert saturation(one_colour(200, 50, 100))[0] == 150
    assert warmth(one_colour(200, 50, 100))[0] == 100
    assert warmth(one_colour(10, 50, 100))[0] == -90
    assert brightness(one_colour(0, 255, 0))[0] == pytest.approx(0.587 * 255)


def test_contrast_of_half_black_half_white_is_the_largest_there_is() -> None:
    frame = np.zeros((1, 8, 10, 3), np.uint8)
    frame[:, :, :5] = 255
    assert contrast(frame)[0] == pytest.approx(127.5)


@given(st.integers(1, 10))
def test_a_ramp_is_as_sharp_as_it_is_steep_and_has_no_noise(slope: int) -> None:
    ramp = np.repeat((slope * np.arange(20, dtype=np.uint8))[None, None, :, None], 12, axis=1).repeat(3, axis=-1)
    inner = sharpness(np.concatenate([ramp, ramp[:, :, 1:19]], axis=2)[:, :, :18])
    assert 0.8 * slope < inner[0] < 1.05 * slope
    assert noise(ramp)[0] == 0


def test_blur_lowers_sharpness_and_leaves_brightness() -> None:
    sharp = known.still(1)
    blurred = known.eight_bit(np.mean([np.roll(sharp.astype(float), shift, 2) for shift in range(-3, 4)], axis=0))
    assert sharpness(blurred)[0] < 0.9 * sharpness(sharp)[0]
    assert brightness(blurred)[0] == pytest.approx(brightness(sharp)[0], abs=0.3)


@pytest.mark.parametrize("deviation", [2.0, 5.0, 12.0])
def test_white_noise_is_measured_in_levels(deviation: float) -> None:
    assert noise(known.grainy(8, deviation)).mean() == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("measure", PROPERTIES)
def test_a_frame_counts_the_same_whatever_surrounds_it(measure: Callable[[np.ndarray], np.ndarray]) -> None:
    clip = np.concatenate([known.pan(3), known.grainy(2, 5.0)])
    np.testing.assert_allclose(measure(clip)[2:4], measure(clip[2:4]), rtol=1e-6)


@pytest.mark.parametrize("measure", PROPERTIES)
def test_a_pan_changes_no_property_of_a_picture_that_wraps_around(measure: Callable[[np.ndarray], np.ndarray]) -> None:
    values = measure(known.pan(10, right=3))
    assert np.ptp(values) < 0.02 * max(1.0, abs(values[0]))


def test_grey_is_rounded_luma_of_every_pixel() -> None:
    clip = known.still(2)
    np.testing.assert_allclose(grey(clip), clip @ np.array([0.299, 0.587, 0.114]), atol=0.51)


@given(st.integers(1, 200), st.integers(1, 200))
def test_a_wide_frame_is_made_smaller_in_its_shape_and_others_are_left(height: int, width: int) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (1, height, width, 3), np.uint8)
    made = shrunk(frame, 64)
    if width <= 64:
        assert made is frame
    else:
        assert made.shape[2] == 64 and made.shape[1] % 2 == 0
        assert abs(made.shape[1] - 64 * height / width) <= 1 or made.shape[1] == 2


# Over time


@given(st.integers(2, 3000))
def test_both_ends_of_a_video_are_looked_at_alike(num_frames: int) -> None:
    ramp = np.arange(num_frames, dtype=np.float64)
    assert 1 <= portion(num_frames) <= num_frames / 2
    assert drift(ramp) == pytest.approx(num_frames - portion(num_frames))
    assert drift(ramp[::-1]) == pytest.approx(drift(ramp))
    assert drift(np.full(num_frames, 3.0)) == 0


def test_a_known_fade_drifts_in_brightness_by_what_it_fades() -> None:
    fade = known.lit(np.arange(100) * 0.5)
    assert drift(brightness(fade)) == pytest.approx(0.5 * 85, abs=0.1)
    assert drift(contrast(fade)) < 0.1
    assert drift(warmth(fade)) < 0.1


def test_growing_noise_drifts_in_noise() -> None:
    assert drift(noise(np.concatenate([known.grainy(10, 2.0), known.grainy(10, 8.0)]))) == pytest.approx(6.0, rel=0.1)


@given(st.integers(1, 500))
def test_a_curve_has_the_mean_of_what_it_shows(num_frames: int) -> None:
    values = np.random.default_rng(num_frames).standard_normal(num_frames)
    points = curve(values)
    assert len(points) == min(CURVE_POINTS, num_frames)
    if num_frames % CURVE_POINTS == 0:
        assert np.mean(points) == pytest.approx(values.mean())


@pytest.mark.parametrize("amplitude", [1.0, 4.0, 20.0])
def test_white_flicker_is_measured_as_its_amplitude(amplitude: float) -> None:
    levels = [amplitude * (-1) ** index for index in range(30)]
    assert flicker(brightness(known.lit(levels))) == pytest.approx(amplitude, abs=0.05)


def test_steady_light_steady_fades_and_pans_do_not_flicker() -> None:
    assert flicker(brightness(known.still(20))) == 0
    assert flicker(brightness(known.lit(np.arange(40) * 1.0))) < 0.01
    assert flicker(brightness(known.pan(20, right=4))) < 0.01


def test_a_cut_is_no_flicker_once_it_is_known() -> None:
    clip = brightness(known.lit([0.0] * 10 + [50.0] * 10))
    assert flicker(clip) > 1
    assert flicker(clip, cuts=[10]) == 0


def test_flicker_needs_three_frames_of_one_scene() -> None:
    with pytest.raises(ValueError, match="no three frames"):
        flicker(np.zeros(3), cuts=[1])


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_stretches_in_random_order_drift_as_is_expected_of_them(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    stretches = scale * random.normal(size=CURVE_POINTS)
    found = np.mean([drift(random.permutation(stretches)) for _ in range(400)])
    assert found == pytest.approx(scattered_drift(stretches), rel=0.2)


def test_what_stands_still_is_not_expected_to_drift_and_a_trend_drifts_more_than_its_scatter() -> None:
    assert scattered_drift(np.full(CURVE_POINTS, 3.0)) == scattered_drift(np.array([7.0])) == 0
    trend = np.linspace(0, 1, CURVE_POINTS)
    assert drift(trend) > 5 * scattered_drift(trend)
