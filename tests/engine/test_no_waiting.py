"""Nothing between noise and bytes makes the host wait for a GPU, shown on PyTorch's `meta` device in its place.

Tensors there have no numbers, so whatever reads one (`.item()`, `if tensor:`, a copy to the host) raises by itself;
copies to the device are seen by a dispatch mode.
"""

from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from heliograph.config import MemoryConfig
from heliograph.memory import History
from heliograph.model.denoiser import Condition, TransformerDenoiser
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.presets import BASE, DISTILLED, SamplerConfig
from heliograph.rollout import next_turn
from heliograph.sample import Branches
from heliograph.seeds import RequestSeeds
from heliograph.vae import LatentCodec, to_uint8
from heliograph.wan_decoder import WanDecoder
from tests.small import SIZES

DEVICE = torch.device("meta")


class Uploads(TorchDispatchMode):
    """Notes every copy from the host to the device, and which of them the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        here, there = ({t.device.type for t in tree_leaves(x) if isinstance(t, torch.Tensor)} for x in (args, out))
        if here == {"cpu"} and there == {"meta"}:
            self.count += 1
            self.waiting += [] if (kwargs or {}).get("non_blocking") else [str(func)]
        return out


@pytest.mark.parametrize("sampler", [DISTILLED, BASE], ids=["distilled", "base"])
@torch.no_grad()
def test_sampling_a_chunk_waits_for_nothing(sampler: SamplerConfig) -> None:
    with DEVICE:
        denoiser = TransformerDenoiser(HeliosTransformer3DModel(**SIZES).bfloat16(), DEVICE)
        prompt, negative = (denoiser.prompt(torch.zeros(1, 5, 32)) for _ in range(2))
    history, seeds = History.empty((1, 16, 8, 8), MemoryConfig(), DEVICE), RequestSeeds(0, DEVICE)

    def conditions(tiers: Any, _: int) -> Branches:
        context = denoiser.context(tiers)
        return Branches(Condition(prompt, context), Condition(negative, context))

    history = next_turn(denoiser, history, conditions, sampler, seeds).history  # fills the model's tables
    with Uploads() as uploads:
        turn = next_turn(denoiser, history, conditions, sampler, seeds)
    assert turn.latents.device == DEVICE
    assert uploads.waiting == []
    assert uploads.count > 0, "the noise is seen being sent"


@torch.no_grad()
def test_decoding_to_bytes_waits_for_nothing() -> None:
    with DEVICE:
        autoencoder = AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
        latents = torch.zeros(1, 16, 9, 2, 2)
    codec = LatentCodec(autoencoder, WanDecoder(autoencoder, torch.float16, (1, 8)))
    codec.decode_chunk(latents)  # fetches the latents' statistics
    with Uploads() as uploads:
        frames = to_uint8(codec.decode_chunk(latents))
    assert frames.device == DEVICE and frames.shape == (1, 33, 16, 16, 3)
    assert uploads.count == 0


def test_the_watch_sees_what_it_is_for() -> None:
    with Uploads() as uploads:
        x = torch.ones(3, device=DEVICE)
        for read in (lambda: x.sum().item(), lambda: bool(x.sum() > 0), x.cpu, x.tolist):
            with pytest.raises((RuntimeError, NotImplementedError)):
                read()
        torch.ones(3).to(DEVICE)
        torch.ones(3).to(DEVICE, non_blocking=True)
    assert (len(uploads.waiting), uploads.count) == (1, 2)
