"""What low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685) add to a stored weight: W + weight·B·A."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Addition:
    """What an adapter adds to one stored tensor: `weight` times up·down, or `weight` times `up` itself for a bias."""

    up: Float[Tensor, "..."]
    down: Float[Tensor, "..."] | None
    weight: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor that it is added to."""
        return tuple(self.up.shape if self.down is None else (self.up.shape[0], *self.down.shape[1:]))

    def value(self) -> Float[Tensor, "..."]:
        """What is added, float32."""
        whole = self.up.float() if self.down is None else low_rank_product(self.up, self.down)
        return self.weight * whole


Additions = Mapping[str, tuple[Addition, ...]]
"""Name of a stored tensor → what is added to it, one adapter after another."""


def low_rank_product(up: Float[Tensor, "o r *ones"], down: Float[Tensor, "r *i"]) -> Float[Tensor, "o *i"]:
    """B·A in float32: of a linear layer, or of a convolution, where A has the shape of the kernel and B is 1 × 1."""
    return (up.float().flatten(1) @ down.float().flatten(1)).reshape(up.shape[0], *down.shape[1:])


def folded(stored: Tensor, additions: Sequence[Addition]) -> Tensor:
    """The stored tensor and what adapters add to it, summed in float32; in the dtype it is stored in."""
    if not additions:
        return stored
    total = stored.float()
    for addition in additions:
        total = total + addition.value()
    return total.to(stored.dtype)


def digest_additions(additions: Additions, digest: "hashlib._Hash") -> None:
    """Count every adapter towards a model's fingerprint: names, weights and the beginning of every tensor."""
    for name in sorted(additions):
        for addition in additions[name]:
            digest.update(repr((name, addition.shape, addition.weight)).encode())
            for tensor in (addition.up, addition.down):
                if tensor is not None:
                    digest.update(tensor.flatten()[:256].float().numpy().tobytes())
