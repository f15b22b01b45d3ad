"""How a group of parameters is updated: AdamW, and for the matrices of the blocks, where a preset says so, Muon.

Muon (Jordan et al. 2024) moves a matrix along the orthogonal factor of its momentum, so that all its directions learn
at the same pace; its steps are scaled to the size that AdamW's have (Liu et al. 2025, arXiv 2502.16982), so that one
learning rate serves both.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from heliograph.train.stage import ParameterGroup

ADAM_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW remembers of each parameter."""

MUON_MOMENTS = ("momentum_buffer",)
"""What Muon remembers of each matrix."""


class Updates:
    """The optimisers of one group."""

    def __init__(self, group: ParameterGroup) -> None:
        self.group = group
        matrices = hidden_matrices(group) if group.has_muon else {}
        others = [p for name, p in group.parameters.items() if name not in matrices]
        self._matrices = set(matrices)
        self._adam = torch.optim.AdamW(
            others, lr=group.learning_rate, betas=group.betas, weight_decay=group.weight_decay, eps=1e-8
        )
        self._muon = None
        if matrices:
            self._muon = torch.optim.Muon(
                list(matrices.values()),
                lr=group.learning_rate,
                weight_decay=group.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )

    def step(self, factor: float) -> float:
        """Update by the gradients there are, at `factor` of the group's learning rate; returns that rate."""
        rate = self.group.learning_rate * factor
        for optimiser in self._all():
            optimiser.param_groups[0]["lr"] = rate
            optimiser.step()
        return rate

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimiser in self._all():
            optimiser.zero_grad(set_to_none=True)

    def moments(self, name: str) -> Mapping[str, Tensor]:
        """What is remembered of a parameter of the group; before its first update zeros, as it would begin with."""
        parameter = self.group.parameters[name]
        state = self._of(name).state[parameter]
        if state:
            return {moment: state[moment] for moment in self.moment_names(name)}
        zeros = {moment: _zeros_like(parameter) for moment in self.moment_names(name)}
        return zeros | ({"step": torch.tensor(0.0)} if "step" in zeros else {})

    def adopt(self, name: str, moments: Mapping[str, Tensor]) -> None:
        """Go on from what `moments` gave."""
        self._of(name).state[self.group.parameters[name]] = dict(moments)

    def moment_names(self, name: str) -> tuple[str, ...]:
        """Names of what is remembered of a parameter."""
        return MUON_MOMENTS if name in self._matrices else ADAM_MOMENTS

    def _of(self, name: str) -> torch.optim.Optimizer:
        if name in self._matrices:
            assert self._muon is not None
            return self._muon
        return self._adam

    def _all(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self._adam,) if self._muon is None else (self._muon, self._adam)


def hidden_matrices(group: ParameterGroup) -> dict[str, nn.Parameter]:
    """The matrices inside the transformer's blocks, by name: no biases, norms, tables, nothing entering or leaving."""
    return {name: p for name, p in group.parameters.items() if ".blocks." in name and p.ndim == 2}


def _zeros_like(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
