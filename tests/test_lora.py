"""Adapters are folded into the weights as the library would add them, in every way of running; others are refused."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.loaders.lora_pipeline import HeliosLoraLoaderMixin
from huggingface_hub.errors import OfflineModeIsEnabled
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import heliograph.checkpoint.lora
from heliograph.checkpoint import adapted, load_transformer, low_rank_product, open_model
from heliograph.checkpoint.lora import find_adapter
from heliograph.config import Lora
from heliograph.engine.engine import fingerprint, load_engine
from heliograph.errors import CheckpointError, StateError, UserError
from heliograph.model.transformer import HeliosTransformer3DModel
from tests.engine.test_engine import WHOLE, chunks
from tests.small import relative_error, steady
from tests.train.test_adapter import run

CPU = torch.device("cpu")
RANK = 4
OURS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
"""Layers of attention: the original code's names, and the library's."""


def plain(folder: Path) -> HeliosTransformer3DModel:
    return load_transformer(open_model(str(folder)), torch.float32, CPU)


def draw(*shape: int, seed: int) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(model: HeliosTransformer3DModel, layer: str, seed: int) -> tuple[Tensor, Tensor]:
    """A and B for one layer, linear or convolution."""
    weight = model.get_submodule(layer).get_parameter("weight")
    ones = (1,) * (weight.dim() - 2)
    return draw(RANK, *weight.shape[1:], seed=seed), draw(len(weight), RANK, *ones, seed=seed + 1)


def library_file(model: HeliosTransformer3DModel, file: Path, **metadata: object) -> Path:
    """As the library saves one: its own names, its configuration in the header."""
    attention = [f"blocks.{i}.attn1.{name}" for i in range(2) for name in OURS.values()]
    targets = [*attention, "proj_out", "patch_embedding"]
    tensors: dict[str, Tensor] = {}
    for seed, layer in enumerate(targets):
        names = (f"transformer.{layer}.lora_{matrix}.weight" for matrix in "AB")
        tensors |= dict(zip(names, pair(model, layer, 2 * seed), strict=True))
    if metadata.get("lora_bias"):
        ups = {name: up for name, up in tensors.items() if name.endswith(".lora_B.weight")}
        tensors |= {name.replace(".weight", ".bias"): draw(len(up), seed=len(up)) for name, up in ups.items()}
    config = {f"transformer.{key}": value for key, value in metadata.items()}
    config |= {"transformer.target_modules": targets} if metadata else {}
    save_file(tensors, file, {"format": "pt", **({"lora_adapter_metadata": json.dumps(config)} if config else {})})
    return file


def original_file(model: HeliosTransformer3DModel, file: Path) -> Path:
    """As trainers of Wan save one: the original code's names, an alpha, changes of biases."""
    tensors: dict[str, Tensor] = {}
    for i in range(2):
        for seed, (theirs, ours) in enumerate(OURS.items()):
            for group, attention in (("self_attn", "attn1"), ("cross_attn", "attn2")):
                name = f"diffusion_model.blocks.{i}.{group}.{theirs}"
                down, up = pair(model, f"blocks.{i}.{attention}.{ours}", 10 * i + seed)
                tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
                tensors |= {f"{name}.alpha": torch.tensor(2.0), f"{name}.diff_b": draw(len(up), seed=seed)}
        for seed, (theirs, ours) in enumerate({"0": "net.0.proj", "2": "net.2"}.items()):
            name = f"diffusion_model.blocks.{i}.ffn.{theirs}"
            down, up = pair(model, f"blocks.{i}.ffn.{ours}", 10 * i + seed)
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    save_file(tensors, file)
    return file


def musubi_file(model: HeliosTransformer3DModel, file: Path) -> Path:
    """As musubi-tuner saves one."""
    tensors: dict[str, Tensor] = {}
    for i in range(2):
        attentions = {
            f"{group}_{theirs}": f"{attention}.{ours}"
            for group, attention in (("self_attn", "attn1"), ("cross_attn", "attn2"))
            for theirs, ours in OURS.items()
        }
        for seed, (theirs, ours) in enumerate((attentions | {"ffn_0": "ffn.net.0.proj", "ffn_2": "ffn.net.2"}).items()):
            name = f"lora_unet_blocks_{i}_{theirs}"
            down, up = pair(model, f"blocks.{i}.{ours}", 100 * i + 2 * seed)
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            tensors[f"{name}.alpha"] = torch.tensor(8.0)
    save_file(tensors, file)
    return file


FILES: dict[str, Callable[[HeliosTransformer3DModel, Path], Path]] = {
    "library": library_file,
    "library-alpha": lambda model, file: library_file(model, file, r=RANK, lora_alpha=10, use_rslora=False),
    "library-root": lambda model, file: library_file(model, file, r=RANK, lora_alpha=10, use_rslora=True),
    "library-patterns": lambda model, file: library_file(
        model, file, r=RANK, lora_alpha=RANK, alpha_pattern={"to_q": 1, "blocks.1.attn1.to_k": 12}
    ),
    "library-biases": lambda model, file: library_file(model, file, r=RANK, lora_alpha=10, lora_bias=True),
    "original": original_file,
    "musubi": musubi_file,
}


@pytest.fixture
def lora(tiny_folder: Path, tmp_path: Path) -> Lora:
    return Lora(str(library_file(plain(tiny_folder), tmp_path / "style.safetensors")))


# What is computed


@pytest.mark.parametrize("kind", FILES)
@torch.no_grad()
def test_the_folded_model_is_the_one_that_the_library_adapts(kind: str, tiny_folder: Path, tmp_path: Path) -> None:
    file = FILES[kind](plain(tiny_folder), tmp_path / "adapter.safetensors")
    theirs = plain(tiny_folder)
    state, metadata = HeliosLoraLoaderMixin.lora_state_dict(str(file), return_lora_metadata=True)
    HeliosLoraLoaderMixin.load_lora_into_transformer(state, theirs, metadata=metadata)
    ours = load_transformer(adapted(open_model(str(tiny_folder)), [Lora(str(file))]), torch.float32, CPU)
    assert relative_error(run(ours), run(theirs)) < 1e-5
    assert relative_error(run(ours), run(plain(tiny_folder))) > 1e-2


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
@steady
def test_a_convolution_of_the_product_is_one_convolution_after_the_other(rank: int, inputs: int, outputs: int) -> None:
    down, up = draw(rank, inputs, 1, 2, 2, seed=rank), draw(outputs, rank, 1, 1, 1, seed=inputs)
    x = draw(1, inputs, 2, 4, 4, seed=outputs)
    apart = F.conv3d(F.conv3d(x, down, stride=(1, 2, 2)), up)
    torch.testing.assert_close(F.conv3d(x, low_rank_product(up, down), stride=(1, 2, 2)), apart)


@pytest.mark.parametrize("way", ["text encoder released", "blocks offloaded", "blocks on disk"])
def test_every_way_of_running_takes_the_adapter_in(way: str, lora: Lora, tiny_folder: Path) -> None:
    folder = adapted(open_model(str(tiny_folder)), [lora])
    want = chunks(load_engine(folder, WHOLE), ("a fish",))
    plan = replace(WHOLE, way=way, resident_blocks=0 if "blocks" in way else 2)
    assert relative_error(chunks(load_engine(folder, plan, ("a fish",)), ("a fish",)), want) < 1e-4


def test_the_adapter_is_there_before_weights_are_rounded_to_8_bits(lora: Lora, tiny_folder: Path) -> None:
    folder = adapted(open_model(str(tiny_folder)), [lora])
    rounded = load_engine(folder, replace(WHOLE, way="int8 weights", is_exact=False))
    got, want = chunks(rounded, ("a fish",)), chunks(load_engine(folder, WHOLE), ("a fish",))
    assert 0 < relative_error(got, want) < 0.05
    assert relative_error(want, chunks(load_engine(open_model(str(tiny_folder)), WHOLE), ("a fish",))) > 0.1


@torch.no_grad()
def test_strengths_add_up_and_none_is_no_adapter(lora: Lora, tiny_folder: Path) -> None:
    def of(*strengths: float) -> Tensor:
        loras = [replace(lora, strength=strength) for strength in strengths]
        return run(load_transformer(adapted(open_model(str(tiny_folder)), loras), torch.float32, CPU))

    assert torch.equal(of(0.0), of())
    assert relative_error(of(0.25, 0.75), of(1.0)) < 1e-5
    assert relative_error(of(1.0, -1.0), of()) < 1e-5
    assert relative_error(of(0.5), of(1.0)) > 1e-2


@torch.no_grad()
def test_layers_that_the_model_lacks_are_named_and_left_out(
    lora: Lora, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {f"transformer.blocks.0.attn2.add_k_proj.lora_{matrix}.weight": draw(4, 4, seed=0) for matrix in "AB"}
    save_file(load_file(lora.source) | extra, tmp_path / "more.safetensors")
    folder = open_model(str(tiny_folder))
    with caplog.at_level(logging.WARNING):
        more = load_transformer(adapted(folder, [Lora(str(tmp_path / "more.safetensors"))]), torch.float32, CPU)
    assert "blocks.0.attn2.add_k_proj.weight" in caplog.text
    assert torch.equal(run(more), run(load_transformer(adapted(folder, [lora]), torch.float32, CPU)))


# Which model it is


def test_adapters_and_their_strengths_tell_models_apart(lora: Lora, tiny_folder: Path, tmp_path: Path) -> None:
    folder = open_model(str(tiny_folder))
    other = Lora(str(library_file(plain(tiny_folder), tmp_path / "other.safetensors", r=RANK, lora_alpha=1)))
    found = {fingerprint(adapted(folder, loras)) for loras in ([], [lora], [replace(lora, strength=0.5)], [other])}
    assert len(found) == 4
    assert fingerprint(adapted(folder, [lora])) in found


def test_a_session_goes_on_with_its_adapter_and_not_without(lora: Lora, tiny_folder: Path, tmp_path: Path) -> None:
    def pipeline(*loras: Lora) -> heliograph.HeliosPipeline:
        return heliograph.HeliosPipeline.from_pretrained(tiny_folder, device="cpu", loras=loras)

    session = pipeline(lora).session("a fish", height=64, width=64)
    session.next_turn()
    session.save(tmp_path / "state.heliograph")
    want = session.next_turn().latents
    assert torch.equal(pipeline(lora).resume(tmp_path / "state.heliograph").next_turn().latents, want)
    with pytest.raises(StateError, match="another model"):
        pipeline().resume(tmp_path / "state.heliograph")


# The command line, and mistakes


def test_generate_folds_an_adapter_in(lora: Lora, tiny_folder: Path, tmp_path: Path) -> None:
    from tests.commands import run as command

    def latents(name: str, *options: str) -> Tensor:
        size = ("--height", "64", "--width", "64", "--num-frames", "33", "--steps", "1,1,1")
        done = command(
            *(tmp_path, "generate", "a fish", "--model", str(tiny_folder), *size, *options),
            *("--latents-only", "-o", name),
        )
        assert done.returncode == 0, done.stderr
        return torch.from_numpy(np.load(tmp_path / name))

    whole = latents("whole.npy", "--lora", lora.source)
    halves = latents("halves.npy", "--lora", f"{lora.source}=0.5", "--lora", f"{lora.source}=0.5")
    assert relative_error(halves, whole) < 1e-4
    assert relative_error(latents("none.npy"), whole) > 0.1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("none.safetensors", "there is no adapter"),
        ("text.safetensors", "is damaged or incomplete"),
        ("weights.safetensors", "no low-rank adapter"),
        ("lokr.safetensors", "no low-rank adapter"),
        ("dora.safetensors", "is a DoRA"),
        ("named.safetensors", "cannot be read"),
        ("half.safetensors", "is damaged"),
        ("large.safetensors", "is for another model"),
        ("image.safetensors", "is for another model"),
        ("large.safetensors=strong", "'strong' is no strength"),
        ("large.safetensors=nan", "'nan' is no strength"),
    ],
)
def test_what_is_no_adapter_for_this_model_is_refused_in_one_line(
    given: str, said: str, tiny_folder: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    layer = "transformer.blocks.0.attn1.to_q"
    (tmp_path / "text.safetensors").write_text("not weights")
    save_file({"blocks.0.attn1.to_q.weight": draw(4, 4, seed=0)}, tmp_path / "weights.safetensors")
    save_file(
        {f"{layer}.lora_A.weight": draw(4, 48, seed=0), f"{layer}.dora_scale": draw(48, seed=0)},
        tmp_path / "dora.safetensors",
    )
    save_file({"diffusion_model.blocks.0.unheard_of.lora_A.weight": draw(4, 4, seed=0)}, tmp_path / "named.safetensors")
    save_file({f"{layer}.lokr_w1": draw(4, 4, seed=0)}, tmp_path / "lokr.safetensors")
    save_file({f"{layer}.lora_A.weight": draw(4, 24, seed=0)}, tmp_path / "half.safetensors")
    for name, inside in (("large", layer), ("image", "transformer.blocks.0.attn2.add_k_proj")):
        tensors = {f"{inside}.lora_A.weight": draw(4, 5120, seed=0), f"{inside}.lora_B.weight": draw(5120, 4, seed=1)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    assert said in refused("generate", "a fish", "--model", str(tiny_folder), "--lora", given, "-o", "a.mp4")


def test_a_folder_stands_for_the_one_adapter_in_it(lora: Lora, tmp_path: Path) -> None:
    assert find_adapter(str(tmp_path)) == Path(lora.source)
    (tmp_path / "second.safetensors").write_bytes(Path(lora.source).read_bytes())
    with pytest.raises(CheckpointError, match=r"holds second\.safetensors, style\.safetensors; name one"):
        find_adapter(str(tmp_path))


def test_an_adapter_of_the_hub_is_downloaded_by_its_files_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "arrived.safetensors")

    monkeypatch.setattr(heliograph.checkpoint.lora, "hf_hub_download", download)
    assert find_adapter("org/loras/wan/style.safetensors") == tmp_path / "arrived.safetensors"
    assert asked == [("org/loras", "wan/style.safetensors")]
    monkeypatch.setattr(heliograph.checkpoint.lora, "hf_hub_download", mock.Mock(side_effect=OfflineModeIsEnabled()))
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        find_adapter("org/loras/wan/style.safetensors")


def test_a_file_may_have_an_equals_sign_in_its_name(lora: Lora, tiny_folder: Path, tmp_path: Path) -> None:
    from heliograph.options import LoraFile

    path = Path(lora.source).rename(tmp_path / "style=2.safetensors")
    assert LoraFile().convert(str(path), None, None) == Lora(str(path))
    assert LoraFile().convert(f"{path}=-0.5", None, None) == Lora(str(path), -0.5)
    with pytest.raises(UserError, match="strength inf"):
        Lora(str(path), float("inf"))
    with pytest.raises(CheckpointError, match="there is no adapter"):
        adapted(open_model(str(tiny_folder)), [Lora(str(tmp_path / "style"))])
