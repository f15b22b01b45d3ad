"""The next chunks of several sessions in one pass: each is what its session alone would make, up to rounding.

On a CPU and on a GPU alike the sums of a larger matrix product may be taken in another order, so the last bits can
differ from those of a pass alone. Where exactly the same bits are wanted again, chunks are made alone.
"""

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.engine.pictures import Chunk
from heliograph.engine.session import Session
from heliograph.memory import Tier, Tiers
from heliograph.model.denoiser import ChunkContext, Condition, Prompt
from heliograph.model.memo import Memo
from heliograph.sample import Branches, denoise_chunk, make_sampler
from heliograph.seeds import ChunkSeeds, Shape
from heliograph.shapes import CHUNK_LATENTS


def batch_key(session: Session) -> Hashable:
    """What sessions must share to be made in one pass: the picture's size and how the next chunk is sampled."""
    request = session.request
    return request.height, request.width, request.sampler, request.sampler.steps_for(session.num_chunks)


@torch.no_grad()
def next_chunks(sessions: Sequence[Session]) -> list[Chunk]:
    """Make and decode the next chunk of each session; all have one engine and one `batch_key`.

    Where it raises for several, every session is as it was before.
    """
    first = sessions[0]
    if len(sessions) == 1:
        return [first.next_chunk()]
    assert len({batch_key(session) for session in sessions}) == 1, "only like sessions are made in one pass"
    assert len({id(session) for session in sessions}) == len(sessions), "a session has one next chunk"
    together = TogetherSeeds([session.seeds.for_chunk(session.num_chunks) for session in sessions])
    _, c, _, h, w = first.history.latents.shape
    noise = together.noise((len(sessions), c, CHUNK_LATENTS, h, w))
    branches = [session.branches(session.history.tiers(CHUNK_LATENTS), session.num_chunks) for session in sessions]
    sampler = make_sampler(first.request.sampler, first.num_chunks, h, w)
    *_, latents = denoise_chunk(first.engine.denoiser, noise, _join(branches), sampler, together)
    pairs = zip(sessions, latents.split(1), strict=True)
    begun = [session.begin_decoding(own, session.history) for session, own in pairs]
    chunks = [pending.wait() for pending in begun]
    for session, chunk in zip(sessions, chunks, strict=True):  # only now, so that a failure changes none of them
        session.history = session.history.push(chunk.latents)
    return chunks


class TogetherSeeds:
    """The random numbers of several chunks, one after the other in the batch: each chunk's are its own."""

    def __init__(self, seeds: Sequence[ChunkSeeds]) -> None:
        self._seeds = seeds

    def noise(self, shape: Shape) -> Float[Tensor, "..."]:
        """Standard normal noise; the first number of `shape` is the batch."""
        return torch.cat([seeds.noise((1, *shape[1:])) for seeds in self._seeds])

    def block(self, level: int, shape: Shape) -> Float[Tensor, "..."]:
        """Standard normal numbers for the jump to `level`."""
        return torch.cat([seeds.block(level, (1, *shape[1:])) for seeds in self._seeds])


def _join(branches: Sequence[Branches]) -> Branches:
    """Conditions of several chunks as one batch. Both branches of guidance share the history's tokens."""
    contexts = [one.prompt.context.tiers for one in branches]
    joined = Tiers(
        _join_tier([tiers.long for tiers in contexts]),
        _join_tier([tiers.mid for tiers in contexts]),
        _join_tier([tiers.short for tiers in contexts]),
        contexts[0].chunk_frames,
    )
    context = ChunkContext(joined, Memo())
    prompt = Condition(_join_prompts([one.prompt.prompt for one in branches]), context)
    negatives = [one.negative.prompt for one in branches if one.negative is not None]
    return Branches(prompt, Condition(_join_prompts(negatives), context) if negatives else None)


def _join_tier(tiers: Sequence[Tier]) -> Tier:
    return Tier(torch.cat([tier.latents for tier in tiers]), tiers[0].frames)


def _join_prompts(prompts: Sequence[Prompt]) -> Prompt:
    """One batch of prompts; its text keys are made for this chunk alone, as the next pass may have other sessions."""
    return Prompt(torch.cat([prompt.embedding for prompt in prompts]), Memo())
