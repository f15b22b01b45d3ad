"""An autoencoder of 16 pixels a latent cell: every size follows from what its configuration says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import heliograph.diffusers
from heliograph.checkpoint import STRIDE_KEY, latent_stride, open_model
from heliograph.doctor import doctor_report
from heliograph.engine.needs import needs_of, workload_of
from heliograph.errors import CheckpointError, UserError
from heliograph.linear_autoencoder import LinearAutoencoder
from heliograph.pipeline import HeliosPipeline
from heliograph.request import Request
from heliograph.train.activations import forward_passes
from heliograph.train.presets import TRAINING
from heliograph.train.start import StartPoint, start_stride

FAST = {"steps": (1, 1, 1), "seed": 3}


@pytest.fixture(scope="module")
def folder(fast_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random tiny model with a linear autoencoder of large cells, for 128×128 pixels."""
    path = Path(shutil.copytree(fast_folder, tmp_path_factory.mktemp("stride") / "wide"))
    shutil.rmtree(path / "vae")
    torch.manual_seed(0)
    LinearAutoencoder(decoder_dim=8, scale_factor_spatial=16).save_pretrained(path / "vae")
    index = json.loads((path / "model_index.json").read_text())
    (path / "model_index.json").write_text(json.dumps(index | {"vae": ["heliograph", "LinearAutoencoder"]}))
    (path / "heliograph.json").write_text(json.dumps({"height": 128, "width": 128}))
    return path


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> HeliosPipeline:
    return HeliosPipeline.from_pretrained(str(folder))


def test_the_same_latents_make_four_times_the_pixels(pipeline: HeliosPipeline, fast_folder: Path) -> None:
    wide = pipeline.session("a fish", **FAST)
    small = HeliosPipeline.from_pretrained(str(fast_folder)).session("a fish", **FAST)
    assert wide.next_chunk().frames.shape == (33, 128, 128, 3)
    assert small.next_chunk().frames.shape == (33, 64, 64, 3)
    assert torch.equal(wide.history.latents, small.history.latents)


def test_a_size_of_half_a_cell_is_refused_with_sizes_that_are_not(pipeline: HeliosPipeline) -> None:
    with pytest.raises(UserError, match=r"height=64 .*multiple of 128 .*128 or 256"):
        pipeline.request("a fish", height=64)
    assert pipeline.request("a fish", width=256).width == 256


def test_a_picture_to_start_from_has_the_size_of_the_video(pipeline: HeliosPipeline) -> None:
    session = pipeline.session("a fish", image=np.full((128, 128, 3), 200, np.uint8), **FAST)
    assert session.history.latents.shape[-2:] == (8, 8)
    assert session.next_chunk().frames.shape == (33, 128, 128, 3)


def test_a_saved_session_goes_on_as_it_would_have(pipeline: HeliosPipeline, tmp_path: Path) -> None:
    session = pipeline.session("a fish", **FAST)
    session.next_chunk()
    session.save(tmp_path / "state")
    again = pipeline.resume(tmp_path / "state")
    assert again.request == session.request and again.request.stride == 16
    assert np.array_equal(again.next_chunk().frames, session.next_chunk().frames)


def test_a_request_stored_before_there_were_other_cells_has_cells_of_8(pipeline: HeliosPipeline) -> None:
    values = pipeline.request("a fish").as_json()
    del values["stride"]
    assert Request.from_json(values).stride == 8


def test_the_library_s_pipeline_makes_the_same_size(folder: Path) -> None:
    theirs = heliograph.diffusers.HeliosPyramidPipeline.from_pretrained(str(folder))
    theirs.set_progress_bar_config(disable=True)
    assert theirs.vae_scale_factor_spatial == 16
    call = {"num_frames": 33, "height": 128, "width": 128, "pyramid_num_inference_steps_list": [1, 1, 1]}
    assert theirs("a fish", **call, output_type="np").frames.shape == (1, 33, 128, 128, 3)
    with pytest.raises(UserError, match=r"height=64 .*multiple of 128"):
        theirs("a fish", **{**call, "height": 64})


def test_work_and_memory_are_counted_in_its_cells(folder: Path, fast_folder: Path) -> None:
    wide, small = (workload_of(open_model(str(path)), side, side) for path, side in ((folder, 128), (fast_folder, 64)))
    assert wide.num_tokens == small.num_tokens
    assert needs_of(open_model(str(folder)), wide).work.stride == 16
    with pytest.raises(UserError, match="multiple of 128"):
        doctor_report(str(folder), height=64)


def test_training_counts_tokens_in_the_cells_of_the_model_it_starts_from(folder: Path) -> None:
    assert start_stride(StartPoint(str(folder))) == 16
    config = TRAINING["embedded-adapt"]
    coarse, fine = (forward_passes(config, stride)[0].tokens for stride in (16, 8))
    assert coarse < fine / 3.5


@pytest.mark.parametrize("value", [0, 4, 12, "16"])
def test_a_configuration_with_no_such_cell_is_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps({STRIDE_KEY: value}))
    with pytest.raises(CheckpointError, match=f"{STRIDE_KEY}={value!r}"):
        latent_stride(tmp_path)
