"""Prompts to text embeddings: clean, tokenise, encode with UMT5, blend two prompts (Helios keeps Wan 2.1's text path).

The embedding is padded to a fixed number of tokens and its padded rows are exactly zero; there is no mask. The
transformer attends to the padding, so this is part of what the weights were trained on.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ftfy
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from heliograph import checkpoint
from heliograph.checkpoint import ModelFolder, Place
from heliograph.errors import CheckpointError
from heliograph.timeline import require_prompt, require_text

MAX_TEXT_TOKENS = 512
"""Rows of a text embedding of the released models, end-of-sequence token included."""


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
    `truncated` says which prompts were longer than the encoder reads: their end is ignored.
    """

    embedding: Float[Tensor, "b l d"]
    lengths: tuple[int, ...]
    truncated: tuple[bool, ...]


def blend(a: Float[Tensor, "b l d"], b: Float[Tensor, "b l d"], weight: float) -> Float[Tensor, "b l d"]:
    """(1 − weight)·a + weight·b of two zero-padded embeddings; exactly `a` at weight 0 and `b` at 1."""
    assert 0 <= weight <= 1, weight
    return torch.lerp(a, b, weight)


class TextEncoder:
    """A tokenizer and an encoder, together a function from prompts to a `TextEmbedding`."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, max_length: int | None = None
    ) -> None:
        """Put the two together.

        Args:
            tokenizer: a fast tokenizer that appends its end-of-sequence token.
            encoder: a UMT5 encoder, on the device and in the dtype that it is to run in.
            max_length: rows of every embedding; None takes what the tokenizer states, at most 512.
        """
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.max_length = max_length or min(MAX_TEXT_TOKENS, tokenizer.model_max_length)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings of the prompts, each cleaned first. The empty prompt is its end-of-sequence token alone.

        Raises:
            UserError: a prompt is no text or not valid Unicode.
        """
        assert prompts, "no prompts"
        batch = self.tokenizer(
            [clean(prompt) for prompt in prompts],
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
        )


def load_text_encoder(folder: ModelFolder, dtype: torch.dtype, device: Place) -> TextEncoder:
    """The tokenizer and the UMT5 encoder of a model, in `dtype` and evaluation mode.

    Raises:
        CheckpointError: a part is missing, damaged, or not exactly what its configuration describes.
    """
    tokenizer = load_tokenizer(folder.part("tokenizer"))
    return TextEncoder(tokenizer, checkpoint.load_text_encoder(folder, dtype, device))


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
