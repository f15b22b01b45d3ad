"""Solvers: each carries the latents one step along the velocity and keeps what the next step needs.

A solver is a value with `start(x) -> state` and `step(state, x, velocity, step) -> (x, state)`. All arithmetic is in
the dtype of `x`; the sampler keeps latents in float32 on purpose.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from heliograph.config import SolverName
from heliograph.flow.path import interpolate, to_x0
from heliograph.flow.schedule import Step

SMALLEST_SIGMA = 1e-8
"""Stands for sigma 0 inside logarithms."""


@runtime_checkable
class Solver(Protocol):
    """One step function with the memory it needs within a pyramid level."""

    def start(self, x: Tensor) -> Any:
        """State at the start of a level, where the latents are `x`."""
        ...

    def step(self, state: Any, x: Tensor, velocity: Tensor, step: Step) -> tuple[Tensor, Any]:
        """Latents at `step.after`, and the state for the next step."""
        ...


@dataclass(frozen=True)
class Euler:
    """x ← x + (after − remaining)·v."""

    def start(self, x: Tensor) -> None:
        """Euler remembers nothing."""
        return None

    def step(self, state: None, x: Tensor, velocity: Tensor, step: Step) -> tuple[Tensor, None]:
        """One straight step along the velocity."""
        return x + (step.after - step.remaining) * velocity, None


@dataclass(frozen=True)
class FewStep:
    """Few-step sampling of the distilled model: go to the far end, mix back with the level's starting point.

    The same starting point is used every time, so sampling is deterministic once the level has begun.
    """

    def start(self, x: Tensor) -> Tensor:
        """The level's starting point is the state."""
        return x

    def step(self, state: Tensor, x: Tensor, velocity: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """To the far end x − remaining·v, then back up to `after` towards the starting point."""
        far_end = to_x0(x, velocity, step.remaining)
        return interpolate(far_end, state, step.after) if step.after > 0 else far_end, state


@dataclass(frozen=True)
class UniPCState:
    """The last corrected latents, the far-end estimates made so far (newest last) with their positions, last order."""

    corrected: Tensor | None = None
    estimates: tuple[Tensor, ...] = ()
    positions: tuple[float, ...] = ()
    order: int = 1


@dataclass(frozen=True)
class UniPC:
    """UniPC predictor-corrector of order 2, B(h) = e^h − 1 ("bh2"), on far-end estimates (arXiv 2302.04867).

    With λ(σ) = ln(1 − σ) − ln σ the path is exact while the far-end estimate does not change. Order 1 at the first and
    at the last step of a level.
    """

    def start(self, x: Tensor) -> UniPCState:
        """A level begins without memory."""
        return UniPCState()

    def step(self, state: UniPCState, x: Tensor, velocity: Tensor, step: Step) -> tuple[Tensor, UniPCState]:
        """Correct `x` with the new far-end estimate, then predict the next point."""
        estimate = to_x0(x, velocity, step.remaining)
        corrected = _correct(state, estimate, step.remaining) if state.estimates else x
        estimates = (*state.estimates[-1:], estimate)
        positions = (*state.positions[-1:], step.remaining)
        order = 2 if len(estimates) == 2 and step.after > 0 else 1
        state = UniPCState(corrected, estimates, positions, order)
        return _predict(state, step.after), state


def make_solver(name: SolverName) -> Solver:
    """The solver of this name."""
    return {"euler": Euler, "unipc": UniPC, "few_step": FewStep}[name]()


def _log_ratio(sigma: float) -> float:
    """λ(σ) = ln(1 − σ) − ln σ, half the log of the signal-to-noise ratio's square root."""
    return math.log(1 - sigma) - math.log(max(sigma, SMALLEST_SIGMA))


def _predict(state: UniPCState, after: float) -> Tensor:
    """Latents at `after` from the corrected latents and the newest one or two estimates."""
    assert state.corrected is not None
    newest, sigma = state.estimates[-1], state.positions[-1]
    h = _log_ratio(after) - _log_ratio(sigma)
    decay = math.expm1(-h)
    x = (max(after, SMALLEST_SIGMA) / sigma) * state.corrected - ((1 - after) * decay) * newest
    if state.order == 2:
        ratio = (_log_ratio(state.positions[0]) - _log_ratio(sigma)) / h
        x = x - ((1 - after) * decay * 0.5 / ratio) * (state.estimates[0] - newest)
    return x


def _correct(state: UniPCState, estimate: Tensor, sigma: float) -> Tensor:
    """The latents at `sigma` once more, now that the far end has been estimated there too."""
    assert state.corrected is not None
    newest, before = state.estimates[-1], state.positions[-1]
    h = _log_ratio(sigma) - _log_ratio(before)
    decay = math.expm1(-h)
    gain = (1 - sigma) * decay
    x = (sigma / before) * state.corrected - gain * newest
    if state.order == 1:
        return x - (gain * 0.5) * (estimate - newest)
    ratio = (_log_ratio(state.positions[0]) - _log_ratio(before)) / h
    old_weight, new_weight = _corrector_weights(h, decay, ratio)
    return x - gain * (old_weight / ratio * (state.estimates[0] - newest) + new_weight * (estimate - newest))


def _corrector_weights(h: float, decay: float, ratio: float) -> tuple[float, float]:
    """Solve ρ1 + ρ2 = b1, ρ1·r + ρ2 = b2 for the two difference terms of the order-2 corrector."""
    phi_1 = decay / -h - 1
    phi_2 = phi_1 / -h - 0.5
    b_1, b_2 = phi_1 / decay, 2 * phi_2 / decay
    old_weight = (b_1 - b_2) / (1 - ratio)
    return old_weight, b_1 - old_weight
