"""8-bit floating point: what rounding costs, what stays as it was, and what is refused."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from torch import nn

from heliograph.errors import CheckpointError
from heliograph.kernels.eight_bit import EightBit, gelu_quantise, modulate_quantise, multiply, quantise
from heliograph.kernels.plain import modulate
from heliograph.model.attention import SelfAttention
from heliograph.model.float8 import Float8FeedForward, Float8Linear, spared_blocks, to_float8
from heliograph.model.transformer import HeliosTransformer3DModel
from tests.small import randomise, relative_error, small_transformer, steady, wave, wave_tiers

TEXT = wave((1, 5, 32), 0.5)


@steady
@given(st.integers(1, 5), st.integers(1, 40), st.floats(1e-4, 1e4))
def test_every_number_keeps_four_significant_bits(rows: int, columns: int, size: float) -> None:
    x = wave((1, rows, columns), 0.7) * size
    got = quantise(x)
    assert got.values.dtype == torch.float8_e4m3fn
    # Half of the last of three stored bits, or half the smallest number of the format at the row's scale.
    allowed = torch.maximum(x.abs() / 16, got.scale * 2**-10)
    assert ((got.widened() - x).abs() <= 1.001 * allowed).all()


def test_a_row_of_zeros_stays_zero_and_no_row_coarsens_another() -> None:
    x = torch.stack([torch.zeros(8), torch.full((8,), 1e-3), torch.full((8,), 1e4)])[None]
    got = quantise(x).widened()
    assert got[0, 0].eq(0).all()
    assert torch.allclose(got, x, rtol=1e-6)


def test_tokens_in_8_bits_are_cut_as_tensors_are() -> None:
    x = wave((2, 5, 8), 0.1)
    assert torch.equal(quantise(x)[:, 2:].widened(), quantise(x[:, 2:]).widened())
    assert quantise(x.bfloat16())[:, :1].dtype == torch.bfloat16


def test_fused_steps_are_the_step_and_then_the_rounding() -> None:
    x, rows = wave((2, 4, 16), 0.3).bfloat16(), wave((1, 2, 16), 0.9)
    want = quantise(modulate(x.float(), rows, rows, (1, 3), 1e-6))
    assert torch.equal(modulate_quantise(x, rows, rows, (1, 3), 1e-6).widened(), want.widened())
    want = quantise(torch.nn.functional.gelu(x.float(), approximate="tanh"))
    assert torch.equal(gelu_quantise(x).widened(), want.widened())


@torch.no_grad()
def test_a_product_is_that_of_the_rounded_numbers() -> None:
    layer, x = nn.Linear(16, 8), wave((2, 3, 16), 0.4)
    rounded = Float8Linear([layer])
    want = quantise(x).widened() @ (rounded.values.float() * rounded.scale[:, None]).T + layer.bias
    assert relative_error(rounded(x), want) < 1e-6
    assert 0 < relative_error(rounded(x), layer(x)) < 0.1
    assert rounded(x.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_pytorch_s_own_8_bit_product_agrees_where_it_has_one() -> None:
    rows, weight = quantise(wave((1, 16, 32), 0.2).bfloat16()), quantise(wave((1, 16, 32), 0.8))
    try:
        got = torch._scaled_mm(
            rows.values[0], weight.values[0].T, rows.scale[0], weight.scale[0].T, out_dtype=torch.bfloat16
        )
    except (RuntimeError, NotImplementedError, ValueError) as fault:
        pytest.skip(f"this PyTorch cannot on this device: {fault}")
    want = multiply(rows, weight.values[0], weight.scale[0, :, 0], None)[0]
    assert relative_error(got, want) <= 2 * torch.finfo(torch.bfloat16).eps


def model(num_layers: int = 4) -> HeliosTransformer3DModel:
    one = small_transformer(num_layers=num_layers)
    randomise(one)
    return one


def run(network: HeliosTransformer3DModel) -> torch.Tensor:
    with torch.no_grad():
        return network(wave((1, 16, 9, 4, 4), 0.2), 500.0, TEXT, wave_tiers(8, 8))


def test_a_model_in_8_bits_is_close_and_its_ends_are_as_they_were() -> None:
    whole, network = model(), model()
    for index, block in enumerate(network.blocks):
        if index not in spared_blocks(4):
            to_float8(block)
    attention = network.get_submodule("blocks.1.attn1")
    assert isinstance(attention, SelfAttention) and isinstance(attention.to_qkv, Float8Linear)
    assert isinstance(network.get_submodule("blocks.1.ffn"), Float8FeedForward)
    assert type(network.get_submodule("blocks.1.attn2.to_k")) is nn.Linear
    assert {type(m) for m in network.get_submodule("blocks.0").modules()} == {
        type(m) for m in whole.get_submodule("blocks.0").modules()
    }
    assert 0 < relative_error(run(network), run(whole)) < 0.05


def test_a_model_with_every_block_in_8_bits_works_too() -> None:
    network = model(2)
    for block in network.blocks:
        to_float8(block)
    assert 0 < relative_error(run(network), run(model(2))) < 0.1


def test_weights_in_8_bits_take_a_byte_each() -> None:
    block = copy.deepcopy(model().blocks[1]).bfloat16()
    before = sum(t.numel() for t in block.parameters() if t.ndim == 2)
    to_float8(block)
    eight_bit = sum(t.numel() for t in block.buffers() if t.dtype == torch.float8_e4m3fn)
    assert eight_bit == before - 2 * 24 * 24, "all matrices but the two that read the text"


@pytest.mark.parametrize(("num_blocks", "count"), [(1, 0), (2, 0), (4, 1), (6, 1), (16, 3), (40, 3)])
def test_a_quarter_of_the_blocks_at_most_is_spared_at_either_end(num_blocks: int, count: int) -> None:
    spared = spared_blocks(num_blocks)
    assert len(spared) == 2 * count
    assert spared == {num_blocks - 1 - index for index in spared}


def test_a_layer_with_an_adapter_is_refused() -> None:
    network = model()
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(CheckpointError, match="merge adapters first"):
        to_float8(network.blocks[1])


def test_eight_bit_tokens_say_their_shape() -> None:
    assert EightBit(torch.zeros(1, 2, 3), torch.ones(1, 2, 1), torch.float32).shape == (1, 2, 3)
