"""Nothing between noise and bytes makes the host wait for a GPU, shown on fake tensors of one that is not there.

On fake tensors no number is known, so whatever reads one (`.item()`, `if tensor:`) raises by itself; copies between
host and device are seen by a dispatch mode.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from heliograph import wan_decoder
from heliograph.config import MemoryConfig
from heliograph.kernels import choice
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

Module = TypeVar("Module", bound=torch.nn.Module)
GPU = torch.device("cuda:0")


class Copies(TorchDispatchMode):
    """Notes every operation whose inputs and outputs lie on different devices, and whether the host waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []
        self.num_uploads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        places = [
            {t.device.type for t in tree_leaves(x) if isinstance(t, torch.Tensor) and t.ndim} for x in (args, out)
        ]
        if "cuda" in places[0] and "cpu" in places[1]:
            self.waiting.append(f"{func} to the host")
        if "cpu" in places[0] and "cuda" in places[1]:
            self.num_uploads += 1
            is_waiting = not (kwargs or {}).get("non_blocking", False)
            self.waiting += [f"{func} to the device"] if is_waiting else []
        return out


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton cannot run on tensors that are not there; its kernels read no number back either."""
    monkeypatch.setattr(choice, "fused_kernels", lambda: None)


def on_gpu(make: Callable[[], Module], dtype: torch.dtype) -> Module:
    """A module with fake weights on a GPU; built without any, as initialising needs a GPU that is there."""
    with torch.device("meta"):
        module = make()
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            fake = torch.zeros(parameter.shape, dtype=dtype, device=GPU)
            part.register_parameter(name, torch.nn.Parameter(fake, requires_grad=False))
    return module


@pytest.mark.parametrize("sampler", [DISTILLED, BASE], ids=["distilled", "base"])
def test_sampling_a_chunk_waits_for_nothing(sampler: SamplerConfig) -> None:
    with FakeTensorMode(), torch.no_grad():
        network = on_gpu(lambda: HeliosTransformer3DModel(**SIZES), torch.bfloat16)
        denoiser = TransformerDenoiser(network, GPU)
        prompt, negative = (denoiser.prompt(torch.zeros(1, 5, 32, device=GPU)) for _ in range(2))
        history, seeds = History.empty((1, 16, 8, 8), MemoryConfig(), GPU), RequestSeeds(0, GPU)

        def conditions(tiers: Any, _: int) -> Branches:
            context = denoiser.context(tiers)
            return Branches(Condition(prompt, context), Condition(negative, context))

        history = next_turn(denoiser, history, conditions, sampler, seeds).history  # fills the model's tables
        with Copies() as copies:
            turn = next_turn(denoiser, history, conditions, sampler, seeds)
        assert turn.latents.device == GPU
    assert copies.waiting == []
    assert copies.num_uploads > 0, "the noise is seen being sent"


def test_decoding_to_bytes_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wan_decoder, "deepcopy", lambda module: module)  # fake tensors cannot be copied deeply
    with FakeTensorMode(), torch.no_grad():
        sizes = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
        autoencoder = on_gpu(lambda: AutoencoderKLWan(**sizes), torch.float32)
        latents = torch.zeros(1, 16, 9, 2, 2, device=GPU)
        codec = LatentCodec(autoencoder, WanDecoder(autoencoder, torch.float32, (1, 8)))
        codec.decode_chunk(latents)  # fetches the latents' statistics
        with Copies() as copies:
            frames = to_uint8(codec.decode_chunk(latents))
        assert frames.device == GPU and frames.shape == (1, 33, 16, 16, 3)
    assert copies.waiting == [] and copies.num_uploads == 0


def test_the_watch_sees_what_it_is_for() -> None:
    with FakeTensorMode(), Copies() as copies:
        x = torch.ones(3, device=GPU)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        x.cpu()
        torch.ones(3).to(GPU)
        torch.ones(3).to(GPU, non_blocking=True)
    assert [note.split(" to the ")[1] for note in copies.waiting] == ["host", "device"]
    assert copies.num_uploads == 2
