"""Stage 3, second half: the student's sampling with gradient, three roles, and who is updated by what."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heliograph.config import MemoryConfig
from heliograph.errors import UserError
from heliograph.flow.pyramid import BLOCK, build_pyramid, jump, shrink_noise
from heliograph.flow.solvers import FewStep
from heliograph.presets import DISTILLED, MID
from heliograph.sample import Branches, Sampler, denoise_chunk
from heliograph.seeds import RequestSeeds
from heliograph.train import distill as distill_module
from heliograph.train.adapter import AdapterConfig, add_adapter
from heliograph.train.corrupt import NO_CORRUPTION, Corruption, PastConfig, StartMix
from heliograph.train.distill import DistillConfig, DistillStage
from heliograph.train.dmd import TimeDraw
from heliograph.train.gan import GanConfig, HeadSizes
from heliograph.train.network import Given
from heliograph.train.roles import Roles, make_heads
from heliograph.train.simulate import draw_exits, simulate, stop_early
from heliograph.train.stage import Batch
from tests.train.examples import (
    AS_IT_IS,
    SIDE,
    example,
    first_chunks,
    generator,
    given,
    learner,
    network,
    normal,
    train,
)

GAN = GanConfig(blocks=(0, 1), sizes=HeadSizes(8, 1), first_step=0)
ONE_STEP = replace(DISTILLED, steps=(1, 1, 1), first_chunk_steps=None)
PLAIN = DistillConfig(sampler=ONE_STEP, past=AS_IT_IS, student_corruption=NO_CORRUPTION)


def stage(config: DistillConfig = PLAIN, seed: int = 0) -> DistillStage:
    """Stage 3 on small networks: a student, a critic unlike its teacher, and heads where they are asked for."""
    scores = network(seed + 1)
    add_adapter(scores, AdapterConfig(4), "critic")
    draws = generator(seed)
    with torch.no_grad():
        for name, parameter in scores.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draws))
    torch.manual_seed(seed)
    heads = make_heads(scores, config.gan) if config.gan else None
    return DistillStage(Roles(network(seed), scores, heads), config, MemoryConfig(), normal(1, 5, 32, seed=9))


def with_gradient(modules: dict[str, nn.Module | None]) -> set[str]:
    """Names of modules that have a gradient that is not zero."""
    return {
        name
        for name, module in modules.items()
        if module is not None and any(p.grad is not None and p.grad.any() for p in module.parameters())
    }


def everyone(small: DistillStage) -> dict[str, nn.Module | None]:
    """The networks of all roles."""
    return {"student": small.roles.student, "scores": small.roles.scores, "heads": small.roles.heads}


# Backward simulation


class LevelBiases(nn.Module):
    """A denoiser with one parameter for each pyramid level; each counts how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.biases = nn.ParameterDict({str(side): nn.Parameter(torch.tensor(0.3)) for side in (2, 4, 8)})
        self.calls: list[tuple[int, float, bool]] = []

    def forward(self, x: Tensor, timestep: float, condition: Any) -> Tensor:
        """A velocity that the level's parameter takes part in."""
        self.calls.append((x.shape[-1], timestep, torch.is_grad_enabled()))
        return torch.tanh(x) * self.biases[str(x.shape[-1])]


def made(denoiser: LevelBiases, exits: tuple[int, ...], count: int = 2) -> Tensor:
    """A simulated chunk that leaves its levels at these steps."""
    pyramid = build_pyramid(DISTILLED.schedule, (count,) * 3, SIDE, SIDE)
    noise = normal(1, 4, 9, SIDE, SIDE)
    return simulate(denoiser, noise, given(), stop_early(pyramid, exits), RequestSeeds(0).for_chunk(0))


@pytest.mark.parametrize(
    ("exits", "levels"),
    [
        ((0, 0, 0), {"2", "4", "8"}),
        ((1, 0, 0), {"2", "4", "8"}),
        ((1, 0, 1), {"8"}),
        ((0, 1, 0), {"4", "8"}),
        ((1, 1, 0), {"4", "8"}),
        ((0, 1, 1), {"8"}),
        ((0, 0, 1), {"8"}),
        ((1, 1, 1), {"8"}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_a_level_receives_gradient_only_while_all_later_ones_leave_at_their_first_step(
    exits: tuple[int, ...], levels: set[str]
) -> None:
    denoiser = LevelBiases()
    made(denoiser, exits).square().mean().backward()
    assert {side for side, p in denoiser.biases.items() if p.grad is not None and p.grad != 0} == levels


def test_only_the_last_step_of_a_level_is_run_with_gradient() -> None:
    denoiser = LevelBiases()
    made(denoiser, (2, 0, 3), count=4)
    assert [(side, with_grad) for side, _, with_grad in denoiser.calls] == [
        *[(2, False), (2, False), (2, True)],
        (4, True),
        *[(8, False), (8, False), (8, False), (8, True)],
    ]


def test_nothing_carries_gradient_where_the_caller_switched_it_off() -> None:
    denoiser = LevelBiases()
    with torch.no_grad():
        assert not made(denoiser, (0, 0, 0)).requires_grad
    assert not any(with_grad for *_, with_grad in denoiser.calls)


def test_gradient_mode_is_as_it_was_afterwards() -> None:
    made(LevelBiases(), (1, 1, 1))
    assert torch.is_grad_enabled()


def test_leaving_every_level_at_its_last_step_is_the_students_sampling() -> None:
    denoiser, seeds = LevelBiases(), RequestSeeds(0).for_chunk(0)
    sampler = Sampler(build_pyramid(DISTILLED.schedule, (2, 2, 2), SIDE, SIDE), FewStep(), DISTILLED.guidance)
    *_, wanted = denoise_chunk(denoiser, normal(1, 4, 9, SIDE, SIDE), Branches(given()), sampler, seeds)
    assert torch.equal(made(denoiser, (1, 1, 1)), wanted)


def test_leaving_early_hands_the_far_end_seen_from_there_to_the_next_level() -> None:
    pyramid, seeds = build_pyramid(DISTILLED.schedule, (2, 2, 2), SIDE, SIDE), RequestSeeds(0).for_chunk(0)
    x = shrink_noise(normal(1, 4, 9, SIDE, SIDE), 3)
    for level in pyramid.levels:
        if level.jump is not None:
            x = jump(x, seeds.block(level.index, (*x.shape, BLOCK)), level.jump, pyramid.gamma)
        x = x - level.steps[0].remaining * 0.3 * torch.tanh(x)
    assert torch.allclose(made(LevelBiases(), (0, 0, 0)), x, atol=1e-6)


def test_leaving_early_asks_for_the_same_timesteps_up_to_there() -> None:
    full, early = LevelBiases(), LevelBiases()
    made(full, (3, 3, 3), count=4)
    made(early, (1, 2, 0), count=4)
    told = [timestep for _, timestep, _ in full.calls]
    assert [timestep for _, timestep, _ in early.calls] == [*told[:2], *told[4:7], told[8]]


def test_exits_are_uniform_over_the_steps_of_each_level() -> None:
    pyramid = build_pyramid(DISTILLED.schedule, (4, 2, 1), SIDE, SIDE)
    exits = torch.tensor([draw_exits(pyramid, generator(seed)) for seed in range(400)])
    for level, count in enumerate((4, 2, 1)):
        shares = [float((exits[:, level] == e).float().mean()) for e in range(count)]
        assert shares == pytest.approx([1 / count] * count, abs=0.08)


def test_samples_that_begin_from_nothing_take_the_first_chunk_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        distill_module, "draw_exits", lambda pyramid, _: tuple(len(level.steps) - 1 for level in pyramid.levels)
    )
    small, calls = stage(replace(PLAIN, sampler=DISTILLED)), []
    small.roles.student.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[0]))
    batch = example(3)
    batch.history[1], batch.anchor[1] = 0, 0
    with torch.no_grad():
        chunk = small.make_chunk(small.scene(batch, generator()), generator())
    assert calls == [1] * 12 + [2] * 6
    assert chunk.shape == batch.chunk.shape


def test_chunks_stay_with_their_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_text_value(denoiser: object, noise: Tensor, condition: Given, *_: object) -> Tensor:
        return condition.text[:, :1, :1, None, None].expand_as(noise)

    monkeypatch.setattr(distill_module, "simulate", first_text_value)
    batch = example(4)
    assert batch.text is not None
    batch.history[::2], batch.anchor[::2] = 0, 0
    chunk = stage().make_chunk(stage().scene(batch, generator()), generator())
    assert torch.equal(chunk[:, 0, 0, 0, 0], batch.text[:, 0, 0])


# Roles


@torch.no_grad()
def test_the_teacher_is_the_backbone_and_the_critic_its_adapted_form() -> None:
    small, plain = stage(), network(1)
    x, timestep, condition = normal(2, 16, 9, SIDE, SIDE), torch.tensor([700.0, 40.0]), given(2)
    teacher = small.roles.teacher(x, timestep, condition)
    assert torch.equal(teacher, plain(x, timestep, condition.text, condition.tiers))
    assert not torch.allclose(small.roles.critic(x, timestep, condition), teacher)


def test_a_critic_that_equals_its_teacher_gives_no_gradient_without_guidance() -> None:
    small = stage(replace(PLAIN, teacher_guidance=1.0))
    for name, parameter in small.roles.scores.named_parameters():
        if "lora_B" in name:
            nn.init.zeros_(parameter)
    x, timestep = normal(2, 16, 9, SIDE, SIDE), torch.tensor([700.0, 40.0])
    assert float(small.score_gradient(x, timestep, given(2), generator()).abs().max()) < 1e-5
    guided = replace(small, config=replace(PLAIN, teacher_guidance=4.0))
    assert float(guided.score_gradient(x, timestep, given(2), generator()).abs().max()) > 1e-2


def test_two_groups_are_trained_and_the_backbone_is_in_neither() -> None:
    groups = stage(replace(PLAIN, gan=GAN)).trainable()
    assert set(groups) == {"student", "critic"}
    assert all(name.startswith("transformer.") for name in groups["student"].parameters)
    assert all("lora" in name or name.startswith("heads.") for name in groups["critic"].parameters)
    assert (groups["student"].learning_rate, groups["critic"].learning_rate) == (2e-6, 4e-7)
    assert {(g.betas, g.weight_decay, g.max_grad_norm) for g in groups.values()} == {((0.0, 0.999), 1e-3, 1.0)}


def test_the_critic_is_updated_in_every_step_and_the_student_before_it_in_every_fifth() -> None:
    small = stage()
    assert [small.losses(step) for step in range(6)] == [
        ("student", "critic"),
        *[("critic",)] * 4,
        ("student", "critic"),
    ]


@pytest.mark.parametrize("gan", [None, GAN], ids=["plain", "gan"])
def test_the_students_loss_reaches_the_student_alone(gan: GanConfig | None) -> None:
    small = stage(replace(PLAIN, gan=gan))
    small.loss("student", example(1), 0, generator()).total.backward()
    assert with_gradient(everyone(small)) == {"student"}


@pytest.mark.parametrize("gan", [None, GAN], ids=["plain", "gan"])
def test_the_critics_loss_reaches_the_adapter_and_the_heads_alone(gan: GanConfig | None) -> None:
    small = stage(replace(PLAIN, gan=gan))
    small.loss("critic", example(1), 0, generator()).total.backward()
    assert with_gradient(everyone(small)) == ({"scores", "heads"} if gan else {"scores"})
    reached = {name for name, p in small.roles.scores.named_parameters() if p.grad is not None}
    assert reached and all("lora" in name for name in reached)


def test_a_step_of_either_group_is_a_function_of_batch_and_generator() -> None:
    small, batch = stage(DistillConfig(gan=GAN, sampler=ONE_STEP)), example(1)
    for group in ("student", "critic"):
        first, again, other = (small.loss(group, batch, 0, generator(seed)).total for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)


# What everyone sees


def test_only_the_student_sees_the_history_exposed_wrongly() -> None:
    config = replace(PLAIN, student_corruption=Corruption(noise=0.0, blur=0.0, exposure=1.0))
    batch = example(2)
    scene = stage(config).scene(batch, generator())
    assert torch.equal(scene.given.tiers.long.latents, batch.history[:, :, :16])
    seen = scene.student_given.tiers.long.latents
    assert not torch.allclose(seen, batch.history[:, :, :16])
    assert torch.allclose(seen.mean(dim=1), batch.history[:, :, :16].mean(dim=1), atol=1e-5)


def test_all_roles_see_the_same_start_and_noise() -> None:
    config = replace(PLAIN, past=PastConfig(StartMix(0.0, 0.0, 1.0), Corruption(noise=1.0, blur=0.0)))
    scene = stage(config).scene(example(8), generator())
    for name in ("long", "mid", "short"):
        assert torch.equal(getattr(scene.given.tiers, name).latents, getattr(scene.student_given.tiers, name).latents)


def test_a_text_start_of_a_later_chunk_counts_as_beginning_from_nothing() -> None:
    config = replace(PLAIN, past=PastConfig(StartMix(0.5, 0.0, 0.0), NO_CORRUPTION))
    scene = stage(config).scene(example(32), generator())
    anchors = scene.given.tiers.short.latents[:, :, 0].flatten(1)
    assert torch.equal(scene.is_first, ~anchors.any(dim=1)) and 4 < int(scene.is_first.sum()) < 28


# The adversarial part


def views(small: DistillStage, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the heads are shown in a step of the critic."""
    shown: dict[str, Any] = {}
    real = Roles.logits

    def watch(self: Roles, x: Tensor, timestep: Tensor, condition: Given, gan: GanConfig) -> Tensor:
        shown.update(x=x.detach(), timestep=timestep, given=condition)
        return real(self, x, timestep, condition, gan)

    monkeypatch.setattr(Roles, "logits", watch)
    small.loss("critic", batch, 0, generator())
    return shown


def test_real_and_made_chunks_are_seen_after_the_same_history_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = example(2)
    shown = views(stage(replace(PLAIN, gan=GAN)), batch, monkeypatch)
    assert torch.equal(shown["given"].text, batch.text.repeat(3, 1, 1))
    assert torch.equal(shown["given"].tiers.long.latents, batch.history[:, :, :16].repeat(3, 1, 1, 1, 1))
    assert torch.equal(shown["timestep"][:2], shown["timestep"][2:4])


def test_the_real_chunk_of_the_batch_is_seen_through_the_noise_of_the_made_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # At a full crop and next to no noise, what is seen is the chunk itself.
    batch = replace(example(1), chunk=torch.full((1, 16, 9, SIDE, SIDE), 5.0))
    config = replace(PLAIN, gan=GAN, critic_times=TimeDraw(shift=1e-6))
    shown = views(stage(config), batch, monkeypatch)
    assert shown["timestep"].tolist() == [20.0] * 3
    made_view, real_view, nearby = shown["x"]
    assert float(real_view.mean()) == pytest.approx(0.98 * 5, abs=0.02)
    assert float((nearby - real_view).std()) == pytest.approx(0.1, rel=0.1)
    assert tuple(shown["x"].shape[-2:]) == (4, 4)
    # Both carry the same 2% of noise.
    assert float((real_view - 4.9).std()) == pytest.approx(0.02, rel=0.1)
    assert not torch.allclose(made_view, real_view)


def test_one_crop_is_shared_so_that_r1_without_noise_is_zero() -> None:
    small = stage(replace(PLAIN, gan=replace(GAN, r1_sigma=0.0)))
    assert float(small.loss("critic", example(2), 0, generator()).parts["r1"]) < 1e-9


def test_heads_begin_to_count_at_their_first_step() -> None:
    small = stage(replace(PLAIN, gan=replace(GAN, first_step=3)))
    scene = small.scene(example(1), generator())
    for loss_at, figure in ((small.student_loss, "adversarial"), (small.critic_loss, "apart")):
        assert figure not in loss_at(scene, 2, generator()).parts
        assert figure in loss_at(scene, 3, generator()).parts


def test_the_total_is_the_weighted_sum_of_its_parts() -> None:
    small = stage(replace(PLAIN, gan=GAN))
    student = small.loss("student", example(1), 0, generator())
    assert float(student.total.detach()) == pytest.approx(
        float(student.parts["dmd"] + 0.05 * student.parts["adversarial"]), rel=1e-5
    )
    critic = small.loss("critic", example(1), 0, generator())
    wanted = critic.parts["flow"] + 0.01 * critic.parts["apart"] + 100 * critic.parts["r1"]
    assert float(critic.total.detach()) == pytest.approx(float(wanted), rel=1e-5)


# Configuration


def test_a_student_that_does_not_sample_in_few_steps_is_refused() -> None:
    with pytest.raises(UserError, match="few steps"):
        DistillConfig(sampler=MID)


def test_a_student_that_is_never_updated_is_refused() -> None:
    with pytest.raises(UserError, match="critic_steps=0"):
        DistillConfig(critic_steps=0)


# Small runs


def test_the_critic_learns_what_the_student_makes() -> None:
    scores = learner(1)
    add_adapter(scores, AdapterConfig(16), "critic")
    small = DistillStage(Roles(network(0, std=0.05), scores), PLAIN, MemoryConfig(), normal(1, 5, 32, seed=9))
    losses = train(small, example(1), "critic", 16, 1e-2)
    assert losses[-1] < 0.7 * losses[0]


def test_a_run_of_both_groups_stays_finite_and_moves_both() -> None:
    small = stage(DistillConfig(gan=GAN, sampler=ONE_STEP, critic_steps=2))
    groups = {
        name: torch.optim.AdamW(group.parameters.values(), lr=1e-3, betas=group.betas)
        for name, group in small.trainable().items()
    }
    before = {
        name: [p.detach().clone() for p in group.parameters.values()] for name, group in small.trainable().items()
    }
    for step in range(3):
        for name in small.losses(step):
            loss = small.loss(name, first_chunks(example(1)) if step % 2 else example(1), step, generator(step))
            groups[name].zero_grad()
            loss.total.backward()
            groups[name].step()
            small.after_step(step)
            assert all(bool(value.isfinite()) for value in (loss.total, *loss.parts.values()))
    for name, group in small.trainable().items():
        assert any(not torch.equal(p, old) for p, old in zip(group.parameters.values(), before[name], strict=True))
