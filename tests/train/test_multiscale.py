"""Stage 2: the lines of the pyramid levels, and one packed pass over them."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from heliograph.config import MemoryConfig
from heliograph.errors import UserError
from heliograph.flow.pyramid import enlarge, jump, jump_weights, shrink
from heliograph.flow.schedule import level_ranges, level_steps
from heliograph.model.packed import Part, TokenLayout
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.presets import MID
from heliograph.train import multiscale as multiscale_module
from heliograph.train.multiscale import (
    MultiscaleConfig,
    MultiscaleStage,
    Openings,
    cell_weights,
    draw_part,
    level_lines,
    level_position,
    level_weights,
    opening_rows,
)
from heliograph.train.network import Given
from tests.small import SIZES, relative_error
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
    silent_network,
    train,
)

RANGES = level_ranges(MID.schedule)
START_1, START_2 = 0.799760, 0.500374
"""Corrected start sigmas of the finer levels, as published."""

END_0, END_1 = 0.666333, 0.333666
"""End sigmas of the coarser levels, as published."""


def stage(transformer: HeliosTransformer3DModel, repeats: tuple[int, ...] = (1, 2, 1)) -> MultiscaleStage:
    """Stage 2 on a small network."""
    return MultiscaleStage(transformer, MultiscaleConfig(repeats=repeats, past=AS_IT_IS), MemoryConfig())


def chunks(side: int = 16) -> tuple[Tensor, Tensor]:
    """A clean chunk and noise."""
    return 0.7 * normal(2, 16, 9, side, side, seed=1) + 0.2, normal(2, 16, 9, side, side, seed=2)


# Lines


def test_slopes_are_the_expanded_forms() -> None:
    x2, n2 = chunks()
    (x1, n1), x0, n0 = (shrink(x2), 2 * shrink(n2)), shrink(shrink(x2)), 4 * shrink(shrink(n2))
    wanted = (
        (1 - END_0) * (n0 - x0),
        (START_1 - END_1) * n1 + (1 - START_1) * enlarge(x0) - (1 - END_1) * x1,
        START_2 * n2 + (1 - START_2) * enlarge(x1) - x2,
    )
    for line, want in zip(level_lines(x2, n2, RANGES), wanted, strict=True):
        assert torch.allclose(line.slope, want, atol=2e-5)


def test_the_coarsest_line_starts_at_noise_and_the_finest_ends_at_the_chunk() -> None:
    x, n = chunks()
    lines = level_lines(x, n, RANGES)
    assert torch.equal(lines[0].start, 4 * shrink(shrink(n)))
    assert torch.equal(lines[2].end, x)


def test_a_jump_from_the_end_of_a_line_has_the_signal_and_noise_of_the_next_start() -> None:
    x, n = chunks(64)
    lines = level_lines(x, n, RANGES)
    for level in (1, 2):
        weights = jump_weights(RANGES[level].border, MID.schedule.gamma)
        z = normal(*lines[level - 1].end.shape, 4)
        arrived = jump(lines[level - 1].end, z, weights, MID.schedule.gamma)
        clean = (1 - RANGES[level].sigma_start) * enlarge(_shrunk(x, 3 - level))
        noise, wanted = arrived - clean, lines[level].start - clean
        assert float(noise.std()) == pytest.approx(float(wanted.std()), rel=0.01)
        assert float((noise[..., ::2] * noise[..., 1::2]).mean()) == pytest.approx(0, abs=0.01)


def _shrunk(x: Tensor, times: int) -> Tensor:
    for _ in range(times):
        x = shrink(x)
    return x


def test_points_near_the_ends_of_a_line_are_its_ends() -> None:
    for line in level_lines(*chunks(), RANGES):
        assert relative_error(line.at(torch.full((2,), 0.999)), line.start) < 2e-3
        assert torch.equal(line.at(torch.zeros(2)), line.end)


def test_every_sample_has_a_point_of_its_own() -> None:
    line = level_lines(*chunks(), RANGES)[1]
    point = line.at(torch.tensor([0.2, 0.9]))
    assert torch.equal(point[:1], line.at(torch.tensor([0.2, 0.2]))[:1])
    assert torch.equal(point[1:], line.at(torch.tensor([0.9, 0.9]))[1:])


# Positions and timesteps


@pytest.mark.parametrize("level", [0, 1, 2])
def test_training_visits_the_table_that_samplers_read(level: int) -> None:
    schedule = replace(MID.schedule, solver="euler", time_shift="constant")
    steps = level_steps(schedule, RANGES[level], 1000, 540)
    remaining, timestep = level_position(torch.arange(1000), RANGES[level], 1000)
    assert remaining.tolist() == pytest.approx([step.remaining for step in steps], abs=1e-6)
    # Samplers round timesteps down, training does not.
    assert all(0 <= t - step.timestep < 1.001 for t, step in zip(timestep.tolist(), steps, strict=True))


def test_timesteps_fall_evenly_over_all_levels_between_the_published_borders() -> None:
    tops, last = [999.0, 743.256, 385.614], 1.384
    tables = [level_position(torch.arange(1000), stretch, 1000)[1] for stretch in RANGES]
    assert [float(t[0]) for t in tables] == pytest.approx(tops, abs=1e-3)
    assert float(tables[2][-1]) == pytest.approx(last, abs=1e-3)
    falls = torch.cat(tables).diff()
    assert bool((falls < 0).all())


def test_drawn_points_lie_on_the_line_where_their_timestep_says() -> None:
    line = level_lines(*chunks(), RANGES)[2]
    part = draw_part(line, RANGES[2], MID.schedule, generator())
    assert isinstance(part.timestep, Tensor)
    top, last = RANGES[2].timestep_max, RANGES[2].timestep_last
    remaining = 0.999 * (1 - (top - part.timestep) / (top - last) * 0.999)
    assert torch.allclose(part.x, line.at(remaining), atol=1e-4)


def test_draws_cover_the_level_uniformly() -> None:
    line = level_lines(torch.zeros(4000, 1, 1, 4, 4), torch.zeros(4000, 1, 1, 4, 4), RANGES)[1]
    timestep = draw_part(line, RANGES[1], MID.schedule, generator()).timestep
    assert isinstance(timestep, Tensor)
    assert float(timestep.mean()) == pytest.approx((743.256 + 385.614) / 2, rel=0.01)
    assert float((timestep % 1 > 0.01).float().mean()) > 0.9


# The loss


def test_a_first_share_draws_from_the_start_of_the_line_alone() -> None:
    line = level_lines(torch.zeros(400, 1, 1, 4, 4), torch.zeros(400, 1, 1, 4, 4), RANGES)[1]
    timestep = draw_part(line, RANGES[1], MID.schedule, generator(), 0.25).timestep
    assert isinstance(timestep, Tensor)
    highest, lowest = RANGES[1].timestep_max, RANGES[1].timestep_last
    assert float(timestep.max()) <= highest + 1e-3
    assert 0 <= float(timestep.min()) - (highest - 0.25 * (highest - lowest)) < 0.02 * (highest - lowest)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_first_share_is_a_share(share: float) -> None:
    with pytest.raises(UserError, match="first_share"):
        MultiscaleConfig(first_share=share)


def seeing_openings(transformer: HeliosTransformer3DModel) -> MultiscaleStage:
    config = MultiscaleConfig(repeats=(1, 1, 1), past=AS_IT_IS, openings=Openings((2.0, 0.5), 0.25))
    return MultiscaleStage(transformer, config, MemoryConfig())


def test_a_second_look_adds_to_first_chunks_and_leaves_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Part]] = []
    packed = multiscale_module.denoise_packed

    def watched(net: HeliosTransformer3DModel, parts: list[Part], condition: Given) -> tuple[Tensor, ...]:
        seen.append(parts)
        return packed(net, parts, condition)

    monkeypatch.setattr(multiscale_module, "denoise_packed", watched)
    later = example(3)
    mixed = replace(later, history=later.history.clone(), anchor=later.anchor.clone())
    mixed.history[1], mixed.anchor[1] = 0, 0
    assert opening_rows(later).numel() == 0 and opening_rows(mixed).tolist() == [1]
    plain = stage(network(), (1, 1, 1)).loss("student", mixed, 0, generator(3))
    loss = seeing_openings(network()).loss("student", mixed, 0, generator(3))
    torch.testing.assert_close(loss.total - loss.parts["opening"], plain.total)
    assert [part.x.shape for part in seen[2]] == [(1, 16, 9, 2, 2), (1, 16, 9, 4, 4)]
    for level, part in enumerate(seen[2]):
        highest, lowest = RANGES[level].timestep_max, RANGES[level].timestep_last
        assert highest >= float(part.timestep) - 1e-3 > highest - 0.26 * (highest - lowest)


def test_batches_without_openings_have_the_figures_of_those_with_them_and_the_loss_of_neither() -> None:
    """Processes average their figures one by one; one batch has openings where another has none."""
    later, opening = example(3), first_chunks(example(3))
    seeing = seeing_openings(network())
    without = seeing.loss("student", later, 0, generator(3))
    assert list(without.parts) == list(seeing.loss("student", opening, 0, generator(3)).parts)
    assert without.parts["opening"] == 0
    torch.testing.assert_close(without.total, stage(network(), (1, 1, 1)).loss("student", later, 0, generator(3)).total)


def test_a_second_look_at_a_silent_network_counts_each_level_with_its_weight() -> None:
    batch = replace(first_chunks(example(4)), chunk=chunks(8)[0].repeat(2, 1, 1, 1, 1))
    part = seeing_openings(silent_network()).loss("student", batch, 0, generator()).parts["opening"]
    x0, x1 = shrink(shrink(batch.chunk)), shrink(batch.chunk)
    coarse = 0.1113 * (1 + x0.square().mean())
    fine = 0.2172 + (0.20024 * enlarge(x0) - 0.66633 * x1).square().mean()
    assert float(part) == pytest.approx(float(2 * coarse + 0.5 * fine), rel=0.05)


@pytest.mark.parametrize("wrong", [{"emphasis": ()}, {"emphasis": (0.0,)}, {"emphasis": (1.0,), "first_share": 0.0}])
def test_a_second_look_at_nothing_is_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match="Openings"):
        Openings(**wrong)
    with pytest.raises(UserError, match="more than the 3 levels"):
        MultiscaleConfig(openings=Openings((1.0,) * 4))


def test_a_network_that_says_nothing_loses_what_is_published_for_each_level() -> None:
    batch = replace(example(4), chunk=chunks(8)[0].repeat(2, 1, 1, 1, 1))
    parts = stage(silent_network()).loss("student", batch, 0, generator()).parts
    x2 = batch.chunk
    x1, x0 = shrink(x2), shrink(shrink(x2))
    wanted = (
        0.1113 * (1 + x0.square().mean()),
        0.2172 + (0.20024 * enlarge(x0) - 0.66633 * x1).square().mean(),
        0.2504 + (0.49963 * enlarge(x1) - x2).square().mean(),
    )
    for level, want in enumerate(wanted):
        assert float(parts[f"level_{level}"]) == pytest.approx(float(want), rel=0.05)


def test_a_network_that_answers_the_slope_at_its_timestep_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = example(2)
    x2 = batch.chunk
    x1 = shrink(x2)

    def position(level: int, timestep: Tensor) -> Tensor:
        stretch = RANGES[level]
        fraction = (stretch.timestep_max - timestep) / (stretch.timestep_max - stretch.timestep_last)
        return (0.999 * (1 - 0.999 * fraction)).reshape(-1, 1, 1, 1, 1)

    def knows_the_data(_: object, parts: list[Part], condition: Given) -> list[Tensor]:
        assert [part.x.shape[-1] for part in parts] == [2, 4, 4, 8]
        # The finest level's line is r·(σ·n + (1 − σ)·enlarged) + (1 − r)·x; its noise is that of all levels.
        assert isinstance(parts[3].timestep, Tensor)
        r = position(2, parts[3].timestep)
        n2 = (parts[3].x - r * (1 - START_2) * enlarge(x1) - (1 - r) * x2) / (r * START_2)
        lines = level_lines(x2, n2, RANGES)
        for level, part in zip((0, 1, 1, 2), parts, strict=True):
            assert isinstance(part.timestep, Tensor)
            along = position(level, part.timestep)
            assert torch.allclose(part.x, along * lines[level].start + (1 - along) * lines[level].end, atol=1e-2)
        return [lines[level].slope for level in (0, 1, 1, 2)]

    monkeypatch.setattr(multiscale_module, "denoise_packed", knows_the_data)
    assert float(stage(network()).loss("student", batch, 0, generator(3)).total) < 1e-4


@pytest.mark.parametrize(("repeats", "shares"), [((1, 2, 1), (0.25, 0.5, 0.25)), ((1, 1, 1), (1 / 3,) * 3)])
def test_every_sequence_counts_alike_however_small_its_level(
    repeats: tuple[int, ...], shares: tuple[float, ...]
) -> None:
    loss = stage(network(), repeats).loss("student", example(), 0, generator())
    levels = [float(loss.parts[f"level_{i}"]) for i in range(3)]
    assert float(loss.parts["flow"]) == pytest.approx(sum(s * v for s, v in zip(shares, levels, strict=True)), rel=1e-5)


def test_a_weight_is_shrunk_with_its_level() -> None:
    weight = torch.zeros(1, 1, 9, 8, 8)
    weight[..., :4, :4] = 4
    levels = level_weights(weight, 3)
    assert [tuple(w.shape[-2:]) for w in levels if w is not None] == [(2, 2), (4, 4), (8, 8)]
    for w in levels:
        assert w is not None
        assert float(w.mean()) == pytest.approx(1) and float(w[..., 0, 0].mean()) == pytest.approx(4)
    batch = example()
    plain = stage(network()).loss("student", batch, 0, generator()).parts["flow"]
    doubled = replace(batch, weight=torch.full((2, 1, 9, 8, 8), 2.0))
    assert torch.allclose(stage(network()).loss("student", doubled, 0, generator()).parts["flow"], 2 * plain)


def test_the_first_frame_counts_more_only_where_something_is_shown_before_it() -> None:
    batch = example(2)
    past = torch.stack([torch.zeros(16, 20, SIDE, SIDE), normal(16, 20, SIDE, SIDE)])
    weights = cell_weights(batch, past, 4.0)
    assert weights is not None and weights.shape == (2, 1, 9, SIDE, SIDE)
    assert weights[1, 0, 0].eq(4).all() and weights[1, 0, 1:].eq(1).all() and weights[0].eq(1).all()
    assert cell_weights(batch, past, 1.0) is None
    subject = torch.full((2, 1, 9, SIDE, SIDE), 3.0)
    both = cell_weights(replace(batch, weight=subject), past, 4.0)
    assert both is not None and both[1, 0, 0].eq(12).all() and both[0].eq(3).all()


def test_the_loss_grows_by_the_first_frames_share_each_time_it_counts_once_more() -> None:
    def loss(lead: float) -> Tensor:
        config = MultiscaleConfig(repeats=(1, 1, 1), past=AS_IT_IS, lead=lead)
        return MultiscaleStage(silent_network(), config, MemoryConfig()).loss("s", example(), 0, generator()).total

    once, twice, often = loss(1.0), loss(2.0), loss(10.0)
    assert torch.allclose(often - once, 9 * (twice - once), rtol=1e-4)
    assert 0.7 / 9 < float((twice - once) / once) < 1.3 / 9, "frames of noise are alike"
    with pytest.raises(UserError, match=r"lead=0.0 is no weight"):
        MultiscaleConfig(lead=0.0)


def test_repeats_must_name_every_level() -> None:
    with pytest.raises(UserError, match="repeats="):
        MultiscaleConfig(repeats=(1, 2))


def test_training_on_one_chunk_halves_the_loss_and_lowers_it_on_every_level() -> None:
    small, batch = stage(learner(), (1, 1, 1)), example(1)
    before = small.loss("student", batch, 0, generator()).parts
    train(small, batch, "student", 18, 1e-2)
    after = small.loss("student", batch, 0, generator()).parts
    assert float(after["flow"]) < float(before["flow"]) / 2
    assert all(float(after[name]) < 0.8 * float(before[name]) for name in before)


# One packed pass


def parts(seed: int = 0) -> list[Part]:
    """Chunks of all levels at ratios 1:2:1, each sample at a timestep of its own."""
    sides, timesteps = (2, 4, 4, 8), ((990.0, 750.0), (700.0, 400.0), (555.0, 444.0), (3.0, 380.0))
    return [
        Part(normal(2, 16, 9, side, side, seed=seed + i), torch.tensor(t))
        for i, (side, t) in enumerate(zip(sides, timesteps, strict=True))
    ]


@pytest.mark.parametrize(
    "switches",
    [{}, {"is_amplify_history": True}, {"zero_history_timestep": False}, {"guidance_cross_attn": False}],
    ids=lambda switches: next(iter(switches), "released"),
)
def test_a_packed_pass_gives_the_velocities_and_gradients_of_separate_ones(switches: dict[str, bool]) -> None:
    model, condition = network(**switches), given(2)
    packed = model.forward_packed(parts(), condition.text, condition.tiers)
    sum(v.square().mean() for v in packed).backward()
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    separate = [model(part.x, part.timestep, condition.text, condition.tiers) for part in parts()]
    sum(v.square().mean() for v in separate).backward()
    for one, other in zip(packed, separate, strict=True):
        assert relative_error(one.detach(), other.detach()) < 1e-5
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert relative_error(got[name], parameter.grad) < 1e-5, name


def test_gradient_checkpointing_does_not_change_a_packed_pass() -> None:
    model, condition = network(), given(2)
    gradients = []
    for turn_on in (False, True):
        if turn_on:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        sum(v.square().mean() for v in model.forward_packed(parts(), condition.text, condition.tiers)).backward()
        gradients.append(model.blocks[0].attn1.to_q.weight.grad)
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("repeats", "wanted"), [((1, 2, 1), 23_100), ((1, 1, 1), 18_540)])
def test_a_packed_clip_has_the_published_number_of_tokens(repeats: tuple[int, ...], wanted: int) -> None:
    with torch.device("meta"):
        model = HeliosTransformer3DModel(**{**SIZES, "num_layers": 1})
        history = given(1, side=8)
    layouts: list[TokenLayout] = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: layouts.append(args[1]))
    sizes = ((12, 20), (24, 40), (48, 80))
    levels = [size for size, count in zip(sizes, repeats, strict=True) for _ in range(count)]
    big = [Part(torch.zeros(1, 16, 9, *size, device="meta"), torch.zeros(1, device="meta")) for size in levels]
    tiers = replace(
        history.tiers,
        **{
            name: replace(tier, latents=torch.zeros(1, 16, len(tier.frames), 48, 80, device="meta"))
            for name, tier in vars(history.tiers).items()
            if name != "chunk_frames"
        },
    )
    model.forward_packed(big, history.text, tiers)
    assert sum(layouts[0].sequences) == wanted
    assert [s.length for s in layouts[0].stretches if s.is_history] == [2400] * sum(repeats)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_packed_kernel_gives_what_attention_gives_for_each_sequence() -> None:
    from heliograph.model.packed import attend_packed

    lengths = (5, 64, 130)
    q, k, v = (normal(2, sum(lengths), 2, 64, seed=i).cuda().bfloat16() for i in range(3))
    got = attend_packed(q, k, v, lengths)
    pieces = zip(*(x.float().transpose(1, 2).split(lengths, dim=2) for x in (q, k, v)), strict=True)
    wanted = torch.cat([torch.nn.functional.scaled_dot_product_attention(*piece) for piece in pieces], dim=2)
    assert relative_error(got.float(), wanted.transpose(1, 2)) < 2e-2


# Compiled

COMPILED = """
import torch
from heliograph.model.packed import Part
from heliograph.train.network import Given, denoise_packed
from tests.small import random_history, relative_error, small_transformer, wave

torch._dynamo.config.fail_on_recompile_limit_hit = True  # else what is left runs without
given = Given(wave((2, 5, 32), 0.5), random_history(batch=2).tiers(9))
parts = [Part(wave((2, 16, 9, size, size), 0.3), torch.tensor([900.0, 100.0])) for size in (2, 4, 8)]
plain, compiled = (small_transformer(num_layers=4).train() for _ in range(2))
compiled.compile_repeated_blocks(backend="aot_eager")
for network in (plain, compiled):
    sum(v.square().mean() for v in denoise_packed(network, parts, given)).backward()
for (name, want), got in zip(plain.named_parameters(), compiled.parameters(), strict=True):
    if want.grad is not None and want.grad.any():
        assert relative_error(got.grad, want.grad) < 1e-4, name
"""


def test_compiled_blocks_have_the_gradients_of_plain_ones() -> None:
    # In a process of its own: what is compiled cannot be checked for types at run time, as this suite is.
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
