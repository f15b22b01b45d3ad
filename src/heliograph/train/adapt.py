"""Stage 1, `adapt`: from a text-to-video model to one that continues its history (Helios, unified history injection).

One step: show the model a past, noise the chunk, predict its velocity, compare.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.errors import CheckpointError
from heliograph.flow.path import interpolate, velocity
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.corrupt import PastConfig, shown_past, tiers_of
from heliograph.train.draw import logit_normal, normal, uniform
from heliograph.train.network import Given, denoise, text_of
from heliograph.train.objective import per_sample, velocity_loss
from heliograph.train.stage import Batch, Loss, Optimiser, StudentStage

TimeSampling = Literal["logit_normal", "uniform"]

NUM_TIMESTEPS = 1000
"""Noise levels that training visits: 1, 0.999 … 0.001."""

MEMORY_PATCHES = ("patch_short", "patch_mid", "patch_long")
"""Layers of the transformer that a text-to-video model does not have."""


@dataclass(frozen=True)
class AdaptConfig:
    """How stage 1 trains: how noise levels are drawn, what the model sees of the past, how weights are updated."""

    times: TimeSampling = "logit_normal"
    past: PastConfig = field(default_factory=PastConfig)
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(5e-5))


@dataclass(frozen=True)
class AdaptStage(StudentStage):
    """Stage 1."""

    transformer: HeliosTransformer3DModel
    config: AdaptConfig

    def loss(self, group: str, batch: Batch, step: int, generator: torch.Generator) -> Loss:
        """Flow matching on the chunk, after a past as a start and degraded."""
        past = shown_past(batch, self.config.past, generator)
        tiers = tiers_of(past, self.memory, batch.chunk.shape[2], batch.number)
        given = Given(text_of(batch, self.text_encoder), tiers)
        sigma = draw_sigmas(self.config.times, batch.chunk.shape[0], generator, batch.chunk.device)
        noise = normal(tuple(batch.chunk.shape), generator, batch.chunk.device)

        x = interpolate(batch.chunk, noise, per_sample(sigma))
        predicted = denoise(self.transformer, x, NUM_TIMESTEPS * sigma, given)
        total = velocity_loss(predicted, velocity(batch.chunk, noise), batch.weight)
        return Loss(total, {"flow": total.detach()}, group)


def draw_sigmas(
    times: TimeSampling, count: int, generator: torch.Generator, device: torch.device
) -> Float[Tensor, " count"]:
    """Noise levels 1, 0.999 … 0.001: σ = 1 − ⌊1000u⌋/1000, where u is uniform or the sigmoid of a normal number."""
    draw = {"uniform": uniform, "logit_normal": logit_normal}[times]
    u = draw((count,), generator, device)
    index = (NUM_TIMESTEPS * u).floor().clamp(max=NUM_TIMESTEPS - 1)
    return (NUM_TIMESTEPS - index) / NUM_TIMESTEPS


def load_text_to_video(transformer: HeliosTransformer3DModel, state: Mapping[str, Tensor]) -> None:
    """Start from the weights of a Wan 2.1 text-to-video transformer (names of its diffusers folder).

    The memory patches, which it does not have, are made from its patch embedding once that is loaded: a mid (long)
    token begins as the mean of the short tokens it stands for. The model then is the old one, with a history to read.

    Raises:
        CheckpointError: any other tensor is missing or left over.
    """
    names = {"scale_shift_table": "norm_out.scale_shift_table"}
    result = transformer.load_state_dict({names.get(k, k): v for k, v in state.items()}, strict=False)
    missing = [name for name in result.missing_keys if name.partition(".")[0] not in MEMORY_PATCHES]
    if missing or result.unexpected_keys:
        raise CheckpointError(
            f"these are not the weights of a text-to-video model of this size: {len(missing)} tensors are missing "
            f"({', '.join(missing[:3])}), {len(result.unexpected_keys)} unknown "
            f"({', '.join(result.unexpected_keys[:3])}); give a Wan 2.1 transformer"
        )
    transformer.init_tier_patches()
