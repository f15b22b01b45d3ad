"""What a training stage is to the loop, and what a batch of training examples holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heliograph.config import MemoryConfig
from heliograph.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Chunks of real clips with what came before them. Latents are normalised, float32, at full resolution.

    `history` holds the latent frames before the chunk, oldest first, zero where the clip had not begun; `anchor` the
    clip's first latent frame, zero for a clip's first chunk. `text` are text embeddings with zeroed padding, or None
    where the text encoder is trained along; then `tokens` are its input, padding 0. `weight`, where given, multiplies
    the loss of each latent cell. `number` is that of all chunks in their clips, which only absolute positions need.
    """

    chunk: Float[Tensor, "b c t h w"]
    history: Float[Tensor, "b c m h w"]
    anchor: Float[Tensor, "b c 1 h w"]
    text: Float[Tensor, "b l d"] | None
    tokens: Int[Tensor, "b l"] | None = None
    weight: Float[Tensor, "b 1 t h w"] | None = None
    number: int = 0


@dataclass(frozen=True)
class Loss:
    """What one step minimises.

    `total` carries the gradient; `parts` are named figures for the log, detached; `group` names the parameters that
    the step updates (a stage with a critic has two groups).
    """

    total: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]
    group: str = "student"


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are updated together, by name, and how."""

    parameters: Mapping[str, nn.Parameter]
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    has_muon: bool = False


@dataclass(frozen=True)
class Optimiser:
    """How AdamW updates a group of parameters; the gradient's norm over the group is clipped to `max_grad_norm`.

    With `has_muon` the matrices of the transformer's blocks are updated by Muon instead, at the same rate.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    max_grad_norm: float = 1.0
    has_muon: bool = False

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.max_grad_norm <= 0:
            raise UserError(f"{self} cannot train; use a learning rate and a gradient norm above 0, weight decay 0 up")

    def group(self, modules: Mapping[str, nn.Module | None]) -> ParameterGroup:
        """All parameters of the modules that want a gradient, under the module's name and their own."""
        parameters = {
            f"{prefix}.{name}": parameter
            for prefix, module in modules.items()
            if module is not None
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        return ParameterGroup(
            parameters, self.learning_rate, self.betas, self.weight_decay, self.max_grad_norm, self.has_muon
        )


@runtime_checkable
class Stage(Protocol):
    """One training stage: what it trains, what one step costs, and what follows an update.

    `step` counts from 0. A stage whose losses update several groups in one step returns them in the order in which the
    loop is to compute and apply them; each is computed only when the one before it has been applied.
    """

    def trainable(self) -> Mapping[str, ParameterGroup]:
        """The parameter groups, by the name that `Loss.group` uses."""
        ...

    def losses(self, step: int) -> tuple[str, ...]:
        """Groups that this step updates, in order."""
        ...

    def loss(self, group: str, batch: Any, step: int, generator: torch.Generator) -> Loss:
        """The loss of one group on one batch; all randomness comes from `generator`."""
        ...

    def after_step(self, step: int) -> None:
        """Called when all updates of the step are done (averages, schedules)."""
        ...


@runtime_checkable
class Trains(Protocol):
    """A configuration that says how the student is updated."""

    @property
    def optimiser(self) -> Optimiser:
        """AdamW's settings."""
        ...


@dataclass(frozen=True)
class StudentStage:
    """What stages have in common that update one network in every step, and a text encoder with it where one is given.

    Trained are the parameters that want a gradient when training begins.
    """

    transformer: nn.Module
    config: Trains
    memory: MemoryConfig
    text_encoder: nn.Module | None = None

    def trainable(self) -> Mapping[str, ParameterGroup]:
        """One group, `student`."""
        modules = {"transformer": self.transformer, "text_encoder": self.text_encoder}
        return {"student": self.config.optimiser.group(modules)}

    def losses(self, step: int) -> tuple[str, ...]:
        """Every step updates the student."""
        return ("student",)

    def after_step(self, step: int) -> None:
        """Nothing follows a step."""
