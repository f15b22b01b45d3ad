"""What is chosen for a machine: switches, runners, attention kernels, decoders; and what is refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import save_file

from heliograph.autoencoder import FastAutoencoder
from heliograph.cli import app
from heliograph.config import EXACT, SpeedConfig
from heliograph.engine import tuning
from heliograph.engine.attention import (
    CUDNN,
    CUDNN_8_BIT,
    OWN,
    Candidate,
    Probe,
    attention_of,
    choose_attention,
    fastest,
    probe_all,
    set_attention,
)
from heliograph.engine.decoders import SmallDecoder, choose_decoder
from heliograph.engine.plan import Plan
from heliograph.engine.tuning import choose_runner, device_for_vae, resolved, tried
from heliograph.errors import CheckpointError, UserError
from heliograph.generate import GenerateOptions
from heliograph.model.attention import Attention, attend_by_cudnn
from heliograph.pipeline import HeliosPipeline
from heliograph.vae import LatentCodec
from heliograph.wan_decoder import WanDecoder
from tests.small import relative_error, small_transformer

CPU = torch.device("cpu")
ON_CPU = Plan("whole", "cpu", "cpu", torch.float32, resident_blocks=2, device_bytes=0, host_bytes=0)
ON_GPU = replace(ON_CPU, device="cuda:0")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


# Switches


def test_an_exact_run_approximates_nothing(hopper: None) -> None:
    for plan in (ON_CPU, ON_GPU):
        assert resolved(EXACT, plan).approximations == ()


def test_fast_mode_takes_what_is_faster_on_the_device(hopper: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "find_spec", lambda _: None)
    fast = resolved(SpeedConfig(mode="fast"), ON_GPU)
    assert (fast.fp8, fast.history_reuse, fast.attention8) == (True, "level", False)
    monkeypatch.setattr(tuning, "find_spec", lambda name: name == "sageattention")
    assert resolved(SpeedConfig(mode="fast"), ON_GPU).attention8
    assert not resolved(SpeedConfig(mode="fast"), replace(ON_GPU, way="blocks on disk")).fp8
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    assert not resolved(SpeedConfig(mode="fast"), ON_GPU).fp8
    assert resolved(SpeedConfig(mode="fast"), ON_CPU).approximations == ()


def test_cudnn_s_8_bit_attention_is_for_devices_that_have_it(hopper: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "find_spec", lambda name: name == "cudnn")
    fast = SpeedConfig(mode="fast")
    assert resolved(fast, ON_GPU).attention8
    assert not resolved(fast, ON_CPU).attention8 and not resolved(EXACT, ON_GPU).attention8
    assert not resolved(replace(fast, attention="cudnn"), ON_GPU).attention8
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    assert not resolved(fast, ON_GPU).attention8


def test_fast_mode_stays_exact_where_no_8_bit_attention_works(
    hopper: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tuning, "find_spec", lambda name: name == "cudnn")
    fast, probed = SpeedConfig(mode="fast"), []

    def choose(*arguments: object, is_rounded: bool) -> str:
        probed.append((arguments, is_rounded))
        raise UserError("no such attention kernel works here (cudnn_fp8: it fails)")

    monkeypatch.setattr(tuning, "choose_attention", choose)
    with caplog.at_level("WARNING"):
        assert tried(fast, ON_GPU) == replace(resolved(fast, ON_GPU), attention8=False)
    assert "cudnn_fp8: it fails" in caplog.text and "exact" in caplog.text
    assert probed == [(("auto", torch.device("cuda:0"), torch.float32), True)]
    # Who asks for it is told instead, where it is set up; who does not has nothing tried.
    assert tried(replace(fast, attention8=True), ON_GPU).attention8
    assert not tried(replace(fast, attention8=False), ON_GPU).attention8
    assert tried(EXACT, ON_GPU).approximations == tried(EXACT, ON_CPU).approximations == ()
    assert len(probed) == 1
    monkeypatch.setattr(tuning, "choose_attention", lambda *_, is_rounded: "cudnn_fp8")
    assert tried(fast, ON_GPU).attention8


def test_a_switch_that_was_given_is_kept_in_either_mode(hopper: None) -> None:
    given = SpeedConfig(mode="fast", fp8=False, history_reuse="off", attention8=False)
    assert resolved(given, ON_GPU).approximations == ()
    assert resolved(SpeedConfig(fp8=True), ON_CPU).approximations == ("8-bit floating point products",)


def test_two_ways_to_choose_one_kernel_are_refused() -> None:
    with pytest.raises(UserError, match="give one"):
        SpeedConfig(attention8=True, attention="flash")


# Runners


def test_graphs_are_recorded_on_a_gpu_that_holds_the_model() -> None:
    assert choose_runner("auto", ON_CPU, EXACT) == "eager"
    assert choose_runner("auto", ON_GPU, EXACT) == "graph"
    assert choose_runner("auto", replace(ON_GPU, way="blocks offloaded"), EXACT) == "eager"
    assert choose_runner("auto", ON_GPU, SpeedConfig(history_reuse="chunk")) == "graph"
    assert choose_runner("graph", ON_GPU, SpeedConfig(history_reuse="level")) == "graph"
    assert choose_runner("auto", replace(ON_GPU, way="blocks on disk"), SpeedConfig(history_reuse="level")) == "eager"
    assert choose_runner("compile", ON_CPU, EXACT) == "compile"


@pytest.mark.parametrize(
    ("asked", "plan", "speed"),
    [
        ("graph", ON_CPU, EXACT),
        ("graph", replace(ON_GPU, way="blocks offloaded"), SpeedConfig(history_reuse="level")),
        ("compile", replace(ON_GPU, way="blocks on disk"), EXACT),
    ],
)
def test_a_runner_that_is_not_possible_is_refused(asked: str, plan: Plan, speed: SpeedConfig) -> None:
    with pytest.raises(UserError, match="use eager"):
        choose_runner(asked, plan, speed)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("plan", "speed", "words"),
    [
        (ON_GPU, EXACT, "on a CPU"),
        (replace(ON_CPU, way="int8 weights"), EXACT, "whole model"),
        (ON_CPU, SpeedConfig(fp8=True), "exactly"),
        (ON_CPU, SpeedConfig(history_reuse="level"), "exactly"),
    ],
)
def test_openvino_is_for_whole_models_on_a_cpu_that_run_exactly(plan: Plan, speed: SpeedConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        choose_runner("openvino", plan, speed)


def test_openvino_that_is_not_installed_is_asked_for_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "has_openvino", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'heliograph\[openvino\]'"):
        choose_runner("openvino", ON_CPU, EXACT)
    monkeypatch.setattr(tuning, "has_openvino", lambda: True)
    assert choose_runner("openvino", ON_CPU, EXACT) == "openvino"
    assert choose_runner("auto", ON_CPU, EXACT) == "eager"


# Attention


def test_the_fastest_kernel_that_works_is_taken() -> None:
    probes = [Probe("a", 0.3), Probe("b", problem="it fails"), Probe("c", 0.1), Probe("d", 0.2)]
    best = fastest(probes)
    assert best is not None and best.name == "c"
    assert fastest(probes[1:2]) is None
    assert str(probes[1]) == "b: it fails" and str(probes[0]) == "a: 300.00 ms"


def test_kernels_are_tried_and_what_fails_says_why() -> None:
    candidates = (Candidate(OWN, None), Candidate("flash", "no_such_package"), Candidate("_native_cudnn", None))
    own, missing, broken = probe_all(candidates, CPU, torch.float32, (1, 16, 2, 8))
    assert own.problem is None and (own.seconds or 0) > 0
    assert missing.problem == "the package no_such_package is not installed"
    assert broken.seconds is None and broken.problem is not None and "fails" in broken.problem


def test_a_kernel_that_is_wrong_is_not_taken() -> None:
    (probe,) = probe_all([Candidate(OWN, None, tolerance=-1.0)], CPU, torch.float32, (1, 16, 2, 8))
    assert probe.problem is not None and "error" in probe.problem


def test_on_a_cpu_pytorch_s_own_attention_runs() -> None:
    assert choose_attention("auto", CPU, torch.float32) == OWN
    for name, is_rounded, words in (
        ("tea", False, "not known"),
        ("flash", False, "flash"),
        ("auto", True, "sage"),
        ("auto", True, "--no-attention8"),
        (CUDNN_8_BIT, False, "cudnn"),
    ):
        with pytest.raises(UserError, match=words):
            choose_attention(name, CPU, torch.float32, is_rounded=is_rounded)


def test_a_chosen_kernel_reaches_every_attention() -> None:
    model = small_transformer()
    set_attention(model, "_native_math")
    backends = [m.processor._attention_backend for m in model.modules() if hasattr(m, "processor")]
    assert len(backends) == 4 and {str(backend.value) for backend in backends} == {"_native_math"}
    set_attention(model, OWN)
    assert all(m.processor._attention_backend is None for m in model.modules() if hasattr(m, "processor"))


def test_a_kernel_of_ours_gives_way_to_what_the_library_is_told_later() -> None:
    model = small_transformer()
    set_attention(model, "_native_math")
    set_attention(model, CUDNN)
    assert attention_of(model) == CUDNN
    set_attention(model, CUDNN_8_BIT)
    assert attention_of(model) == CUDNN_8_BIT
    model.set_attention_backend("native")
    assert attention_of(model) == OWN
    x, generator = torch.zeros(1, 4, 2, 8), torch.Generator().manual_seed(0)
    layer = next(m for m in model.modules() if isinstance(m, Attention))
    want = torch.randn(x.shape, generator=generator)
    assert torch.allclose(layer.mix(x, x, want), want.mean(dim=1, keepdim=True).expand_as(want), atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN's attention runs on a GPU")
def test_cudnn_reads_values_among_queries_and_keys() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    packed = torch.randn(1, 300, 3, 4, 64, generator=generator, device="cuda").bfloat16()
    query, key, value = packed.unbind(2)
    got = attend_by_cudnn(query[:, 50:], key, value)
    q, k, v = (x.transpose(1, 2).float() for x in (query[:, 50:], key, value))
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    assert float((got.float() - want).abs().max()) < 0.01 * float(want.abs().max())


# Decoders


def wan() -> AutoencoderKLWan:
    return AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def test_half_precision_in_few_passes_is_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = wan()
    assert choose_decoder(autoencoder, (384, 640), lambda _: 10**12) is None, "on a CPU the library's decode runs"
    monkeypatch.setattr(AutoencoderKLWan, "device", SimpleNamespace(type="cuda"))
    roomy = choose_decoder(autoencoder, (384, 640), lambda _: 10**12)
    tight = choose_decoder(autoencoder, (384, 640), lambda _: 0)
    assert isinstance(roomy, WanDecoder) and isinstance(tight, WanDecoder)
    assert (roomy.dtype, roomy.lengths, len(tight.lengths)) == (torch.float16, (1, 8), 9)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_small_decoder_reads_the_public_names(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    source = FastAutoencoder(encoder_dim=4, decoder_dims=(8, 6, 4, 4), num_blocks=2).eval()
    file = tmp_path / f"taew2_1{suffix}"
    save_file(source.state_dict(), file) if suffix == ".safetensors" else torch.save(source.state_dict(), file)
    autoencoder = wan()
    codec = LatentCodec(autoencoder, choose_decoder(autoencoder, (64, 64), lambda _: 0, file))
    assert isinstance(codec.decoder, SmallDecoder)
    latents = torch.randn(1, 16, 9, 2, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert relative_error(codec.decode_chunk(latents), source.decode(latents).sample) < 1e-5


def test_a_file_that_is_no_small_decoder_is_refused(tmp_path: Path) -> None:
    missing, other, broken = (tmp_path / f"{name}.safetensors" for name in ("missing", "other", "broken"))
    save_file({"weight": torch.zeros(2)}, other)
    state = FastAutoencoder(encoder_dim=4, decoder_dims=(8, 6, 4, 4), num_blocks=1).state_dict()
    save_file({name: t for name, t in state.items() if name != "decoder.16.weight"}, broken)
    for file in (missing, other, broken):
        with pytest.raises(CheckpointError, match=file.name):
            choose_decoder(wan(), (64, 64), lambda _: 0, file)


def test_a_device_that_is_not_there_is_refused() -> None:
    assert device_for_vae(None, CPU) == device_for_vae("cpu", CPU) == CPU
    for name in ("cuda:7", "tape"):
        with pytest.raises(UserError, match="cuda:1"):
            device_for_vae(name, CPU)


# Together


def test_an_engine_says_what_it_approximates(fast_folder: Path) -> None:
    exact = HeliosPipeline.from_pretrained(fast_folder, device="cpu", dtype="float32")
    fast = HeliosPipeline.from_pretrained(
        fast_folder, device="cpu", dtype="float32", speed=SpeedConfig(fp8=True, history_reuse="chunk")
    )
    assert exact.engine.approximations == ()
    assert len(fast.engine.approximations) == 2
    got, want = (one.session("a boat", seed=1).next_turn().latents for one in (fast, exact))
    assert 1e-4 < relative_error(got, want) < 1


def test_openvino_makes_the_same_video_with_and_without_guidance(fast_folder: Path) -> None:
    pytest.importorskip("openvino", reason="an optional extra")
    usual, other = (
        HeliosPipeline.from_pretrained(fast_folder, device="cpu", dtype="float32", speed=SpeedConfig(runner=runner))
        for runner in ("eager", "openvino")
    )
    for scale in (1.0, 3.0):
        videos = [one.session("a boat", seed=1, guidance_scale=scale) for one in (other, usual)]
        for _ in range(2):
            got, want = (video.next_turn().latents for video in videos)
            assert relative_error(got, want) < 1e-4
    assert type(other.engine.denoiser.transformer.lean).__name__ == "OpenVinoBlocks"


def test_the_command_line_hands_the_switches_over(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[GenerateOptions] = []
    monkeypatch.setattr("heliograph.generate.run_generate", seen.append)
    words = "generate fish --mode fast --no-fp8 --history-reuse chunk --vae-device cpu --runner eager"
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    given = SpeedConfig(mode="fast", fp8=False, history_reuse="chunk", vae_device="cpu", runner="eager")
    assert [options.speed for options in seen] == [given]
