"""The linear code: what it keeps and drops, how frames become latents, and a network that begins by adding nothing."""

import pytest
import torch

from heliograph.lean_decoder import LeanDecoder
from heliograph.linear_autoencoder import (
    PATCH_VALUES,
    LinearAutoencoder,
    balanced_std,
    from_patches,
    grown,
    smaller,
    to_patches,
)
from heliograph.shapes import LATENT_STRIDE


@pytest.fixture
def coded() -> LinearAutoencoder:
    return random_code(LATENT_STRIDE)


def random_code(stride: int, decoder_dim: int = 0) -> LinearAutoencoder:
    """A random orthonormal code of 16 components, without a network or with one that adds nothing."""
    model = LinearAutoencoder(decoder_dim=decoder_dim, scale_factor_spatial=stride)
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(PATCH_VALUES, 16, generator=generator))
    model.basis.data.copy_(basis.T)
    model.mean.data.copy_(0.1 * torch.randn(PATCH_VALUES, generator=generator))
    return model.eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_patches_put_back_together_are_the_picture():
    frames = noise(2, 3, 8, 16, 24)
    assert torch.equal(from_patches(to_patches(frames)), frames)


def test_a_patch_is_four_frames_of_one_cell():
    frames = torch.zeros(1, 3, 8, 16, 16)
    frames[:, :, 4:, 8:, :8] = 1
    patches = to_patches(frames)
    assert patches.shape == (1, 2, 2, 2, PATCH_VALUES)
    assert patches[0, 1, 1, 0].min() == 1
    assert patches.sum() == PATCH_VALUES


def test_33_frames_are_9_latents_and_come_back_as_33(coded):
    z = coded.encode(noise(1, 3, 33, 16, 16).clamp(-1, 1)).latent_dist.mode()
    assert z.shape == (1, 16, 9, 2, 2)
    assert coded.decode(z).sample.shape == (1, 3, 33, 16, 16)


def test_a_clip_inside_the_code_comes_back_exactly(coded):
    z = 0.05 * noise(1, 16, 9, 2, 2)
    z[:, :, 0] = coded.encode(torch.full((1, 3, 33, 16, 16), 0.2)).latent_dist.mode()[:, :, 0]
    frames = coded.reconstruct(z)
    again = (to_patches(frames) - coded.mean) @ coded.basis.T
    torch.testing.assert_close(again.movedim(-1, 1), z, rtol=0, atol=1e-5)


def test_a_larger_cell_has_the_code_of_the_smaller_picture():
    frames = noise(1, 3, 33, 32, 64).clamp(-1, 1)
    small, large = random_code(8), random_code(16)
    z = large.encode(frames).latent_dist.mode()
    assert z.shape == (1, 16, 9, 2, 4)
    torch.testing.assert_close(z, small.encode(smaller(frames, 2)).latent_dist.mode())


def test_without_a_network_a_larger_cell_shows_the_smaller_picture_enlarged():
    small, large, z = random_code(8), random_code(16), noise(1, 16, 9, 2, 2)
    expected = small.decode(z).sample.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(large.decode(z).sample, expected)


@pytest.mark.parametrize("stride", [8, 16, 24])
def test_patches_of_any_cell_put_back_together_are_the_picture(stride: int):
    frames = noise(1, 3, 8, 2 * stride, stride)
    assert torch.equal(from_patches(to_patches(frames, stride), stride), frames)


def test_grown_patches_are_the_patches_of_the_enlarged_picture():
    frames = noise(1, 3, 4, 16, 8)
    enlarged = frames.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(grown(to_patches(frames), 2), to_patches(enlarged, 16))


def test_the_first_latent_shows_the_first_frame_alone(coded):
    a = noise(1, 3, 33, 16, 16)
    b = torch.cat([a[:, :, :1], noise(1, 3, 32, 16, 16).flip(2)], dim=2)
    first, second = (coded.encode(x).latent_dist.mode() for x in (a, b))
    assert torch.equal(first[:, :, 0], second[:, :, 0])
    assert not torch.equal(first[:, :, 1], second[:, :, 1])


def test_an_untrained_network_adds_nothing(coded):
    model = LinearAutoencoder(decoder_dim=8).eval()
    model.load_state_dict(coded.state_dict(), strict=False)
    z = noise(1, 16, 9, 2, 2)
    assert torch.equal(model.decode(z).sample, coded.decode(z).sample)


def test_the_network_sees_neighbours_in_space_and_time_and_no_further():
    model = LinearAutoencoder(decoder_dim=8)
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    z = noise(1, 16, 9, 9, 9)
    moved = z.clone()
    moved[:, :, 4, 4, 4] += 1
    changed = (model.decoder(moved) - model.decoder(z)).abs().amax(-1)[0] > 0
    where = changed.nonzero()
    assert where.amin(0).tolist() == [3, 2, 2]
    assert where.amax(0).tolist() == [5, 6, 6]


def test_balanced_deviations_have_root_proportions_and_mean_square_one():
    std = torch.tensor([9.0, 4.0, 1.0])
    left = std / balanced_std(std)
    torch.testing.assert_close(left / left[2], torch.tensor([3.0, 2.0, 1.0]))
    torch.testing.assert_close(left.square().mean(), torch.tensor(1.0))


def test_it_is_the_same_after_saving_and_loading(tmp_path, coded):
    coded.save_pretrained(tmp_path)
    again = LinearAutoencoder.from_pretrained(tmp_path)
    z = noise(1, 16, 9, 2, 2)
    assert torch.equal(again.decode(z).sample, coded.decode(z).sample)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize(
    ("is_low", "error"), [(False, 1e-5), (True, 10 ** (-55 / 20) * 2)], ids=["float32", "bfloat16"]
)
def test_the_lean_decoder_shows_the_picture_of_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, *, is_low: bool, error: float, stride: int
) -> None:
    monkeypatch.setattr("heliograph.lean_decoder.has_fast_bfloat16", lambda: is_low)
    model = LinearAutoencoder(decoder_dim=24, latents_std=(2.0,) * 16, scale_factor_spatial=stride).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        z = noise(2, 16, 9, 3, 4)
        want = model.decode(z).sample
        got = LeanDecoder(model).decode(z)
    assert float(want.std()) > 0.05
    assert float((got - want).square().mean().sqrt()) < error  # for bfloat16 55 dB of a range of 2


# The refiner


def refined(stride: int = 16, *, is_trained: bool = True) -> LinearAutoencoder:
    """A random autoencoder with a refiner; all its weights are random where it `is_trained`."""
    model = LinearAutoencoder(decoder_dim=8, scale_factor_spatial=stride, refiner_dim=8).eval()
    if is_trained:
        generator = torch.Generator().manual_seed(3)
        for parameter in model.parameters():
            parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def test_an_untrained_refiner_changes_nothing():
    model, z = refined(is_trained=False), noise(1, 16, 9, 2, 3)
    assert model.refiner is not None
    assert torch.equal(model.reconstruct(z), model.painted(z))


@pytest.mark.parametrize("stride", [8, 16])
def test_a_refiner_sees_across_the_edges_of_cells_and_never_other_latent_frames(stride: int):
    model = refined(stride)
    cells, frames = noise(9, 48, 4, 4), noise(1, 3, 36, 4 * stride, 4 * stride)
    moved = frames.clone()
    moved[:, :, 17, 2 * stride, 2 * stride] += 1
    changed = ((model.refiner(moved, cells) - model.refiner(frames, cells)).abs() > 1e-6).nonzero()
    assert changed[:, 2].unique().tolist() == [16, 17, 18, 19]
    assert changed[:, 3].min() < 2 * stride - 4 and changed[:, 4].min() < 2 * stride - 4


def test_a_refiner_knows_where_in_its_cell_a_tile_lies():
    model = refined(16)
    same, cells = torch.zeros(1, 12, 96, 96), torch.zeros(1, 48, 6, 6)
    given = model.refiner.refine(same, cells)[0, :, 44:52, 44:52]  # two tiles on either side of an edge
    assert not torch.allclose(given[:, :4, :4], given[:, 4:, 4:], atol=1e-4)
    with torch.no_grad():
        model.refiner.place.zero_()
    even = model.refiner.refine(same, cells)[0, :, 44:52, 44:52]
    torch.testing.assert_close(even[:, :4, :4], even[:, 4:, 4:])


@pytest.mark.parametrize(
    ("is_low", "error"), [(False, 1e-5), (True, 10 ** (-50 / 20) * 2)], ids=["float32", "bfloat16"]
)
def test_the_lean_decoder_refines_as_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, *, is_low: bool, error: float
) -> None:
    monkeypatch.setattr("heliograph.lean_decoder.has_fast_bfloat16", lambda: is_low)
    model, z = refined(), noise(2, 16, 9, 3, 4)
    with torch.no_grad():
        want = model.decode(z).sample
    got = LeanDecoder(model).decode(z)
    assert float((want - model.painted(z)[:, :, 3:].clamp(-1, 1)).abs().mean()) > 1e-3
    assert float((got - want).square().mean().sqrt()) < error
