"""The denoising loop: golden values of a whole chunk, and what it asks of the denoiser."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from heliograph.config import Guidance, SamplerConfig
from heliograph.flow.guidance import cfg_zero_star, classifier_free
from heliograph.flow.path import interpolate
from heliograph.flow.pyramid import shrink_noise
from heliograph.presets import BASE, DISTILLED, MID
from heliograph.sample import Branches, Denoiser, denoise_chunk, guided_velocity, make_sampler, zero_init_steps
from heliograph.seeds import RequestSeeds
from tests.small import wave

NOISE = wave((1, 2, 9, 8, 8), 0.2)
EULER = SamplerConfig(
    schedule=replace(BASE.schedule, solver="euler"), steps=(6,), first_chunk_steps=None, guidance=Guidance(1.0)
)
"""One level, no guidance: ordinary flow sampling."""


class WaveSeeds:
    """Block noise of the golden chunk; writes down what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, tuple[int, ...]]] = []

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """Not used by the loop: noise is handed to it."""
        raise AssertionError("the loop was given its noise")

    def block(self, level: int, shape: tuple[int, ...]) -> Tensor:
        """The golden signal, one row of four for each block."""
        self.asked.append((level, shape))
        return wave((math.prod(shape) // 4, 4), {1: 0.4, 2: 0.6}[level]).reshape(shape)


@dataclass
class Field:
    """v = 0.3·x + 0.5·sin(t / 100), stronger under a prompt; writes down its calls."""

    calls: list[tuple[tuple[int, ...], float, object]] = field(default_factory=list)

    def __call__(self, x: Tensor, timestep: float, condition: object) -> Tensor:
        """Velocity, and one more line in `calls`."""
        self.calls.append((tuple(x.shape[-2:]), timestep, condition))
        strength = condition if isinstance(condition, float) else 1.0
        return strength * (0.3 * x + 0.5 * math.sin(timestep / 100))


def chunk_states(
    config: SamplerConfig, chunk: int = 1, denoiser: Denoiser | None = None, branches: Branches | None = None
) -> list[Tensor]:
    """Latents after every step of a chunk of 384×640, run on a smaller tensor."""
    sampler = make_sampler(config, chunk, 48, 80)
    return list(denoise_chunk(denoiser or Field(), NOISE, branches or Branches("prompt"), sampler, WaveSeeds()))


# Golden values


def golden_ends(config: SamplerConfig, chunk: int) -> list[Tensor]:
    """Latents at the end of every level of the golden chunk."""
    noise, seeds = wave((1, 1, 1, 8, 8), 0.2), WaveSeeds()
    sampler = make_sampler(replace(config, guidance=Guidance(1.0)), chunk, 48, 80)
    states = list(denoise_chunk(Field(), noise, Branches("prompt"), sampler, seeds))
    lasts = [sum(len(level.steps) for level in sampler.pyramid.levels[: i + 1]) - 1 for i in range(3)]
    return [states[i] for i in lasts]


MID_4 = replace(MID, steps=(4, 4, 4))


@pytest.mark.parametrize(
    ("config", "chunk", "want"),
    [
        (
            *(DISTILLED, 1),
            [
                (0.111876, 1.534444, [1.060042, -0.739258], [-1.585185, 1.711905]),
                (-0.050525, 0.698100, [0.554114, 0.720814], [0.327064, 1.089702]),
                (-0.095603, 0.433118, [0.408706, 0.459729], [0.574501, 0.097658]),
            ],
        ),
        (
            *(DISTILLED, 0),
            [
                (-0.103223, 1.571478, [0.867827, -0.974899], [-1.841243, 1.535423]),
                (0.124773, 0.727472, [0.754143, 0.924867], [0.528585, 1.309629]),
                (-0.197047, 0.456048, [0.331823, 0.383946], [0.512203, 0.025078]),
            ],
        ),
        (
            *(MID_4, 1),
            [
                (-0.433495, 1.617705, [0.566119, -1.330812], [-2.222641, 1.253353]),
                (0.468319, 0.765077, [1.129232, 1.304977], [0.905995, 1.710014]),
                (-0.528499, 0.487201, [0.033449, 0.087062], [0.233387, -0.267668]),
            ],
        ),
    ],
    ids=["few-step", "few-step-first-chunk", "unipc"],
)
def test_every_level_of_a_chunk_ends_on_its_golden_values(config: SamplerConfig, chunk: int, want: list) -> None:
    for x, (mean, std, first, last) in zip(golden_ends(config, chunk), want, strict=True):
        assert float(x.mean()) == pytest.approx(mean, abs=5e-6)
        assert float(x.std()) == pytest.approx(std, abs=5e-6)
        assert x.flatten()[:2].tolist() == pytest.approx(first, abs=5e-6)
        assert x.flatten()[-2:].tolist() == pytest.approx(last, abs=5e-6)


def test_levels_start_on_their_golden_values() -> None:
    seen: list[Tensor] = []

    def denoiser(x: Tensor, timestep: float, condition: object) -> Tensor:
        seen.append(x)
        return Field()(x, timestep, condition)

    sampler = make_sampler(DISTILLED, 1, 48, 80)
    list(denoise_chunk(denoiser, wave((1, 1, 1, 8, 8), 0.2), Branches("prompt"), sampler, WaveSeeds()))
    golden = [
        (0.162741, 2.128517, [1.477998, -1.017916]),
        (0.067139, 0.968375, [0.905868, 1.137108]),
        (-0.037884, 0.599505, [0.660162, 0.730785]),
    ]
    for x, (mean, std, first) in zip(seen[::2], golden, strict=True):
        assert float(x.mean()) == pytest.approx(mean, abs=5e-6)
        assert float(x.std()) == pytest.approx(std, abs=5e-6)
        assert x.flatten()[:2].tolist() == pytest.approx(first, abs=5e-6)


# The loop


def test_one_level_equals_plain_euler() -> None:
    x, denoiser = NOISE, Field()
    steps = make_sampler(EULER, 0, 48, 80).pyramid.levels[0].steps
    for step, got in zip(steps, chunk_states(EULER, 0), strict=True):
        x = x + (step.after - step.remaining) * denoiser(x, 1000 * step.remaining, "prompt")
        assert torch.allclose(got, x, atol=1e-6)


@pytest.mark.parametrize("solver", ["euler", "unipc", "few_step"])
def test_exact_velocity_reaches_data_in_one_step(solver: str) -> None:
    data = wave(tuple(NOISE.shape), 1.1)
    config = replace(EULER, schedule=replace(EULER.schedule, solver=solver), steps=(1,))
    (step,) = make_sampler(config, 0, 48, 80).pyramid.levels[0].steps
    start = interpolate(data, NOISE, step.remaining)
    sampler = make_sampler(config, 0, 48, 80)
    (end,) = denoise_chunk(lambda x, t, c: NOISE - data, start, Branches("prompt"), sampler, WaveSeeds())
    assert torch.allclose(end, data, atol=1e-5)


@pytest.mark.parametrize("config", [BASE, MID, DISTILLED], ids=["base", "mid", "distilled"])
def test_a_denoiser_that_knows_the_data_ends_on_it(config: SamplerConfig) -> None:
    # The last level's line ends at clean latents: whoever points there from anywhere arrives.
    data = wave(tuple(NOISE.shape), 1.1)
    sampler = make_sampler(replace(config, guidance=Guidance(1.0)), 1, 48, 80)
    last = {step.timestep: step.remaining for step in sampler.pyramid.levels[-1].steps}

    def denoiser(x: Tensor, timestep: float, condition: object) -> Tensor:
        return (x - data) / last[timestep] if x.shape == data.shape else 0.1 * x

    *_, end = denoise_chunk(denoiser, NOISE, Branches("prompt"), sampler, WaveSeeds())
    assert torch.allclose(end, data, atol=1e-4)


def test_latents_are_yielded_after_every_step_at_the_size_of_their_level() -> None:
    states = chunk_states(replace(DISTILLED, steps=(1, 2, 3)))
    assert [x.shape[-1] for x in states] == [2, 4, 4, 8, 8, 8]
    assert all(x.dtype == torch.float32 and x.shape[:3] == NOISE.shape[:3] for x in states)


def test_the_denoiser_is_asked_once_a_step_with_the_timesteps_of_the_levels() -> None:
    denoiser = Field()
    chunk_states(DISTILLED, denoiser=denoiser)
    assert denoiser.calls == [
        *(((2, 2), t, "prompt") for t in (998.0, 833.0)),
        *(((4, 4), t, "prompt") for t in (742.0, 512.0)),
        *(((8, 8), t, "prompt") for t in (385.0, 174.0)),
    ]


def test_the_first_chunk_has_its_own_steps() -> None:
    assert len(chunk_states(DISTILLED, chunk=0)) == 12
    assert len(chunk_states(DISTILLED, chunk=1)) == 6


def test_block_noise_is_asked_for_before_each_enlargement() -> None:
    seeds = WaveSeeds()
    list(denoise_chunk(Field(), NOISE, Branches("prompt"), make_sampler(DISTILLED, 1, 48, 80), seeds))
    assert seeds.asked == [(1, (1, 2, 9, 2, 2, 4)), (2, (1, 2, 9, 4, 4, 4))]


def test_the_first_level_starts_from_the_shrunk_noise() -> None:
    seen: list[Tensor] = []

    def denoiser(x: Tensor, timestep: float, condition: object) -> Tensor:
        seen.append(x)
        return x

    next(denoise_chunk(denoiser, NOISE, Branches("prompt"), make_sampler(DISTILLED, 1, 48, 80), WaveSeeds()))
    assert torch.equal(seen[0], shrink_noise(NOISE, 3))


def test_the_loop_works_only_when_asked() -> None:
    denoiser = Field()
    states = denoise_chunk(denoiser, NOISE, Branches("prompt"), make_sampler(DISTILLED, 1, 48, 80), WaveSeeds())
    assert not denoiser.calls
    next(states)
    assert len(denoiser.calls) == 1


def test_the_noise_is_left_as_it_was() -> None:
    before = NOISE.clone()
    chunk_states(DISTILLED)
    chunk_states(replace(BASE, steps=(3,), guidance=Guidance(1.0)))
    assert torch.equal(NOISE, before)


def test_latents_that_are_sent_take_the_place_of_those_yielded() -> None:
    sampler = make_sampler(EULER, 0, 48, 80)
    plain = denoise_chunk(Field(), NOISE, Branches("prompt"), sampler, WaveSeeds())
    steered = denoise_chunk(Field(), NOISE, Branches("prompt"), sampler, WaveSeeds())
    first, _ = next(plain), next(steered)
    step = sampler.pyramid.levels[0].steps[1]
    other = first + 1
    want = other + (step.after - step.remaining) * Field()(other, step.timestep, "prompt")
    assert torch.allclose(steered.send(other), want, atol=1e-6)
    assert not torch.allclose(next(plain), want)


# Gradient mode


def test_gradient_mode_belongs_to_the_caller() -> None:
    weight = torch.ones(1, requires_grad=True)
    sampler = make_sampler(DISTILLED, 1, 48, 80)

    def states() -> Iterator[Tensor]:
        return denoise_chunk(lambda x, t, c: weight * 0.3 * x, NOISE, Branches("prompt"), sampler, WaveSeeds())

    run = states()
    with torch.no_grad():
        assert not any(next(run).requires_grad for _ in range(4))
    with torch.enable_grad():
        assert next(run).requires_grad
    assert all(x.requires_grad for x in states())


# Guidance


PROMPT, NEGATIVE = 1.0, 0.5


@pytest.mark.parametrize("method", ["cfg", "cfg_zero_star"])
def test_guidance_scale_1_is_the_conditional_prediction(method: str) -> None:
    denoiser, branches = Field(), Branches(PROMPT, NEGATIVE)
    got = guided_velocity(denoiser, NOISE, 500.0, branches, Guidance(1.0, method))
    assert torch.equal(got, Field()(NOISE, 500.0, PROMPT))
    assert [condition for _, _, condition in denoiser.calls] == [PROMPT]


@pytest.mark.parametrize(("method", "combine"), [("cfg", classifier_free), ("cfg_zero_star", cfg_zero_star)])
def test_guidance_asks_under_the_prompt_then_under_the_negative_prompt(
    method: str, combine: type(classifier_free)
) -> None:
    denoiser, branches = Field(), Branches(PROMPT, NEGATIVE)
    got = guided_velocity(denoiser, NOISE, 500.0, branches, Guidance(5.0, method))
    assert [(t, condition) for _, t, condition in denoiser.calls] == [(500.0, PROMPT), (500.0, NEGATIVE)]
    want = combine(Field()(NOISE, 500.0, PROMPT), Field()(NOISE, 500.0, NEGATIVE), 5.0)
    assert torch.equal(got, want)


def test_levels_that_are_not_guided_ask_under_the_prompt_alone() -> None:
    config = replace(DISTILLED, first_chunk_steps=None, steps=(1, 1, 2), guidance=Guidance(2.0, levels=2))
    guided, denoiser = Field(), Field()
    states = chunk_states(config, denoiser=denoiser, branches=Branches(PROMPT, NEGATIVE))
    everywhere = replace(config, guidance=Guidance(2.0))
    whole = chunk_states(everywhere, denoiser=guided, branches=Branches(PROMPT, NEGATIVE))
    asked = [(size, condition) for size, _, condition in denoiser.calls]
    coarse = [((2, 2), PROMPT), ((2, 2), NEGATIVE), ((4, 4), PROMPT), ((4, 4), NEGATIVE)]
    assert asked == [*coarse, ((8, 8), PROMPT), ((8, 8), PROMPT)]
    assert all(torch.equal(one, other) for one, other in zip(states[:2], whole[:2], strict=True))
    assert not torch.equal(states[2], whole[2])


def test_zero_steps_do_not_call_the_denoiser_and_leave_the_noise() -> None:
    denoiser = Field()
    states = chunk_states(MID_4, denoiser=denoiser, branches=Branches(PROMPT, NEGATIVE))
    assert len(states) == 12
    assert len(denoiser.calls) == 2 * (12 - 2)
    assert [size for size, _, _ in denoiser.calls[:4]] == [(2, 2)] * 4
    assert torch.allclose(states[0], shrink_noise(NOISE, 3), atol=1e-5)
    assert torch.allclose(states[1], shrink_noise(NOISE, 3), atol=1e-5)
    assert not torch.allclose(states[2], shrink_noise(NOISE, 3), atol=1e-2)


@pytest.mark.parametrize(
    ("guidance", "want"),
    [
        (Guidance(5.0, "cfg_zero_star", zero_init_steps=2), 2),
        (Guidance(5.0, "cfg_zero_star", zero_init_steps=0), 0),
        (Guidance(5.0, "cfg", zero_init_steps=2), 0),
        (Guidance(1.0, "cfg_zero_star", zero_init_steps=2), 0),
    ],
)
def test_zero_steps_belong_to_cfg_zero_star_while_guidance_is_on(guidance: Guidance, want: int) -> None:
    assert zero_init_steps(guidance) == want


# Repeating


def test_a_chunk_made_again_from_the_same_noise_and_seeds_is_identical() -> None:
    sampler = make_sampler(DISTILLED, 0, 8, 8)

    def make(seed: int) -> Tensor:
        seeds = RequestSeeds(seed).for_chunk(0)
        *_, chunk = denoise_chunk(Field(), seeds.noise((1, 2, 9, 8, 8)), Branches("prompt"), sampler, seeds)
        return chunk

    assert torch.equal(make(3), make(3))
    assert not torch.allclose(make(3), make(4))
