"""Complete sampling configurations by name, and how a checkpoint's own files become one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from heliograph.config import Guidance, SamplerConfig, ScheduleConfig, SolverName, TimeShift
from heliograph.errors import CheckpointError

PYRAMID_BORDERS = (0.0, 1 / 3, 2 / 3, 1.0)

BASE = SamplerConfig(
    schedule=ScheduleConfig("unipc", (0.0, 1.0), 1 / 3, "exponential"),
    steps=(50,),
    first_chunk_steps=None,
    guidance=Guidance(5.0),
)
"""Helios-Base: one resolution, 50 UniPC steps, guidance 5."""

MID = SamplerConfig(
    schedule=ScheduleConfig("unipc", PYRAMID_BORDERS, 1 / 3, "exponential"),
    steps=(20, 20, 20),
    first_chunk_steps=None,
    guidance=Guidance(5.0, "cfg_zero_star", zero_init_steps=2),
)
"""Helios-Mid: three levels, 20 UniPC steps on each, CFG-Zero* 5 with two zero steps."""

DISTILLED = SamplerConfig(
    schedule=ScheduleConfig("few_step", PYRAMID_BORDERS, 1 / 3, "linear"),
    steps=(2, 2, 2),
    first_chunk_steps=(4, 4, 4),
    guidance=Guidance(1.0),
)
"""Helios-Distilled: two few-step steps on each level, doubled for the first chunk, no guidance."""

FAST = replace(DISTILLED, steps=(1, 1, 1), first_chunk_steps=(2, 2, 2))
"""Helios-Distilled at one step a level: the setting of the published 19.5 frames per second."""

SAMPLERS: dict[str, SamplerConfig] = {"base": BASE, "mid": MID, "distilled": DISTILLED, "fast": FAST}

_SOLVERS: dict[str, SolverName] = {"euler": "euler", "unipc": "unipc", "dmd": "few_step"}
_SHIFTS: dict[str, TimeShift] = {"linear": "linear", "exponential": "exponential"}
_FIXED_VALUES = {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "predict_x0": True,
    "thresholding": False,
    "solver_type": "bh2",
    "solver_order": 2,
    "lower_order_final": True,
    "solver_p": None,
}


def sampler_for(scheduler: Mapping[str, Any], pipeline: Mapping[str, Any]) -> SamplerConfig:
    """The sampler of a checkpoint, from its `scheduler_config.json` and `model_index.json`.

    Steps and guidance, which no file records, are those of the released variant of the same kind.

    Raises:
        CheckpointError: names the key whose value no solver here implements.
    """
    schedule = schedule_for(scheduler)
    if schedule.solver == "few_step" or pipeline.get("is_distilled"):
        preset = DISTILLED
    elif schedule.num_levels > 1 or pipeline.get("is_cfg_zero_star"):
        preset = MID
    else:
        preset = BASE
    guidance = preset.guidance
    if guidance.is_on and not pipeline.get("is_cfg_zero_star"):
        guidance = Guidance(guidance.scale)
    if schedule.num_levels == preset.schedule.num_levels:
        return replace(preset, schedule=schedule, guidance=guidance)
    steps = (sum(preset.steps),) if schedule.num_levels == 1 else (preset.steps[0],) * schedule.num_levels
    return SamplerConfig(schedule, steps, None, guidance)


def schedule_for(scheduler: Mapping[str, Any]) -> ScheduleConfig:
    """The schedule in a `scheduler_config.json` of the released layout (`HeliosScheduler`, `HeliosDMDScheduler`)."""
    class_name = scheduler.get("_class_name", "HeliosScheduler")
    if class_name not in ("HeliosScheduler", "HeliosDMDScheduler"):
        raise CheckpointError(
            f"scheduler class {class_name} is not supported; use HeliosScheduler or HeliosDMDScheduler"
        )
    for key, wanted in _FIXED_VALUES.items():
        if scheduler.get(key, wanted) != wanted:
            raise CheckpointError(f"scheduler {key}={scheduler[key]!r} is not supported; Helios uses {wanted!r}")
    if scheduler.get("disable_corrector"):
        raise CheckpointError(f"scheduler disable_corrector={scheduler['disable_corrector']} is not supported; use []")
    is_few_step = class_name == "HeliosDMDScheduler"
    solver = "dmd" if is_few_step else scheduler.get("scheduler_type", "unipc")
    shift_kind = scheduler.get("time_shift_type", "linear" if is_few_step else "exponential")
    if solver not in _SOLVERS or shift_kind not in _SHIFTS:
        raise CheckpointError(
            f"scheduler_type={solver!r} with time_shift_type={shift_kind!r} is not supported; "
            f"use one of {sorted(_SOLVERS)} with one of {sorted(_SHIFTS)}"
        )
    try:
        return _schedule(scheduler, _SOLVERS[solver], _SHIFTS[shift_kind])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the scheduler configuration has a value that cannot be used: {error}") from error


def _schedule(scheduler: Mapping[str, Any], solver: SolverName, shift_kind: TimeShift) -> ScheduleConfig:
    """The numbers of a scheduler configuration. May raise TypeError and ValueError on values of the wrong kind."""
    num_levels = int(scheduler.get("stages", 3))
    # JSON writes whole borders as integers
    borders = tuple(float(b) for b in scheduler.get("stage_range", PYRAMID_BORDERS)) if num_levels > 1 else (0.0, 1.0)
    if len(borders) != num_levels + 1:
        raise CheckpointError(f"stage_range={borders} does not divide the noise levels among {num_levels} stages")
    return ScheduleConfig(
        solver=solver,
        borders=borders,
        gamma=float(scheduler.get("gamma", 1 / 3)),
        time_shift=shift_kind if scheduler.get("use_dynamic_shifting", False) else "constant",
        shift=float(scheduler.get("shift", 1.0)),
        num_train_timesteps=scheduler.get("num_train_timesteps", 1000),
        base_tokens=scheduler.get("base_image_seq_len", 256),
        max_tokens=scheduler.get("max_image_seq_len", 4096),
        base_shift=float(scheduler.get("base_shift", 0.5)),
        max_shift=float(scheduler.get("max_shift", 1.15)),
    )
