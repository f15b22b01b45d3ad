"""The decoder in few passes gives what the library's gives frame by frame."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers.models.autoencoders import autoencoder_kl_wan
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn

from heliograph.vae import LatentCodec
from heliograph.wan_decoder import WanDecoder, can_walk, pass_bytes, passes_within
from tests.live_bytes import most_live_bytes


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderKLWan:
    """Two residual blocks to a level and a shortcut between widths, as in the released one; random weights."""
    torch.manual_seed(0)
    model = AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 4, 4], num_res_blocks=2).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "gamma")):
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def latents(height: int = 3, width: int = 5, batch: int = 1) -> Tensor:
    return torch.randn(batch, 16, 9, height, width, generator=torch.Generator().manual_seed(1))


def decibels(got: Tensor, want: Tensor) -> float:
    """Peak signal-to-noise ratio of videos in [-1, 1]."""
    return 10 * math.log10(4 / float((got.double() - want.double()).square().mean()))


@pytest.fixture(scope="module")
def in_float64(autoencoder: AutoencoderKLWan) -> Tensor:
    """The library's frames, all in float64: its enlargement would round to float32 on the way."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(autoencoder_kl_wan.WanUpsample, "forward", nn.Upsample.forward)
        frames = autoencoder.double().decode(latents(batch=2).double()).sample
    autoencoder.float()
    return frames


@pytest.mark.parametrize("lengths", [(1, 8), (1, 4), (1, 3), (1, 1)])
def test_more_frames_to_a_pass_change_nothing(
    autoencoder: AutoencoderKLWan, in_float64: Tensor, lengths: tuple[int, ...]
) -> None:
    got = WanDecoder(autoencoder, torch.float64, lengths).decode(latents(batch=2).double())
    assert got.shape == in_float64.shape == (2, 3, 33, 24, 40)
    assert in_float64.std() > 0.2, "pictures, not grey"
    assert float((got - in_float64).abs().max()) < 1e-12


def test_half_precision_keeps_55_decibels(autoencoder: AutoencoderKLWan, in_float64: Tensor) -> None:
    got = WanDecoder(autoencoder, torch.float16, (1, 8)).decode(latents(batch=2))
    assert decibels(got, in_float64) > 55


def test_a_codec_decodes_with_it_and_encodes_as_before(autoencoder: AutoencoderKLWan) -> None:
    library = LatentCodec(autoencoder)
    codec = LatentCodec(autoencoder, WanDecoder(autoencoder, torch.float16, (1, 8)))
    frames = codec.decode_chunk(latents(1, 2))
    assert frames.dtype == torch.float32
    assert decibels(frames, library.decode_chunk(latents(1, 2))) > 55
    pixels = torch.rand(1, 3, 33, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    assert torch.equal(codec.encode_chunk(pixels, draws[0]), library.encode_chunk(pixels, draws[1]))


@pytest.mark.parametrize(
    ("lengths", "dtype"), [((1, 8), torch.float16), ((1, 2), torch.float32), ((1, 1), torch.float16)]
)
def test_a_pass_takes_no_more_memory_than_is_said(lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    model = AutoencoderKLWan(base_dim=48, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    taken = most_live_bytes(WanDecoder(model, dtype, lengths).decode, (1, 16, 9, 8, 12))
    said = pass_bytes(lengths, 64, 96, 48, dtype)
    assert 0.6 * said < taken <= said


def test_passes_grow_with_the_memory_there_is() -> None:
    size = (384, 640, 96, torch.float16)
    assert passes_within(10**12, *size) == (1, 8)
    assert passes_within(0, *size) == (1,) * 9
    chosen = [passes_within(free, *size) for free in range(10**9, 20 * 10**9, 10**9)]
    assert all(sum(lengths) == 9 for lengths in chosen)
    assert all(len(a) >= len(b) for a, b in pairwise(chosen))
    assert {len(lengths) for lengths in chosen} == {9, 5, 3, 2}


def test_other_decoders_are_left_to_the_library(autoencoder: AutoencoderKLWan) -> None:
    assert can_walk(autoencoder)
    assert not can_walk(nn.Identity())
    assert not can_walk(AutoencoderKLWan(base_dim=4, num_res_blocks=1, is_residual=True))
