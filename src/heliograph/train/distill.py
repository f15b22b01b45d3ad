"""Stage 3, second half, `distill`: few steps, no guidance (Helios, adversarial hierarchical distillation).

The student makes a chunk with its own sampler, after real history. Teacher and critic judge it at full resolution; the
critic learns what the student makes, `critic_steps` times for each of the student's updates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from heliograph.config import MemoryConfig, SamplerConfig
from heliograph.errors import UserError
from heliograph.flow.guidance import classifier_free
from heliograph.flow.path import interpolate, to_x0, velocity
from heliograph.presets import DISTILLED
from heliograph.sample import make_sampler
from heliograph.seeds import GeneratorSeeds
from heliograph.train.corrupt import Corruption, PastConfig, StartMix, corrupt, shown_past, tiers_of
from heliograph.train.dmd import TimeDraw, dmd_gradient, dmd_loss
from heliograph.train.draw import normal
from heliograph.train.gan import (
    GanConfig,
    approximate_r1,
    cached_gradient,
    critic_logit_loss,
    draw_crop,
    student_logit_loss,
)
from heliograph.train.network import Given, denoise, text_of
from heliograph.train.objective import per_sample, velocity_loss
from heliograph.train.roles import Roles
from heliograph.train.simulate import draw_exits, simulate, stop_early
from heliograph.train.stage import Batch, Loss, Optimiser, ParameterGroup


@dataclass(frozen=True)
class DistillConfig:
    """How stage 3 trains.

    `sampler` is the student's. All three roles are given the same `past`; `student_corruption` degrades the student's
    view of it once more, so that it learns to go on in the right colours from wrong ones. `teacher_guidance` is w in
    u + w·(c − u). `gan` None leaves the adversarial part out.
    """

    sampler: SamplerConfig = DISTILLED
    past: PastConfig = field(
        default_factory=lambda: PastConfig(StartMix(0.4, 0.1, 0.4), Corruption(noise=0.4, blur=0.0))
    )
    student_corruption: Corruption = field(default_factory=lambda: Corruption(noise=0.0, blur=0.0, exposure=0.4))
    teacher_guidance: float = 4.0
    critic_steps: int = 5
    student_times: TimeDraw = field(default_factory=lambda: TimeDraw(steps=500))
    critic_times: TimeDraw = field(default_factory=TimeDraw)
    gan: GanConfig | None = None
    student_optimiser: Optimiser = field(default_factory=lambda: Optimiser(2e-6, (0.0, 0.999), 1e-3))
    critic_optimiser: Optimiser = field(default_factory=lambda: Optimiser(4e-7, (0.0, 0.999), 1e-3))

    def __post_init__(self) -> None:
        if self.sampler.schedule.solver != "few_step" or self.sampler.guidance.is_on:
            raise UserError("the student samples in few steps and without guidance; use the sampler of `distilled`")
        if self.critic_steps < 1:
            raise UserError(f"critic_steps={self.critic_steps} never trains the student; use 1 or more")


@dataclass(frozen=True)
class Scene:
    """One batch as a step uses it: the real chunk, what everyone is given, what the student sees instead.

    `is_first` says which samples begin from nothing, so that the student makes them with its first-chunk steps.
    """

    chunk: Float[Tensor, "b c t h w"]
    given: Given
    student_given: Given
    is_first: Bool[Tensor, " b"]


@dataclass(frozen=True)
class DistillStage:
    """Stage 3, second half. `negative_text` is what the teacher is guided away from; a text encoder stays frozen."""

    roles: Roles
    config: DistillConfig
    memory: MemoryConfig
    negative_text: Float[Tensor, "1 l d"]
    text_encoder: nn.Module | None = None

    def trainable(self) -> Mapping[str, ParameterGroup]:
        """Two groups, `student` and `critic` (with the heads)."""
        roles = self.roles
        return {
            "student": self.config.student_optimiser.group({"transformer": roles.student}),
            "critic": self.config.critic_optimiser.group({"critic": roles.scores, "heads": roles.heads}),
        }

    def losses(self, step: int) -> tuple[str, ...]:
        """The critic in every step; before it, in every `critic_steps`-th, the student."""
        return ("student", "critic") if step % self.config.critic_steps == 0 else ("critic",)

    def loss(self, group: str, batch: Batch, step: int, generator: torch.Generator) -> Loss:
        """The loss of either group."""
        scene = self.scene(batch, generator)
        if group == "student":
            return self.student_loss(scene, step, generator)
        return self.critic_loss(scene, step, generator)

    def after_step(self, step: int) -> None:
        """Between steps the student is on the device: it is sampled from and stored. Averages are the loop's."""
        self.roles.student_works()

    def scene(self, batch: Batch, generator: torch.Generator) -> Scene:
        """The batch with its past as a start and degraded, the same for all roles but for the student's own view."""
        past = shown_past(batch, self.config.past, generator)
        seen = corrupt(past, self.config.student_corruption, generator)
        with torch.no_grad():
            text = text_of(batch, self.text_encoder)
        given, student_given = (Given(text, tiers_of(p, self.memory, batch.chunk.shape[2])) for p in (past, seen))
        return Scene(batch.chunk, given, student_given, past.flatten(1).abs().amax(dim=1) == 0)

    def student_loss(self, scene: Scene, step: int, generator: torch.Generator) -> Loss:
        """Distribution matching on a chunk of the student's and, once heads count, their opinion of it."""
        self.roles.student_works()
        x = self.make_chunk(scene, generator)
        self.roles.scores_work()
        loss = self._judged(x, scene, step, generator)
        self.roles.student_works()  # the gradient goes back through the student alone
        return loss

    def _judged(self, x: Float[Tensor, "b c t h w"], scene: Scene, step: int, generator: torch.Generator) -> Loss:
        """What teacher, critic and heads say of a chunk of the student's."""
        timestep = self.config.student_times.draw(x.shape[0], step, generator, x.device)
        gradient = self.score_gradient(x.detach(), timestep, scene.given, generator)
        dmd = dmd_loss(x, gradient)
        figures = {"dmd": dmd.detach(), "gradient": gradient.abs().mean()}
        gan = self._gan(step)
        if gan is None:
            return Loss(dmd, figures, "student")
        crop = draw_crop(x.shape[-2], x.shape[-1], generator)
        noise = crop.of(normal(tuple(x.shape), generator, x.device))

        def opinion(chunk: Tensor) -> Tensor:
            noisy = interpolate(crop.of(chunk), noise, per_sample(timestep / 1000))
            return student_logit_loss(self.roles.logits(noisy, timestep, scene.given, gan))

        adversarial = cached_gradient(opinion, x)
        total = dmd + gan.student_weight * adversarial
        return Loss(total, {**figures, "adversarial": adversarial.detach()}, "student")

    def critic_loss(self, scene: Scene, step: int, generator: torch.Generator) -> Loss:
        """Flow matching on a chunk of the student's and, once heads count, telling it from the real chunk.

        One update for the sum of all terms.
        """
        self.roles.student_works()
        with torch.no_grad():
            x = self.make_chunk(scene, generator)
        self.roles.scores_work()
        timestep = self.config.critic_times.draw(x.shape[0], step, generator, x.device)
        noise = normal(tuple(x.shape), generator, x.device)
        noisy = interpolate(x, noise, per_sample(timestep / 1000))
        flow = velocity_loss(self.roles.critic(noisy, timestep, scene.given), velocity(x, noise))
        gan = self._gan(step)
        if gan is None:
            return Loss(flow, {"flow": flow.detach()}, "critic")
        # Real and made chunk follow the same history through the same noise, in the same crop.
        real = interpolate(scene.chunk, noise, per_sample(timestep / 1000))
        nearby = real + gan.r1_sigma * normal(tuple(x.shape), generator, x.device)
        crop = draw_crop(x.shape[-2], x.shape[-1], generator)
        views = crop.of(torch.cat([noisy, real, nearby]))
        logits = self.roles.logits(views, timestep.repeat(3), scene.given.repeat(3), gan).chunk(3)
        apart, r1 = critic_logit_loss(logits[0], logits[1]), approximate_r1(logits[1], logits[2])
        gap = (logits[0] - logits[1]).mean()
        figures = {"flow": flow.detach(), "apart": apart.detach(), "r1": r1.detach(), "gap": gap.detach()}
        return Loss(flow + gan.critic_weight * apart + gan.r1_weight * r1, figures, "critic")

    @torch.no_grad()
    def score_gradient(
        self, x: Float[Tensor, "b c t h w"], timestep: Float[Tensor, " b"], given: Given, generator: torch.Generator
    ) -> Float[Tensor, "b c t h w"]:
        """Where critic and guided teacher differ on the student's chunk, seen through new noise at `timestep`."""
        sigma = per_sample(timestep / 1000)
        noisy = interpolate(x, normal(tuple(x.shape), generator, x.device), sigma)
        without = Given(self.negative_text.expand_as(given.text), given.tiers)
        conditional = self.roles.teacher(noisy, timestep, given)
        guided = classifier_free(
            conditional, self.roles.teacher(noisy, timestep, without), self.config.teacher_guidance
        )
        by_critic = to_x0(noisy, self.roles.critic(noisy, timestep, given), sigma)
        return dmd_gradient(x, by_critic, to_x0(noisy, guided, sigma))

    def make_chunk(self, scene: Scene, generator: torch.Generator) -> Float[Tensor, "b c t h w"]:
        """The student's chunk for every sample; those that begin from nothing take the first-chunk steps."""
        student, seeds = partial(denoise, self.roles.student), GeneratorSeeds(generator, scene.chunk.device)
        order, chunks = [], []
        for chunk, is_here in enumerate((scene.is_first, ~scene.is_first)):
            rows = is_here.nonzero().flatten()
            if len(rows) == 0:
                continue
            shape = (len(rows), *scene.chunk.shape[1:])
            pyramid = make_sampler(self.config.sampler, chunk, *shape[-2:]).pyramid
            exits = draw_exits(pyramid, generator)
            given = scene.student_given.rows(rows)
            order.append(rows)
            chunks.append(simulate(student, seeds.noise(shape), given, stop_early(pyramid, exits), seeds))
        return torch.cat(chunks)[torch.cat(order).argsort()]

    def _gan(self, step: int) -> GanConfig | None:
        """The adversarial part, once its time has come."""
        gan = self.config.gan
        return gan if gan is not None and step >= gan.first_step else None
