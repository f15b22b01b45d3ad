"""The random tiny model: complete, deterministic, in the released layout."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from diffusers import HeliosPipeline, HeliosPyramidPipeline
from transformers import AutoTokenizer, T5TokenizerFast

from heliograph.checkpoint import load_transformer, read_folder
from heliograph.errors import OutputError, UserError
from heliograph.presets import BASE, DISTILLED, MID, sampler_for
from heliograph.text import load_text_encoder
from heliograph.tiny import TinySizes, Variant, write_random_tiny
from heliograph.vae import LatentCodec, load_autoencoder

CPU = torch.device("cpu")
OTHER_SIZES = TinySizes(
    num_layers=1, num_heads=3, head_dim=16, rope_dim=(4, 6, 6), ffn_dim=40, text_dim=12, num_text_layers=2,
    max_text_tokens=9, vae_dim=6,
)  # fmt: skip


def fingerprints(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_same_arguments_write_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    write_random_tiny(tmp_path)
    assert fingerprints(tmp_path) == fingerprints(tiny_folder)


def test_another_seed_changes_every_weight_file_and_nothing_else(tiny_folder: Path, tmp_path: Path) -> None:
    write_random_tiny(tmp_path, seed=1)
    ours, first = fingerprints(tmp_path), fingerprints(tiny_folder)
    changed = {name for name in first if ours[name] != first[name]}
    assert changed == {name for name in first if name.endswith(".safetensors")}
    assert len(changed) == 3


def test_writing_leaves_torchs_own_generator_as_it_was(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    write_random_tiny(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_layout_is_the_released_one(tiny_folder: Path) -> None:
    assert set(fingerprints(tiny_folder)) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }


@pytest.mark.parametrize(
    ("variant", "pipeline"),
    [("base", HeliosPipeline), ("mid", HeliosPyramidPipeline), ("distilled", HeliosPyramidPipeline)],
)
def test_diffusers_loads_every_variant(variant: Variant, pipeline: type, tmp_path: Path) -> None:
    write_random_tiny(tmp_path, variant=variant)
    loaded = pipeline.from_pretrained(tmp_path)
    assert loaded.config.get("is_distilled", False) is (variant == "distilled")
    assert loaded.config.get("is_cfg_zero_star", False) is (variant == "mid")
    assert all(tensor.isfinite().all() for tensor in loaded.transformer.state_dict().values())
    ours = load_transformer(read_folder(tmp_path), torch.float32, CPU).state_dict()
    theirs = loaded.transformer.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("variant", "sampler"), [("base", BASE), ("mid", MID), ("distilled", DISTILLED)])
def test_a_variant_samples_as_the_released_one(variant: Variant, sampler: object, tmp_path: Path) -> None:
    write_random_tiny(tmp_path, variant=variant)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert sampler_for(read_folder(tmp_path).scheduler_config, index) == sampler


def test_sizes_reach_every_network(tmp_path: Path) -> None:
    write_random_tiny(tmp_path, sizes=OTHER_SIZES)
    folder = read_folder(tmp_path)
    config = load_transformer(folder, torch.float32, CPU).config
    assert (config.num_layers, config.num_attention_heads, config.attention_head_dim) == (1, 3, 16)
    assert (tuple(config.rope_dim), config.ffn_dim, config.text_dim) == ((4, 6, 6), 40, 12)
    text = load_text_encoder(folder, torch.float32, CPU)
    assert text.encode(["a red fish"]).embedding.shape == (1, 9, 12)
    assert text.encoder.config.num_layers == 2
    autoencoder = load_autoencoder(folder, torch.float32, CPU)
    assert autoencoder.config.base_dim == 6
    assert LatentCodec(autoencoder).decode_chunk(torch.zeros(1, 16, 9, 1, 1)).shape == (1, 3, 33, 8, 8)


@pytest.mark.parametrize(
    "sizes", [{"num_layers": 0}, {"vae_dim": 3}, {"text_dim": 31}, {"rope_dim": (8, 8, 6)}, {"rope_dim": (10, 9, 5)}]
)
def test_sizes_that_no_network_can_have_are_refused(sizes: dict[str, object]) -> None:
    with pytest.raises(UserError):
        TinySizes(**sizes)


def test_the_tokenizer_knows_words_spells_others_and_ends_with_end_of_sequence(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder / "tokenizer")
    assert tokenizer.tokenize("a red fish, Zx") == ["▁a", "▁red", "▁fish", ",", "▁", "Z", "x"]
    assert tokenizer("a fish").input_ids[-1] == tokenizer.eos_token_id == 1
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 2)
    assert tokenizer("鱼").input_ids == [tokenizer.convert_tokens_to_ids("▁"), 2, 1]


def test_the_tokenizer_is_the_same_through_either_class(tiny_folder: Path) -> None:
    prompt = "A red fish swims; 鱼, quickly!"
    auto, fast = (loader.from_pretrained(tiny_folder / "tokenizer") for loader in (AutoTokenizer, T5TokenizerFast))
    assert auto(prompt).input_ids == fast(prompt).input_ids
    assert auto.model_max_length == fast.model_max_length == 32


def test_the_autoencoder_keeps_the_released_statistics_and_finite_latents(tiny_folder: Path) -> None:
    autoencoder = load_autoencoder(read_folder(tiny_folder), torch.float32, CPU)
    assert autoencoder.config.latents_std[0] == 2.8184
    latents = LatentCodec(autoencoder).encode_chunk(torch.rand(1, 3, 33, 16, 16) * 2 - 1)
    assert latents.isfinite().all()
    assert latents.abs().max() < 20


def test_a_path_that_is_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken cannot be written"):
        write_random_tiny(tmp_path / "taken")
