"""What becomes of adapters: counted, folded in, stored."""

import pytest
import torch

from heliograph.train.adapter import AdapterConfig
from heliograph.train.lora import (
    adapter_size,
    add_seeded_adapter,
    merged_tensors,
    partial_tensors,
    train_only,
    trained_size,
)
from tests.small import relative_error, small_transformer
from tests.train.examples import given, normal
from tests.train.test_adapter import disturb, run

CONFIG = AdapterConfig(4, convolutions=("patch_embedding", "patch_mid"), full=("patch_long",))


def test_a_fresh_adapter_changes_nothing_and_freezes_all_but_what_is_named() -> None:
    model = small_transformer()
    with torch.no_grad():
        before = run(model)
        add_seeded_adapter(model, CONFIG, "student", 0)
        assert torch.equal(run(model), before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == {"patch_long.weight", "patch_long.bias"}


@torch.no_grad()
def test_the_folded_weights_are_the_adapted_network() -> None:
    model = small_transformer()
    names = set(model.state_dict())
    add_seeded_adapter(model, CONFIG, "student", 0)
    disturb(model)
    merged = dict(merged_tensors(model, "student"))
    other = small_transformer()
    other.load_state_dict(merged)
    assert merged.keys() == names and relative_error(run(other), run(model)) < 1e-5


@torch.no_grad()
def test_folding_leaves_the_network_as_it_is() -> None:
    model = small_transformer()
    add_seeded_adapter(model, CONFIG, "student", 0)
    disturb(model)
    before = run(model)
    dict(merged_tensors(model, "student"))
    assert torch.equal(run(model), before)


def test_bfloat16_weights_are_rounded_once() -> None:
    model = small_transformer().to(torch.bfloat16)
    weight = model.proj_out.weight.detach().float()
    add_seeded_adapter(model, AdapterConfig(4), "student", 0)
    disturb(model)
    layer = model.proj_out
    exact = weight + layer.lora_B["student"].weight @ layer.lora_A["student"].weight
    assert torch.equal(dict(merged_tensors(model, "student"))["proj_out.weight"], exact.to(torch.bfloat16))


@pytest.mark.parametrize("config", [AdapterConfig(4), CONFIG])
def test_sizes_from_shapes_are_those_of_the_adapter(config: AdapterConfig) -> None:
    model = small_transformer()
    expected = (adapter_size(model, config), trained_size(model, config))
    add_seeded_adapter(model, config, "student", 0)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert expected == (sum(n for name, n in trained.items() if ".lora_" in name), sum(trained.values()))


def test_the_same_seed_gives_the_same_adapter_and_leaves_other_randomness_alone() -> None:
    def first_weights(seed: int) -> torch.Tensor:
        model = small_transformer()
        state = torch.random.get_rng_state()
        add_seeded_adapter(model, AdapterConfig(4), "student", seed)
        assert torch.equal(state, torch.random.get_rng_state())
        return model.proj_out.lora_A["student"].weight.detach()

    assert torch.equal(first_weights(3), first_weights(3)) and not torch.equal(first_weights(3), first_weights(4))


def test_what_was_trained_is_stored_and_nothing_else() -> None:
    model = small_transformer()
    expected = trained_size(model, CONFIG)
    add_seeded_adapter(model, CONFIG, "student", 0)
    adapter, others = partial_tensors(model, "student")
    assert others.keys() == {"patch_long.weight", "patch_long.bias"}
    assert sum(tensor.numel() for tensor in (*adapter.values(), *others.values())) == expected
    assert "transformer.proj_out.lora_A.weight" in adapter


@torch.no_grad()
def test_a_stored_adapter_loads_as_the_library_reads_it() -> None:
    model = small_transformer()
    add_seeded_adapter(model, AdapterConfig(4), "student", 0)
    disturb(model)
    adapter, _ = partial_tensors(model, "student")
    other = small_transformer()
    other.load_lora_adapter(adapter, prefix="transformer")
    assert relative_error(run(other), run(model)) < 1e-5


def test_only_the_named_parts_are_trained_in_float32() -> None:
    model = small_transformer().to(torch.bfloat16)
    train_only(model, ("patch_long", "blocks.1.ffn"))
    trained = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rsplit(".", 1)[0] for name in trained} == {
        "patch_long",
        "blocks.1.ffn.net.0.proj",
        "blocks.1.ffn.net.2",
    }
    assert set(trained.values()) == {torch.float32}
    train_only(model, ("",))
    assert all(p.requires_grad for p in model.parameters())


def test_gradients_reach_the_adapter_and_nothing_frozen() -> None:
    model = small_transformer()
    add_seeded_adapter(model, AdapterConfig(4), "student", 0)
    disturb(model)
    condition = given()
    model(normal(1, 16, 9, 8, 8), 500.0, condition.text, condition.tiers).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (".lora_" in name), name
