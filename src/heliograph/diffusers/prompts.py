"""Prompts of a call as text embeddings: one row for each video, under the prompt and under the negative prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from heliograph.errors import UserError
from heliograph.text import clean

Prompts = str | list[str] | None


@dataclass(frozen=True, eq=False)
class TextInput:
    """What a call says in words, or in embeddings that were made before.

    `num_videos_per_prompt` rows (None is one) are made of each prompt, next to one another. Embeddings are taken as
    they are: one row for each video. `max_length` is the number of rows of an embedding that is made here.
    """

    prompt: Prompts = None
    negative_prompt: Prompts = None
    prompt_embeds: Float[Tensor, "b l d"] | None = None
    negative_prompt_embeds: Float[Tensor, "b2 l2 d"] | None = None
    num_videos_per_prompt: int | None = 1
    max_length: int = 512

    def __post_init__(self) -> None:
        for name, words, made in (
            ("prompt", self.prompt, self.prompt_embeds),
            ("negative_prompt", self.negative_prompt, self.negative_prompt_embeds),
        ):
            if words is not None and made is not None:
                raise UserError(f"both {name} and {name}_embeds were given; give one of them")
            if words is not None and not _is_text(words):
                raise UserError(f"{name} is a {type(words).__name__}; give a text or a list of texts")
        if self.prompt is None and self.prompt_embeds is None:
            raise UserError("neither prompt nor prompt_embeds was given; say what to show")
        if self.num_videos < 1:
            raise UserError(f"num_videos_per_prompt={self.num_videos_per_prompt} is not positive; use 1 or more")

    @property
    def num_videos(self) -> int:
        """Rows that are made of each prompt."""
        return 1 if self.num_videos_per_prompt is None else self.num_videos_per_prompt

    @property
    def batch(self) -> int:
        """Videos that are made at the same time."""
        if self.prompt_embeds is not None:
            return self.prompt_embeds.shape[0]
        return len(self.prompts) * self.num_videos

    @property
    def prompts(self) -> list[str]:
        """The prompts as a list; empty where embeddings were given."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt or [])

    @property
    def negatives(self) -> list[str]:
        """A negative prompt for each prompt; one text stands for all, and none at all for the empty prompt.

        Raises:
            UserError: there are more or fewer of them than prompts.
        """
        count = self.batch if self.prompt is None else len(self.prompts)
        given = self.negative_prompt or ""
        negatives = [given] * count if isinstance(given, str) else given
        if len(negatives) != count:
            raise UserError(
                f"{len(negatives)} negative prompts do not go with {count} prompts; give one for each, or one"
            )
        return negatives


@dataclass(frozen=True)
class PromptEncoder:
    """A tokenizer and an encoder that runs on `device`, wherever its weights wait until then (offload)."""

    tokenizer: Any
    encoder: Any
    device: torch.device

    def prompt(self, text: TextInput) -> Float[Tensor, "b l d"]:
        """Embeddings of the prompts, one row for each video."""
        if text.prompt_embeds is not None:
            return text.prompt_embeds.to(self.device)
        return repeat(self._encode(text.prompts, text.max_length), "b l d -> (b n) l d", n=text.num_videos)

    def negative(self, text: TextInput) -> Float[Tensor, "b l d"]:
        """Embeddings of the negative prompts, one row for each video.

        Raises:
            UserError: there are more or fewer of them than videos.
        """
        if text.negative_prompt_embeds is None:
            count = text.num_videos if text.prompt_embeds is None else 1
            return repeat(self._encode(text.negatives, text.max_length), "b l d -> (b n) l d", n=count)
        given = text.negative_prompt_embeds
        if given.shape[0] not in (1, text.batch):
            raise UserError(
                f"negative_prompt_embeds has {given.shape[0]} rows for {text.batch} videos; give one for each, or one"
            )
        return given.to(self.device).expand(text.batch, -1, -1)

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str], max_length: int) -> Float[Tensor, "b l d"]:
        """Hidden states of the cleaned prompts, exactly zero from the end of each on."""
        tokens = self.tokenizer(
            [clean(prompt) for prompt in prompts],
            padding="max_length",
            max_length=max_length,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"].to(self.device)
        hidden = self.encoder(tokens["input_ids"].to(self.device), mask).last_hidden_state
        return hidden.to(self.encoder.dtype).masked_fill(mask[..., None] == 0, 0)


def _is_text(words: object) -> bool:
    return isinstance(words, str) or (
        isinstance(words, list) and bool(words) and all(isinstance(w, str) for w in words)
    )
