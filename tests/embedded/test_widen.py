"""More numbers a cell: the code and the network say of the old ones what they said before."""

import pytest
import torch
from diffusers.models.transformers.transformer_helios import HeliosTransformer3DModel as Library

from heliograph.checkpoint import find_model
from heliograph.config import MemoryConfig
from heliograph.embedded.code import extend_code, fit_code
from heliograph.embedded.widen import widen, wider_network
from heliograph.errors import UserError
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.pipeline import HeliosPipeline
from heliograph.train.corrupt import tiers_of

SIZE, STRIDE = (64, 64), 16


@pytest.fixture(scope="module")
def code():
    return fit_code(4, SIZE, 8, 8, STRIDE)


@pytest.fixture(scope="module")
def wider(code):
    return extend_code(code, 4, SIZE, 20)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return HeliosTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, text_dim=8, ffn_dim=32, num_layers=2, rope_dim=(4, 6, 6)
    ).eval()


def wide(network):
    return wider_network(network, 24, torch.Generator().manual_seed(0))


def test_components_that_were_there_keep_their_numbers(code, wider):
    frames = torch.rand(1, 3, 33, *SIZE) * 2 - 1
    before, after = (model.normalised(model.encode(frames).latent_dist.mode()) for model in (code, wider))
    torch.testing.assert_close(after[:, :8], before, rtol=0, atol=1e-5)


def test_further_components_are_orthonormal_to_all_and_ordered(wider):
    torch.testing.assert_close(wider.basis @ wider.basis.T, torch.eye(20), rtol=0, atol=1e-5)
    std = torch.tensor(wider.config["latents_std"])
    assert bool((std.diff() <= 0).all()) and std.min() > 0


def test_an_extended_code_is_the_code_that_would_have_been_found(wider):
    whole = fit_code(4, SIZE, 20, 8, STRIDE)
    assert torch.linalg.svdvals(wider.basis @ whole.basis.T).min() > 0.99
    ratio = torch.tensor(wider.config["latents_std"]) / torch.tensor(whole.config["latents_std"])
    torch.testing.assert_close(ratio, ratio[:1].expand(20), rtol=1e-3, atol=0)


def test_a_code_is_not_extended_to_what_it_has(code):
    with pytest.raises(UserError, match="ask for more"):
        extend_code(code, 1, SIZE, 8)


@torch.no_grad()
def test_where_new_channels_are_zero_the_velocity_is_what_it_was_and_of_new_ones_zero(network):
    x, past, text = torch.randn(2, 16, 9, 4, 4), torch.randn(2, 16, 20, 4, 4), torch.randn(2, 5, 8)
    before = network(x, 500.0, text, tiers_of(past, MemoryConfig()))
    x, past = (torch.nn.functional.pad(each, (0, 0, 0, 0, 0, 0, 0, 8)) for each in (x, past))
    after = wide(network)(x, 500.0, text, tiers_of(past, MemoryConfig()))
    torch.testing.assert_close(after[:, :16], before, rtol=0, atol=1e-5)
    assert not after[:, 16:].any()


def test_new_channels_are_read_and_learn_from_the_first_step(network):
    wider = wide(network)
    x, text = torch.randn(2, 24, 3, 4, 4), torch.randn(2, 5, 8)
    (wider(x, 500.0, text) - x).square().mean().backward()
    assert wider.proj_out.weight.grad is not None
    rows = wider.proj_out.weight.grad.unflatten(0, (-1, 24))[:, 16:]
    assert bool(rows.flatten(1).any(1).all())
    own = {name: w.detach() for name, w in wider.named_parameters() if name.startswith("patch_") and w.ndim > 1}
    assert len(own) == 4
    for w in own.values():
        assert 0.3 < w[:, 16:].std() / w[:, :16].std() < 0.7


def test_a_widened_model_folder_makes_videos_here_and_loads_in_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr("heliograph.embedded.widen.CODE_CLIPS", 4)
    channels = 40
    widen(find_model("tiny"), tmp_path / "wide", channels)
    frames = HeliosPipeline.from_pretrained(str(tmp_path / "wide"), device="cpu")("a red fish", num_frames=33).frames
    assert frames.shape == (33, 128, 128, 3) and frames.std() > 10
    with pytest.raises(UserError, match="name another folder"):
        widen(find_model("tiny"), tmp_path / "wide", channels)
    library = Library.from_pretrained(tmp_path / "wide" / "transformer")
    assert library.config["in_channels"] == library.config["out_channels"] == channels
