"""The blocks as a CPU runs them: the same velocity as the plain blocks, no less exact, over the same tensors."""

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from heliograph.config import Guidance
from heliograph.kernels import onednn
from heliograph.kernels.onednn import attend, linear, linear_gelu, linear_silu
from heliograph.model.denoiser import Condition, TransformerDenoiser
from heliograph.model.lean import can_run_lean
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.sample import Branches, guided_velocity
from tests.small import random_history, relative_error, small_transformer, wave

TEXT, OTHER_TEXT = wave((1, 5, 32), 0.5), wave((1, 5, 32), 2.5)
X = wave((1, 16, 9, 4, 4), 0.3)


def ask(transformer: HeliosTransformer3DModel, x: Tensor = X, text: Tensor = TEXT, timestep: float = 500.0) -> Tensor:
    """Velocity after a history."""
    denoiser = TransformerDenoiser(transformer)
    with torch.no_grad():
        condition = Condition(denoiser.prompt(text), denoiser.context(random_history(seed=0).tiers(9)))
        return denoiser(x, timestep, condition)


def lean(transformer: HeliosTransformer3DModel) -> HeliosTransformer3DModel:
    """A copy that runs lean."""
    other = copy.deepcopy(transformer)
    assert other.run_lean()
    return other


@pytest.mark.parametrize(
    "options",
    [{}, {"guidance_cross_attn": False}, {"cross_attn_norm": False}, {"is_amplify_history": True}],
    ids=["released", "history-reads-text", "no-text-norm", "amplified-history"],
)
def test_lean_blocks_give_the_velocity_of_the_plain_ones(options: dict[str, bool]) -> None:
    plain = small_transformer(**options)
    assert relative_error(ask(lean(plain)), ask(plain)) < 2e-6


def test_a_model_without_memory_runs_lean_too() -> None:
    plain = small_transformer()
    with torch.no_grad():
        want = plain(X, 500.0, TEXT)
        x = X.clone()
        assert relative_error(lean(plain)(x, 500.0, TEXT), want) < 2e-6
        assert torch.equal(x, X)


def test_in_bfloat16_lean_blocks_are_no_further_from_float32_than_plain_ones() -> None:
    exact = small_transformer()
    low = copy.deepcopy(exact)
    for name, parameter in low.named_parameters():
        if not {"time_embedder", "scale_shift_table", "norm2"} & set(name.split(".")):
            parameter.data = parameter.data.bfloat16()
    for timestep in (950.0, 500.0, 50.0):
        want = ask(exact, timestep=timestep)
        assert relative_error(ask(lean(low), timestep=timestep), want) < relative_error(
            ask(low, timestep=timestep), want
        )


def test_weights_stay_where_they_are_and_can_be_stored() -> None:
    plain = small_transformer()
    low = lean(plain)
    assert low.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in low.state_dict().items())
    assert len(save(low.state_dict())) == len(save(plain.state_dict()))
    with torch.no_grad():
        low.blocks[0].get_parameter("attn1.to_k.weight").mul_(2.0)
        plain.blocks[0].get_parameter("attn1.to_k.weight").mul_(2.0)
    assert relative_error(ask(low), ask(plain)) < 2e-6


def test_an_adapter_a_gradient_and_features_take_the_plain_blocks() -> None:
    model = lean(small_transformer())
    x = X.clone().requires_grad_()
    model(x, 500.0, TEXT).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert len(model.forward_with_features(X, 500.0, TEXT, None, (0,))[1]) == 1
    model.blocks[0].attn1.to_q = torch.nn.Sequential(model.blocks[0].attn1.to_q)
    assert not can_run_lean(model.blocks) and not model.run_lean() and model.lean is None


def test_both_branches_of_guidance_in_one_pass_are_those_of_two() -> None:
    denoiser = TransformerDenoiser(lean(small_transformer()))
    guidance = replace(Guidance(3.0), method="cfg_zero_star")
    with torch.no_grad():
        context = denoiser.context(random_history(seed=0).tiers(9))
        texts = (TEXT, OTHER_TEXT, torch.cat([TEXT, OTHER_TEXT]))
        prompt, negative, both = (Condition(denoiser.prompt(text), context) for text in texts)
        want = guided_velocity(denoiser, X, 500.0, Branches(prompt, negative), guidance)
        got = guided_velocity(denoiser, X, 500.0, Branches(prompt, negative, both), guidance)
    assert relative_error(got, want) < 1e-5


def test_branches_side_by_side_have_the_bits_of_one_after_the_other() -> None:
    denoiser = TransformerDenoiser(lean(small_transformer()))
    with torch.no_grad(), ThreadPoolExecutor(1) as thread:
        context = denoiser.context(random_history(seed=0).tiers(9))
        prompt, negative = (Condition(denoiser.prompt(text), context) for text in (TEXT, OTHER_TEXT))
        want = guided_velocity(denoiser, X, 500.0, Branches(prompt, negative), Guidance(3.0))
        beside = Branches(prompt, negative, second_thread=thread)
        assert all(torch.equal(guided_velocity(denoiser, X, 500.0, beside, Guidance(3.0)), want) for _ in range(3))


@pytest.mark.parametrize("failing", ["prompt", "negative"])
def test_an_error_of_one_branch_is_told_when_the_other_is_done(failing: str) -> None:
    done = []

    def denoiser(x: torch.Tensor, timestep: float, condition: str) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        if condition == failing:
            raise ZeroDivisionError(condition)
        time.sleep(0.05)
        done.append(condition)
        return x * timestep

    with torch.no_grad(), ThreadPoolExecutor(1) as thread:
        with pytest.raises(ZeroDivisionError, match=failing):
            guided_velocity(denoiser, X, 500.0, Branches("prompt", "negative", second_thread=thread), Guidance(3.0))
        assert done == [{"prompt": "negative", "negative": "prompt"}[failing]]


@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("strided", [True, False])
def test_fused_products_are_the_product_and_the_function(
    monkeypatch: pytest.MonkeyPatch, *, has_onednn: bool, strided: bool
) -> None:
    if not has_onednn:
        monkeypatch.setattr(onednn, "fused_linear", lambda: None)
    elif onednn.fused_linear() is None:
        pytest.skip("this PyTorch has no oneDNN")
    x, weight, bias = wave((2, 7, 24), 0.1), wave((16, 12), 0.3), wave((16,), 0.7)
    x = x[..., ::2] if strided else x[..., :12].contiguous()
    want = torch.nn.functional.linear(x, weight, bias)
    assert relative_error(linear(x, weight, bias), want) < 1e-6
    assert relative_error(linear_silu(x, weight, bias), torch.nn.functional.silu(want)) < 1e-6
    gelu = torch.nn.functional.gelu(want, approximate="tanh")
    assert relative_error(linear_gelu(x, weight, bias), gelu) < 1e-6


@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("num_queries", [3, 700, 1100])  # in one part, in two, in three
def test_attention_by_products_is_the_librarys(
    monkeypatch: pytest.MonkeyPatch, num_queries: int, *, has_onednn: bool
) -> None:
    if not has_onednn:
        monkeypatch.setattr(onednn, "fused_linear", lambda: None)
    elif onednn.fused_linear() is None:
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    query, key, value = wave((2, num_queries, 3, 8), 0.37), wave((2, 37, 3, 8), 0.73), wave((2, 37, 3, 8), 0.11)
    want = library_attention(query.double(), key.double(), value.double())
    assert relative_error(attend(query, key, value).double(), want) < 1e-6
    half = [x.bfloat16() for x in (query, key, value)]
    theirs = relative_error(library_attention(*half).double(), want)
    rounded = attend(query, key, half[2])
    assert rounded.dtype == torch.bfloat16
    assert relative_error(rounded.double(), want) < 1.01 * theirs


def library_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(q·kᵀ/√e)·v of tokens x heads."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
