"""Configs refuse what cannot work, and say what was wrong, what was given and what to do."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from heliograph.config import Guidance, MemoryConfig, SamplerConfig, ScheduleConfig, StartNoise
from heliograph.errors import UserError
from heliograph.presets import BASE, DISTILLED, MID

PYRAMID, SCHEDULE = DISTILLED.schedule.borders, DISTILLED.schedule


def steps(*counts: int, first: tuple[int, ...] | None = None) -> SamplerConfig:
    """The distilled sampler with other steps."""
    return replace(DISTILLED, steps=counts, first_chunk_steps=first)


def borders(*values: float) -> ScheduleConfig:
    """The distilled schedule with other borders."""
    return replace(SCHEDULE, borders=values)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "borders-do-not-start-at-0": (lambda: borders(0.1, 1.0), r"borders=\(0.1, 1.0\) .*use"),
    "borders-do-not-end-at-1": (lambda: borders(0.0, 0.9), r"borders=\(0.0, 0.9\) .*use"),
    "borders-do-not-rise": (lambda: borders(0.0, 0.6, 0.4, 1.0), r"borders=\(0.0, 0.6, 0.4, 1.0\) .*use"),
    "borders-repeat": (lambda: borders(0.0, 0.5, 0.5, 1.0), r"borders=.*use"),
    "no-level": (lambda: borders(0.0), r"borders=\(0.0,\) .*use"),
    "gamma-0": (lambda: replace(SCHEDULE, gamma=0.0), "gamma=0.0 .*above 0, at most 1/3"),
    "gamma-above-a-third": (lambda: replace(SCHEDULE, gamma=0.34), "gamma=0.34 .*above 0, at most 1/3"),
    "gamma-nan": (lambda: replace(SCHEDULE, gamma=math.nan), "gamma=nan .*above 0, at most 1/3"),
    "shift-0": (lambda: replace(SCHEDULE, shift=0.0), "shift=0.0.*compare it with"),
    "shift-nan": (lambda: replace(SCHEDULE, shift=math.nan), "shift=nan.*compare it with"),
    "one-training-step": (lambda: replace(SCHEDULE, num_train_timesteps=1), "num_train_timesteps=1.*compare it with"),
    "tokens-do-not-grow": (lambda: replace(SCHEDULE, max_tokens=256), "max_tokens=256.*compare it with"),
    "guidance-negative": (lambda: Guidance(-1.0), r"guidance_scale=-1.0 .*use up to 100; 1 or less"),
    "guidance-huge": (lambda: Guidance(101.0), "guidance_scale=101.0 .*use"),
    "guidance-nan": (lambda: Guidance(math.nan), "guidance_scale=nan .*use"),
    "guidance-infinite": (lambda: Guidance(math.inf), "guidance_scale=inf .*use"),
    "zero-steps-negative": (lambda: Guidance(5.0, zero_init_steps=-1), "zero_init_steps=-1 .*use 0 or more"),
    "no-guided-level": (lambda: Guidance(5.0, levels=0), "guided_levels=0 .*use 1 or more, or guidance_scale=1"),
    "more-guided-levels-than-levels": (
        lambda: replace(DISTILLED, guidance=Guidance(5.0, levels=4)),
        r"guided_levels=4, but this model has 3 level\(s\); use 1 to 3",
    ),
    "too-few-levels": (lambda: steps(2, 2), r"steps=2,2 names 2 level\(s\).*has 3; give 3 numbers"),
    "too-many-levels": (lambda: replace(BASE, steps=(9, 9)), r"steps=9,9 names 2 level\(s\).*has 1; give 1 numbers"),
    "no-levels": (steps, r"steps= names 0 level\(s\).*give 3 numbers"),
    "first-chunk-levels": (lambda: steps(2, 2, 2, first=(4,)), r"steps=4 names 1 level\(s\).*give 3 numbers"),
    "first-chunk-no-levels": (lambda: steps(2, 2, 2, first=()), r"steps= names 0 level\(s\).*give 3 numbers"),
    "zero-steps": (lambda: steps(2, 0, 2), "steps=2,0,2 is out of range; use 1 to 1000"),
    "endless-steps": (lambda: steps(2, 2, 1001), "steps=2,2,1001 is out of range; use 1 to 1000"),
    "first-chunk-zero-steps": (lambda: steps(2, 2, 2, first=(0, 1, 1)), "steps=0,1,1 is out of range; use"),
    "empty-tier": (lambda: MemoryConfig(16, 0, 1), "history sizes 16, 0, 1 .*use 16, 2, 1"),
    "image-noise": (lambda: StartNoise(image=(0.2, 0.1)), "image noise range 0.2 to 0.1 .*default is 0.111 to 0.135"),
    "video-noise": (lambda: StartNoise(video=(0.0, 1.1)), "video noise range 0.0 to 1.1 .*default is 0.111 to 0.135"),
    "noise-nan": (lambda: StartNoise(image=(math.nan, 0.1)), "image noise range nan to 0.1 .*default"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_refused_with_what_to_do(case: str) -> None:
    build, said = WRONG[case]
    with pytest.raises(UserError, match=said) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: borders(0.0, 1.0),
        lambda: borders(0.0, 0.2, 0.5, 0.9, 1.0),
        lambda: replace(SCHEDULE, gamma=1 / 3),
        lambda: replace(SCHEDULE, gamma=1e-6),
        lambda: Guidance(0.0),
        lambda: Guidance(100.0),
        lambda: steps(1, 1, 1000, first=(1000, 1, 1)),
        lambda: MemoryConfig(1, 1, 1, keeps_anchor=False),
        lambda: StartNoise((0.0, 0.0), (1.0, 1.0)),
    ],
)
def test_the_ends_of_every_range_are_accepted(build: Callable[[], object]) -> None:
    build()


@pytest.mark.parametrize(
    "config", [DISTILLED, SCHEDULE, Guidance(), MemoryConfig(), StartNoise()], ids=lambda c: type(c).__name__
)
def test_configs_cannot_be_changed(config: object) -> None:
    for entry in fields(config):
        with pytest.raises(FrozenInstanceError):
            setattr(config, entry.name, None)


def test_configs_with_the_same_values_are_equal_and_hash_alike() -> None:
    other = replace(DISTILLED, schedule=replace(SCHEDULE), guidance=Guidance(1.0))
    assert other == DISTILLED
    assert hash(other) == hash(DISTILLED)
    assert replace(DISTILLED, steps=(1, 2, 3)) != DISTILLED


def test_the_number_of_levels_is_one_less_than_the_borders() -> None:
    assert [config.schedule.num_levels for config in (BASE, MID, DISTILLED)] == [1, 3, 3]


def test_only_chunk_0_has_the_first_chunk_steps() -> None:
    assert [DISTILLED.steps_for(chunk) for chunk in (0, 1, 7)] == [(4, 4, 4), (2, 2, 2), (2, 2, 2)]
    assert {MID.steps_for(chunk) for chunk in (0, 1, 7)} == {(20, 20, 20)}


@pytest.mark.parametrize(("scale", "is_on"), [(0.0, False), (1.0, False), (1.01, True), (5.0, True)])
def test_guidance_is_on_above_scale_1(*, scale: float, is_on: bool) -> None:
    assert Guidance(scale).is_on == is_on


def test_guidance_is_on_for_as_many_levels_as_it_says_coarse_ones_first() -> None:
    assert [Guidance(2.0, levels=2).on_level(level).is_on for level in range(3)] == [True, True, False]
    assert all(Guidance(2.0).on_level(level) == Guidance(2.0) for level in range(3))


def test_released_memory_is_16_2_1_and_the_anchor() -> None:
    memory = MemoryConfig()
    assert (memory.long, memory.mid, memory.short, memory.num_frames) == (16, 2, 1, 19)
    assert memory.keeps_anchor


def test_start_noise_is_the_released_one() -> None:
    assert StartNoise() == StartNoise(image=(0.111, 0.135), video=(0.111, 0.135))
