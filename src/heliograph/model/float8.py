"""The transformer with most of its products in 8-bit floating point: an approximation that GPUs are twice as fast at.

Weights have a scale for each row, tokens one each, found while they are normed and modulated or activated. What is
small or sensitive stays as it was: patches, time, text and its keys, the head, and the first and last blocks.
"""

from collections.abc import Sequence

import torch
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from jaxtyping import Float
from torch import Tensor, nn

from heliograph.errors import CheckpointError
from heliograph.kernels.choice import eight_bit_product, kernels_for
from heliograph.kernels.eight_bit import EightBit, quantise

MAX_SPARED = 3
"""Blocks at either end that stay as they were in a model of 40; a quarter of the blocks in all at most."""


class Float8Linear(nn.Module):
    """A linear layer, or several of one input on top of each other, with 8-bit weights."""

    values: Tensor
    scale: Float[Tensor, " d2"]

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        weight = quantise(torch.cat([layer.weight.detach() for layer in layers])[None])
        self.register_buffer("values", weight.values[0])
        self.register_buffer("scale", weight.scale[0, :, 0])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self.bias = nn.Parameter(torch.cat([bias.detach() for bias in biases]), requires_grad=False) if biases else None

    def forward(self, x: Float[Tensor, "b n d"] | EightBit) -> Float[Tensor, "b n d2"]:
        """x·Wᵀ + b, in the dtype of `x`; tokens that are not in 8 bits yet are brought there."""
        rows = x if isinstance(x, EightBit) else kernels_for(x).quantise(x)
        return eight_bit_product(rows.values)(rows, self.values, self.scale, self.bias)


class Float8FeedForward(nn.Module):
    """Up, GELU, down; what is in between is only ever in 8 bits after the GELU."""

    def __init__(self, up: nn.Linear, down: nn.Linear) -> None:
        super().__init__()
        self.up, self.down = Float8Linear([up]), Float8Linear([down])

    def forward(self, x: Float[Tensor, "b n d"] | EightBit) -> Float[Tensor, "b n d"]:
        """The feed-forward of a block."""
        wide = self.up(x)
        return self.down(kernels_for(wide).gelu_quantise(wide))


def spared_blocks(num_blocks: int) -> set[int]:
    """Indices of the first and last blocks, which stay in the model's dtype."""
    count = min(MAX_SPARED, num_blocks // 8 + (num_blocks >= 4))
    return {*range(count), *range(num_blocks - count, num_blocks)}


def to_float8(block: nn.Module) -> None:
    """Put 8-bit layers in the place of a block's large ones; queries, keys and values of a token become one product.

    Raises:
        CheckpointError: a layer is not plain: it has an adapter, or 8-bit weights already.
    """
    own, text, feed = (block.get_submodule(name) for name in ("attn1", "attn2", "ffn"))
    own.to_qkv = Float8Linear([_plain(own, name) for name in ("to_q", "to_k", "to_v")])
    for name in ("to_q", "to_k", "to_v"):
        setattr(own, name, None)
    own.get_submodule("to_out")[0] = Float8Linear([_plain(own, "to_out.0")])  # pyright: ignore[reportIndexIssue]
    text.get_submodule("to_out")[0] = Float8Linear([_plain(text, "to_out.0")])  # pyright: ignore[reportIndexIssue]
    text.to_q = Float8Linear([_plain(text, "to_q")])
    assert isinstance(feed, FeedForward) and isinstance(feed.net[0], GELU), feed
    block.ffn = Float8FeedForward(_plain(feed, "net.0.proj"), _plain(feed, "net.2"))


def _plain(module: nn.Module, name: str) -> nn.Linear:
    layer = module.get_submodule(name)
    if type(layer) is not nn.Linear:
        raise CheckpointError(
            f"a {type(layer).__name__} cannot be brought to 8-bit floating point; merge adapters first, and choose "
            "either int8 or float8 weights"
        )
    return layer
