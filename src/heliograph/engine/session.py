"""A live, steerable rollout: chunk after chunk, with prompts that may change between chunks; saved, resumed, forked."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from heliograph.engine.engine import Engine
from heliograph.engine.prompts import PromptBook
from heliograph.engine.state import SessionState, read_state, write_state
from heliograph.errors import StateError
from heliograph.memory import History, Tiers
from heliograph.model.denoiser import Condition
from heliograph.request import Request, chosen_sampler
from heliograph.rollout import StepReport, Turn, next_turn
from heliograph.sample import Branches
from heliograph.seeds import RequestSeeds
from heliograph.text import check_prompt
from heliograph.timeline import require_text
from heliograph.vae import to_uint8


@dataclass(frozen=True)
class Chunk:
    """One turn of the model: 33 frames, and the float32 latents they were decoded from, on the model's device."""

    index: int
    frames: UInt8[np.ndarray, "33 h w 3"]
    latents: Float[Tensor, "1 c 9 h2 w2"]


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

    @property
    def num_chunks(self) -> int:
        """Chunks made so far, which is also the index of the next one."""
        return self.history.num_chunks

    def next_chunk(self) -> Chunk:
        """Make and decode the next chunk."""
        turn = self.next_turn()
        frames = to_uint8(self.engine.codec.decode_chunk(turn.latents))[0].cpu().numpy()
        return Chunk(turn.index, frames, turn.latents)

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
        both = Condition(self._prompts.both(mix, words), context) if self.engine.pairs_guidance else None
        return Branches(prompt, negative, both)


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
