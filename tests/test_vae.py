"""Pixels and latents: chunk arithmetic, normalisation, independence, bytes, and loading."""

import copy
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from heliograph.checkpoint import read_folder
from heliograph.errors import CheckpointError, UserError
from heliograph.vae import LatentCodec, load_autoencoder, to_uint8

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def codec(tiny_folder: Path) -> LatentCodec:
    return LatentCodec(load_autoencoder(read_folder(tiny_folder), torch.float32, CPU))


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def latents_of(batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, 16, 9, 2, 2, generator=torch.Generator().manual_seed(seed))


def draws(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class RecordingAutoencoder:
    """An autoencoder whose posterior is certain and known, and which keeps what it was asked to decode."""

    dtype, device = torch.float32, CPU
    config = SimpleNamespace(z_dim=2, latents_mean=[0.5, -3.0], latents_std=[2.0, 0.1])
    raw = 4 * pixels(1, 2, 9, 1, 1)
    decoded: Tensor

    def encode(self, _: Tensor, /) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(sample=lambda _: self.raw))

    def decode(self, z: Tensor, /) -> Any:
        self.decoded = z
        return SimpleNamespace(sample=torch.zeros(1, 3, 33, 8, 8))


def test_nine_latent_frames_decode_to_33_frames_in_range(codec: LatentCodec) -> None:
    frames = codec.decode_chunk(3 * latents_of(2))
    assert frames.shape == (2, 3, 33, 16, 16)
    assert frames.dtype == torch.float32
    assert -1 <= frames.min() < frames.max() <= 1


def test_33_frames_encode_to_nine_latent_frames(codec: LatentCodec) -> None:
    latents = codec.encode_chunk(pixels(2, 3, 33, 16, 16), draws())
    assert latents.shape == (2, 16, 9, 2, 2)
    assert latents.dtype == torch.float32
    assert latents.isfinite().all()


def test_latents_are_normalised_per_channel_with_mean_and_std() -> None:
    autoencoder = RecordingAutoencoder()
    latents = LatentCodec(autoencoder).encode_chunk(pixels(1, 3, 33, 8, 8))
    torch.testing.assert_close(latents[:, 0], (autoencoder.raw[:, 0] - 0.5) / 2)
    torch.testing.assert_close(latents[:, 1], (autoencoder.raw[:, 1] + 3) / 0.1)


def test_decoding_undoes_the_normalisation_of_encoding() -> None:
    autoencoder = RecordingAutoencoder()
    codec = LatentCodec(autoencoder)
    codec.decode_chunk(codec.encode_chunk(pixels(1, 3, 33, 8, 8)))
    torch.testing.assert_close(autoencoder.decoded, autoencoder.raw)


def test_a_chunk_decodes_the_same_whatever_was_decoded_before(codec: LatentCodec) -> None:
    alone = codec.decode_chunk(latents_of(seed=1))
    codec.decode_chunk(latents_of(seed=2))
    assert torch.equal(codec.decode_chunk(latents_of(seed=1)), alone)


def test_frames_depend_on_every_latent_frame_of_their_chunk(codec: LatentCodec) -> None:
    before = codec.decode_chunk(latents_of())
    for index in range(9):
        changed = latents_of()
        changed[:, :, index] += 3
        differs = (codec.decode_chunk(changed) - before).abs().amax(dim=(0, 1, 3, 4)) > 0
        first = max(0, 4 * index - 3)
        assert not differs[:first].any()  # the autoencoder is causal
        assert differs[first:].any()


def test_batch_rows_do_not_change_each_other(codec: LatentCodec) -> None:
    batch = torch.cat([latents_of(seed=1), latents_of(seed=2)])
    torch.testing.assert_close(codec.decode_chunk(batch)[1:], codec.decode_chunk(batch[1:]), atol=1e-5, rtol=1e-5)
    clips = pixels(2, 3, 33, 16, 16)
    both = codec.encode_chunk(clips, [draws(1), draws(2)])
    torch.testing.assert_close(both[1:], codec.encode_chunk(clips[1:], draws(2)), atol=1e-5, rtol=1e-5)


def test_the_same_generator_gives_the_same_latents_and_another_one_others(codec: LatentCodec) -> None:
    image = pixels(1, 3, 16, 16)
    assert torch.equal(codec.encode_image(image, draws(1)), codec.encode_image(image, draws(1)))
    assert not torch.equal(codec.encode_image(image, draws(1)), codec.encode_image(image, draws(2)))


def test_an_image_is_one_latent_frame_that_shows_it(codec: LatentCodec) -> None:
    white, black = (codec.encode_image(torch.full((1, 3, 16, 16), level), draws()) for level in (1.0, -1.0))
    assert white.shape == (1, 16, 1, 2, 2)
    assert (white - black).abs().max() > 0.01


def test_a_still_is_the_last_latent_frame_of_the_image_repeated(codec: LatentCodec) -> None:
    image = pixels(1, 3, 16, 16)
    clip = image[:, :, None].expand(-1, -1, 33, -1, -1)
    assert torch.equal(codec.encode_still(image, draws()), codec.encode_chunk(clip, draws())[:, :, -1:])


def test_a_video_gives_its_last_whole_chunks_each_encoded_alone(codec: LatentCodec) -> None:
    video = pixels(1, 3, 70, 16, 16)
    generator = draws()
    _, latents = codec.encode_video(video, generator)
    again = draws()
    codec.encode_image(video[:, :, 0], again)
    expected = [codec.encode_chunk(video[:, :, start : start + 33], again) for start in (4, 37)]
    assert torch.equal(latents, torch.cat(expected, dim=2))


def test_the_anchor_is_frame_0_of_the_untrimmed_video(codec: LatentCodec) -> None:
    video = pixels(1, 3, 40, 16, 16)
    anchor, _ = codec.encode_video(video, draws())
    assert torch.equal(anchor, codec.encode_image(video[:, :, 0], draws()))


def test_a_video_shorter_than_a_chunk_is_a_users_mistake(codec: LatentCodec) -> None:
    with pytest.raises(UserError, match=r"32 frames.* at least 33"):
        codec.encode_video(pixels(1, 3, 32, 16, 16))


def test_neither_way_records_a_gradient(codec: LatentCodec) -> None:
    assert not codec.decode_chunk(latents_of().requires_grad_()).requires_grad
    assert not codec.encode_image(pixels(1, 3, 16, 16).requires_grad_()).requires_grad


def test_results_are_float32_whatever_the_autoencoder_computes_in(codec: LatentCodec) -> None:
    half = LatentCodec(copy.deepcopy(codec.autoencoder).bfloat16())
    frames = half.decode_chunk(latents_of())
    assert frames.dtype == half.encode_image(pixels(1, 3, 16, 16)).dtype == torch.float32
    assert (frames - codec.decode_chunk(latents_of())).abs().mean() < 0.05


def test_bytes_are_rounded_to_the_nearest_clamped_and_channels_last() -> None:
    frames = torch.zeros(1, 3, 2, 8, 8)
    frames[0, :, 1, 0, 5] = torch.tensor([-1.2, 100.6 / 127.5 - 1, 100.4 / 127.5 - 1])
    frames[0, 0, 0] = 1.0
    picture = to_uint8(frames)
    assert picture.shape == (1, 2, 8, 8, 3)
    assert picture.is_contiguous()
    assert picture[0, 1, 0, 5].tolist() == [0, 101, 100]
    assert picture[0, 0, 3, 3].tolist() == [255, 128, 128]


def test_every_byte_comes_back_from_its_pixel_value() -> None:
    levels = torch.arange(256.0).reshape(1, 1, 1, 16, 16).expand(-1, 3, -1, -1, -1)
    assert torch.equal(to_uint8(levels / 255 * 2 - 1)[0, 0, :, :, 0].flatten(), torch.arange(256).to(torch.uint8))


@pytest.mark.parametrize(
    "component", [["antigravity", "Anything"], ["heliograph", "Nothing"], ["diffusers", "AutoencoderKL"]]
)
def test_an_autoencoder_of_another_class_is_refused_and_nothing_is_imported(
    tiny_folder: Path, tmp_path: Path, component: list[str]
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": component}))
    with pytest.raises(CheckpointError, match=rf"{'.'.join(component)}.*use a model with one of: diffusers.Autoencod"):
        load_autoencoder(read_folder(folder), torch.float32, CPU)
    assert "antigravity" not in sys.modules


def test_a_model_without_autoencoder_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": [None, None]}))
    with pytest.raises(CheckpointError, match="names no vae"):
        load_autoencoder(read_folder(folder), torch.float32, CPU)


def test_statistics_that_do_not_fit_the_channels_are_refused() -> None:
    autoencoder = RecordingAutoencoder()
    autoencoder.config = SimpleNamespace(z_dim=16, latents_mean=[0.0], latents_std=[1.0])
    with pytest.raises(CheckpointError, match="z_dim=16 channels but 1 latents_mean"):
        LatentCodec(autoencoder)


def test_threads_that_encode_and_decode_at_once_get_what_each_alone_would(codec: LatentCodec) -> None:
    chunks = [pixels(1, 3, 33, 16, 16, seed=seed) for seed in range(6)]

    def there_and_back(chunk: Tensor) -> Tensor:
        return codec.decode_chunk(codec.encode_chunk(chunk, draws()))

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(there_and_back, chunks))
    for chunk, found in zip(chunks, together, strict=True):
        assert torch.equal(found, there_and_back(chunk))
