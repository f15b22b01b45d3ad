"""The transformer as training calls it: float32 outside, its own dtype inside, nothing remembered between calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.errors import UserError
from heliograph.memory import Tier, Tiers
from heliograph.model.packed import Part
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.stage import Batch


@dataclass(frozen=True)
class Given:
    """What a chunk is denoised under: text embeddings with zeroed padding, and the tiers of its history."""

    text: Float[Tensor, "b l d"]
    tiers: Tiers

    def rows(self, index: Tensor) -> "Given":
        """What belongs to the samples in `index`."""
        return self._each(lambda x: x[index])

    def repeat(self, count: int) -> "Given":
        """The whole batch `count` times over."""
        return self._each(lambda x: torch.cat([x] * count))

    def to(self, dtype: torch.dtype) -> "Given":
        """The same in another dtype."""
        return self._each(lambda x: x.to(dtype))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Given":
        long, mid, short = (
            Tier(change(tier.latents), tier.frames) for tier in (self.tiers.long, self.tiers.mid, self.tiers.short)
        )
        return Given(change(self.text), Tiers(long, mid, short, self.tiers.chunk_frames))


VelocityOf = Callable[[Tensor, Tensor, Given], Tensor]
"""Velocity of latents, at one timestep per sample, under what is given."""


def denoise(
    network: HeliosTransformer3DModel,
    x: Float[Tensor, "b c t h w"],
    timestep: float | Float[Tensor, " b"],
    condition: Given,
) -> Float[Tensor, "b c t h w"]:
    """Velocity of the chunk `x` at `timestep` in [0, 1000]; a `Denoiser` once the network is bound."""
    given = condition.to(network.dtype)
    return network(x.to(network.dtype), timestep, given.text, given.tiers).float()


def denoise_packed(
    network: HeliosTransformer3DModel, parts: Sequence[Part], given: Given
) -> tuple[Float[Tensor, "b c t h w"], ...]:
    """Velocities of several chunks of one clip in one pass, in the order of `parts`."""
    given = given.to(network.dtype)
    parts = [Part(part.x.to(network.dtype), part.timestep) for part in parts]
    return tuple(v.float() for v in network.forward_packed(parts, given.text, given.tiers))


def text_of(batch: Batch, encoder: nn.Module | None) -> Float[Tensor, "b l d"]:
    """Text embeddings of a batch: those it holds, or what the text encoder makes of its tokens, padding zeroed.

    Raises:
        UserError: the batch holds tokens, but there is no text encoder to read them.
    """
    if batch.text is not None:
        return batch.text
    if batch.tokens is None or encoder is None:
        raise UserError("the data hold no text embeddings and there is no text encoder; prepare them with embeddings")
    is_padding = batch.tokens == 0
    hidden = encoder(batch.tokens, (~is_padding).long()).last_hidden_state
    return hidden.masked_fill(is_padding[..., None], 0)
