"""What training minimises: squared distance to a velocity (flow matching)."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def velocity_loss(
    got: Float[Tensor, "b c t h w"],
    wanted: Float[Tensor, "b c t h w"],
    weight: Float[Tensor, "b 1 t h w"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over all elements of (got − wanted)², each latent cell times its weight where there is one; float32."""
    error = (got.float() - wanted.float()).square()
    return (error if weight is None else error * weight).mean()


def per_sample(values: Float[Tensor, " b"]) -> Float[Tensor, "b 1 1 1 1"]:
    """One number for each sample, ready to be multiplied with latents."""
    return rearrange(values, "b -> b 1 1 1 1")
