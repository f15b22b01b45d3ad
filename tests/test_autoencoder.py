"""The fast autoencoder: frames, memory, names."""

import torch

from heliograph.autoencoder import FastAutoencoder
from heliograph.vae import Autoencoder, LatentCodec


def small() -> FastAutoencoder:
    """A small random one."""
    torch.manual_seed(0)
    return FastAutoencoder(encoder_dim=4, decoder_dims=(8, 6, 4, 4), num_blocks=1).eval()


def test_33_frames_encode_to_9_and_9_decode_to_33() -> None:
    codec = LatentCodec(small())
    frames = torch.rand(2, 3, 33, 16, 24) * 2 - 1
    latents = codec.encode_chunk(frames)
    assert latents.shape == (2, 16, 9, 2, 3)
    assert codec.decode_chunk(latents).shape == frames.shape
    assert codec.encode_image(frames[:, :, 0]).shape == (2, 16, 1, 2, 3)


def test_it_is_an_autoencoder_of_the_package() -> None:
    assert isinstance(small(), Autoencoder)


@torch.no_grad()
def test_it_is_causal_in_both_directions() -> None:
    model = small()
    frames = torch.rand(1, 3, 33, 16, 16) * 2 - 1
    changed = frames.clone()
    changed[:, :, 21:] = 0
    a, b = (model.encode(x).latent_dist.mode() for x in (frames, changed))
    assert torch.equal(a[:, :, :6], b[:, :, :6]) and not torch.equal(a[:, :, 6:], b[:, :, 6:])
    z = torch.randn(1, 16, 9, 2, 2)
    other = z.clone()
    other[:, :, 4:] = 0
    a, b = (model.decode(x).sample for x in (z, other))
    assert torch.equal(a[:, :, :13], b[:, :, :13]) and not torch.equal(a[:, :, 13:], b[:, :, 13:])


def test_encoding_draws_no_noise_into_the_latents() -> None:
    codec = LatentCodec(small())
    frames = torch.rand(1, 3, 33, 16, 16) * 2 - 1
    a, b = (codec.encode_chunk(frames, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(a, b)


def test_tensor_names_and_shapes_are_those_of_taew2_1() -> None:
    with torch.device("meta"):
        state = FastAutoencoder().state_dict()
    shapes = {
        "encoder.0.weight": (64, 3, 3, 3),
        "encoder.2.conv.weight": (64, 128, 1, 1),
        "encoder.3.weight": (64, 64, 3, 3),
        "encoder.4.conv.0.weight": (64, 128, 3, 3),
        "encoder.12.conv.weight": (64, 64, 1, 1),
        "encoder.17.weight": (16, 64, 3, 3),
        "decoder.1.weight": (256, 16, 3, 3),
        "decoder.3.conv.4.weight": (256, 256, 3, 3),
        "decoder.7.conv.weight": (256, 256, 1, 1),
        "decoder.8.weight": (128, 256, 3, 3),
        "decoder.13.conv.weight": (256, 128, 1, 1),
        "decoder.19.conv.weight": (128, 64, 1, 1),
        "decoder.20.weight": (64, 64, 3, 3),
        "decoder.22.weight": (3, 64, 3, 3),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert "encoder.3.bias" not in state and "decoder.8.bias" not in state and "encoder.17.bias" in state
