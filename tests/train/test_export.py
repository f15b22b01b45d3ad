"""The result of a phase: a model folder that both libraries load."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from heliograph.checkpoint import load_transformer, native_memory, open_model, read_folder
from heliograph.config import MemoryConfig
from heliograph.errors import OutputError
from heliograph.presets import SAMPLERS, sampler_for
from heliograph.train import export
from heliograph.train.adapter import AdapterConfig
from heliograph.train.export import Kind, Result, export_model, scheduler_config
from heliograph.train.lora import add_seeded_adapter
from heliograph.train.start import StartPoint, load_start
from tests.small import relative_error
from tests.train.test_adapter import disturb, run
from tests.train.workers import ALONE

CPU = torch.device("cpu")


@pytest.fixture
def result(tiny_folder: Path) -> Result:
    network = load_start(StartPoint(str(tiny_folder)), torch.float32)
    add_seeded_adapter(network, AdapterConfig(4, ("patch_embedding",), ("patch_long",)), "student", 0)
    disturb(network)
    return Result(network, "student", "mid", (64, 96), MemoryConfig())


@torch.no_grad()
def test_the_folder_is_the_adapted_network(result: Result, tiny_folder: Path, tmp_path: Path) -> None:
    export_model(tmp_path / "model", result, tiny_folder, ALONE)
    loaded = load_transformer(open_model(str(tmp_path / "model")), torch.float32, CPU)
    assert relative_error(run(loaded), run(result.network)) < 1e-5


@torch.no_grad()
def test_diffusers_loads_the_folder(result: Result, tiny_folder: Path, tmp_path: Path) -> None:
    from diffusers.models.transformers.transformer_helios import HeliosTransformer3DModel
    from diffusers.pipelines.helios.pipeline_helios_pyramid import HeliosPyramidPipeline

    export_model(tmp_path / "model", result, tiny_folder, ALONE)
    pipeline = HeliosPyramidPipeline.from_pretrained(tmp_path / "model")
    assert isinstance(pipeline.transformer, HeliosTransformer3DModel)
    ours = load_transformer(open_model(str(tmp_path / "model")), torch.float32, CPU).state_dict()
    theirs = pipeline.transformer.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_pipeline_runs_the_folder_at_the_size_it_was_trained_at(
    result: Result, tiny_folder: Path, tmp_path: Path
) -> None:
    import heliograph

    folder = tmp_path / "model"
    export_model(folder, Result(result.network, "student", "distilled", (64, 64), MemoryConfig()), tiny_folder, ALONE)
    pipe = heliograph.HeliosPipeline.from_pretrained(folder, device="cpu", dtype="float32")
    chunk = next(iter(pipe.stream("a fish", seed=0, steps=(1, 1, 1), first_chunk_steps=(1, 1, 1))))
    assert chunk.frames.shape == (33, 64, 64, 3)


@pytest.mark.parametrize("kind", ["base", "mid", "distilled"])
def test_the_folder_is_sampled_as_its_kind(kind: Kind, result: Result, tiny_folder: Path, tmp_path: Path) -> None:
    export_model(
        tmp_path / "model", Result(result.network, "student", kind, (64, 64), MemoryConfig()), tiny_folder, ALONE
    )
    folder = read_folder(tmp_path / "model")
    pipeline = {"is_distilled": folder.index.is_distilled, "is_cfg_zero_star": folder.index.is_cfg_zero_star}
    assert sampler_for(folder.scheduler_config, pipeline) == SAMPLERS[kind] and not folder.is_random


def test_schedulers_are_written_as_the_library_writes_them() -> None:
    from diffusers.schedulers.scheduling_helios import HeliosScheduler
    from diffusers.schedulers.scheduling_helios_dmd import HeliosDMDScheduler

    for kind, scheduler in (("base", HeliosScheduler), ("mid", HeliosScheduler), ("distilled", HeliosDMDScheduler)):
        values = scheduler_config(kind)  # type: ignore[arg-type]
        made = scheduler.from_config(values)
        assert values["_class_name"] == scheduler.__name__
        assert all(made.config[key] == value for key, value in values.items() if key in made.config)


def test_what_was_trained_lies_beside(result: Result, tiny_folder: Path, tmp_path: Path) -> None:
    export_model(tmp_path / "model", result, tiny_folder, ALONE)
    trained = tmp_path / "model" / "trained"
    assert load_file(trained / "transformer_partial.safetensors").keys() == {"patch_long.weight", "patch_long.bias"}
    assert all(".lora_" in name for name in load_file(trained / "pytorch_lora_weights.safetensors"))


@torch.no_grad()
def test_large_networks_are_stored_in_several_files(
    result: Result, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_SHARD_BYTES", 100_000)
    export_model(tmp_path / "model", result, tiny_folder, ALONE)
    files = sorted(path.name for path in (tmp_path / "model" / "transformer").glob("*.safetensors"))
    assert len(files) > 2 and files[0].endswith(f"-00001-of-{len(files):05}.safetensors")
    loaded = load_transformer(open_model(str(tmp_path / "model")), torch.float32, CPU)
    assert relative_error(run(loaded), run(result.network)) < 1e-5


def test_a_trained_text_encoder_takes_the_old_ones_place(tiny_folder: Path, tmp_path: Path) -> None:
    from heliograph.text import load_text_encoder

    encoder = load_text_encoder(open_model(str(tiny_folder)), torch.float32, CPU)
    with torch.no_grad():
        encoder.encoder.shared.weight.add_(1.0)
    network = load_start(StartPoint(str(tiny_folder)), torch.float32)
    export_model(
        tmp_path / "model", Result(network, None, "base", (64, 64), MemoryConfig(), encoder.encoder), tiny_folder, ALONE
    )
    loaded = load_text_encoder(open_model(str(tmp_path / "model")), torch.float32, CPU)
    assert torch.equal(loaded.encode(["a fish"]).embedding, encoder.encode(["a fish"]).embedding)
    assert not (tmp_path / "model" / "trained").exists()


def test_a_result_replaces_the_one_before_and_leaves_no_draft(
    result: Result, tiny_folder: Path, tmp_path: Path
) -> None:
    for kind in ("base", "mid"):
        export_model(
            tmp_path / "model", Result(result.network, "student", kind, (64, 64), MemoryConfig()), tiny_folder, ALONE
        )  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["_class_name"] == "HeliosPyramidPipeline"


def test_a_disk_that_fails_leaves_nothing(
    result: Result, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(OutputError, match="No space left on device"):
        export_model(tmp_path / "model", result, tiny_folder, ALONE)
    assert not list(tmp_path.iterdir())


def test_a_model_that_remembers_otherwise_says_so_and_is_sampled_so(
    result: Result, tiny_folder: Path, tmp_path: Path
) -> None:
    memory = MemoryConfig(8, 4, 2, keeps_anchor=False)
    export_model(tmp_path / "model", replace(result, memory=memory), tiny_folder, ALONE)
    assert native_memory(tmp_path / "model") == memory
    assert native_memory(tiny_folder) == MemoryConfig()


def test_whoever_may_read_the_configuration_may_read_the_weights(
    result: Result, tiny_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    before = {file: file.stat().st_mode for file in tiny_folder.rglob("*")}
    export_model(model, result, tiny_folder, ALONE)
    written = [*model.glob("transformer/*.safetensors"), *model.glob("trained/*.safetensors")]
    assert len(written) == 3
    assert {file.stat().st_mode for file in written} == {(model / "model_index.json").stat().st_mode}
    assert model.stat().st_mode == (model / "scheduler").stat().st_mode
    assert {file: file.stat().st_mode for file in tiny_folder.rglob("*")} == before, "what is linked is not ours"
