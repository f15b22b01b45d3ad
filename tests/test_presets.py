"""Presets, and the sampler that a checkpoint's own files ask for."""

import json
from dataclasses import replace
from typing import Any

import pytest
from diffusers import HeliosDMDScheduler, HeliosScheduler, SchedulerMixin

from heliograph.config import Guidance, SamplerConfig
from heliograph.errors import CheckpointError, UserError
from heliograph.presets import BASE, DISTILLED, FAST, MID, SAMPLERS, sampler_for, schedule_for
from heliograph.sample import make_sampler, zero_init_steps

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # inside diffusers' schedulers


def written(scheduler: SchedulerMixin) -> dict[str, Any]:
    """What `save_pretrained` of diffusers writes into `scheduler_config.json`."""
    return json.loads(scheduler.to_json_string())


BASE_FILE = written(HeliosScheduler(stages=1, use_dynamic_shifting=True))
MID_FILE = written(HeliosScheduler(use_dynamic_shifting=True))
DISTILLED_FILE = written(HeliosDMDScheduler(use_dynamic_shifting=True))
RELEASED = {
    "base": (BASE_FILE, {}, BASE),
    "mid": (MID_FILE, {"is_cfg_zero_star": True, "is_distilled": False}, MID),
    "distilled": (DISTILLED_FILE, {"is_cfg_zero_star": False, "is_distilled": True}, DISTILLED),
}


def calls(config: SamplerConfig, chunk: int) -> int:
    """Network evaluations of a chunk at 384×640, guidance counted."""
    sampler = make_sampler(config, chunk, 48, 80)
    asked = sampler.pyramid.num_calls - zero_init_steps(config.guidance)
    return asked * (2 if config.guidance.is_on else 1)


# Presets


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_preset_validates_and_makes_a_sampler(name: str) -> None:
    config = SAMPLERS[name]
    assert replace(config) == config
    for chunk in (0, 1):
        levels = make_sampler(config, chunk, 48, 80).pyramid.levels
        assert tuple(len(level.steps) for level in levels) == config.steps_for(chunk)


def test_presets_cost_what_the_released_settings_cost() -> None:
    assert [calls(BASE, chunk) for chunk in (0, 1)] == [100, 100]
    assert [calls(MID, chunk) for chunk in (0, 1)] == [116, 116]  # 120 of the released engine, less the zero steps
    assert calls(DISTILLED, 0) + 7 * calls(DISTILLED, 1) == 54
    assert [calls(FAST, chunk) for chunk in (0, 1)] == [6, 3]


def test_presets_are_those_of_the_released_variants() -> None:
    assert (BASE.schedule.solver, MID.schedule.solver, DISTILLED.schedule.solver) == ("unipc", "unipc", "few_step")
    assert [c.schedule.time_shift for c in (BASE, MID, DISTILLED)] == ["exponential", "exponential", "linear"]
    assert [c.guidance.scale for c in (BASE, MID, DISTILLED, FAST)] == [5, 5, 1, 1]
    assert [c.guidance.method for c in (BASE, MID)] == ["cfg", "cfg_zero_star"]
    assert [c.steps for c in (BASE, MID, DISTILLED, FAST)] == [(50,), (20, 20, 20), (2, 2, 2), (1, 1, 1)]


# From a checkpoint's files


@pytest.mark.parametrize("name", RELEASED)
def test_the_files_of_a_released_variant_give_its_preset(name: str) -> None:
    scheduler, pipeline, want = RELEASED[name]
    assert sampler_for(scheduler, pipeline) == want


def test_the_older_way_to_write_a_distilled_scheduler_gives_the_same_preset() -> None:
    file = {**MID_FILE, "scheduler_type": "dmd", "time_shift_type": "linear"}
    assert sampler_for(file, {"is_distilled": True}) == DISTILLED


@pytest.mark.parametrize("scheduler", [HeliosScheduler(), HeliosDMDScheduler()], ids=lambda s: type(s).__name__)
def test_a_scheduler_without_dynamic_shift_has_a_constant_one(scheduler: SchedulerMixin) -> None:
    schedule = schedule_for(written(scheduler))
    assert schedule.time_shift == "constant"
    assert schedule.shift == 1.0


def test_keys_of_a_file_reach_the_schedule() -> None:
    file = {
        **MID_FILE,
        "gamma": 0.25,
        "stages": 2,
        "stage_range": [0, 0.5, 1],
        "scheduler_type": "euler",
        "time_shift_type": "linear",
        "base_image_seq_len": 100,
        "max_image_seq_len": 200,
        "base_shift": 0.6,
        "max_shift": 1.3,
    }
    schedule = schedule_for(file)
    assert (schedule.gamma, schedule.borders, schedule.solver) == (0.25, (0.0, 0.5, 1.0), "euler")
    assert (schedule.base_tokens, schedule.max_tokens) == (100, 200)
    assert (schedule.base_shift, schedule.max_shift, schedule.time_shift) == (0.6, 1.3, "linear")


def test_constant_shift_of_a_file_reaches_the_schedule() -> None:
    assert schedule_for(written(HeliosScheduler(shift=3.0))).shift == 3.0


def test_absent_keys_mean_what_the_scheduler_class_means_by_default() -> None:
    for cls in (HeliosScheduler, HeliosDMDScheduler):
        named = {"_class_name": cls.__name__}
        assert schedule_for(named) == schedule_for(written(cls()))
        dynamic = {"use_dynamic_shifting": True}
        assert schedule_for({**named, **dynamic}) == schedule_for(written(cls(**dynamic)))


@pytest.mark.parametrize(("zero_star", "want"), [(True, MID.guidance), (False, Guidance(5.0))])
def test_guidance_follows_the_flag_of_the_pipeline_file(*, zero_star: bool, want: Guidance) -> None:
    assert sampler_for(MID_FILE, {"is_cfg_zero_star": zero_star}).guidance == want


def test_another_number_of_levels_gets_as_many_steps() -> None:
    two = sampler_for({**MID_FILE, "stages": 2, "stage_range": [0, 0.5, 1]}, {})
    assert two.steps == (20, 20)
    one = sampler_for({**DISTILLED_FILE, "stages": 1}, {"is_distilled": True})
    assert one.steps == (6,)
    assert one.first_chunk_steps is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"_class_name": "DDIMScheduler"}, "scheduler class DDIMScheduler .*use HeliosScheduler"),
        ({"prediction_type": "epsilon"}, "prediction_type='epsilon' .*'flow_prediction'"),
        ({"use_flow_sigmas": False}, "use_flow_sigmas=False .*True"),
        ({"predict_x0": False}, "predict_x0=False .*True"),
        ({"thresholding": True}, "thresholding=True .*False"),
        ({"solver_type": "bh1"}, "solver_type='bh1' .*'bh2'"),
        ({"solver_order": 3}, "solver_order=3 .*2"),
        ({"lower_order_final": False}, "lower_order_final=False .*True"),
        ({"solver_p": "other"}, "solver_p='other' .*None"),
        ({"disable_corrector": [0]}, r"disable_corrector=\[0\] .*use \[\]"),
        ({"scheduler_type": "heun"}, r"scheduler_type='heun' .*use one of \['dmd', 'euler', 'unipc'\]"),
        ({"time_shift_type": "cosine"}, r"time_shift_type='cosine' .*\['exponential', 'linear'\]"),
        ({"stage_range": [0, 0.5, 1]}, r"stage_range=\(0.0, 0.5, 1.0\) .*3 stages"),
        ({"stages": 2}, "stage_range=.*2 stages"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_value_that_no_solver_here_implements_is_refused_by_its_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        sampler_for({**MID_FILE, **change}, {})


@pytest.mark.parametrize("change", [{"gamma": 0.5}, {"stage_range": [0, 0.7, 0.3, 1]}], ids=["gamma", "borders"])
def test_a_value_out_of_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"gamma=0.5|borders=\(0.0, 0.7, 0.3, 1.0\)"):
        sampler_for({**MID_FILE, **change}, {})
