"""Every way of running a model gives the same video; models are told apart."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from heliograph.checkpoint import open_model
from heliograph.config import Guidance, HistoryReuse
from heliograph.engine.engine import Engine, fingerprint, load_engine
from heliograph.engine.plan import Plan
from heliograph.engine.prompts import TextEmbeddings
from heliograph.engine.session import Session
from heliograph.memory import History
from heliograph.model.denoiser import TransformerDenoiser
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.request import Request
from heliograph.timeline import Cue, PromptTimeline
from tests.small import relative_error

WHOLE = Plan("whole", "cpu", "cpu", torch.float32, resident_blocks=2, device_bytes=0, host_bytes=0)


def chunks(engine: Engine, prompts: tuple[str, ...]) -> torch.Tensor:
    """Two chunks of latents, the prompt changed between them."""
    timeline = PromptTimeline(tuple(Cue(i, prompt) for i, prompt in enumerate(prompts)))
    request = Request(timeline, "", 64, 64, 0, engine.sampler)
    session = Session(engine, request, History.empty((1, 16, 8, 8), engine.memory))
    return torch.cat([session.next_turn().latents for _ in prompts])


@pytest.mark.parametrize(
    "plan",
    [
        replace(WHOLE, way="text encoder released"),
        replace(WHOLE, way="text encoder offloaded"),
        replace(WHOLE, way="blocks offloaded", resident_blocks=0),
        replace(WHOLE, way="blocks on disk", resident_blocks=0),
        replace(WHOLE, way="blocks on disk", resident_blocks=1),
    ],
    ids=lambda plan: f"{plan.way}-{plan.resident_blocks}",
)
def test_every_way_of_running_gives_the_same_latents(tiny_folder: Path, plan: Plan) -> None:
    folder = open_model(str(tiny_folder))
    want = chunks(load_engine(folder, WHOLE), ("a fish", "a boat"))
    got = chunks(load_engine(folder, plan, ("a fish", "a boat")), ("a fish", "a boat"))
    # Streamed blocks run one by one, not by the CPU's own loop: the same but for the order of sums.
    assert relative_error(got, want) < 1e-4 if "blocks" in plan.way else torch.equal(got, want)


def test_rounded_weights_take_a_byte_each_and_change_the_video_slightly(tiny_folder: Path) -> None:
    folder = open_model(str(tiny_folder))
    engine = load_engine(folder, replace(WHOLE, way="int8 weights", is_exact=False), ("a fish",))
    blocks = engine.denoiser.transformer.blocks
    assert all(tensor.dtype == torch.int8 for name, tensor in blocks.state_dict().items() if ".levels" in name)
    assert sum(tensor.numel() for name, tensor in blocks.state_dict().items() if ".levels" in name) > 50_000
    got, want = chunks(engine, ("a fish",)), chunks(load_engine(folder, WHOLE), ("a fish",))
    assert 0 < relative_error(got, want) < 0.05


def test_a_released_text_encoder_is_loaded_once_for_all_prompts_known_beforehand(tiny_folder: Path) -> None:
    from heliograph.text import load_text_encoder

    loads = []
    folder = open_model(str(tiny_folder))

    def load() -> object:
        loads.append(1)
        return load_text_encoder(folder, torch.float32, torch.device("cpu"))

    texts = TextEmbeddings(load, stays=False)  # pyright: ignore[reportArgumentType]
    texts.encode(("a", "b", "a", ""))
    assert texts.of("a").embedding.shape == texts.of("").embedding.shape
    assert len(loads) == 1
    texts.of("c")
    assert len(loads) == 2


def test_fingerprints_tell_models_apart(tiny_folder: Path, fast_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "copy")
    same, other = fingerprint(open_model(str(tmp_path / "copy"))), fingerprint(open_model(str(fast_folder)))
    assert same == fingerprint(open_model(str(tiny_folder))) != other
    weights = next((tmp_path / "copy" / "transformer").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert fingerprint(open_model(str(tmp_path / "copy"))) != same


@pytest.mark.parametrize("reuse", ["off", "level", "chunk"])
def test_levels_with_and_without_guidance_go_together_whether_branches_run_as_a_pair_or_apart(
    tiny_folder: Path, reuse: HistoryReuse
) -> None:
    engine = load_engine(open_model(str(tiny_folder)), WHOLE)
    guidance = Guidance(3.0, levels=2)
    engine = replace(engine, sampler=replace(engine.sampler, guidance=guidance, first_chunk_steps=None))
    denoiser = engine.denoiser
    assert isinstance(denoiser, TransformerDenoiser) and isinstance(denoiser.transformer, HeliosTransformer3DModel)
    denoiser.transformer.lean, denoiser.history_reuse = None, reuse
    prompts = ("a fish", "a fish", "a boat")
    apart, paired = (chunks(replace(engine, pairs_guidance=pairs), prompts) for pairs in (False, True))
    assert relative_error(paired, apart) < 1e-4
