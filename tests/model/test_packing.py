"""Three linear layers as one product: the same numbers, the same names, and undone by whatever changes a layer."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import nn

from heliograph.model.packing import pack, packed, product
from heliograph.model.transformer import HeliosTransformer3DModel
from tests.small import relative_error, small_transformer, wave, wave_tiers


def layers() -> tuple[nn.Linear, ...]:
    torch.manual_seed(0)
    return nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)


def attend(model: HeliosTransformer3DModel) -> torch.Tensor:
    with torch.no_grad():
        return model(wave((1, 16, 9, 4, 4), 0.2), 500.0, wave((1, 5, 32), 0.5), wave_tiers(8, 8))


def packed_model() -> HeliosTransformer3DModel:
    model = small_transformer()
    for block in model.blocks:
        attention = block.get_submodule("attn1")
        pack([attention.get_submodule(name) for name in ("to_q", "to_k", "to_v")])
    return model


def is_packed(model: HeliosTransformer3DModel) -> bool:
    attention = model.get_submodule("blocks.0.attn1")
    return packed([attention.get_submodule(name) for name in ("to_q", "to_k", "to_v")]) is not None


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_packed_product_is_what_each_layer_gives(count: int) -> None:
    three, x = layers(), wave((2, 5, 8), 0.3)
    want = three[0](x[:, -count:]), three[1](x), three[2](x)
    assert packed(three) is None
    pack(three)
    weight, bias = packed(three) or (None, None)
    assert weight is not None and bias is not None
    assert torch.equal(weight, torch.cat([layer.weight for layer in three]))
    assert torch.equal(bias, torch.cat([layer.bias for layer in three]))
    assert weight.data_ptr() == three[0].weight.data_ptr(), "nothing is copied"
    assert all(relative_error(a, b) < 1e-6 for a, b in zip(product(x, three, count), want, strict=True))


def test_gradients_reach_every_layer() -> None:
    three = layers()
    pack(three)
    sum(out.sum() for out in product(wave((1, 4, 8), 0.1), three, 4)).backward()
    assert all(layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0 for layer in three)


def test_a_packed_model_computes_the_same(tmp_path: Path) -> None:
    model = packed_model()
    assert is_packed(model)
    assert relative_error(attend(model), attend(small_transformer())) < 1e-6


def test_saving_and_loading_see_three_layers(tmp_path: Path) -> None:
    model, plain = packed_model(), small_transformer()
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.save_pretrained(tmp_path)
    stored = HeliosTransformer3DModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(stored.parameters(), plain.parameters(), strict=True))
    with torch.no_grad():
        changed = {name: 2 * tensor for name, tensor in plain.state_dict().items()}
    model.load_state_dict(changed)
    assert is_packed(model), "values are read into the packed matrix"
    plain.load_state_dict(changed)
    assert relative_error(attend(model), attend(plain)) < 1e-6


def test_a_moved_model_works_by_itself() -> None:
    model = packed_model().double().float()
    assert not is_packed(model)
    assert torch.equal(attend(model), attend(small_transformer()))


def test_an_adapter_is_heard() -> None:
    model, plain = packed_model(), small_transformer()
    before = attend(model)
    for one in (model, plain):
        one.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in one.named_parameters():
                if "lora" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
    assert relative_error(attend(model), before) > 1e-4
    assert torch.equal(attend(model), attend(plain))
