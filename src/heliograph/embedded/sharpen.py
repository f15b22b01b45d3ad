"""The pixel refiner trained on against a critic, so that edges are edges.

A refiner that is trained for small errors alone paints what is uncertain as the mean of what it may be: soft. A critic
that sees what was painted beside what was made of it, or beside the truth, asks for pictures that could be true
(conditional GAN, Isola et al., arXiv 1611.07004; hinge losses, Lim and Ye, arXiv 1705.02894).
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from heliograph.data.world_examples import WorldCacheSource
from heliograph.embedded.refine import Examples, Groups, RefineConfig, RefinerTraining, with_refiner
from heliograph.embedded.small_training import store, train_until
from heliograph.errors import UserError
from heliograph.linear_autoencoder import LinearAutoencoder
from heliograph.pipeline import HeliosPipeline
from heliograph.shapes import FRAME_STRIDE

OPINION_STRIDE = 4
"""Pixels between the critic's opinions."""


@dataclass(frozen=True)
class SharpenConfig(RefineConfig):
    """How the refiner is trained on: the same loss, and `adversarial_weight` times what the critic says.

    `feature_weight` is that of the critic's features, which are to be as of the true picture (arXiv 1711.11585). The
    critic has width `critic_dim` and learns at `critic_rate` times the refiner's rate, `critic_lead` steps alone at
    first. What is kept of the refiner is its average over about 1 / (1 - `ema`) steps.
    """

    batch_size: int = 5
    num_groups: int = 14
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.98)
    max_grad_norm: float = 0.5
    true_share: float = 0.2
    adversarial_weight: float = 0.02
    feature_weight: float = 0.04
    critic_dim: int = 48
    critic_rate: float = 2.0
    critic_lead: int = 60
    ema: float = 0.98


class PictureCritic(nn.Module):
    """Opinions on patches of pictures, four frames at once, that are said to be made of what was painted."""

    def __init__(self, dim: int) -> None:
        """Four layers of features of width `dim` and twice that, under spectral norms (arXiv 1802.05957)."""
        super().__init__()
        values = 2 * 3 * FRAME_STRIDE
        self.layers = nn.ModuleList(
            [
                spectral_norm(nn.Conv2d(values, dim, 4, 2, 1)),
                spectral_norm(nn.Conv2d(dim, 2 * dim, 4, 2, 1)),
                spectral_norm(nn.Conv2d(2 * dim, 2 * dim, 3, 1, 1)),
                spectral_norm(nn.Conv2d(2 * dim, 2 * dim, 3, 1, 1)),
            ]
        )
        self.opinion = spectral_norm(nn.Conv2d(2 * dim, 1, 3, 1, 1))

    def forward(self, picture: Groups, painted: Groups) -> tuple[Float[Tensor, "g 1 y x"], list[Tensor]]:
        """Opinions, high where the picture seems true, one for every four pixels a side; and the layers' features."""
        hidden, features = torch.cat([picture, painted], dim=1), []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.2)
            features.append(hidden)
        return self.opinion(hidden).float(), features


class SharpenTraining(RefinerTraining):
    """A refiner, its average and its critic on their way."""

    config: SharpenConfig

    def __init__(self, model: LinearAutoencoder, config: SharpenConfig, examples: Examples) -> None:
        super().__init__(model, config, examples)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.critic = PictureCritic(config.critic_dim)
        self.critic_optimiser = torch.optim.AdamW(
            self.critic.parameters(), betas=config.betas, weight_decay=config.weight_decay
        )
        self.average = {name: value.clone() for name, value in self.refiner.state_dict().items()}

    def take_step(self) -> float:
        """One update of the critic and one of the refiner; returns the refiner's loss without the critic's part."""
        painted, cells, wanted, weight = self.draw(self.generator())
        with torch.autocast("cpu", torch.bfloat16):
            made = self.refiner.refine(painted, cells).float()
        patches = F.avg_pool2d(weight, OPINION_STRIDE)
        self._update_critic(painted, made.detach(), wanted, patches)
        error = self._loss(made - wanted, weight)
        self.critic.requires_grad_(requires_grad=False)
        self._update(error + self._asked(painted, made, wanted, patches))
        self.critic.requires_grad_(requires_grad=True)
        for name, value in self.refiner.state_dict().items():
            self.average[name].lerp_(value, 1 - self.config.ema)
        self.step += 1
        return float(error.detach())

    def rate(self) -> float:
        """Learning rate of the refiner in this step: 0 while the critic leads."""
        return self.config.rate_at(self.step) if self.step >= self.config.critic_lead else 0.0

    def pick(self, shares: Float[Tensor, " g"], generator: torch.Generator) -> Tensor:
        """Latent frames that show a subject come first, most of the time: they are what looks soft."""
        luck = 0.9 * torch.rand(len(shares), generator=generator)
        return ((shares > 0.3).float() + luck).argsort(descending=True)[: self.config.num_groups]

    def save(self, file: Path) -> None:
        """Store everything to go on from; `refiner` is the average."""
        parts = {"current": self.refiner, "critic": self.critic, "optimiser": self.optimiser}
        states: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
        critic_optimiser = self.critic_optimiser.state_dict()
        store(file, {"step": self.step, "refiner": self.average, "critic_optimiser": critic_optimiser, **states})

    def resume(self, file: Path) -> None:
        """Go on from what `save` stored."""
        state = torch.load(file, weights_only=True)
        self.step, self.average = state["step"], state["refiner"]
        self.refiner.load_state_dict(state["current"])
        for name in ("critic", "optimiser", "critic_optimiser"):
            getattr(self, name).load_state_dict(state[name])

    def _update_critic(self, painted: Groups, made: Groups, wanted: Groups, patches: Float[Tensor, "g 1 y x"]) -> None:
        """Hinge loss: the truth above 1, what was made below -1."""
        with torch.autocast("cpu", torch.bfloat16):
            opinions, _ = self.critic(torch.cat([wanted, made]), painted.repeat(2, 1, 1, 1))
        of_true, of_made = opinions.chunk(2)
        loss = (patches * (F.relu(1 - of_true) + F.relu(1 + of_made))).mean() / patches.mean()
        self.critic_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimiser.param_groups[0]["lr"] = self.config.critic_rate * self.config.rate_at(self.step)
        self.critic_optimiser.step()

    def _asked(
        self, painted: Groups, made: Groups, wanted: Groups, patches: Float[Tensor, "g 1 y x"]
    ) -> Float[Tensor, ""]:
        """The critic's part of the refiner's loss."""
        with torch.autocast("cpu", torch.bfloat16):
            opinions, features = self.critic(made, painted)
            with torch.no_grad():
                _, true = self.critic(wanted, painted)
        apart = torch.stack([(a.float() - b.float()).abs().mean() for a, b in zip(features, true, strict=True)])
        believed = (patches * opinions).mean() / patches.mean()
        return self.config.feature_weight * apart.mean() - self.config.adversarial_weight * believed


def sharpen_refiner(
    model: str, source: WorldCacheSource, refined: Path, state: Path, config: SharpenConfig, max_seconds: float
) -> bool:
    """Train the refiner of the training `refined` on, from where `state` left off; returns whether all steps are done.

    Raises:
        UserError: `refined` cannot be read.
    """
    torch.set_num_threads(1)
    end = time.monotonic() + max_seconds
    engine = HeliosPipeline.from_pretrained(model, device="cpu", dtype="float32").engine
    try:
        weights = torch.load(refined, weights_only=True)["refiner"]
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(f"{refined} is no training of a refiner ({error}); run `refine` first") from error
    autoencoder = with_refiner(engine.codec.autoencoder, weights["place"].shape[0])
    assert autoencoder.refiner is not None
    autoencoder.refiner.load_state_dict(weights)
    training = SharpenTraining(autoencoder, config, Examples.make(engine, source, config))
    if state.exists():
        training.resume(state)
    return train_until(training, state, config.max_steps, end, 100, lambda: f"rate {training.rate():.1e}")
