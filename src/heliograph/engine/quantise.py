"""The transformer with its blocks' matrices rounded to 8 bits: half the memory of bfloat16, slightly inexact.

Only weights are rounded, with one scale for each row. A matrix is brought back to the dtype of its input as it is
multiplied: with thousands of tokens the product takes far longer than that. Not torchao's, see decision 0005.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor, nn

from heliograph.checkpoint import ModelFolder, adapted_table, fill_module, load_transformer
from heliograph.engine.needs import BLOCK_NAME
from heliograph.engine.plan import Plan
from heliograph.model.transformer import HeliosTransformer3DModel

LARGEST_LEVEL = 127
"""Levels are symmetric: −127 … 127."""


def load_rounded_transformer(
    folder: ModelFolder, plan: Plan, round_block: Callable[[int, nn.Module], None]
) -> HeliosTransformer3DModel:
    """Load block by block, rounding each before the next, so that only one is ever there in full.

    Args:
        folder: the model.
        plan: where it goes.
        round_block: rounds the block of this index.

    Raises:
        CheckpointError: the weights are missing, damaged or not the model's.
    """
    device = torch.device(plan.device)

    def place(name: str) -> torch.device:
        return torch.device("meta") if BLOCK_NAME.match(name) else device

    transformer = load_transformer(folder, plan.dtype, place)
    table = adapted_table(folder)
    for index, block in enumerate(transformer.blocks):
        fill_module(block, table, plan.dtype, lambda _: device, prefix=f"blocks.{index}.")
        round_block(index, block)
    return transformer


def round_matrices(module: nn.Module) -> None:
    """Put an `Int8Linear` in the place of every linear layer inside `module`."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            round_matrices(child)


class Int8Linear(nn.Module):
    """A linear layer whose matrix is kept as bytes and a scale for each row."""

    levels: Int8[Tensor, "d2 d"]
    scale: Float[Tensor, " d2"]

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        levels, scale = to_levels(linear.weight.detach())
        self.register_buffer("levels", levels)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d2"]:
        """x·Wᵀ + b, in the dtype of `x`."""
        return F.linear(x, self.levels.to(x.dtype) * self.scale.to(x.dtype)[:, None], self.bias)


def to_levels(weight: Float[Tensor, "d2 d"]) -> tuple[Int8[Tensor, "d2 d"], Float[Tensor, " d2"]]:
    """(levels, scale), with weight ≈ levels·scale. Scales keep the dtype of the weight."""
    scale = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float16).tiny) / LARGEST_LEVEL
    levels = (weight.float() / scale.float()[:, None]).round().clamp(-LARGEST_LEVEL, LARGEST_LEVEL)
    return levels.to(torch.int8), scale
