"""Latents and frames: bit for bit those of diffusers' Helios pipeline, with the same generator."""

import numpy as np
import pytest
import torch
from diffusers import HeliosPipeline
from torch import Tensor

from heliograph.tiny import write_random_tiny
from heliograph.vae import LatentCodec, to_uint8

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> HeliosPipeline:
    folder = tmp_path_factory.mktemp("base")
    write_random_tiny(folder, variant="base")
    pipeline = HeliosPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def codec(pipeline: HeliosPipeline) -> LatentCodec:
    return LatentCodec(pipeline.vae)


def pixels(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def call_arguments(pipeline: HeliosPipeline, generator: torch.Generator) -> dict[str, object]:
    """What the pipeline's own call passes to its helpers."""
    vae = pipeline.vae
    std = 1.0 / torch.tensor(vae.config.latents_std).view(1, vae.config.z_dim, 1, 1, 1)
    return {
        "latents_mean": torch.tensor(vae.config.latents_mean).view(1, vae.config.z_dim, 1, 1, 1),
        "latents_std": std,
        "num_latent_frames_per_chunk": 9,
        "dtype": torch.float32,
        "device": CPU,
        "generator": generator,
    }


@torch.no_grad()
def test_the_two_latents_of_an_image_equal_those_of_diffusers(pipeline: HeliosPipeline, codec: LatentCodec) -> None:
    image, ours, theirs = pixels(1, 3, 16, 24), draws(), draws()
    anchor, fake = pipeline.prepare_image_latents(image, **call_arguments(pipeline, theirs))
    assert torch.equal(codec.encode_image(image, ours), anchor)
    assert torch.equal(codec.encode_still(image, ours), fake)
    assert torch.equal(ours.get_state(), theirs.get_state())


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [33, 71])
def test_the_latents_of_a_video_equal_those_of_diffusers(
    pipeline: HeliosPipeline, codec: LatentCodec, num_frames: int
) -> None:
    video, ours, theirs = pixels(1, 3, num_frames, 16, 24), draws(), draws()
    want_anchor, want_latents = pipeline.prepare_video_latents(video, **call_arguments(pipeline, theirs))
    anchor, latents = codec.encode_video(video, ours)
    assert torch.equal(anchor, want_anchor)
    assert torch.equal(latents, want_latents)
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_decoded_frames_and_bytes_equal_those_of_diffusers(pipeline: HeliosPipeline, codec: LatentCodec) -> None:
    def generate(output_type: str) -> object:
        return pipeline(
            "a red fish",
            height=32,
            width=32,
            num_frames=33,
            num_inference_steps=1,
            guidance_scale=1.0,
            max_sequence_length=32,
            generator=draws(),
            output_type=output_type,
        ).frames

    frames = codec.decode_chunk(generate("latent"))
    assert torch.equal((frames / 2 + 0.5).clamp(0, 1).permute(0, 2, 1, 3, 4), generate("pt"))
    pictures = np.stack([np.asarray(picture) for picture in generate("pil")[0]])
    assert np.array_equal(to_uint8(frames)[0].numpy(), pictures)
