"""Larger pictures: the same model in a folder that names another size, and caches of that size for it."""

import pytest
import torch
from click.testing import CliRunner

from heliograph.checkpoint import find_model, native_values
from heliograph.data.world_cache import read_cache_info, read_parts
from heliograph.embedded.larger import larger
from heliograph.embedded.making import latents
from heliograph.errors import CheckpointError, UserError
from heliograph.pipeline import HeliosPipeline


def test_a_larger_model_makes_larger_videos_and_keeps_how_it_is_sampled(tmp_path):
    model = tmp_path / "model"
    tiny = find_model("tiny")
    larger("tiny", model, (64, 256))
    assert native_values(model) == native_values(tiny) | {"height": 64, "width": 256}
    pipeline = HeliosPipeline.from_pretrained(str(model), device="cpu")
    assert pipeline.engine.size == (64, 256)
    assert pipeline("a red fish", num_frames=33).frames.shape == (33, 64, 256, 3)


def test_clips_are_rendered_in_the_size_of_the_model(tmp_path):
    larger("tiny", tmp_path / "model", (64, 128))
    arguments = [str(tmp_path / "model"), str(tmp_path / "cache"), "--clips", "1", "--chunks", "1", "--device", "cpu"]
    result = CliRunner().invoke(latents, arguments)
    assert result.exit_code == 0, result.output
    info = read_cache_info(tmp_path / "cache")
    assert (info.height, info.width) == (64, 128)
    stored, anchors, _ = read_parts(tmp_path / "cache", info)
    assert stored.shape == (1, 1, 16, 9, 8, 16) and anchors.shape == (1, 16, 1, 8, 16)
    assert torch.isfinite(stored).all()


def test_sizes_that_do_not_fit_models_that_are_not_there_and_folders_that_are_are_refused(tmp_path):
    with pytest.raises(UserError, match="multiple of 64"):
        larger("tiny", tmp_path / "model", (100, 192))
    with pytest.raises(CheckpointError, match="no model"):
        larger(str(tmp_path / "nothing"), tmp_path / "model", (192, 192))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="name another folder"):
        larger("tiny", tmp_path, (192, 192))
