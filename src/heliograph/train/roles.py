"""Student, teacher and critic by name, and the heads that read the critic (Helios, two backbones for four models)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.adapter import adapter_off
from heliograph.train.gan import GanConfig, Heads
from heliograph.train.idle import Turns
from heliograph.train.network import Given, denoise


@dataclass(frozen=True)
class Roles:
    """Student, teacher and critic: the critic is an adapter on the teacher's backbone `scores`; heads read the critic.

    `scores` has its adapter on it. `heads` are None where there is no adversarial part. `turns`, where given, take the
    frozen weights of whoever is idle off the device.
    """

    student: HeliosTransformer3DModel
    scores: HeliosTransformer3DModel
    heads: Heads | None = None
    turns: Turns | None = None

    def student_works(self) -> None:
        """The student is called next, or gone back through."""
        if self.turns is not None:
            self.turns.to_student()

    def scores_work(self) -> None:
        """Teacher, critic or heads are called next, or gone back through."""
        if self.turns is not None:
            self.turns.to_scores()

    def critic(self, x: Tensor, timestep: Tensor, given: Given) -> Float[Tensor, "b c t h w"]:
        """Velocity of the model of the student's chunks."""
        return denoise(self.scores, x, timestep, given)

    @torch.no_grad()
    def teacher(self, x: Tensor, timestep: Tensor, given: Given) -> Float[Tensor, "b c t h w"]:
        """Velocity of the frozen model."""
        with adapter_off(self.scores):
            return denoise(self.scores, x, timestep, given)

    def logits(self, x: Tensor, timestep: Tensor, given: Given, gan: GanConfig) -> Float[Tensor, "b n"]:
        """Logits of all heads, on the critic's features and on its velocity; large means made by the student."""
        assert self.heads is not None, "there are no heads"
        given, x = given.to(self.scores.dtype), x.to(self.scores.dtype)
        v, features = self.scores.forward_with_features(x, timestep, given.text, given.tiers, gan.blocks)
        return self.heads((*features, v))


def make_heads(scores: HeliosTransformer3DModel, gan: GanConfig) -> Heads:
    """Fresh heads for a backbone."""
    sizes = scores.config
    width = sizes["num_attention_heads"] * sizes["attention_head_dim"]
    return Heads([width] * len(gan.blocks) + [sizes["in_channels"]], gan.sizes)
