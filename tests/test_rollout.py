"""The rollout: chunks follow one another, repeat bit for bit, resume and branch."""

from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch
from torch import Tensor

from heliograph.config import Guidance, MemoryConfig, SamplerConfig
from heliograph.memory import History, Tiers
from heliograph.model.denoiser import Condition, TransformerDenoiser
from heliograph.presets import BASE, DISTILLED, FAST
from heliograph.rollout import Conditioning, Turn, next_turn, rollout
from heliograph.sample import Branches
from heliograph.seeds import GeneratorSeeds, RequestSeeds
from tests.small import small_transformer, wave

SHAPE = (1, 16, 8, 8)


def toward_history(x: Tensor, timestep: float, condition: tuple[Tiers, float]) -> Tensor:
    """A denoiser that pulls the chunk towards its newest remembered frame and the prompt."""
    tiers, prompt = condition
    return x - 0.5 * tiers.short.latents[:, :, -1:].mean(dim=(-1, -2), keepdim=True) - prompt


def under(*prompts: float) -> Conditioning:
    """Conditioning on one prompt for each chunk; the last one goes on for ever."""
    return lambda tiers, index: Branches((tiers, prompts[min(index, len(prompts) - 1)]))


def turns(count: int, history: History | None = None, seed: int = 0, prompts: tuple[float, ...] = (0.1,)) -> list[Turn]:
    """The next `count` turns after `history`."""
    start = history or History.empty(SHAPE, MemoryConfig())
    return list(islice(rollout(toward_history, start, under(*prompts), DISTILLED, RequestSeeds(seed)), count))


def same(one: Turn, other: Turn) -> bool:
    """Whether two turns agree bit for bit, what they remember included."""
    return (
        one.index == other.index
        and torch.equal(one.latents, other.latents)
        and torch.equal(one.history.latents, other.history.latents)
        and torch.equal(one.history.anchor, other.history.anchor)
    )


# Order


def test_chunks_are_numbered_and_remembered() -> None:
    made = turns(4)
    assert [turn.index for turn in made] == [0, 1, 2, 3]
    assert [turn.history.num_chunks for turn in made] == [1, 2, 3, 4]
    for turn in made:
        assert turn.latents.shape == (1, 16, 9, 8, 8)
        assert turn.latents.dtype == torch.float32
        assert torch.equal(turn.history.latents[:, :, -9:], turn.latents)
        assert torch.equal(turn.history.anchor, made[0].latents[:, :, :1])


def test_each_chunk_is_conditioned_on_those_before_it() -> None:
    seen: list[tuple[Tiers, int]] = []

    def conditioning(tiers: Tiers, index: int) -> Branches:
        seen.append((tiers, index))
        return Branches((tiers, 0.1))

    start = History.empty(SHAPE, MemoryConfig())
    made = list(islice(rollout(toward_history, start, conditioning, DISTILLED, RequestSeeds(0)), 3))
    assert [index for _, index in seen] == [0, 1, 2]
    assert not seen[0][0].short.latents.any()
    for (tiers, _), before in zip(seen[1:], made, strict=False):
        assert torch.equal(tiers.short.latents[:, :, -1], before.latents[:, :, -1])
        assert torch.equal(tiers.short.latents[:, :, :1], made[0].latents[:, :, :1])
        assert tiers.chunk_frames == tuple(range(20, 29))


def test_chunks_of_one_video_differ() -> None:
    first, second = turns(2)
    assert not torch.allclose(first.latents, second.latents)


def test_the_rollout_works_only_when_asked() -> None:
    calls: list[float] = []

    def denoiser(x: Tensor, timestep: float, condition: object) -> Tensor:
        calls.append(timestep)
        return x

    endless = rollout(denoiser, History.empty(SHAPE, MemoryConfig()), under(0.1), DISTILLED, RequestSeeds(0))
    assert not calls
    next(endless)
    assert len(calls) == 12  # the first chunk's boost
    next(endless)
    assert len(calls) == 18


@pytest.mark.parametrize(("config", "want"), [(DISTILLED, [12, 6]), (FAST, [6, 3])], ids=["distilled", "fast"])
def test_steps_are_reported_as_they_are_done(config: SamplerConfig, want: list[int]) -> None:
    reports: list[tuple[int, int]] = []
    start, seeds = History.empty(SHAPE, MemoryConfig()), RequestSeeds(0)
    for _ in islice(rollout(toward_history, start, under(0.1), config, seeds, lambda *r: reports.append(r)), 2):
        pass
    assert reports == [(done, total) for total in want for done in range(1, total + 1)]


def test_memory_stays_flat_however_long_the_video_runs() -> None:
    sizes = {
        (turn.history.latents.untyped_storage().nbytes(), turn.history.anchor.untyped_storage().nbytes())
        for turn in turns(6)
    }
    assert sizes == {(4 * 16 * 19 * 64, 4 * 16 * 64)}


# Repeating


def test_a_chunk_made_again_from_its_seed_and_history_is_identical() -> None:
    made = turns(4)
    for before, turn in pairwise(made):
        again = next_turn(toward_history, before.history, under(0.1), DISTILLED, RequestSeeds(0))
        assert same(again, turn)


def test_a_resumed_video_goes_on_as_if_it_had_never_stopped() -> None:
    whole = turns(5)
    rest = turns(3, history=turns(2)[-1].history)
    assert all(same(a, b) for a, b in zip(rest, whole[2:], strict=True))


def test_another_seed_is_another_video() -> None:
    assert not torch.allclose(turns(1, seed=0)[0].latents, turns(1, seed=1)[0].latents)


def test_a_branch_shares_the_past_and_goes_its_own_way() -> None:
    trunk = turns(2)[-1].history
    one, other = turns(1, trunk, prompts=(0.1,))[0], turns(1, trunk, prompts=(0.9,))[0]
    assert torch.equal(one.history.latents[:, :, :10], other.history.latents[:, :, :10])
    assert not torch.allclose(one.latents, other.latents)


def test_a_prompt_that_changes_later_leaves_earlier_chunks_alone() -> None:
    plain, steered = turns(3, prompts=(0.1,)), turns(3, prompts=(0.1, 0.1, 0.9))
    assert same(plain[0], steered[0])
    assert same(plain[1], steered[1])
    assert not torch.allclose(plain[2].latents, steered[2].latents)


def test_one_generator_gives_the_same_video_in_its_own_order() -> None:
    def make(seed: int) -> list[Turn]:
        seeds = GeneratorSeeds(torch.Generator().manual_seed(seed), "cpu")
        start = History.empty(SHAPE, MemoryConfig())
        return list(islice(rollout(toward_history, start, under(0.1), DISTILLED, seeds), 2))

    assert all(same(a, b) for a, b in zip(make(1), make(1), strict=True))
    assert not torch.allclose(make(1)[0].latents, make(2)[0].latents)


# Starts


def test_a_start_from_an_image_reaches_the_first_chunk_and_stays_the_anchor() -> None:
    image = wave((1, 16, 1, 8, 8), 0.3)
    start = History.from_image(image, image + 1, MemoryConfig())
    made = turns(3, start)
    assert not torch.allclose(made[0].latents, turns(1)[0].latents)
    assert all(torch.equal(turn.history.anchor, image) for turn in made)
    assert made[0].index == 0


# With the transformer


@torch.no_grad()
def test_a_chunk_of_the_transformer_is_identical_when_made_again_by_a_fresh_denoiser() -> None:
    transformer = small_transformer()
    config = replace(BASE, steps=(2,), guidance=Guidance(4.0))

    def make(history: History, count: int) -> list[Turn]:
        denoiser = TransformerDenoiser(transformer)
        prompt, negative = denoiser.prompt(wave((1, 5, 32), 0.5)), denoiser.prompt(wave((1, 5, 32), 2.5))

        def conditioning(tiers: Tiers, index: int) -> Branches:
            context = denoiser.context(tiers)
            return Branches(Condition(prompt, context), Condition(negative, context))

        return list(islice(rollout(denoiser, history, conditioning, config, RequestSeeds(0)), count))

    start = History.empty((1, 16, 4, 4), MemoryConfig())
    whole = make(start, 3)
    assert same(make(whole[1].history, 1)[0], whole[2])
    assert all(torch.isfinite(turn.latents).all() for turn in whole)
