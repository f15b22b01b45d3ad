"""Cells of half the side: the code says of a picture what it said of one half its size."""

import pytest
import torch

from heliograph.checkpoint import find_model, latent_stride
from heliograph.embedded.code import fit_code, same_code
from heliograph.embedded.finer import finer
from heliograph.embedded.recode import linear_code, write_recoded
from heliograph.errors import UserError
from heliograph.pipeline import HeliosPipeline


def test_a_picture_of_half_the_size_has_the_latents_the_larger_had_in_larger_cells():
    coarse = fit_code(4, (64, 64), 8, 8, 16)
    fine = same_code(coarse, 8)
    frames = torch.rand(1, 3, 5, 64, 64) * 2 - 1
    halved = torch.nn.functional.avg_pool3d(frames, (1, 2, 2))
    before, after = (
        model.normalised(model.encode(x).latent_dist.mode()) for model, x in ((coarse, frames), (fine, halved))
    )
    assert after.shape == (1, 8, 2, 4, 4)
    torch.testing.assert_close(after, before)


def test_a_finer_model_folder_makes_videos_of_the_same_size(tmp_path):
    model = tmp_path / "model"
    finer(coarse_model(tmp_path), model)
    assert latent_stride(model) == 8
    frames = HeliosPipeline.from_pretrained(str(model), device="cpu")("a red fish", num_frames=33).frames
    assert frames.shape == (33, 128, 128, 3) and frames.std() > 10


def test_cells_that_are_as_small_as_can_be_and_folders_that_are_there_are_refused(tmp_path):
    coarse = coarse_model(tmp_path)
    with pytest.raises(UserError, match="name another folder"):
        finer(coarse, tmp_path)
    finer(coarse, tmp_path / "fine")
    with pytest.raises(UserError, match="multiple of 8"):
        finer(tmp_path / "fine", tmp_path / "finest")
    assert not (tmp_path / "finest").exists()


def coarse_model(folder):
    """The shipped transformer with cells of 16 pixels, whatever it is shipped with."""
    tiny = find_model("tiny")
    write_recoded(tiny, folder / "coarse", same_code(linear_code(str(tiny)), 16))
    return folder / "coarse"
