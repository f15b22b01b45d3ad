"""Starts: what a picture or a clip becomes in the history, and in which order numbers are drawn for it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from heliograph.config import MemoryConfig, StartNoise
from heliograph.errors import UserError
from heliograph.memory import History
from heliograph.seeds import GeneratorSeeds, RequestSeeds, Seeds
from heliograph.starts import Start, encode_image, encode_video, image_start, noisy_image, noisy_video, video_start
from heliograph.vae import LatentCodec
from tests.pipelines import clip, picture, small_vae
from tests.small import relative_error

MEMORY = MemoryConfig()


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return LatentCodec(small_vae())


@pytest.fixture(scope="module")
def image() -> Tensor:
    return picture(32, 16) * 2 - 1


@pytest.fixture(scope="module")
def video() -> Tensor:
    return clip(35, 32, 16).movedim(1, 2) * 2 - 1


def from_generator(seed: int = 0) -> GeneratorSeeds:
    return GeneratorSeeds(torch.Generator().manual_seed(seed), "cpu")


def by_hand(codec: LatentCodec, frames: Tensor, generator: torch.Generator) -> Tensor:
    """Normalised latents with the posterior's noise drawn as the reference says: mean + std·randn."""
    config = codec.autoencoder.config
    mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)
    with torch.no_grad():
        posterior = codec.autoencoder.encode(frames).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator)
    return (posterior.mean + posterior.std * noise - mean) / std


def mixed(latents: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Noise of one level for each latent frame, the levels drawn first."""
    sigma = (torch.rand(latents.shape[2], generator=generator) * (high - low) + low).view(1, 1, -1, 1, 1)
    return sigma * torch.randn(latents.shape, generator=generator) + (1 - sigma) * latents


def test_an_image_start_draws_in_the_order_of_the_reference(codec: LatentCodec, image: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    anchor = by_hand(codec, image[:, :, None], generator)
    newest = by_hand(codec, image[:, :, None].repeat(1, 1, 33, 1, 1), generator)[:, :, -1:]
    anchor = mixed(anchor, 0.1, 0.3, generator)
    newest = mixed(newest, 0.5, 0.9, generator)
    history = image_start(codec, image, StartNoise((0.1, 0.3), (0.5, 0.9)), from_generator(), MEMORY)
    assert history.anchor is not None
    assert relative_error(history.anchor, anchor) < 1e-6
    assert relative_error(history.latents[:, :, -1:], newest) < 1e-6


def test_a_video_start_draws_in_the_order_of_the_reference(codec: LatentCodec) -> None:
    video = clip(70, 16, 16).movedim(1, 2) * 2 - 1
    generator = torch.Generator().manual_seed(0)
    anchor = by_hand(codec, video[:, :, :1], generator)
    chunks = [by_hand(codec, video[:, :, first : first + 33], generator) for first in (4, 37)]
    anchor = mixed(anchor, 0.1, 0.3, generator)
    chunks = [mixed(chunk, 0.5, 0.9, generator) for chunk in chunks]
    history = video_start(codec, video, StartNoise((0.1, 0.3), (0.5, 0.9)), from_generator(), MEMORY)
    assert history.anchor is not None
    assert relative_error(history.anchor, anchor) < 1e-6
    assert relative_error(history.latents[:, :, -18:], torch.cat(chunks, dim=2)) < 1e-6


def test_before_an_image_there_is_nothing(codec: LatentCodec, image: Tensor) -> None:
    history = image_start(codec, image, StartNoise(), from_generator(), MEMORY)
    assert history.latents.shape == (1, 16, 19, 4, 2)
    assert history.num_chunks == 0
    assert not history.latents[:, :, :-1].any()
    assert history.latents[:, :, -1].abs().min() > 0


def test_before_a_short_clip_there_is_nothing(codec: LatentCodec, video: Tensor) -> None:
    history = video_start(codec, video, StartNoise(), from_generator(), MEMORY)
    assert not history.latents[:, :, :10].any()
    assert history.latents[:, :, 10:].abs().min() > 0


def test_of_a_long_clip_the_newest_frames_are_remembered() -> None:
    latents = torch.randn(1, 16, 27, 2, 2, generator=torch.Generator().manual_seed(0))
    history = Start(latents[:, :, :1], latents).history(MEMORY)
    assert torch.equal(history.latents, latents[:, :, -19:])


def test_a_start_without_anchor_takes_the_first_frame_that_is_made() -> None:
    history = Start(None, torch.ones(1, 16, 1, 2, 2)).history(MEMORY)
    chunk = torch.full((1, 16, 9, 2, 2), 3.0)
    after = history.push(chunk)
    assert history.anchor is None
    assert after.anchor is not None
    assert torch.equal(after.anchor, chunk[:, :, :1])


@pytest.mark.parametrize(
    ("start", "encode"), [(image_start, encode_image), (video_start, encode_video)], ids=["image", "video"]
)
def test_without_noise_latents_stay_as_encoded_and_nothing_more_is_drawn(
    codec: LatentCodec,
    image: Tensor,
    video: Tensor,
    start: Callable[..., History],
    encode: Callable[..., Start],
) -> None:
    pixels = image if start is image_start else video
    seeds, same = from_generator(), from_generator()
    history, encoded = start(codec, pixels, None, seeds, MEMORY), encode(codec, pixels, same)
    assert history.anchor is not None
    assert encoded.anchor is not None
    assert torch.equal(history.anchor, encoded.anchor)
    assert torch.equal(history.latents[:, :, -encoded.latents.shape[2] :], encoded.latents)
    assert torch.equal(seeds.generators.get_state(), same.generators.get_state())


@pytest.mark.parametrize("noisy", [noisy_image, noisy_video])
def test_noise_of_strength_zero_changes_nothing_and_of_one_leaves_nothing(noisy: Callable[..., Start]) -> None:
    start = Start(torch.ones(1, 4, 1, 2, 2), torch.ones(1, 4, 9, 2, 2))
    same = noisy(start, StartNoise((0.0, 0.0), (0.0, 0.0)), from_generator())
    gone = noisy(start, StartNoise((1.0, 1.0), (1.0, 1.0)), from_generator())
    other = noisy(Start(-start.anchor, -start.latents), StartNoise((1.0, 1.0), (1.0, 1.0)), from_generator())
    assert torch.equal(same.anchor, start.anchor)
    assert torch.equal(same.latents, start.latents)
    assert torch.equal(gone.anchor, other.anchor)
    assert torch.equal(gone.latents, other.latents)


def test_every_latent_frame_of_a_clip_has_its_own_noise_level_within_the_range() -> None:
    frames = torch.zeros(1, 16, 18, 32, 32)
    noisy = noisy_video(Start(frames[:, :, :1], frames), StartNoise((0.0, 0.0), (0.2, 0.8)), from_generator())
    levels = noisy.latents.std(dim=(0, 1, 3, 4))
    assert ((levels > 0.19) & (levels < 0.82)).all()
    assert levels.sort().values.diff().min() > 1e-4


def test_the_image_range_is_for_the_anchor_and_the_video_range_for_the_rest() -> None:
    zeros = torch.zeros(1, 16, 1, 32, 32)
    for noisy in (noisy_image, noisy_video):
        start = noisy(Start(zeros, zeros), StartNoise((0.2, 0.2), (0.7, 0.7)), from_generator())
        assert start.anchor is not None
        assert start.anchor.std().item() == pytest.approx(0.2, rel=0.03)
        assert start.latents.std().item() == pytest.approx(0.7, rel=0.03)


def test_latent_frames_beyond_whole_chunks_are_kept_and_get_noise_too() -> None:
    zeros = torch.zeros(1, 16, 11, 8, 8)
    noisy = noisy_video(Start(zeros[:, :, :1], zeros), StartNoise(), from_generator())
    assert noisy.latents.shape == zeros.shape
    assert noisy.latents[:, :, 9:].std(dim=(0, 1, 3, 4)).min() > 0.05


@pytest.mark.parametrize("seeds", [RequestSeeds, from_generator], ids=["request", "generator"])
def test_the_same_seed_gives_the_same_start_and_another_seed_another(
    codec: LatentCodec, image: Tensor, seeds: Callable[[int], Seeds]
) -> None:
    first, same, other = (image_start(codec, image, StartNoise(), seeds(seed), MEMORY) for seed in (1, 1, 2))
    assert torch.equal(first.latents, same.latents)
    assert not torch.equal(first.latents, other.latents)


def test_seeds_of_a_request_give_every_part_of_a_start_numbers_of_its_own() -> None:
    zeros = torch.zeros(1, 16, 18, 4, 4)
    everything = StartNoise((1.0, 1.0), (1.0, 1.0))
    clip_noise = noisy_video(Start(zeros[:, :, :1], zeros), everything, RequestSeeds(0))
    image_noise = noisy_image(Start(zeros[:, :, :1], zeros[:, :, :1]), everything, RequestSeeds(0))
    parts = [*clip_noise.latents.unbind(2), image_noise.latents[:, :, 0], image_noise.anchor[:, :, 0]]
    assert all(not torch.equal(a, b) for i, a in enumerate(parts) for b in parts[:i])


def test_a_clip_shorter_than_a_chunk_is_refused(codec: LatentCodec, video: Tensor) -> None:
    with pytest.raises(UserError, match="32 frames"):
        video_start(codec, video[:, :, :32], StartNoise(), from_generator(), MEMORY)


def test_a_batch_of_images_starts_every_video_from_its_own(codec: LatentCodec) -> None:
    images = picture(16, 16, batch=2) * 2 - 1
    both = image_start(codec, images, None, from_generator(), MEMORY)
    assert both.latents.shape[0] == 2
    assert both.anchor is not None
    single = image_start(codec, images[1:], None, from_generator(), MEMORY)
    assert single.anchor is not None
    # Posterior noise is small beside the difference between two pictures.
    assert (both.anchor[1] - single.anchor[0]).abs().mean() < (both.anchor[0] - single.anchor[0]).abs().mean()
