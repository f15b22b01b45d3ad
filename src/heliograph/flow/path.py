"""The straight path between clean latents and noise: rectified flow with velocity ε − x0.

Noise is sigma 1, data is sigma 0. Within a pyramid level the same algebra holds with `remaining` in place of sigma, the
level's starting point in place of the noise, and its far end in place of the clean latents.
"""

from jaxtyping import Float
from torch import Tensor


def interpolate(x0: Float[Tensor, "*s"], eps: Float[Tensor, "*s"], sigma: float | Tensor) -> Float[Tensor, "*s"]:
    """The point at noise level `sigma` in [0, 1]: x = (1 − σ)·x0 + σ·ε. `sigma` is a number or broadcasts."""
    return (1 - sigma) * x0 + sigma * eps


def velocity(x0: Float[Tensor, "*s"], eps: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Slope of the path, noisy end minus clean end: v = ε − x0; what the network is trained to return."""
    return eps - x0


def to_x0(x: Float[Tensor, "*s"], v: Float[Tensor, "*s"], sigma: float | Tensor) -> Float[Tensor, "*s"]:
    """Clean latents seen from `x` along velocity `v`: x0 = x − σ·v."""
    return x - sigma * v


def to_noise(x: Float[Tensor, "*s"], v: Float[Tensor, "*s"], sigma: float | Tensor) -> Float[Tensor, "*s"]:
    """Noise seen from `x` along velocity `v`: ε = x + (1 − σ)·v."""
    return x + (1 - sigma) * v
