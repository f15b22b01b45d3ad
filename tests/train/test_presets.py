"""Training presets: the released values, the corrections, and that every one of them is complete."""

import json
from dataclasses import asdict, replace

import pytest

from heliograph.errors import UserError
from heliograph.presets import SAMPLERS
from heliograph.train.adapt import AdaptConfig
from heliograph.train.adapter import AdapterConfig
from heliograph.train.distill import DistillConfig
from heliograph.train.ema import EmaConfig
from heliograph.train.multiscale import MultiscaleConfig
from heliograph.train.ode import OdeConfig
from heliograph.train.presets import PATCHES, TRAINING, TrainConfig, training_preset

PHASES = {
    # name: (seed, steps, rank, conv adapters, trained whole, rate, batch, warm-up, checkpoint every)
    "adapt-init": (43, 5500, 128, 1, 3, 5e-5, 2, 0, 500),
    "adapt-post": (44, 7500, 128, 1, 3, 3e-5, 2, 0, 500),
    "multiscale-init": (45, 16000, 256, 0, 0, 1e-4, 1, 1000, 500),
    "multiscale-post": (46, 20000, 256, 4, 0, 3e-5, 1, 500, 500),
    "distill-ode": (47, 3759, 256, 3, 0, 2e-6, 1, 0, 250),
    "distill-dmd": (49, 2250, 256, 3, 0, 2e-6, 1, 0, 250),
    "distill-gan": (49, 2250, 256, 3, 0, 2e-6, 1, 0, 250),
}


def student_rate(config: TrainConfig) -> float:
    stage = config.stage
    return (stage.student_optimiser if isinstance(stage, DistillConfig) else stage.optimiser).learning_rate


@pytest.mark.parametrize("name", PHASES)
def test_a_phase_has_the_released_values(name: str) -> None:
    config, adapter = TRAINING[name], TRAINING[name].adapter
    assert adapter is not None
    got = (config.loop.seed, config.loop.max_steps, adapter.rank, len(adapter.convolutions), len(adapter.full))
    got += (student_rate(config), config.batch_size, config.loop.warmup_steps, config.loop.checkpoint_every)
    assert got == PHASES[name]
    assert (config.size, config.loop.precision, config.saves_memory) == ((384, 640), "bfloat16", True)


def test_the_stages_themselves_have_the_released_values() -> None:
    adapt, multiscale = TRAINING["adapt-init"].stage, TRAINING["multiscale-init"].stage
    assert isinstance(adapt, AdaptConfig) and adapt.times == "logit_normal"
    assert asdict(adapt.past.starts) == {"text": 0.4, "image": 0.0, "clip": 0.4}
    assert (adapt.past.corruption.noise, adapt.past.corruption.blur, adapt.past.corruption.clean) == (
        0.9,
        0,
        pytest.approx(0.1),
    )
    assert adapt.past.corruption.max_sigma == pytest.approx(1 / 3)
    assert isinstance(multiscale, MultiscaleConfig) and multiscale.repeats == (1, 2, 1)
    assert TRAINING["multiscale-post"].stage.repeats == (1, 1, 1)  # type: ignore[union-attr]
    ode = TRAINING["distill-ode"].stage
    assert isinstance(ode, OdeConfig) and (ode.num_chunks, ode.weight) == (3, 80)
    assert (TRAINING["distill-ode"].ema, TRAINING["distill-dmd"].ema) == (EmaConfig(0.99, 250), EmaConfig(0.99, 750))


def test_distillation_has_the_released_values() -> None:
    config = TRAINING["distill-gan"]
    stage = config.stage
    assert isinstance(stage, DistillConfig) and stage.gan is not None
    assert (stage.teacher_guidance, stage.critic_steps, stage.past.starts.clip) == (4.0, 5, 0.5)
    assert (stage.student_times.a, stage.student_times.b, stage.student_times.steps) == (4.0, 1.5, 500)
    assert stage.critic_times.steps == 0 and stage.critic_optimiser.learning_rate == 4e-7
    assert stage.student_optimiser.betas == (0.0, 0.999) and stage.student_optimiser.weight_decay == 1e-3
    assert (stage.gan.blocks, stage.gan.first_step, stage.gan.sizes.width) == ((5, 15, 25, 35), 1000, 768)
    assert (stage.gan.student_weight, stage.gan.critic_weight, stage.gan.r1_weight, stage.gan.r1_sigma) == (
        0.05,
        0.01,
        100,
        0.1,
    )
    assert config.critic == AdapterConfig(256) and TRAINING["distill-dmd"].stage.gan is None  # type: ignore[union-attr]


def test_corrected_phases_train_image_starts_and_degrade_in_every_way() -> None:
    for name in ("adapt-init", "multiscale-post", "distill-gan"):
        stage = TRAINING[f"{name}-correct"].stage
        assert not isinstance(stage, OdeConfig) and asdict(stage.past.starts) == {
            "text": 0.4,
            "image": 0.1,
            "clip": 0.4,
        }
        corruption = stage.past.corruption
        assert (corruption.noise, corruption.blur, corruption.min_size) == (0.81, 0.09, 0.9)
    distill = TRAINING["distill-dmd-correct"].stage
    assert isinstance(distill, DistillConfig)
    assert (distill.student_corruption.exposure, distill.student_corruption.factors) == (0.9, (0.3, 1.7))


def test_every_phase_has_a_tiny_twin_for_one_cpu() -> None:
    for name in PHASES:
        small = TRAINING[f"tiny-{name}"]
        assert type(small.stage) is type(TRAINING[name].stage) and small.kind == TRAINING[name].kind
        assert small.size == (128, 128) and small.loop.precision == "float32" and small.start.model == "tiny"
    assert TRAINING["tiny-adapt-init"].network is not None and TRAINING["tiny-adapt-init"].adapter is None


@pytest.mark.parametrize("name", TRAINING)
def test_every_preset_is_complete_and_can_be_written_down(name: str) -> None:
    config = training_preset(name)
    assert config.name == name and config.kind in SAMPLERS
    json.dumps(asdict(config))
    assert replace(config) == config  # validates once more


def test_an_unknown_preset_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(UserError, match="no training preset 'stage1'; use one of adapt-init"):
        training_preset("stage1")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("adapt-init", {"batch_size": 0}),
        ("multiscale-init", {"size": (384, 648)}),
        ("adapt-init", {"scores": TRAINING["distill-dmd"].scores, "critic": AdapterConfig(4)}),
        ("distill-dmd", {"scores": None}),
        ("distill-dmd", {"layout": "shard"}),
        ("distill-dmd", {"trains_text": True}),
        ("tiny-adapt-init", {"adapter": AdapterConfig(4, full=PATCHES)}),
    ],
)
def test_a_preset_that_contradicts_itself_is_refused(name: str, change: dict[str, object]) -> None:
    with pytest.raises(UserError):
        replace(TRAINING[name], **change)  # type: ignore[arg-type]
