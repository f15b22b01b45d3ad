"""Adapters: low-rank weights that a stage trains instead of the network's own (Helios, LoRA recipe).

After each phase they are folded into the dense weights, and the next phase begins with fresh ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from heliograph.errors import UserError
from heliograph.model.transformer import HeliosTransformer3DModel


@dataclass(frozen=True)
class AdapterConfig:
    """What is trained of a network besides an adapter of `rank` on all linear layers.

    `convolutions` names patch layers that get an adapter too, `full` layers that are trained themselves.
    """

    rank: int
    convolutions: tuple[str, ...] = ()
    full: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"rank={self.rank} makes no adapter; use 1 or more")


def linear_names(network: nn.Module) -> list[str]:
    """Full names of all linear layers outside norms."""
    return [n for n, layer in network.named_modules() if isinstance(layer, nn.Linear) and "norm" not in n]


def add_adapter(network: HeliosTransformer3DModel, config: AdapterConfig, name: str) -> None:
    """Freeze the network and put an adapter on it that changes nothing yet. What is trained becomes float32.

    A starts normal with deviation 1/rank, B zero; the adapter's weight is 1 (alpha = rank), nothing drops out. Layers
    that are trained themselves in a network of half precision need autocast around it.
    """
    network.add_adapter(
        LoraConfig(
            r=config.rank,
            lora_alpha=config.rank,
            init_lora_weights="gaussian",
            target_modules=[*linear_names(network), *config.convolutions],
        ),
        adapter_name=name,
    )
    for layer in config.full:
        network.get_submodule(layer).requires_grad_(requires_grad=True)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@contextmanager
def adapter_off(network: HeliosTransformer3DModel) -> Iterator[None]:
    """The network without its adapter, for as long as the block lasts; what wants a gradient stays as it is."""
    # Not the library's `disable_adapters`: it also switches gradients off and on, and where a network is sharded the
    # parameters it finds before and after a pass are not the same objects, so that some would stay switched off.
    layers = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
