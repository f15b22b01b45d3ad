"""Stage 3, first half: teacher paths at the student's positions, and regression to the ends of levels."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from heliograph.config import Guidance, MemoryConfig, SamplerConfig, ScheduleConfig
from heliograph.errors import UserError
from heliograph.flow.pyramid import BLOCK, build_pyramid, jump, shrink_noise
from heliograph.memory import History, Tiers
from heliograph.model.denoiser import TransformerDenoiser
from heliograph.presets import DISTILLED, MID
from heliograph.rollout import next_turn
from heliograph.sample import Branches
from heliograph.seeds import RequestSeeds
from heliograph.train.network import Given
from heliograph.train.ode import (
    LevelTrail,
    OdeConfig,
    OdePairs,
    OdePlan,
    OdeStage,
    Student,
    followed_trails,
    merged_pyramid,
    prompt_seeds,
    teacher_trails,
    trail_loss,
)
from heliograph.train.prompted import prompted
from tests.train.examples import SIDE, generator, given, learner, network, normal, train

TEACHER = replace(MID, steps=(5, 5, 5), guidance=Guidance(1.0))
ONE_STEP = replace(DISTILLED, steps=(1, 1, 1), first_chunk_steps=None)
PLAN = OdePlan(TEACHER, DISTILLED, num_chunks=2)
SHAPE = (1, 16, SIDE, SIDE)


def teacher(x: Tensor, timestep: float, condition: object) -> Tensor:
    """A velocity that depends on place and time, so that paths are curved."""
    return torch.tanh(x) * (1 + timestep / 1000) - 0.3


def conditioning(tiers: Tiers, chunk: int) -> Branches:
    """What the test's teacher ignores."""
    return Branches(tiers)


def trails(plan: OdePlan = PLAN, seed: int = 0) -> list[tuple[LevelTrail, ...]]:
    """Paths of the curved teacher."""
    start = History.empty(SHAPE, MemoryConfig())
    return list(teacher_trails(teacher, start, conditioning, plan, RequestSeeds(seed)))


def pairs(seed: int = 0) -> OdePairs:
    """A batch of one prompt."""
    return OdePairs.of_teacher(normal(1, 5, 32, seed=seed), tuple(trails(seed=seed)))


def ends(plan: OdePlan = PLAN, seed: int = 0) -> Iterator[Tensor]:
    """The chunks of the same rollout, by the sampler itself."""
    history, chunk_seeds = History.empty(SHAPE, MemoryConfig()), RequestSeeds(seed)
    sampler = replace(plan.student, schedule=replace(plan.student.schedule, solver=plan.teacher.schedule.solver))
    sampler = replace(sampler, steps=plan.teacher.steps, first_chunk_steps=None, guidance=plan.teacher.guidance)
    for _ in range(plan.num_chunks):
        turn = next_turn(teacher, history, conditioning, sampler, chunk_seeds)
        history = turn.history
        yield turn.latents


# Plans


@pytest.mark.parametrize("chunk", [0, 1])
def test_the_teacher_stops_at_every_position_of_the_student_and_at_its_own(chunk: int) -> None:
    plan = OdePlan()
    merged = merged_pyramid(plan, chunk, 48, 80)
    student = build_pyramid(plan.student.schedule, plan.student.steps_for(chunk), 48, 80)
    for level, wanted in zip(merged.levels, student.levels, strict=True):
        known = {step.remaining: step.timestep for step in level.steps}
        assert all(known[step.remaining] == step.timestep for step in wanted.steps)
        assert len(level.steps) == 20 + len(wanted.steps) - 1


def test_merged_steps_fall_to_the_end_of_each_level() -> None:
    for level in merged_pyramid(OdePlan(), 0, 48, 80).levels:
        positions = [step.remaining for step in level.steps] + [0.0]
        assert [step.after for step in level.steps] == positions[1:]
        assert all(a - b > 1e-5 for a, b in pairwise(positions))
        assert [step.index for step in level.steps] == list(range(len(level.steps)))


def test_positions_that_teacher_and_student_share_are_visited_once() -> None:
    plan = OdePlan(replace(MID, steps=(21, 21, 21)), replace(DISTILLED, steps=(1, 1, 1)))
    assert [len(level.steps) for level in merged_pyramid(plan, 1, 48, 80).levels] == [21, 21, 21]


def test_timesteps_are_those_that_the_student_is_told_when_it_samples() -> None:
    plan = OdePlan()
    for chunk in (0, 1):
        student = build_pyramid(plan.student.schedule, plan.student.steps_for(chunk), SIDE, SIDE)
        made = trails(replace(plan, teacher=TEACHER, num_chunks=2))[chunk]
        for trail, level in zip(made, student.levels, strict=True):
            assert trail.timesteps.tolist() == [step.timestep for step in level.steps]
            assert trail.remaining.tolist() == pytest.approx([step.remaining for step in level.steps])


def test_a_teacher_with_another_pyramid_is_refused() -> None:
    single = SamplerConfig(ScheduleConfig("unipc", (0.0, 1.0), 1 / 3, "linear"), (20,), None, Guidance(1.0))
    with pytest.raises(UserError, match="divide the noise levels differently"):
        OdePlan(teacher=single)


# Trails


def test_a_trail_holds_the_states_at_the_positions_and_the_end_of_the_level() -> None:
    first, later = trails()
    for made, count in ((first, 4), (later, 2)):
        shapes = [tuple(trail.states.shape) for trail in made]
        assert shapes == [(count + 1, 1, 16, 9, side, side) for side in (2, 4, 8)]


def test_a_teacher_that_sees_the_end_walks_a_straight_line_through_the_positions() -> None:
    aim = {side: normal(1, 16, 9, side, side, seed=side) for side in (2, 4, 8)}
    plan = replace(PLAN, num_chunks=1)
    positions = {
        (side, step.timestep): step.remaining
        for side, level in zip(aim, merged_pyramid(plan, 0, SIDE, SIDE).levels, strict=True)
        for step in level.steps
    }

    def sees_the_end(x: Tensor, timestep: float, condition: object) -> Tensor:
        side = x.shape[-1]
        return (x - aim[side]) / positions[side, timestep]

    (levels,) = teacher_trails(sees_the_end, History.empty(SHAPE, MemoryConfig()), conditioning, plan, RequestSeeds(0))
    for trail in levels:
        end = aim[trail.states.shape[-1]]
        assert torch.allclose(trail.states[-1], end, atol=1e-4)
        full = (trail.states[0] - end) / trail.remaining[0]
        for state, remaining in zip(trail.states, trail.remaining, strict=False):
            assert torch.allclose(state, end + remaining * full, atol=1e-4)


def test_a_level_starts_where_the_jump_from_the_end_of_the_one_before_leads() -> None:
    seeds = RequestSeeds(0).for_chunk(0)
    levels = trails()[0]
    noise = seeds.noise((1, 16, 9, SIDE, SIDE))
    assert torch.equal(levels[0].states[0], shrink_noise(noise, 3))
    pyramid = merged_pyramid(PLAN, 0, SIDE, SIDE)
    for before, level, trail in zip(levels, pyramid.levels[1:], levels[1:], strict=False):
        end = before.states[-1]
        assert level.jump is not None
        z = seeds.block(level.index, (*end.shape, BLOCK))
        assert torch.equal(trail.states[0], jump(end, z, level.jump, pyramid.gamma))


def test_chunks_continue_the_teachers_own_rollout() -> None:
    seen: list[Tiers] = []

    def watching(tiers: Tiers, chunk: int) -> Branches:
        seen.append(tiers)
        return Branches(tiers)

    start = History.empty(SHAPE, MemoryConfig())
    first, _ = list(teacher_trails(teacher, start, watching, PLAN, RequestSeeds(0)))
    chunk = first[-1].states[-1]
    assert not seen[0].short.latents.any()
    assert torch.equal(seen[1].short.latents, torch.cat([chunk[:, :, :1], chunk[:, :, -1:]], dim=2))


def test_a_student_is_shown_how_the_teacher_goes_on_from_the_students_own_chunks() -> None:
    seen: list[Tensor] = []

    def watching(tiers: Tiers, chunk: int) -> Branches:
        seen.append(tiers.short.latents)
        return Branches(tiers)

    def still(x: Tensor, timestep: float, condition: object) -> Tensor:
        return 0.1 * x

    start, seeds = History.empty(SHAPE, MemoryConfig()), RequestSeeds(0)
    student = Student(still, conditioning, ONE_STEP)
    made = list(followed_trails(teacher, start, watching, PLAN, seeds, student))
    own = next_turn(still, start, conditioning, ONE_STEP, seeds)
    assert torch.equal(made[0][1], own.latents)
    assert torch.equal(made[1][1], next_turn(still, own.history, conditioning, ONE_STEP, seeds).latents)
    assert torch.equal(seen[1], torch.cat([own.latents[:, :, :1], own.latents[:, :, -1:]], dim=2))
    for levels, wanted in zip((made[0][0], made[1][0]), trails(), strict=True):  # this teacher ignores what was before
        assert all(torch.equal(one.states, other.states) for one, other in zip(levels, wanted, strict=True))


def test_in_a_long_video_of_a_student_the_teacher_walks_every_so_many_chunks() -> None:
    def still(x: Tensor, timestep: float, condition: object) -> Tensor:
        return 0.1 * x

    start, seeds, student = (
        History.empty(SHAPE, MemoryConfig()),
        RequestSeeds(0),
        Student(still, conditioning, ONE_STEP),
    )
    plan = replace(PLAN, num_chunks=5)
    every, third = (
        list(followed_trails(teacher, start, conditioning, plan, seeds, student))
        for plan in (plan, replace(plan, every=3))
    )
    assert [bool(trails) for trails, _ in third] == [True, False, False, True, False]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(every, third, strict=True))
    for chunk in (0, 3):
        assert all(
            torch.equal(one.states, other.states) for one, other in zip(every[chunk][0], third[chunk][0], strict=True)
        )
    rows, remembered = zip(*third, strict=True)
    made = OdePairs(normal(1, 4, 32), rows, remembered)
    back = OdePairs.from_tensors(OdePairs.join([made, made]).row(1).to_tensors())
    assert [len(trails) for trails in back.chunks] == [3, 0, 0, 3, 0]
    assert all(torch.equal(one, other) for one, other in zip(back.remembered, remembered, strict=True))


def test_extra_stops_move_the_end_of_a_path_by_little() -> None:
    fine = replace(PLAN, teacher=replace(TEACHER, steps=(40, 40, 40)), num_chunks=1)
    (with_stops,), without = trails(fine), next(ends(fine))
    assert float((with_stops[-1].states[-1] - without).abs().max()) < 0.02


def test_trails_of_a_transformer_follow_its_guided_velocity() -> None:
    model, text, negative = network(std=0.05), normal(1, 5, 32), normal(1, 5, 32, seed=1)
    start, denoiser = History.empty(SHAPE, MemoryConfig()), TransformerDenoiser(model)
    quick = OdePlan(replace(MID, steps=(1, 1, 1), guidance=Guidance(3.0)), ONE_STEP, num_chunks=1)
    ((trail, *_),) = teacher_trails(denoiser, start, prompted(denoiser, text, negative), quick, RequestSeeds(0))
    x, tiers, told = trail.states[0], start.tiers(9), float(trail.timesteps[0])
    conditional, unconditional = (model(x, told, embedding, tiers).detach() for embedding in (text, negative))
    guided = unconditional + 3 * (conditional - unconditional)
    assert torch.allclose(trail.states[1], x - trail.remaining[0] * guided, atol=1e-4)


def test_no_two_prompts_begin_from_the_same_noise() -> None:
    shape = (1, 2, 3, 4, 4)
    red, blue, again = (
        prompt_seeds(7, p).for_chunk(0).noise(shape) for p in ("a red fish", "a blue fish", "a red fish")
    )
    assert torch.equal(red, again) and not torch.equal(red, blue)
    assert not torch.equal(red, prompt_seeds(8, "a red fish").for_chunk(0).noise(shape))


@pytest.mark.parametrize("whose", ["the teacher's", "a student's"])
def test_pairs_come_back_from_their_tensors(whose: str) -> None:
    made = pairs()
    if whose == "a student's":
        made = replace(made, remembered=tuple(normal(1, 16, 9, SIDE, SIDE, seed=seed) for seed in (0, 1)))
    again = OdePairs.from_tensors(made.to_tensors())
    assert ("0.remembered" in made.to_tensors()) == (whose == "a student's")
    assert torch.equal(again.text, made.text)
    assert all(torch.equal(one, other) for one, other in zip(again.remembered, made.remembered, strict=True))
    for one, other in zip(made.chunks, again.chunks, strict=True):
        for a, b in zip(one, other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_joined_pairs_are_the_samples_of_one_batch() -> None:
    one, other = pairs(0), pairs(1)
    both = OdePairs.join([one, other])
    for sample, single in enumerate((one, other)):
        assert torch.equal(both.text[sample : sample + 1], single.text)
        for chunk, levels in zip(both.chunks, single.chunks, strict=True):
            for trail, wanted in zip(chunk, levels, strict=True):
                assert torch.equal(trail.states[:, sample : sample + 1], wanted.states)
        for latents, own in zip(both.remembered, single.remembered, strict=True):
            assert torch.equal(latents[sample : sample + 1], own)


# Regression


def test_a_student_that_sees_the_end_loses_nothing() -> None:
    (trail, *_) = trails()[0]

    def sees_the_end(x: Tensor, timestep: Tensor, condition: Given) -> Tensor:
        known = [trail.timesteps.tolist().index(float(t)) for t in timestep]
        return (x - trail.states[-1]) / trail.remaining[known].reshape(-1, 1, 1, 1, 1)

    assert float(trail_loss(sees_the_end, trail, given(), generator())) < 1e-10


def test_loss_is_half_the_squared_distance_to_the_end() -> None:
    states = torch.stack([torch.full((3, 1, 1, 2, 2), value) for value in (5.0, 3.0, 1.0)])
    trail = LevelTrail(states, torch.tensor([0.9, 0.5]), torch.tensor([900.0, 500.0]))
    at: list[Tensor] = []

    def stays(x: Tensor, timestep: Tensor, condition: Given) -> Tensor:
        at.append(timestep)
        return torch.zeros_like(x)

    loss = trail_loss(stays, trail, given(3), generator(1))
    wanted = torch.where(at[0] == 900, 0.5 * 16, 0.5 * 4).mean()
    assert torch.allclose(loss, wanted) and len(set(at[0].tolist())) == 2


def test_the_loss_is_the_weighted_mean_over_chosen_chunks_and_all_levels() -> None:
    counted: list[int] = []
    model = network()
    model.register_forward_pre_hook(lambda _, args: counted.append(args[0].shape[-1]))
    stage = OdeStage(model, OdeConfig(num_chunks=1), MemoryConfig())
    loss = stage.loss("student", pairs(), 0, generator())
    assert counted == [2, 4, 8]
    assert torch.allclose(loss.total, 80 * loss.parts["ode"])


def test_every_chunk_is_chosen_in_some_step_and_sees_what_was_remembered() -> None:
    model, before = network(), normal(1, 16, 9, SIDE, SIDE)
    batch = replace(pairs(), remembered=(before, normal(1, 16, 9, SIDE, SIDE, seed=1)))
    stage = OdeStage(model, OdeConfig(num_chunks=1), MemoryConfig())
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[3].short.latents))
    for seed in range(8):
        stage.loss("student", batch, 0, generator(seed))
    followed = [latents for latents in seen if latents.any()]
    assert 0 < len(followed) < len(seen)
    assert all(torch.equal(latents[:, :, -1], before[:, :, -1]) for latents in followed)


def test_a_chunk_that_the_teacher_did_not_walk_is_remembered_and_not_chosen() -> None:
    model, whole = network(), pairs()
    between = normal(1, 16, 9, SIDE, SIDE)
    made = OdePairs(whole.text, (whole.chunks[0], (), whole.chunks[1]), (whole.remembered[0], between, between))
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[3].short.latents))
    OdeStage(model, OdeConfig(num_chunks=3), MemoryConfig()).loss("student", made, 0, generator())
    assert len(seen) == 6, "three levels of the two chunks with paths"
    assert all(torch.equal(latents[:, :, -1], between[:, :, -1]) for latents in seen[3:])


def test_training_on_one_pair_takes_two_thirds_of_the_loss_away() -> None:
    stage = OdeStage(learner(), OdeConfig(num_chunks=1), MemoryConfig())
    losses = train(stage, pairs(), "student", 10, 1e-2)
    assert losses[-1] < losses[0] / 3
