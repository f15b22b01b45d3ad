"""The transformer as a denoiser: float32 latents in, float32 velocity out, with its memos kept in the right places."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.config import HistoryReuse
from heliograph.memory import Tier, Tiers
from heliograph.model.memo import Memo, Memos
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.transfer import current_device_of


@dataclass(frozen=True)
class Prompt:
    """A text embedding, padded rows zero, with what the transformer remembers about it."""

    embedding: Float[Tensor, "b l d_text"]
    memo: Memo


@dataclass(frozen=True)
class ChunkContext:
    """Tiers of the chunk's history, and what the transformer remembers about them; shared by both guidance branches."""

    tiers: Tiers
    memo: Memo


@dataclass(frozen=True)
class Condition:
    """One branch of a chunk: a prompt over a history."""

    prompt: Prompt
    context: ChunkContext


class TransformerDenoiser:
    """Runs the transformer in its own dtype. Tables and timestep rows are remembered as long as this object lives."""

    def __init__(
        self,
        transformer: HeliosTransformer3DModel,
        device: torch.device | None = None,
        history_reuse: HistoryReuse = "off",
    ) -> None:
        """Run `transformer` on `device`, which differs from where its weights are while blocks wait elsewhere.

        `history_reuse` other than "off" is an approximation, see `model/past.py`.
        """
        self.transformer = transformer
        self.run: Callable[..., Tensor] = transformer
        """What is called with the transformer's arguments: the transformer, or recordings of it."""
        self.device = device or transformer.device
        # What latents are cast to at the transformer's border; asking a library's model for it walks all its modules.
        self.dtype: torch.dtype = transformer.dtype
        self.history_reuse: HistoryReuse = history_reuse
        self._memo = Memo()

    def prompt(self, embedding: Float[Tensor, "b l d_text"]) -> Prompt:
        """A prompt ready to be denoised under; its text keys are made once, on the first step."""
        return Prompt(embedding.to(self.device, self.dtype), Memo())

    def context(self, tiers: Tiers) -> ChunkContext:
        """A history ready to be denoised after; its tokens are made once, on the first step."""

        def cast(tier: Tier) -> Tier:
            return Tier(tier.latents.to(self.device, self.dtype), tier.frames)

        return ChunkContext(Tiers(cast(tiers.long), cast(tiers.mid), cast(tiers.short), tiers.chunk_frames), Memo())

    def __call__(self, x: Tensor, timestep: float, condition: Condition) -> Float[Tensor, "b c t h w"]:
        """Velocity of `x` (float32) at `timestep`, float32."""
        memos = Memos(self._memo, condition.prompt.memo, condition.context.memo, self.history_reuse)
        with current_device_of(x):
            out = self.run(x.to(self.dtype), timestep, condition.prompt.embedding, condition.context.tiers, memos)
        return out.float()
