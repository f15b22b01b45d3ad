"""Counted operations are those that PyTorch counts, and those of the study of performance."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from heliograph.bench.roofline import H100, H200, chunk_flops, decode_flops, floor_of, rates_of, step_flops
from heliograph.engine.needs import NetworkSizes, Workload
from heliograph.model.memo import Memo, Memos
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.wan_decoder import WanDecoder
from tests.small import SIZES, wave, wave_tiers

RELEASED, WORK = NetworkSizes(), Workload(384, 640)
SMALL = NetworkSizes(num_heads=2, head_dim=12, ffn_dim=32, num_layers=3)


@torch.no_grad()
def counted(run: object) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()  # pyright: ignore[reportCallIssue]
    return counter.get_total_flops()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_step_s_operations_are_those_that_pytorch_counts(level: int) -> None:
    model = HeliosTransformer3DModel(**{**SIZES, "num_layers": 3}).eval()
    work, size = Workload(64, 128), 2 ** (2 - level)
    x, text, tiers = wave((1, 16, 9, 8 // size, 16 // size), 0.1), wave((1, 512, 32), 0.3), wave_tiers(8, 16)
    memos = Memos(Memo(), Memo(), Memo())
    with torch.no_grad():
        model(x, 500.0, text, tiers, memos)
    assert counted(lambda: model(x, 500.0, text, tiers, memos)) == sum(step_flops(SMALL, work, level, 3).values())


def test_a_chunk_s_operations_are_its_steps_and_its_history_s() -> None:
    model = HeliosTransformer3DModel(**{**SIZES, "num_layers": 3}).eval()
    text, first, tiers = wave((1, 512, 32), 0.3), Memos(), wave_tiers(8, 16)
    inputs = [wave((1, 16, 9, 2 * 2**level, 4 * 2**level), 0.1) for level in range(3)]

    def chunk(memos: Memos) -> None:
        for x in inputs:
            model(x, 500.0, text, tiers, memos)

    with torch.no_grad():
        chunk(first)
    later = Memos(first.model, first.prompt, Memo())
    assert counted(lambda: chunk(later)) == chunk_flops(SMALL, Workload(64, 128), (1, 1, 1))


@pytest.mark.parametrize("channels", [4, 8])
def test_a_decode_s_operations_are_those_that_pytorch_counts(channels: int) -> None:
    model = AutoencoderKLWan(base_dim=channels, dim_mult=[1, 2, 4, 4], num_res_blocks=2).eval()
    decoder, z = WanDecoder(model, torch.float32, (1, 8)), torch.zeros(1, 16, 9, 2, 3)
    assert counted(lambda: decoder.decode(z)) == sum(decode_flops(channels, 16, 24).values())


def test_the_released_model_s_counts_are_those_of_the_study() -> None:
    # Of its totals: 548.4 without savings at 1,1,1, of which 6.4 + 0.05 text keys, 3.7 dead rows, 0.65 of block 0.
    assert chunk_flops(RELEASED, WORK, (1, 1, 1)) / 1e12 == pytest.approx(537.6, abs=1.0)
    assert sum(decode_flops(96, 384, 640).values()) / 1e12 == pytest.approx(69.26, abs=0.01)


def test_floors_are_those_of_the_study() -> None:
    one, two = (floor_of(RELEASED, WORK, steps, 96, H100) for steps in ((1, 1, 1), (2, 2, 2)))
    assert (one.transformer, one.decode) == pytest.approx((0.691, 0.088), abs=0.004)
    assert (one.frames_per_second, two.frames_per_second) == pytest.approx((42.4, 22.5), abs=0.3)


def test_a_device_is_known_by_its_name() -> None:
    assert rates_of("NVIDIA H200") is H200 and rates_of("NVIDIA H100 80GB HBM3") is H100
    assert rates_of("NVIDIA GeForce RTX 4090") is None
