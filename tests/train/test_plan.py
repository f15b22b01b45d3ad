"""What a run will cost: counted from shapes, compared with networks that exist."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from heliograph.config import MemoryConfig
from heliograph.errors import UserError
from heliograph.model.attention import attend_by_products, use_kernel
from heliograph.model.packed import Part
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.activations import activation_bytes, forward_passes, history_tokens
from heliograph.train.adapter import AdapterConfig
from heliograph.train.corrupt import tiers_of
from heliograph.train.lora import add_seeded_adapter, train_only
from heliograph.train.network import Given, denoise_packed
from heliograph.train.plan import Device, make_plan, role_memory, this_device
from heliograph.train.presets import TRAINING
from heliograph.train.start import StartPoint, empty_network, start_config
from tests.small import small_transformer

GB = 10**9
H100 = Device("an 80 GB GPU", 80 * GB)


def tokens_of(preset: str) -> tuple[int, ...]:
    return tuple(one.tokens for one in forward_passes(TRAINING[preset]))


def test_tokens_are_those_of_the_reference() -> None:
    assert history_tokens(48, 80, MemoryConfig()) == 2400
    assert tokens_of("adapt-init") == (11_040,)
    assert tokens_of("multiscale-init") == (23_100,)
    assert tokens_of("multiscale-post") == (18_540,)
    assert tokens_of("distill-dmd") == (2940, 4560, 11_040)
    assert tokens_of("distill-ode") == (2940, 4560, 11_040) * 3


def test_a_step_counts_all_devices_and_parts() -> None:
    config = TRAINING["adapt-init"]
    config = replace(config, loop=replace(config.loop, accumulation=3))
    assert make_plan(config, 4, H100).tokens == 11_040 * 2 * 3 * 4


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
    plan = make_plan(config, 8, H100)
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
    assert not make_plan(config, 1, H100).fits


def test_idle_weights_in_host_memory_are_those_of_one_backbone() -> None:
    config = replace(TRAINING["distill-gan"], scores_layout="replicate")
    stays, leaves = (make_plan(replace(config, idle=idle), 8, H100) for idle in ("stay", "leave"))
    assert leaves.away_bytes == pytest.approx(28.7e9, rel=0.01)
    assert stays.total_bytes - leaves.total_bytes == leaves.away_bytes and stays.away_bytes == 0
    assert any("idle, in host memory" in line for line in leaves.lines())


def test_the_first_stage_fits_on_one_80_gb_device_only_with_its_memory_saved() -> None:
    config = TRAINING["adapt-init"]
    assert make_plan(config, 1, H100).fits
    assert not make_plan(replace(config, saves_memory=False), 1, H100).fits


def test_a_plan_reads_no_weights_and_says_what_it_says(tiny_folder: Path) -> None:
    config = replace(TRAINING["tiny-multiscale-init"], start=StartPoint(str(tiny_folder)))
    plan = make_plan(config, 2, Device("a small device", 10))
    text = "\n".join(plan.lines())
    assert "stage.optimiser.learning_rate = 0.0002" in text and "does not fit" in text and "a small device" in text
    values = json.loads(json.dumps(plan.as_json()))
    assert values["devices"] == 2 and values["total_bytes"] == plan.total_bytes and not values["fits"]
    assert values["config"]["start"]["model"] == str(tiny_folder)


def kept_bytes(network: HeliosTransformer3DModel, side: int, count: int) -> int:
    """Bytes of all tensors but parameters that a forward pass over each level once leaves for the backward pass."""
    x, past = (torch.zeros(count, 16, frames, side, side) for frames in (9, MemoryConfig().num_frames + 1))
    given = Given(torch.zeros(count, 32, network.config["text_dim"]), tiers_of(past, MemoryConfig(), 9))
    parts = [Part(x[..., : side // k, : side // k].contiguous(), torch.full((count,), 500.0)) for k in (4, 2, 1)]
    kept = {}  # by storage, with the tensor: an address is taken again once its tensor is gone

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", torch.bfloat16):
        denoise_packed(network, parts, given)
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


@pytest.mark.parametrize("keeps_scores", [False, True])
def test_activations_are_about_those_that_are_kept(*, keeps_scores: bool) -> None:
    config = TRAINING["embedded-finer"]
    network = HeliosTransformer3DModel.from_config(start_config(StartPoint("tiny")))
    if keeps_scores:
        use_kernel(network, attend_by_products)
    first = forward_passes(replace(config, size=(128, 128)), 8)[:1]
    planned = activation_bytes(network, first, 1, saves_memory=False, keeps_scores=keeps_scores)
    # A second example adds its own alone: copies of weights in bfloat16 are kept once.
    added = kept_bytes(network, 16, 2) - kept_bytes(network, 16, 1)
    assert planned == pytest.approx(added, rel=0.05)


def test_a_second_look_at_openings_is_counted() -> None:
    config = TRAINING["embedded-finer"]
    once, openings = forward_passes(config, 8)
    assert openings.sequences == once.sequences[:2] and openings.share == config.selection.opening_share == 0.25
    network = empty_network(asdict(TRAINING["embedded-adapt"].network))
    both, alone = (activation_bytes(network, passes, 3, saves_memory=False) for passes in ((once, openings), (once,)))
    assert both - alone == activation_bytes(network, (openings,), 3, saves_memory=False) > 0


def test_processes_on_one_host_share_its_memory() -> None:
    alone, one_of_two = (this_device("cpu", count) for count in (1, 2))
    assert alone.num_bytes == pytest.approx(2 * one_of_two.num_bytes, abs=1) and one_of_two.is_cpu


def test_a_run_for_a_gpu_can_be_planned_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = TRAINING["distill-gan"]
    there, here = (make_plan(config, 8, this_device(device, 8)) for device in ("cuda", "auto"))
    assert there.device.num_bytes is None and "needs" in there.lines()[-1]
    scores = 2 * 40 * forward_passes(config)[-1].tokens ** 2  # bytes of one block's, which a CPU in bfloat16 keeps
    assert here.activation_bytes - there.activation_bytes == scores


def test_a_device_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UserError, match="device='gpu' is not known"):
        this_device("gpu", 1)
