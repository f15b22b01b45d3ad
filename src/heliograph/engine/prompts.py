"""Prompts ready for the denoiser: encoded once, and their text keys made once while they are in use."""

from collections import OrderedDict
from collections.abc import Callable

import torch

from heliograph.model.denoiser import Prompt, TransformerDenoiser
from heliograph.text import TextEmbedding, TextEncoder, blend
from heliograph.timeline import PromptMix

MAX_EMBEDDINGS = 64
"""Prompts whose embedding is remembered; one has 4 MB in the released models."""


class TextEmbeddings:
    """Embeddings of recent prompts, shared by all sessions of an engine."""

    def __init__(self, load: Callable[[], TextEncoder], *, stays: bool) -> None:
        """Encode with what `load` returns: once for ever (`stays`), or for each new prompt anew, freed right after."""
        self._load = load
        self._encoder = load() if stays else None
        self._known: OrderedDict[str, TextEmbedding] = OrderedDict()

    def of(self, prompt: str) -> TextEmbedding:
        """The embedding of one prompt, batch 1."""
        if prompt not in self._known:
            self.encode((prompt,))
        self._known.move_to_end(prompt)
        return self._known[prompt]

    def encode(self, prompts: tuple[str, ...]) -> None:
        """Encode those of the prompts that are not known yet, one at a time, loading the encoder once at most."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if missing:
            encoder = self._encoder or self._load()
            self._known.update((prompt, encoder.encode([prompt])) for prompt in missing)
        while len(self._known) > max(MAX_EMBEDDINGS, len(prompts)):
            self._known.popitem(last=False)


class PromptBook:
    """From a prompt, or a mix of two, to what the denoiser takes; one for each video under way.

    Text keys, which are a hundred times larger than an embedding, are kept for the mix in use and the negative prompt.
    """

    def __init__(self, embeddings: TextEmbeddings, denoiser: TransformerDenoiser) -> None:
        self.embeddings = embeddings
        self.denoiser = denoiser
        self._current: tuple[PromptMix, Prompt] | None = None
        self._negative: tuple[str, Prompt] | None = None
        self._both: tuple[PromptMix, str, Prompt] | None = None

    def prompt(self, mix: PromptMix) -> Prompt:
        """The mix of two prompts that one chunk is conditioned on."""
        if self._current is None or self._current[0] != mix:
            embedding = self.embeddings.of(mix.next).embedding
            if mix.weight < 1:
                embedding = blend(self.embeddings.of(mix.previous).embedding, embedding, mix.weight)
            self._current = (mix, self.denoiser.prompt(embedding))
        return self._current[1]

    def negative(self, prompt: str) -> Prompt:
        """The negative prompt."""
        if self._negative is None or self._negative[0] != prompt:
            self._negative = (prompt, self.denoiser.prompt(self.embeddings.of(prompt).embedding))
        return self._negative[1]

    def both(self, mix: PromptMix, negative: str) -> Prompt:
        """A batch of two: the mix, and the negative prompt."""
        if self._both is None or self._both[:2] != (mix, negative):
            embeddings = [self.prompt(mix).embedding, self.negative(negative).embedding]
            self._both = (mix, negative, self.denoiser.prompt(torch.cat(embeddings)))
        return self._both[2]
