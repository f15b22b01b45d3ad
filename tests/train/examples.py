"""Small batches and networks that the tests of training share."""

from dataclasses import replace

import torch
from torch import Tensor

from heliograph.config import MemoryConfig
from heliograph.memory import History
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.corrupt import NO_CORRUPTION, PastConfig, StartMix
from heliograph.train.network import Given
from heliograph.train.stage import Batch, Loss, Stage
from tests.small import SIZES, randomise

SIDE = 8
"""Latent height and width: the smallest at which a long tier has a token and the pyramid three levels."""

AS_IT_IS = PastConfig(StartMix(0.0, 0.0, 0.0), NO_CORRUPTION)
"""The model is shown the whole past, undamaged."""


def generator(seed: int = 0) -> torch.Generator:
    """Randomness with a seed."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator(seed))


def example(count: int = 2, side: int = SIDE, seed: int = 0) -> Batch:
    """Random chunks with a full history, after random text."""
    chunk, history, anchor = (normal(count, 16, t, side, side, seed=seed + i) for i, t in enumerate((9, 19, 1)))
    return Batch(chunk, history, anchor, normal(count, 5, 32, seed=seed + 3))


def first_chunks(batch: Batch) -> Batch:
    """The same chunks with nothing before them."""
    return replace(batch, history=torch.zeros_like(batch.history), anchor=torch.zeros_like(batch.anchor))


def given(count: int = 1, side: int = SIDE, seed: int = 0) -> Given:
    """Text and a full history."""
    batch = example(count, side, seed)
    assert batch.text is not None
    return Given(batch.text, History(batch.history, batch.anchor, 0, MemoryConfig()).tiers(9))


def network(seed: int = 0, std: float = 0.15, **changes: object) -> HeliosTransformer3DModel:
    """A small transformer in which no path is multiplied by zero."""
    model = HeliosTransformer3DModel(**{**SIZES, **changes})
    randomise(model, seed, std)
    return model


def silent_network() -> HeliosTransformer3DModel:
    """A small transformer whose velocity is zero everywhere."""
    model = network()
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


def train(stage: Stage, batch: object, group: str, num_steps: int, learning_rate: float, seed: int = 0) -> list[float]:
    """Losses of a group over `num_steps` updates on one batch, with the same random numbers in every step."""
    parameters = stage.trainable()[group].parameters.values()
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    losses = []
    for step in range(num_steps):
        loss: Loss = stage.loss(group, batch, step, generator(seed))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        losses.append(float(loss.total.detach()))
    return losses


def learner(seed: int = 0) -> HeliosTransformer3DModel:
    """A small transformer as training begins it, wide enough to learn two chunks by heart."""
    torch.manual_seed(seed)
    sizes = {"attention_head_dim": 48, "rope_dim": (16, 16, 16), "ffn_dim": 192}
    return HeliosTransformer3DModel(**{**SIZES, **sizes})
