"""What a run will cost: counted from shapes, compared with networks that exist."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from heliograph.config import MemoryConfig
from heliograph.train.adapter import AdapterConfig
from heliograph.train.lora import add_seeded_adapter, train_only
from heliograph.train.plan import history_tokens, make_plan, role_memory, sequences
from heliograph.train.presets import TRAINING
from heliograph.train.start import StartPoint
from tests.small import small_transformer

GB = 10**9
H100 = ("an 80 GB GPU", 80 * GB)


def test_tokens_are_those_of_the_reference() -> None:
    assert history_tokens(48, 80, MemoryConfig()) == 2400
    assert sequences(TRAINING["adapt-init"]) == (11_040,)
    assert sequences(TRAINING["multiscale-init"]) == (23_100,)
    assert sequences(TRAINING["multiscale-post"]) == (18_540,)
    assert sequences(TRAINING["distill-dmd"]) == (2940, 4560, 11_040)
    assert sequences(TRAINING["distill-ode"]) == (2940, 4560, 11_040) * 3


def test_a_step_counts_all_devices_and_parts() -> None:
    config = TRAINING["adapt-init"]
    config = replace(config, loop=replace(config.loop, accumulation=3))
    assert make_plan(config, 4, *H100).tokens == 11_040 * 2 * 3 * 4


@pytest.mark.parametrize("adapter", [None, AdapterConfig(4), AdapterConfig(4, ("patch_mid",), ("patch_long",))])
def test_bytes_of_a_role_are_those_of_its_tensors(adapter: AdapterConfig | None) -> None:
    planned = role_memory("student", small_transformer(), adapter, "replicate", 1, has_average=True)
    network = small_transformer()
    if adapter is None:
        train_only(network, ("",))
    else:
        add_seeded_adapter(network, adapter, "student", 0)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert planned.parameters == sum(p.numel() for p in network.parameters()) and planned.trained == trained
    parts = (planned.trained_bytes, planned.gradient_bytes, planned.moment_bytes, planned.average_bytes)
    assert parts == (4 * trained, 4 * trained, 8 * trained, 4 * trained)
    fp32 = sum(p.numel() for n, p in network.named_parameters() if not p.requires_grad and _stays_float32(n))
    assert planned.frozen_bytes == 2 * (planned.parameters - trained) + 2 * fp32


def _stays_float32(name: str) -> bool:
    return bool({"time_embedder", "scale_shift_table", "norm2"} & set(name.split(".")))


def test_sharding_divides_what_is_held_and_gathers_a_block_at_a_time() -> None:
    whole = role_memory("student", small_transformer(), AdapterConfig(4), "replicate", 4)
    part = role_memory("student", small_transformer(), AdapterConfig(4), "shard", 4)
    assert part.moment_bytes == whole.moment_bytes // 4 and part.frozen_bytes == whole.frozen_bytes // 4
    assert 0 < part.gathered_bytes < whole.frozen_bytes + whole.trained_bytes and whole.gathered_bytes == 0


def test_four_14b_models_fit_in_80_gb() -> None:
    config = TRAINING["distill-gan"]
    apart = 3 * 28.6e9 + 4 * 14.3e9  # student, teacher and critic in bfloat16, the average in float32
    plan = make_plan(config, 8, *H100)
    assert apart > 140 * GB and plan.fits and 60 * GB < plan.total_bytes < 80 * GB
    student, scores, heads = plan.roles
    assert student.parameters == 14_312_427_584 + student.trained and student.frozen_bytes == pytest.approx(
        28.7e9, rel=0.01
    )
    # teacher and critic share one backbone, of which a device holds an eighth
    assert scores.frozen_bytes == pytest.approx(28.7e9 / 8, rel=0.01)
    # the average is of what is trained alone, not of 14 billion parameters, and shared out like the backbone
    assert student.average_bytes == 4 * student.trained // 8 < 0.1 * 4 * 14.3e9 / 8
    assert heads.parameters == pytest.approx(0.99e9, rel=0.01)
    assert not make_plan(config, 1, *H100).fits


def test_idle_weights_in_host_memory_are_those_of_one_backbone() -> None:
    config = replace(TRAINING["distill-gan"], scores_layout="replicate")
    stays, leaves = (make_plan(replace(config, idle=idle), 8, *H100) for idle in ("stay", "leave"))
    assert leaves.away_bytes == pytest.approx(28.7e9, rel=0.01)
    assert stays.total_bytes - leaves.total_bytes == leaves.away_bytes and stays.away_bytes == 0
    assert any("idle, in host memory" in line for line in leaves.lines())


def test_the_first_stage_fits_on_one_80_gb_device_only_with_its_memory_saved() -> None:
    config = TRAINING["adapt-init"]
    assert make_plan(config, 1, *H100).fits
    assert not make_plan(replace(config, saves_memory=False), 1, *H100).fits


def test_a_plan_reads_no_weights_and_says_what_it_says(tiny_folder: Path) -> None:
    config = replace(TRAINING["tiny-multiscale-init"], start=StartPoint(str(tiny_folder)))
    plan = make_plan(config, 2, "a small device", 10)
    text = "\n".join(plan.lines())
    assert "stage.optimiser.learning_rate = 0.0002" in text and "does not fit" in text and "a small device" in text
    values = json.loads(json.dumps(plan.as_json()))
    assert values["devices"] == 2 and values["total_bytes"] == plan.total_bytes and not values["fits"]
    assert values["config"]["start"]["model"] == str(tiny_folder)
