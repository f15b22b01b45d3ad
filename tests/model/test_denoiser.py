"""The transformer as a denoiser: float32 outside, its own dtype inside, memos where they belong."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from heliograph.memory import Tiers
from heliograph.model.denoiser import Condition, TransformerDenoiser
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.sample import Denoiser
from tests.small import random_history, relative_error, small_transformer, wave

TEXT, OTHER_TEXT = wave((1, 5, 32), 0.5), wave((1, 5, 32), 2.5)
X = wave((1, 16, 9, 4, 4), 0.3)


@pytest.fixture(scope="module")
def model() -> HeliosTransformer3DModel:
    """The golden transformer; tests leave it as it is."""
    return small_transformer()


def in_bfloat16(model: HeliosTransformer3DModel) -> HeliosTransformer3DModel:
    """A copy in bfloat16, float32 where the checkpoint loader leaves it so."""
    low = copy.deepcopy(model)
    for name, parameter in low.named_parameters():
        if not {"time_embedder", "scale_shift_table", "norm2"} & set(name.split(".")):
            parameter.data = parameter.data.bfloat16()
    return low


def tiers(seed: int = 0) -> Tiers:
    """A history at chunk 3."""
    return random_history(seed=seed).tiers(9)


def ask(denoiser: TransformerDenoiser, text: Tensor = TEXT, timestep: float = 500.0, seed: int = 0) -> Tensor:
    """Velocity under a fresh prompt and history."""
    with torch.no_grad():
        return denoiser(X, timestep, Condition(denoiser.prompt(text), denoiser.context(tiers(seed))))


def test_it_is_a_denoiser(model: HeliosTransformer3DModel) -> None:
    assert isinstance(TransformerDenoiser(model), Denoiser)


def test_velocity_is_that_of_the_transformer(model: HeliosTransformer3DModel) -> None:
    with torch.no_grad():
        assert torch.equal(ask(TransformerDenoiser(model)), model(X, 500.0, TEXT, tiers()))


def test_float32_goes_in_and_out_whatever_the_dtype_inside(model: HeliosTransformer3DModel) -> None:
    denoiser, seen = TransformerDenoiser(in_bfloat16(model)), []
    denoiser.transformer.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    got = ask(denoiser)
    assert got.dtype == torch.float32
    assert seen == [denoiser.dtype] == [torch.bfloat16]
    assert 0 < relative_error(got, ask(TransformerDenoiser(model))) < 0.1


def test_prompts_and_histories_are_cast_to_the_dtype_of_the_model(model: HeliosTransformer3DModel) -> None:
    denoiser, history = TransformerDenoiser(in_bfloat16(model)), tiers()
    context = denoiser.context(history)
    for name in ("long", "mid", "short"):
        cast, given = getattr(context.tiers, name), getattr(history, name)
        assert torch.equal(cast.latents, given.latents.bfloat16())
        assert cast.frames == given.frames
    assert context.tiers.chunk_frames == history.chunk_frames
    assert torch.equal(denoiser.prompt(TEXT).embedding, TEXT.bfloat16())


def test_velocity_does_not_depend_on_what_was_asked_before(model: HeliosTransformer3DModel) -> None:
    used = TransformerDenoiser(model)
    for text, timestep, seed in ((OTHER_TEXT, 900.0, 1), (TEXT, 500.0, 1), (OTHER_TEXT, 500.0, 0)):
        ask(used, text, timestep, seed)
    assert torch.equal(ask(used), ask(TransformerDenoiser(model)))


def test_both_branches_of_guidance_share_the_history_and_keep_their_own_text(
    model: HeliosTransformer3DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = TransformerDenoiser(model)
    context = denoiser.context(tiers())
    calls: list[Tiers] = []
    history = model._history
    monkeypatch.setattr(model, "_history", lambda tiers: calls.append(tiers) or history(tiers))
    with torch.no_grad():
        got = [denoiser(X, 500.0, Condition(denoiser.prompt(text), context)) for text in (TEXT, OTHER_TEXT)]
    monkeypatch.undo()
    assert len(calls) == 1
    assert torch.equal(got[0], ask(TransformerDenoiser(model), TEXT))
    assert torch.equal(got[1], ask(TransformerDenoiser(model), OTHER_TEXT))


def test_one_prompt_serves_many_chunks(model: HeliosTransformer3DModel) -> None:
    denoiser = TransformerDenoiser(model)
    prompt = denoiser.prompt(TEXT)
    for seed in (0, 1):
        with torch.no_grad():
            got = denoiser(X, 500.0, Condition(prompt, denoiser.context(tiers(seed))))
        assert torch.equal(got, ask(TransformerDenoiser(model), seed=seed))


COMPILED = """
import torch
from heliograph.model.denoiser import Condition, TransformerDenoiser
from tests.small import random_history, relative_error, small_transformer, wave

torch._dynamo.config.fail_on_recompile_limit_hit = True  # else what is left runs without
plain, compiled = (TransformerDenoiser(small_transformer(num_layers=10)) for _ in range(2))
compiled.transformer.compile_repeated_blocks(backend="eager")
with torch.no_grad():
    for size in (2, 4, 8):
        x, tiers, text = wave((1, 16, 9, size, size), 0.3), random_history().tiers(9), wave((1, 5, 32), 0.5)
        want, got = (one(x, 900.0, Condition(one.prompt(text), one.context(tiers))) for one in (plain, compiled))
        assert relative_error(got, want) < 1e-5, size
"""


def test_all_blocks_are_compiled_together() -> None:
    # In a process of its own: what is compiled cannot be checked for types at run time, as this suite is.
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
