"""Starting points: Wan 2.1 by its own names, a Helios folder, random numbers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from heliograph.checkpoint import open_model
from heliograph.errors import CheckpointError
from heliograph.model.patchify import enlarge_patch
from heliograph.train.build import open_beside
from heliograph.train.presets import BASE, DISTILLED, MID, TINY_NETWORK, WAN
from heliograph.train.start import StartPoint, empty_network, load_start, random_network, start_config
from tests.small import SIZES, randomise, relative_error
from tests.train.examples import given, normal

WAN_SIZES = {
    key: SIZES[key]
    for key in ("num_attention_heads", "in_channels", "out_channels", "text_dim", "freq_dim", "ffn_dim", "num_layers")
}


@pytest.fixture(scope="module")
def wan(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Wan 2.1 model as diffusers writes it, with the other parts of the tiny model."""
    folder = tmp_path_factory.mktemp("wan")
    network = WanTransformer3DModel(attention_head_dim=24, **WAN_SIZES)  # type: ignore[arg-type]
    randomise(network)
    network.save_pretrained(folder / "transformer")
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(tiny_folder / part, folder / part)
    index = json.loads((tiny_folder / "model_index.json").read_text())
    index |= {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@torch.no_grad()
def test_a_model_started_from_wan_has_wans_velocity_where_there_is_no_history(wan: Path) -> None:
    network = load_start(StartPoint(str(wan)), torch.float32)
    teacher = WanTransformer3DModel.from_pretrained(wan / "transformer")
    x, text, timestep = normal(2, 16, 5, 8, 8), normal(2, 7, 32, seed=1), torch.tensor([700.0, 30.0])
    expected = teacher(x, timestep, text, return_dict=False)[0]
    assert relative_error(network(x, timestep, text, None), expected) < 1e-4


def meta_shapes(network_class: type[torch.nn.Module]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network of the library at its default sizes, which are those of the 14B models."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in network_class().state_dict().items()}


def test_names_and_shapes_of_wan_14b_are_ours_but_for_the_memory_patches() -> None:
    wan = meta_shapes(WanTransformer3DModel)
    wan["norm_out.scale_shift_table"] = wan.pop("scale_shift_table")
    ours = {name: tuple(t.shape) for name, t in empty_network(start_config(StartPoint(WAN))).state_dict().items()}
    new = ours.keys() - wan.keys()
    assert {name: ours[name] for name in wan} == wan
    assert new == {f"patch_{tier}.{leaf}" for tier in ("short", "mid", "long") for leaf in ("weight", "bias")}
    assert ours["patch_long.weight"] == (5120, 16, 4, 8, 8) and ours["blocks.39.ffn.net.0.proj.weight"] == (13824, 5120)


@pytest.mark.parametrize("model", [BASE, MID, DISTILLED])
def test_names_and_shapes_of_the_released_models_are_ours(model: str) -> None:
    from diffusers import HeliosTransformer3DModel

    ours = {name: tuple(t.shape) for name, t in empty_network(start_config(StartPoint(model))).state_dict().items()}
    assert ours == meta_shapes(HeliosTransformer3DModel)


def test_memory_patches_start_from_the_loaded_patch_embedding(wan: Path) -> None:
    network = load_start(StartPoint(str(wan)), torch.float32)
    for conv, factor in ((network.patch_short, 1), (network.patch_mid, 2), (network.patch_long, 4)):
        assert torch.equal(conv.weight, enlarge_patch(network.patch_embedding.weight, factor))
        assert torch.equal(conv.bias, network.patch_embedding.bias)


def test_a_start_from_wan_keeps_the_sensitive_parts_in_float32(wan: Path) -> None:
    network = load_start(StartPoint(str(wan)), torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in network.named_parameters()}
    assert dtypes["norm_out.scale_shift_table"] == torch.float32 == dtypes["blocks.0.scale_shift_table"]
    assert dtypes["patch_long.weight"] == torch.bfloat16 == dtypes["blocks.1.attn1.to_q.weight"]


def test_what_is_beside_wans_transformer_loads(wan: Path) -> None:
    beside = open_beside(str(wan), torch.device("cpu"))
    assert beside.text(torch.float32).encode(["a fish"]).embedding.shape[-1] == 32
    assert beside.codec().autoencoder.config.z_dim == 16


@torch.no_grad()
def test_a_start_from_helios_is_that_model(tiny_folder: Path) -> None:
    from heliograph.checkpoint import load_transformer

    network = load_start(StartPoint(str(tiny_folder)), torch.float32)
    other = load_transformer(open_model(str(tiny_folder)), torch.float32, torch.device("cpu"))
    condition = given()
    arguments = (normal(1, 16, 9, 8, 8), 500.0, condition.text, condition.tiers)
    assert torch.equal(network(*arguments), other(*arguments))


def test_a_start_may_lie_in_another_folder_of_the_model(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "transformer").rename(folder / "transformer_ode")
    load_start(StartPoint(str(folder), "transformer_ode"), torch.float32)
    with pytest.raises(CheckpointError, match="has no folder transformer;"):
        load_start(StartPoint(str(folder)), torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "FluxTransformer2DModel"}, "holds a FluxTransformer2DModel"),
        ({"_class_name": "WanTransformer3DModel", "image_dim": 1280, "attention_head_dim": 24}, "takes pictures too"),
    ],
)
def test_another_architecture_is_refused(
    tiny_folder: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    config = tmp_path / "model" / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_start(StartPoint(str(tmp_path / "model")), torch.float32)


def test_a_released_model_that_is_not_here_is_planned_for_with_its_14b_sizes() -> None:
    for model in (WAN, BASE):
        network = empty_network(start_config(StartPoint(model)))
        assert len(network.blocks) == 40 and sum(p.numel() for p in network.parameters()) == 14_312_427_584
        assert all(parameter.is_meta for parameter in network.parameters())


@torch.no_grad()
def test_a_network_from_scratch_says_velocity_zero_and_follows_its_seed() -> None:
    config = {"text_dim": 32}
    network = random_network(config, TINY_NETWORK, seed=1)
    condition = given()
    assert not network(normal(1, 16, 9, 8, 8), 500.0, condition.text, condition.tiers).any()
    weight = network.blocks[0].attn1.to_q.weight
    assert torch.equal(weight, random_network(config, TINY_NETWORK, seed=1).blocks[0].attn1.to_q.weight)
    assert not torch.equal(weight, random_network(config, TINY_NETWORK, seed=2).blocks[0].attn1.to_q.weight)
    assert sum(p.numel() for p in network.parameters()) < 5e6
    assert float(network.condition_embedder.text_embedder.linear_1.weight.std()) == pytest.approx(0.02, rel=0.1)
