"""Prompts to text embeddings: clean, tokenise, encode with UMT5, blend two prompts (Helios keeps Wan 2.1's text path).

The embedding is padded to a fixed number of tokens and its padded rows are exactly zero; there is no mask. The
transformer attends to the padding, so this is part of what the weights were trained on.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import ftfy
import torch
from jaxtyping import Float
from tokenizers import Encoding
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from heliograph import checkpoint
from heliograph.checkpoint import ModelFolder, Place
from heliograph.errors import CheckpointError
from heliograph.timeline import require_prompt, require_text

MAX_TEXT_TOKENS = 512
"""Rows of a text embedding of the released models, end-of-sequence token included."""


PARTICLES = frozenset(
    {
        *("a", "an", "and", "are", "as", "at", "but", "by", "for", "from", "in", "is", "it"),
        *("its", "of", "on", "or", "that", "the", "there", "to", "while", "with"),
    }
)
"""Words that show nothing by themselves: nobody misses them in a picture."""


def clean(prompt: str) -> str:
    """The prompt with repaired encoding, plain characters for HTML entities, and single spaces; may be empty.

    Raises:
        UserError: the prompt is no text or not valid Unicode.
    """
    # ftfy repairs line by line at a fixed price each; blank lines are whitespace before and after
    text = re.sub(r"\n[ \t\r\n]*\n", "\n", require_text(prompt))
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


def check_prompt(prompt: object) -> str:
    """The cleaned prompt of a video, whatever a caller gave as one.

    Raises:
        UserError: it is no text, not valid Unicode, or blank (also when only after cleaning, such as "&nbsp;").
    """
    return require_prompt(clean(require_prompt(prompt)))


@dataclass(frozen=True, eq=False)
class TextEmbedding:
    """Embeddings of a batch of prompts, in the dtype and on the device of the encoder.

    `lengths` are the tokens of each prompt, end-of-sequence included; rows from there on are exactly zero.
    `truncated` says which prompts were longer than the encoder reads: their end is ignored. `unknown` are words of each
    prompt that say nothing to a model of few words, in the order in which they come.
    """

    embedding: Float[Tensor, "b l d"]
    lengths: tuple[int, ...]
    truncated: tuple[bool, ...]
    unknown: tuple[tuple[str, ...], ...] = ()


def blend(a: Float[Tensor, "b l d"], b: Float[Tensor, "b l d"], weight: float) -> Float[Tensor, "b l d"]:
    """(1 − weight)·a + weight·b of two zero-padded embeddings; exactly `a` at weight 0 and `b` at 1."""
    assert 0 <= weight <= 1, weight
    return torch.lerp(a, b, weight)


class TextEncoder:
    """A tokenizer and an encoder, together a function from prompts to a `TextEmbedding`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder: PreTrainedModel,
        max_length: int | None = None,
        *,
        knows_whole_words: bool = False,
    ) -> None:
        """Put the two together.

        Args:
            tokenizer: a fast tokenizer that appends its end-of-sequence token.
            encoder: a UMT5 encoder, on the device and in the dtype that it is to run in.
            max_length: rows of every embedding; None takes what the tokenizer states, at most 512.
            knows_whole_words: whether a word that the tokenizer has to spell is one that the model does not know, as
                in a small model of few words; a large one makes sense of most.
        """
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.max_length = max_length or min(MAX_TEXT_TOKENS, tokenizer.model_max_length)
        self.knows_whole_words = knows_whole_words

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings of the prompts, each cleaned first. The empty prompt is its end-of-sequence token alone.

        Raises:
            UserError: a prompt is no text or not valid Unicode.
        """
        assert prompts, "no prompts"
        texts = [clean(prompt) for prompt in prompts]
        batch = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        mask = batch["attention_mask"].to(self.encoder.device)
        hidden = self.encoder(batch["input_ids"].to(self.encoder.device), mask).last_hidden_state
        lengths = mask.sum(dim=1, keepdim=True)
        is_padding = torch.arange(self.max_length, device=mask.device) >= lengths
        return TextEmbedding(
            embedding=hidden.to(self.encoder.dtype).masked_fill(is_padding[..., None], 0),
            lengths=tuple(lengths.flatten().tolist()),
            truncated=tuple(bool(encoding.overflowing) for encoding in batch.encodings or ()),
            unknown=tuple(
                spelt_words(text, encoding) if self.knows_whole_words else ()
                for text, encoding in zip(texts, batch.encodings or (), strict=True)
            ),
        )


def spelt_words(text: str, encoding: Encoding) -> tuple[str, ...]:
    """The words of `text` that took more than one token, as they stand there, each once."""
    tokens = groupby(zip(encoding.word_ids, encoding.offsets, strict=True), key=lambda pair: pair[0])
    words = ([place for _, place in pieces] for number, pieces in tokens if number is not None)
    spelt = (_word_at(text, places[0][0], places[-1][1]) for places in words if len(places) > 1)
    return tuple(dict.fromkeys(word for word in spelt if word.lower() not in PARTICLES))


def _word_at(text: str, start: int, end: int) -> str:
    """The word that begins at `start`, which may have been cut at `end`."""
    rest = re.match(r"\w*", text[end:])
    return (text[start:end] + (rest.group() if rest else "")).strip()


def load_text_encoder(folder: ModelFolder, dtype: torch.dtype, device: Place) -> TextEncoder:
    """The tokenizer and the UMT5 encoder of a model, in `dtype` and evaluation mode.

    Raises:
        CheckpointError: a part is missing, damaged, or not exactly what its configuration describes.
    """
    tokenizer = load_tokenizer(folder.part("tokenizer"))
    encoder = checkpoint.load_text_encoder(folder, dtype, device)
    knows_whole_words = bool(checkpoint.native_values(folder.path).get("knows_whole_words", False))
    return TextEncoder(tokenizer, encoder, knows_whole_words=knows_whole_words)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer in a component's folder. Never runs code that the folder brings.

    Raises:
        CheckpointError: there is none, it is damaged, or it is not a fast one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be loaded ({reason}); download the model again"
        ) from error
    if not tokenizer.is_fast or tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"the tokenizer in {folder} is not the fast T5 tokenizer that Helios uses; download the model again"
        )
    return tokenizer
