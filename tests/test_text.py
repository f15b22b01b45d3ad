"""Prompts to embeddings: cleaning, padding, truncation, blending, and loading the encoder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from heliograph.checkpoint import read_folder
from heliograph.errors import CheckpointError, UserError
from heliograph.text import TextEncoder, blend, check_prompt, clean, load_text_encoder, load_tokenizer

SHARED, EMBEDDING = "shared.weight", "encoder.embed_tokens.weight"
CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> TextEncoder:
    return load_text_encoder(read_folder(folder), dtype, CPU)


@pytest.fixture(scope="module")
def encoder(tiny_folder: Path) -> TextEncoder:
    return load(tiny_folder)


@pytest.fixture
def model_copy(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model folder that may be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def rewrite_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "text_encoder" / "model.safetensors")


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  a red\n\t fish\u00a0\u3000swims ", "a red fish swims"),
        ("fish &amp;amp; chips &lt;3", "fish & chips <3"),
        ("a red\r\n\r\n\n \nfish", "a red fish"),
        ("a cafÃ© at night", "a café at night"),
        ("“quoted”", '"quoted"'),
        ("a fish \ud83d\udc1f", "a fish 🐟"),
        (" \n ", ""),
        ("", ""),
    ],
)
def test_cleaning_repairs_unescapes_twice_and_leaves_single_spaces(prompt: str, cleaned: str) -> None:
    assert clean(prompt) == cleaned


@given(st.text(alphabet="ab <&é”\n\r\t\u00a0\ud83d\udc1f", max_size=30))
def test_a_clean_prompt_has_no_white_space_but_single_spaces(text: str) -> None:
    try:
        cleaned = clean(text)
    except UserError:
        return  # half a surrogate pair
    assert cleaned == " ".join(cleaned.split())


@pytest.mark.parametrize("prompt", ["fish \ud83d", "\udc1f fish", "\udc1f\ud83d"])
def test_half_a_surrogate_pair_is_a_users_mistake(prompt: str) -> None:
    with pytest.raises(UserError, match=r"character [05] is half a surrogate pair"):
        clean(prompt)


@pytest.mark.parametrize("prompt", [None, 5, b"a fish", ["a fish"], float("nan")])
def test_a_prompt_that_is_no_text_is_a_users_mistake(prompt: object) -> None:
    with pytest.raises(UserError, match="must be text, not"):
        check_prompt(prompt)


@pytest.mark.parametrize("prompt", ["", " \n\t", "&nbsp;", "\x00\x1b"])
def test_a_blank_prompt_is_a_users_mistake(prompt: str) -> None:
    with pytest.raises(UserError, match="the prompt is empty"):
        check_prompt(prompt)


def test_a_checked_prompt_comes_back_clean() -> None:
    assert check_prompt(" a  red\nfish ") == "a red fish"


def test_rows_after_a_prompts_end_are_exactly_zero_and_no_row_before_is(encoder: TextEncoder) -> None:
    text = encoder.encode(["a red fish swims", "a fish", ""])
    for rows, length in zip(text.embedding, text.lengths, strict=True):
        assert rows[:length].abs().sum(dim=-1).min() > 0
        assert not rows[length:].any()


def test_lengths_count_the_end_of_sequence_token(encoder: TextEncoder) -> None:
    assert encoder.encode(["a red fish swims", "a fish", ""]).lengths == (5, 3, 1)


def test_the_number_of_rows_is_what_the_checkpoint_states(encoder: TextEncoder) -> None:
    text = encoder.encode(["a fish"])
    assert text.embedding.shape == (1, 32, 32)
    assert text.embedding.dtype == torch.float32


def test_a_tokenizer_that_states_no_length_gives_512_rows(encoder: TextEncoder, tiny_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny_folder / "tokenizer")
    tokenizer.model_max_length = int(1e30)
    assert TextEncoder(tokenizer, encoder.encoder).encode(["a fish"]).embedding.shape == (1, 512, 32)


def test_fewer_rows_keep_the_embedding_of_a_short_prompt(encoder: TextEncoder) -> None:
    short = TextEncoder(encoder.tokenizer, encoder.encoder, max_length=8).encode(["a red fish"]).embedding
    torch.testing.assert_close(short, encoder.encode(["a red fish"]).embedding[:, :8])


def test_a_prompt_of_100000_characters_is_cut_and_says_so(encoder: TextEncoder) -> None:
    text = encoder.encode(["red fish " * 11112, "a red fish"])
    assert text.truncated == (True, False)
    assert text.lengths == (32, 4)
    assert torch.equal(text.embedding[0], encoder.encode(["red fish " * 15 + "red", "a red fish"]).embedding[0])


def test_a_prompt_that_just_fits_is_not_called_cut(encoder: TextEncoder) -> None:
    text = encoder.encode(["fish " * 31, "fish " * 32])
    assert (text.lengths, text.truncated) == ((32, 32), (False, True))


def test_prompts_in_a_batch_do_not_change_each_other(encoder: TextEncoder) -> None:
    prompts = ["a red fish swims", "", "a boat in the night"]
    together = encoder.encode(prompts).embedding
    alone = torch.cat([encoder.encode([prompt]).embedding for prompt in prompts])
    torch.testing.assert_close(together, alone)


def test_other_words_and_another_order_give_another_embedding(encoder: TextEncoder) -> None:
    red, blue, swapped = encoder.encode(["red fish", "blue fish", "fish red"]).embedding
    assert (red - blue).abs().max() > 0.01
    assert (red - swapped).abs().max() > 0.01


def test_encoding_records_no_gradient(encoder: TextEncoder) -> None:
    assert any(parameter.requires_grad for parameter in encoder.encoder.parameters())
    assert not encoder.encode(["a fish"]).embedding.requires_grad


def test_a_bfloat16_encoder_gives_bfloat16_rows(tiny_folder: Path, encoder: TextEncoder) -> None:
    rows = load(tiny_folder, torch.bfloat16).encode(["a red fish"]).embedding
    assert rows.dtype == torch.bfloat16
    torch.testing.assert_close(rows.float(), encoder.encode(["a red fish"]).embedding, atol=0.1, rtol=0.1)


def test_a_blend_is_exactly_one_prompt_at_either_end_and_halfway_in_the_middle(encoder: TextEncoder) -> None:
    a, b = encoder.encode(["a red fish", "a big boat in the night"]).embedding.split(1)
    assert torch.equal(blend(a, b, 0.0), a)
    assert torch.equal(blend(a, b, 1.0), b)
    torch.testing.assert_close(blend(a, b, 0.5), (a + b) / 2)
    assert not blend(a, b, 0.5)[:, 7:].any()


def test_the_embedding_comes_from_shared_weight_although_the_configuration_unties_it(model_copy: Path) -> None:
    config = model_copy / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    stored = weights_of(model_copy)
    assert EMBEDDING not in stored  # as in the released files

    ours = load(model_copy).encoder.state_dict()
    assert torch.equal(ours[EMBEDDING], stored[SHARED])
    # transformers 5 ties the two in every T5-like encoder, whatever the flag says, and reports nothing missing
    theirs, info = UMT5EncoderModel.from_pretrained(model_copy / "text_encoder", output_loading_info=True)
    assert torch.equal(theirs.encoder.embed_tokens.weight, stored[SHARED])
    assert not info["missing_keys"]


def test_the_embedding_may_also_be_stored_under_its_other_name(model_copy: Path, encoder: TextEncoder) -> None:
    weights = weights_of(model_copy)
    rewrite_weights(model_copy, {EMBEDDING: weights.pop(SHARED), **weights})
    assert torch.equal(load(model_copy).encode(["a fish"]).embedding, encoder.encode(["a fish"]).embedding)


@pytest.mark.parametrize("missing", [SHARED, "encoder.final_layer_norm.weight"])
def test_a_missing_tensor_is_named(model_copy: Path, missing: str) -> None:
    weights = weights_of(model_copy)
    weights.pop(missing)
    rewrite_weights(model_copy, weights)
    with pytest.raises(CheckpointError, match=missing):
        load(model_copy)


def test_a_tensor_of_another_model_is_named(model_copy: Path) -> None:
    rewrite_weights(model_copy, weights_of(model_copy) | {"decoder.stranger": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"decoder\.stranger"):
        load(model_copy)


def test_a_folder_without_tokenizer_or_with_a_damaged_one_is_refused_by_name(model_copy: Path) -> None:
    (model_copy / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer"):
        load(model_copy)
    shutil.rmtree(model_copy / "tokenizer")
    with pytest.raises(CheckpointError, match="tokenizer"):
        load(model_copy)


def test_a_tokenizer_that_brings_code_is_refused_without_running_it(model_copy: Path) -> None:
    folder = model_copy / "tokenizer"
    (folder / "stranger.py").write_text(f"open({str(model_copy / 'ran')!r}, 'w')\nclass Stranger: pass\n")
    config = {"tokenizer_class": "Stranger", "auto_map": {"AutoTokenizer": ["stranger.Stranger", "stranger.Stranger"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="tokenizer"):
        load(model_copy)
    assert not (model_copy / "ran").exists()
