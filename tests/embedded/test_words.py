"""The tokenizer: synonyms are one word, held-out ones too; strange words are spelt; it survives saving."""

import pytest
import torch

from heliograph.checkpoint import open_model
from heliograph.data.diorama.caption import eval_prompts
from heliograph.data.diorama.lexicon import COLOUR_WORDS, KIND_WORDS, MOTION_WORDS, PAN_WORDS, SCENE_WORDS
from heliograph.embedded.words import make_tokenizer, save_tokenizer
from heliograph.text import TextEncoder, load_text_encoder, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(120, 32)


@pytest.mark.parametrize("table", [COLOUR_WORDS, KIND_WORDS, SCENE_WORDS, MOTION_WORDS, PAN_WORDS])
def test_every_synonym_gives_the_tokens_of_the_canonical_word(tokenizer, table):
    for forms in table.values():
        wanted = tokenizer.tokenize(forms.train[0])
        assert all(tokenizer.tokenize(form) == wanted for form in (*forms.train, *forms.heldout))


def test_a_way_to_move_is_one_word_that_no_camera_shares(tokenizer):
    pans = {piece for forms in PAN_WORDS.values() for piece in tokenizer.tokenize(forms.train[0])}
    for forms in MOTION_WORDS.values():
        pieces = tokenizer.tokenize(forms.train[0])
        assert len(pieces) == 1 and not pans & set(pieces)


def test_a_word_inside_another_is_left_alone(tokenizer):
    for text in ("a rubylike gem", "an over-scarlet gem", "a gemcrimson"):
        assert "▁red" not in tokenizer.tokenize(text)


def test_two_colours_stay_two_colours(tokenizer):
    assert tokenizer.tokenize("a scarlet fish and a ruby boat").count("▁red") == 2
    assert {"▁red", "▁yellow"} <= set(tokenizer.tokenize("a crimson and golden fish"))


def test_heldout_prompts_fit_and_hold_nothing_unknown(tokenizer):
    rows = tokenizer([prompt.text for prompt in eval_prompts(60, 1)])["input_ids"]
    assert max(map(len, rows)) <= 32
    assert all(row[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in row for row in rows)


def test_an_unknown_word_is_spelt_in_letters(tokenizer):
    pieces = tokenizer.tokenize("zqxj")
    assert "".join(pieces).lstrip("▁") == "zqxj"
    assert len(pieces) >= 4


def test_padding_is_zero_and_the_end_is_marked(tokenizer):
    row = tokenizer("a red fish", padding="max_length", max_length=32)["input_ids"]
    assert len(row) == 32
    assert row[4:] == [0] * 28
    assert tokenizer("")["input_ids"] == [tokenizer.eos_token_id]


def test_it_reads_the_same_after_saving(tmp_path, tokenizer):
    save_tokenizer(tokenizer, tmp_path)
    text = "Two emerald songbirds flapping fast to the left above the snowy peaks."
    assert load_tokenizer(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_words_that_had_to_be_spelt_are_named_and_no_heldout_prompt_has_any():
    encoder = load_text_encoder(open_model("tiny"), torch.float32, torch.device("cpu"))
    strange = "A huge dragon glides over the castle, and the dragon, at dusk: Drachenflieger"  # cut in the last word
    assert encoder.encode([strange, "a red fish", "紫色の魚 swims"]).unknown == (
        ("dragon", "castle", "Drachenflieger"),
        (),
        ("紫色の魚",),
    )
    assert not any(encoder.encode([prompt.text for prompt in eval_prompts(200, 1)]).unknown)


def test_a_large_model_knows_words_that_it_spells():
    encoder = load_text_encoder(open_model("tiny"), torch.float32, torch.device("cpu"))
    large = TextEncoder(encoder.tokenizer, encoder.encoder)
    assert large.encode(["a dragon"]).unknown == ((),)
