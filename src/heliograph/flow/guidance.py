"""Guidance: combine the velocity under the prompt with the velocity under the negative prompt."""

from einops import reduce
from jaxtyping import Float
from torch import Tensor


def classifier_free(
    conditional: Float[Tensor, "b c t h w"], unconditional: Float[Tensor, "b c t h w"], scale: float
) -> Float[Tensor, "b c t h w"]:
    """u + w·(c − u) (arXiv 2207.12598 with w = 1 + s); scale 1 is the conditional prediction."""
    return unconditional + scale * (conditional - unconditional)


def cfg_zero_star(
    conditional: Float[Tensor, "b c t h w"], unconditional: Float[Tensor, "b c t h w"], scale: float
) -> Float[Tensor, "b c t h w"]:
    """Guidance with the unconditional velocity projected on the conditional one first (arXiv 2503.18886).

    a = ⟨c, u⟩ / (‖u‖² + 1e-8) per sample, in float32; then a·u + w·(c − a·u).
    """
    dot = reduce(conditional.float() * unconditional.float(), "b c t h w -> b 1 1 1 1", "sum")
    norm = reduce(unconditional.float().square(), "b c t h w -> b 1 1 1 1", "sum")
    projected = (dot / (norm + 1e-8)).to(unconditional.dtype) * unconditional
    return classifier_free(conditional, projected, scale)
