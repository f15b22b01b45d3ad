"""Adapters: what they cover, and that they come and go without a trace."""

import pytest
import torch

from heliograph.errors import UserError
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.adapter import AdapterConfig, adapter_off, add_adapter, linear_names
from heliograph.train.lora import merged_tensors
from tests.small import relative_error
from tests.train.examples import given, network, normal

PATCHES = ("patch_embedding", "patch_short", "patch_mid", "patch_long")


def run(model: HeliosTransformer3DModel) -> torch.Tensor:
    """A velocity."""
    condition = given()
    return model(normal(1, 16, 9, 8, 8), 500.0, condition.text, condition.tiers)


def disturb(model: HeliosTransformer3DModel) -> None:
    """Give every trained weight another value."""
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))


def test_every_linear_layer_outside_norms_is_covered() -> None:
    names = linear_names(network())
    assert len(names) == 2 * (4 + 4 + 2) + 5 + 1
    assert "condition_embedder.time_proj" in names and "proj_out" in names and "blocks.1.ffn.net.2" in names


@torch.no_grad()
def test_a_fresh_adapter_changes_nothing() -> None:
    model = network()
    before = run(model)
    add_adapter(model, AdapterConfig(4, PATCHES), "student")
    assert torch.equal(run(model), before)


@torch.no_grad()
def test_a_network_of_the_merged_weights_is_the_adapted_one() -> None:
    adapted, merged = network(), network()
    add_adapter(adapted, AdapterConfig(4, PATCHES), "student")
    disturb(adapted)
    merged.load_state_dict(dict(merged_tensors(adapted, "student")))
    assert relative_error(run(merged), run(adapted)) < 1e-5


@torch.no_grad()
def test_without_its_adapter_a_network_is_the_old_one_exactly_and_afterwards_the_new_one() -> None:
    model = network()
    old = run(model)
    add_adapter(model, AdapterConfig(4), "critic")
    disturb(model)
    new = run(model)
    assert not torch.allclose(new, old)
    with adapter_off(model):
        assert torch.equal(run(model), old)
    assert torch.equal(run(model), new)


def test_an_adapter_comes_back_trainable_also_after_an_error() -> None:
    model = network()
    add_adapter(model, AdapterConfig(4), "critic")
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with pytest.raises(RuntimeError, match="on the way"), adapter_off(model):
        raise RuntimeError("on the way")
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == before


def test_only_the_adapter_and_named_layers_are_trained_in_float32() -> None:
    model = network().bfloat16()
    add_adapter(model, AdapterConfig(4, full=("patch_mid",)), "student")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora" in name or name.startswith("patch_mid") for name in trained)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert len([name for name in trained if name.startswith("patch_mid")]) == 2
    assert model.proj_out.base_layer.weight.dtype == torch.bfloat16


def test_a_fresh_adapter_has_the_published_start() -> None:
    model = network(num_attention_heads=8)
    add_adapter(model, AdapterConfig(8), "student")
    first = [p for name, p in model.named_parameters() if "lora_A" in name]
    second = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert float(torch.cat([p.detach().flatten() for p in first]).std()) == pytest.approx(1 / 8, rel=0.05)
    assert not any(p.any() for p in second)
    assert {layer.scaling["student"] for layer in model.modules() if hasattr(layer, "scaling")} == {1.0}


def test_a_rank_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match="rank=0"):
        AdapterConfig(0)
