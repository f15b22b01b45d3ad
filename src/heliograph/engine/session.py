"""A live, steerable rollout: chunk after chunk, with prompts that may change between chunks; saved, resumed, forked."""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.engine.engine import Engine
from heliograph.engine.pictures import Chunk, PendingChunk
from heliograph.engine.prompts import PromptBook
from heliograph.engine.state import SessionState, read_state, write_state
from heliograph.errors import StateError
from heliograph.matching import Frame, lead_in, look
from heliograph.memory import History, Tiers
from heliograph.model.denoiser import Condition
from heliograph.request import Request, chosen_sampler
from heliograph.rollout import StepReport, Turn, next_turn
from heliograph.sample import Branches
from heliograph.seeds import RequestSeeds
from heliograph.shapes import CHUNK_LATENTS
from heliograph.text import check_prompt
from heliograph.timeline import require_text


class Session:
    """One video under way. Its request and history are all it is: a saved, resumed or forked session goes on with
    exactly the frames that this one would have made.
    """

    def __init__(self, engine: Engine, request: Request, history: History) -> None:
        self.engine = engine
        self.request = request
        self.history = history
        self.on_step: StepReport | None = None
        self._prompts = PromptBook(engine.texts, engine.denoiser)
        self.seeds = RequestSeeds(request.seed, engine.device, request.sampler.block_noise)
        self._shown: tuple[int, Frame] | None = None  # the chunk decoded last, and its last frame

    @property
    def num_chunks(self) -> int:
        """Chunks made so far, which is also the index of the next one."""
        return self.history.num_chunks

    def next_chunk(self) -> Chunk:
        """Make and decode the next chunk."""
        return self.begin_chunk().wait()

    def begin_chunk(self) -> PendingChunk:
        """Give all work for the next chunk to the device, which may still be busy with the chunk before."""
        before = self.history
        return self.begin_decoding(self.next_turn().latents, before)

    def begin_decoding(self, latents: Float[Tensor, "1 c 9 h w"], before: History) -> PendingChunk:
        """Decode the chunk that follows `before`, matched to the one before it where that is asked for."""

        def matched(frames: Float[Tensor, "1 3 33 h2 w2"]) -> Float[Tensor, "1 3 33 h2 w2"]:
            led = lead_in(frames, self._last_look(before)) if before.num_chunks else frames
            self._shown = before.num_chunks, look(led)
            return led

        return self.engine.pictures.begin(before.num_chunks, latents, matched if self.request.matches_chunks else None)

    def _last_look(self, before: History) -> Frame:
        """The last frame before a chunk. A session that was resumed or forked decodes that chunk again.

        The last frame of a chunk is never changed, so that both ways give the same.
        """
        if self._shown is not None and self._shown[0] == before.num_chunks - 1:
            return self._shown[1]
        return look(self.engine.codec.decode_chunk(before.latents[:, :, -CHUNK_LATENTS:]))

    @torch.no_grad()
    def next_turn(self) -> Turn:
        """Make the next chunk, without decoding it."""
        turn = next_turn(
            self.engine.denoiser, self.history, self.branches, self.request.sampler, self.seeds, self.on_step
        )
        self.history = turn.history
        return turn

    def set_prompt(self, prompt: str, transition_chunks: int = 3) -> int:
        """Change the prompt from the next chunk on, blended over `transition_chunks`; returns that chunk's index.

        Raises:
            UserError: the prompt is empty or not valid text; the session goes on as it was.
        """
        self.request = self.request.with_prompt(self.num_chunks, check_prompt(prompt), transition_chunks)
        return self.num_chunks

    def set_negative_prompt(self, prompt: str) -> int:
        """Change what to avoid, from the next chunk on; returns that chunk's index. Empty text avoids nothing.

        Raises:
            UserError: it is no valid text.
        """
        self.request = replace(self.request, negative_prompt=require_text(prompt))
        return self.num_chunks

    def set_guidance(self, scale: float) -> int:
        """Weigh the prompt differently, from the next chunk on; returns that chunk's index. 1 turns guidance off.

        Raises:
            UserError: the scale is out of range.
        """
        self.request = replace(self.request, sampler=chosen_sampler(self.request.sampler, guidance_scale=scale))
        return self.num_chunks

    def is_truncated(self, prompt: str) -> bool:
        """Whether the end of this prompt is ignored because it is longer than the text encoder reads."""
        return self.engine.texts.of(prompt).truncated[0]

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """Words of this prompt that say nothing to the model; only a model of few words can tell."""
        return next(iter(self.engine.texts.of(prompt).unknown), ())

    def fork(self) -> "Session":
        """Another session that goes on from here by itself."""
        return Session(self.engine, self.request, self.history)

    def save(self, path: str | Path) -> None:
        """Store the session in one file of a few MB.

        Raises:
            OutputError: the file cannot be written; what was there before is untouched.
        """
        write_state(Path(path), SessionState(self.request, self.history, self.engine.fingerprint))

    def branches(self, tiers: Tiers, chunk: int) -> Branches:
        """What the chunk of this index is conditioned on, after the history in `tiers`."""
        context = self.engine.denoiser.context(tiers)
        mix = self.request.timeline.at(chunk)
        prompt = Condition(self._prompts.prompt(mix), context)
        if not self.request.sampler.guidance.is_on:
            return Branches(prompt)
        words = self.request.negative_prompt
        negative = Condition(self._prompts.negative(words), context)
        both = Condition(self._prompts.both(mix, words), context) if self.engine.pairs_branches else None
        return Branches(prompt, negative, both, self.engine.second_thread)


def chunks_of(session: Session, count: int | None = None) -> Iterator[Chunk]:
    """The next `count` chunks, or chunk after chunk for ever, for whoever will not change the session on the way.

    The work for a chunk begins before the frames of the chunk before are waited for: a device that works by itself then
    never waits for the host, and a CPU decodes on one core while it samples on another. The first frames are waited for
    at once: a CPU would sample the next chunk before them, and a GPU takes so much work at a time and no more.
    """
    begun: deque[PendingChunk] = deque()
    for number in itertools.count() if count is None else range(count):
        begun.append(session.begin_chunk())
        if len(begun) > (1 if number else 0):
            yield begun.popleft().wait()
    while begun:
        yield begun.popleft().wait()


def resume(engine: Engine, path: str | Path) -> Session:
    """The session that `save` stored.

    Raises:
        StateError: the file is damaged, or was made with another model.
    """
    state = read_state(Path(path))
    if state.fingerprint != engine.fingerprint:
        raise StateError(f"{path} was saved with another model; open it with the model it was made with")
    history = state.history
    anchor = None if history.anchor is None else history.anchor.to(engine.device)
    moved = History(history.latents.to(engine.device), anchor, history.num_chunks, history.memory)
    return Session(engine, state.request, moved)
