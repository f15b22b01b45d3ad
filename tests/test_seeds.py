"""Randomness: which numbers belong to which purpose, and the order of one generator."""

import pytest
import torch

from heliograph.errors import UserError
from heliograph.seeds import (
    DEFAULT_SEED,
    MAX_SEED,
    ChunkSeeds,
    GeneratorSeeds,
    RequestSeeds,
    Seeds,
    check_seed,
    fixed_block_numbers,
)

SHAPE = (1, 16, 9, 4, 6)
BLOCKS = (1, 16, 9, 2, 3, 4)


def from_stream(*shapes: tuple[int, ...], seed: int = 5) -> list[torch.Tensor]:
    """Normal numbers drawn one after another from one generator."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


# Seeds of a request


def test_the_same_seed_chunk_and_purpose_give_the_same_numbers() -> None:
    one, other = RequestSeeds(7), RequestSeeds(7)
    assert torch.equal(one.for_chunk(3).noise(SHAPE), other.for_chunk(3).noise(SHAPE))
    assert torch.equal(one.for_chunk(3).block(1, BLOCKS), other.for_chunk(3).block(1, BLOCKS))
    assert torch.equal(one.normal("image", SHAPE), other.normal("image", SHAPE))
    assert torch.equal(one.uniform("image", 3), other.uniform("image", 3))


def test_every_use_has_numbers_of_its_own() -> None:
    seeds = RequestSeeds(7)
    uses = [
        *(seeds.for_chunk(chunk).noise(BLOCKS) for chunk in (0, 1, 10, 11)),
        *(seeds.for_chunk(chunk).block(level, BLOCKS) for chunk in (0, 1, 11) for level in (1, 2)),
        *(seeds.normal(purpose, BLOCKS) for purpose in ("image", "video")),
        RequestSeeds(8).for_chunk(0).noise(BLOCKS),
    ]
    assert len({tuple(numbers.flatten().tolist()) for numbers in uses}) == len(uses)


def test_numbers_do_not_depend_on_what_was_drawn_before() -> None:
    fresh, used = RequestSeeds(7), RequestSeeds(7)
    for chunk in range(3):
        used.for_chunk(chunk).noise(SHAPE)
        used.for_chunk(chunk).block(1, BLOCKS)
    torch.manual_seed(1)
    assert torch.equal(fresh.for_chunk(5).noise(SHAPE), used.for_chunk(5).noise(SHAPE))


def test_drawing_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    seeds = RequestSeeds(7)
    seeds.for_chunk(0).noise(SHAPE)
    seeds.uniform("image", 2)
    fixed_block_numbers(BLOCKS, "cpu")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seed_means_the_same_numbers_in_every_version() -> None:
    generator = RequestSeeds(7).generator("noise/0")
    assert generator.initial_seed() == 8036899482474117309
    assert torch.equal(RequestSeeds(7).for_chunk(0).noise(SHAPE), torch.randn(SHAPE, generator=generator))


def test_noise_is_standard_normal() -> None:
    noise = RequestSeeds(0).for_chunk(0).noise((1, 16, 9, 48, 80))
    assert noise.dtype == torch.float32
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)


def test_uniform_numbers_fill_0_to_1() -> None:
    numbers = RequestSeeds(0).uniform("image", 4000)
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    assert float(numbers.mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    for build in (check_seed, RequestSeeds):
        with pytest.raises(UserError, match=rf"seed={seed} .*0 to {MAX_SEED}"):
            build(seed)


def test_the_smallest_and_the_largest_seed_work() -> None:
    numbers = [RequestSeeds(seed).for_chunk(0).noise((2, 2)) for seed in (0, MAX_SEED)]
    assert not torch.equal(*numbers)


# The block noise of the released engine


def test_the_default_seed_is_that_of_a_generator_nobody_seeded() -> None:
    assert torch.Generator().initial_seed() == DEFAULT_SEED
    assert torch.equal(fixed_block_numbers(BLOCKS, "cpu"), torch.randn(BLOCKS, generator=torch.Generator()))


def test_fixed_block_noise_is_the_same_for_every_seed_chunk_and_level() -> None:
    draws = [
        RequestSeeds(s, block_noise="fixed").for_chunk(c).block(level, BLOCKS)
        for s, c, level in ((0, 0, 1), (1, 0, 1), (0, 4, 1), (0, 0, 2))
    ]
    assert all(torch.equal(draw, fixed_block_numbers(BLOCKS, "cpu")) for draw in draws)


def test_fixed_block_noise_of_one_level_begins_that_of_the_next() -> None:
    small, large = fixed_block_numbers(BLOCKS, "cpu"), fixed_block_numbers((1, 16, 9, 4, 6, 4), "cpu")
    assert torch.equal(small.flatten(), large.flatten()[: small.numel()])


def test_fixed_block_noise_leaves_the_noise_of_the_chunk_to_the_seed() -> None:
    noises = [RequestSeeds(s, block_noise="fixed").for_chunk(0).noise(SHAPE) for s in (0, 1)]
    assert not torch.equal(*noises)


# Seeds from one generator


def test_one_generator_is_drawn_from_in_the_order_of_use() -> None:
    seeds = GeneratorSeeds(torch.Generator().manual_seed(5), "cpu")
    got = []
    for chunk in range(2):
        part = seeds.for_chunk(chunk)
        got += [part.noise(SHAPE), part.block(1, BLOCKS), part.block(2, SHAPE)]
    want = from_stream(SHAPE, BLOCKS, SHAPE, SHAPE, BLOCKS, SHAPE)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_one_generator_gives_uniform_numbers_in_the_same_stream() -> None:
    seeds, generator = (GeneratorSeeds(torch.Generator().manual_seed(5), "cpu"), torch.Generator().manual_seed(5))
    assert torch.equal(seeds.uniform("image", 3), torch.rand(3, generator=generator))
    assert torch.equal(seeds.normal("image", SHAPE), torch.randn(SHAPE, generator=generator))


def test_one_generator_with_fixed_block_noise_is_not_advanced_by_it() -> None:
    seeds = GeneratorSeeds(torch.Generator().manual_seed(5), "cpu", block_noise="fixed")
    first, block, second = seeds.noise(SHAPE), seeds.block(1, BLOCKS), seeds.noise(SHAPE)
    assert torch.equal(block, fixed_block_numbers(BLOCKS, "cpu"))
    assert all(torch.equal(a, b) for a, b in zip((first, second), from_stream(SHAPE, SHAPE), strict=True))


def test_a_list_of_generators_gives_each_row_its_own_numbers() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    seeds = GeneratorSeeds(generators, "cpu")
    noise = seeds.noise((2, *SHAPE[1:]))
    assert torch.equal(noise[:1], from_stream(SHAPE, seed=5)[0])
    assert torch.equal(noise[1:], from_stream(SHAPE, seed=6)[0])
    assert torch.equal(seeds.block(1, BLOCKS), from_stream(SHAPE, BLOCKS, seed=5)[1])


def test_no_generator_draws_block_noise_like_an_unseeded_one() -> None:
    assert torch.equal(GeneratorSeeds(None, "cpu").block(1, BLOCKS), fixed_block_numbers(BLOCKS, "cpu"))


def test_both_kinds_of_seeds_serve_a_rollout() -> None:
    for seeds in (RequestSeeds(0), GeneratorSeeds(torch.Generator(), "cpu")):
        assert isinstance(seeds, Seeds)
        assert isinstance(seeds.for_chunk(0), ChunkSeeds)
