"""The doctor's report: true to the machine and the model, readable, and made without loading or downloading."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from heliograph.checkpoint import RANDOM_MARK, components, find
from heliograph.doctor import DoctorReport, Kernel, doctor_report, look, runners
from heliograph.doctor import report as reports
from heliograph.doctor.parts import RunnerTime, pays_from
from heliograph.engine.machine import ContainerLimit, Device, Machine
from heliograph.errors import CheckpointError, UserError
from heliograph.tiny import write_random_tiny

GIB = 2**30
LAPTOP = Machine((), 16 * GIB, 12 * GIB, 500 * 10**9, 8)
H100 = Device("cuda:0", "NVIDIA H100", 80 * GIB, 79 * GIB, has_bf16=True, capability=(9, 0))
SERVER = Machine((H100,), 256 * GIB, 250 * GIB, 10**12, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model that does not say that it is random."""
    folder = tmp_path_factory.mktemp("model") / "model"
    write_random_tiny(folder)
    return folder


@pytest.fixture(autouse=True)
def hub_cache_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was downloaded, and a download would fail the test."""

    def snapshot(_: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
        assert local_files_only, "a download was started"
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(find, "snapshot_download", snapshot)


def report_on(machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str, **size: int) -> DoctorReport:
    """The report of an imaginary machine."""
    monkeypatch.setattr(reports, "this_machine", lambda _: machine)
    return doctor_report(name, **size)


def text(report: DoctorReport) -> str:
    """All lines."""
    return "\n".join(report.lines())


def test_this_machine_can_run_a_small_model_and_says_how(model: Path) -> None:
    report = doctor_report(str(model), 128, 128)
    assert report.model.chosen is not None
    assert f"--device auto takes {report.model.chosen.device}, whole" in text(report)
    assert str(model) in text(report)
    assert f"torch {torch.__version__}" in text(report)


def test_report_loads_no_weights(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "load_weights", lambda *_, **__: pytest.fail("weights were loaded"))
    assert doctor_report(str(model)).model.needs is not None


def test_size_is_the_models_own_unless_another_is_asked_for(model: Path) -> None:
    native, asked = doctor_report(str(model)), doctor_report(str(model), 192, 256)
    assert native.as_json()["model"]["size"] == [384, 640]
    assert asked.as_json()["model"]["size"] == [192, 256]
    assert "of 192x256 pixels" in text(asked)


def test_size_that_the_pyramid_cannot_make_is_refused(model: Path) -> None:
    with pytest.raises(UserError, match="height=100 does not fit a pyramid of 3"):
        doctor_report(str(model), 100, 128)
    with pytest.raises(UserError, match="width=100 does not fit a pyramid of 3"):
        doctor_report("BestWishYsh/Helios-Distilled", 128, 100)


def test_random_weights_are_announced(model: Path, tmp_path: Path) -> None:
    write_random_tiny(tmp_path)
    assert "never trained" not in text(doctor_report(str(tmp_path)))
    (tmp_path / RANDOM_MARK).write_text("")
    report = doctor_report(str(tmp_path))
    assert "never trained" in text(report)
    assert report.as_json()["model"]["is_random"] is True


def test_released_model_is_judged_without_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(SERVER, monkeypatch, "BestWishYsh/Helios-Distilled")
    assert "not downloaded; its files are about 81 GB" in text(report)
    assert "transformer 14.31 B, text encoder 5.68 B, autoencoder 126.89 M" in text(report)
    assert "transformer 28.68 GB, text encoder 11.36 GB, autoencoder (float32) 0.51 GB" in text(report)
    assert "--device auto takes cuda:0, whole, bfloat16" in text(report)


@pytest.mark.parametrize(("variant", "prompts"), [("Base", 2), ("Mid", 2), ("Distilled", 1)])
def test_released_models_that_use_guidance_keep_two_prompts(variant: str, prompts: int) -> None:
    assert f"keys of {prompts} prompt(s)" in text(doctor_report(f"BestWishYsh/Helios-{variant}"))


def test_base_needs_no_pyramid_size() -> None:
    assert doctor_report("BestWishYsh/Helios-Base", 400, 640).as_json()["model"]["size"] == [400, 640]


def test_model_that_fits_nowhere_says_what_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(LAPTOP, monkeypatch, "BestWishYsh/Helios-Mid")
    assert report.model.chosen is None
    assert "GPU        none" in text(report)
    assert report.lines()[-1].startswith("  the model does not fit: on cpu")
    assert report.as_json()["model"]["chosen"] is None


def test_blocks_that_stay_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(SERVER, devices=(replace(H100, total_bytes=24 * GIB, free_bytes=23 * GIB),))
    report = report_on(small, monkeypatch, "BestWishYsh/Helios-Distilled")
    assert report.model.chosen is not None
    assert f"{report.model.chosen.resident_blocks} of 40 blocks stay on the GPU" in text(report)


def test_unknown_hub_model_would_have_to_be_downloaded() -> None:
    report = doctor_report("someone/something")
    assert report.model.needs is None
    assert "would have to be downloaded first" in report.lines()[-1]
    assert report.as_json()["model"]["plans"] == []


def test_unknown_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match="there is no model 'nothing'"):
        doctor_report("nothing")


def test_container_limit_is_named_only_when_it_is_lower(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = replace(SERVER, container=ContainerLimit(8 * 10**9, 10**9))
    shown = text(report_on(limited, monkeypatch, str(model)))
    assert "7.00 GB free: this container may use 8.00 GB, of which 1.00 GB are taken" in shown
    roomy = replace(SERVER, container=ContainerLimit(10**15, 0))
    assert "container" not in text(report_on(roomy, monkeypatch, str(model)))


def test_gpu_is_described(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = text(report_on(SERVER, monkeypatch, str(model)))
    assert "cuda:0: NVIDIA H100, compute capability 9.0, 84.83 GB of 85.90 GB free, bfloat16 yes" in shown


def kernels_of(machine: Machine, model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Kernel]:
    """Attention kernels by name."""
    return {kernel.name: kernel for kernel in report_on(machine, monkeypatch, str(model)).software.kernels}


def test_attention_kernels_need_their_gpu_and_their_package(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "find_spec", lambda name: None if name == "flash_attn" else object())
    on_h100 = kernels_of(SERVER, model, monkeypatch)
    assert on_h100["native"].is_available
    assert on_h100["_flash_3"].is_available
    assert on_h100["flash"].note == "needs the package flash_attn"
    blackwell = replace(SERVER, devices=(replace(H100, capability=(12, 0)),))
    assert not kernels_of(blackwell, model, monkeypatch)["_flash_3"].is_available
    on_laptop = kernels_of(LAPTOP, model, monkeypatch)
    assert [name for name, kernel in on_laptop.items() if kernel.is_available] == ["native"]


def test_missing_encoder_says_that_mp4_cannot_be_written(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_report(str(model)).software.has_h264
    monkeypatch.setattr(look.av, "codecs_available", {"mpeg4"})
    assert "mp4 cannot be written" in text(doctor_report(str(model)))


def test_processor_features_are_read_where_pytorch_tells_them(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "cpu_name": "A"}, raising=False)
    cpu = doctor_report(str(model)).cpu
    assert (cpu.name, cpu.features) == ("A", ("AVX-512",))
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert "does not tell its features" in text(doctor_report(str(model)))


@pytest.mark.parametrize("name", ["BestWishYsh/Helios-Distilled", "someone/something"])
def test_json_says_the_same_and_survives_a_round_trip(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_on(SERVER, monkeypatch, name)
    values = json.loads(json.dumps(report.as_json()))
    assert values["model"]["name"] == name
    assert values["machine"]["devices"][0]["free_bytes"] == H100.free_bytes
    if report.model.needs is not None:
        assert values["model"]["num_parameters"]["transformer"] == 14_312_427_584
        assert values["model"]["chosen"]["way"] == "whole"
        assert values["model"]["chosen"]["dtype"] == "bfloat16"


def test_every_line_is_one_line(model: Path) -> None:
    assert all(line and "\n" not in line for line in doctor_report(str(model)).lines())


# Runners


def test_runners_of_a_small_model_are_timed_where_openvino_is_installed(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="an optional extra")
    report = report_on(LAPTOP, monkeypatch, str(model), height=64, width=64)
    usual, other = report.model.runners
    assert (usual.name, other.name) == ("eager", "openvino")
    assert min(usual.chunk_seconds, other.chunk_seconds, other.prepare_seconds) > 0
    assert "--runner openvino: " in text(report)
    assert [runner["name"] for runner in report.as_json()["model"]["runners"]] == ["eager", "openvino"]


def test_nothing_is_timed_without_openvino_or_on_a_gpu(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report_on(SERVER, monkeypatch, str(model)).model.runners == ()
    monkeypatch.setattr(runners, "has_openvino", lambda: False)
    report = report_on(LAPTOP, monkeypatch, str(model))
    assert report.model.runners == () and "--runner" not in text(report)


def test_preparation_pays_once_it_is_saved_again() -> None:
    usual = RunnerTime("eager", 0.5, 0.040)
    assert pays_from(usual, RunnerTime("openvino", 2.5, 0.030)) == pytest.approx(200 * 33 / 24)
    assert pays_from(usual, RunnerTime("openvino", 0.1, 0.030)) == 0
    assert pays_from(usual, RunnerTime("openvino", 2.5, 0.040)) is None
