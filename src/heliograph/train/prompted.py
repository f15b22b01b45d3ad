"""A network under a prompt and a negative prompt, ready for a rollout: for samples and for teacher paths."""

from jaxtyping import Float
from torch import Tensor

from heliograph.memory import Tiers
from heliograph.model.denoiser import Condition, TransformerDenoiser
from heliograph.rollout import Conditioning
from heliograph.sample import Branches


def prompted(
    denoiser: TransformerDenoiser, text: Float[Tensor, "b l d"], negative: Float[Tensor, "b l d"]
) -> Conditioning:
    """What every chunk of a rollout is conditioned on: embeddings of one prompt and one negative prompt throughout."""
    prompt, other = denoiser.prompt(text), denoiser.prompt(negative)

    def conditioning(tiers: Tiers, chunk: int) -> Branches:
        context = denoiser.context(tiers)
        return Branches(Condition(prompt, context), Condition(other, context))

    return conditioning
