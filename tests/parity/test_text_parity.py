"""Text: the same cleaned prompts and the same embeddings as diffusers' Helios pipeline."""

from pathlib import Path

import pytest
import torch
from diffusers import HeliosPyramidPipeline
from diffusers.pipelines.helios.pipeline_helios import prompt_clean
from hypothesis import given
from hypothesis import strategies as st

from heliograph.errors import UserError
from heliograph.text import TextEncoder, clean

PROMPTS = [
    "a red fish swims to the left",
    "  A  city\nat &amp;amp; night — “bright” ",
    "unknown letters: 鱼 ñ 🐟",
    "fish " * 60,
    "",
]
AWKWARD = "ab<>&;#amplt x1c\n\r\t\u00a0\u0085\u200b\u2028\x0b\x1c\x1f\ufeffé”Ãâ€œ１鱼🐟"


@pytest.fixture(scope="module")
def pipeline(tiny_folder: Path) -> HeliosPyramidPipeline:
    return HeliosPyramidPipeline.from_pretrained(tiny_folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_length", [16, 32, 48])
def test_embeddings_equal_those_of_diffusers(
    pipeline: HeliosPyramidPipeline, dtype: torch.dtype, max_length: int
) -> None:
    encoder = pipeline.text_encoder.to(dtype)
    ours = TextEncoder(pipeline.tokenizer, encoder, max_length).encode(PROMPTS)
    with torch.no_grad():  # as in the pipeline's own call
        theirs, _ = pipeline.encode_prompt(
            PROMPTS, do_classifier_free_guidance=False, max_sequence_length=max_length, device=torch.device("cpu")
        )
    assert torch.equal(ours.embedding, theirs)


def test_the_empty_negative_prompt_equals_that_of_diffusers(pipeline: HeliosPyramidPipeline) -> None:
    encoder = pipeline.text_encoder.float()
    ours = TextEncoder(pipeline.tokenizer, encoder).encode([""])
    with torch.no_grad():
        _, theirs = pipeline.encode_prompt("a fish", None, max_sequence_length=32, device=torch.device("cpu"))
    assert torch.equal(ours.embedding, theirs)


@given(st.text(max_size=60) | st.text(alphabet=AWKWARD, max_size=60))
def test_clean_prompts_equal_those_of_diffusers(text: str) -> None:
    assert clean(text) == prompt_clean(text)


@pytest.mark.parametrize("separator", ["\n", "\n\n", " \n \n", "\r\n\r\n", "\n\x85\n", "\n\u00a0\n", "\n<\n&lt;\n"])
def test_blank_lines_change_nothing_that_diffusers_sees(separator: str) -> None:
    text = separator.join(["", "cafÃ©", "", "a &amp; b", "", ""])
    assert clean(text) == prompt_clean(text)


def test_what_diffusers_replaces_in_half_a_surrogate_pair_is_refused_here() -> None:
    assert prompt_clean("a \ud83d fish") == "a \ufffd fish"
    with pytest.raises(UserError):
        clean("a \ud83d fish")
