"""What becomes of adapters: how large they are, what they add to the weights, and which parameters are trained at all.

`adapter` puts them on and switches them off; here they are counted, stored and folded into the weights they adapt.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from heliograph.checkpoint import low_rank_product
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.adapter import AdapterConfig, add_adapter, linear_names


def add_seeded_adapter(network: HeliosTransformer3DModel, config: AdapterConfig, name: str, seed: int) -> None:
    """Freeze the network and put an adapter on it whose first weights follow from `seed`, the same in every process."""
    train_only(network, ())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the library draws from torch's own generator
        add_adapter(network, config, name)


def train_only(network: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Freeze everything but what lies under one of the dotted `prefixes`, which becomes float32; `""` is everything."""
    for name, parameter in network.named_parameters():
        is_trained = any(not prefix or f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)
        parameter.requires_grad_(is_trained)
        if is_trained:
            parameter.data = parameter.data.float()


def adapter_size(network: nn.Module, config: AdapterConfig) -> int:
    """Parameters of an adapter, from shapes alone: rank × (inputs + outputs) of every layer that gets one."""
    names = [*linear_names(network), *config.convolutions]
    weights = (network.get_submodule(name).get_parameter("weight") for name in names)
    return sum(config.rank * (weight[0].numel() + weight.shape[0]) for weight in weights)


def trained_size(network: nn.Module, config: AdapterConfig) -> int:
    """Parameters that are trained: the adapter's, and those of layers that are trained themselves."""
    whole = (p.numel() for layer in config.full for p in network.get_submodule(layer).parameters())
    return adapter_size(network, config) + sum(whole)


@torch.no_grad()
def merged_tensors(network: nn.Module, name: str | None) -> Iterator[tuple[str, Tensor]]:
    """The weights with adapter `name` folded in, one after another, under the names they have without any adapter.

    W + alpha/rank · B·A in float32, rounded once, to the dtype of W. Sharded weights are gathered one at a time, so
    every process must go through all of them. The network stays as it is.
    """
    layers = dict(adapted_layers(network, name)) if name else {}
    for key, tensor in network.state_dict(keep_vars=True).items():
        if ".lora_" in key:
            continue
        path, _, leaf = key.rpartition(".")
        owner = path.removesuffix(".base_layer")
        whole = whole_tensor(tensor)
        if name is not None and owner in layers and leaf == "weight":
            whole = (whole.float() + adapter_delta(layers[owner], name)).to(whole.dtype)
        yield (f"{owner}.{leaf}" if owner else leaf), whole


def adapted_layers(network: nn.Module, name: str) -> Iterator[tuple[str, LoraLayer]]:
    """Every layer that adapter `name` changes, with its name in the network."""
    for path, module in network.named_modules():
        if isinstance(module, LoraLayer) and name in module.scaling:
            yield path, module


@torch.no_grad()
def adapter_delta(layer: LoraLayer, name: str) -> Float[Tensor, "..."]:
    """What adapter `name` adds to the layer's weight, float32, in its shape; linear layers and convolutions alike."""
    down, up = (whole_tensor(part[name].get_parameter("weight")) for part in (layer.lora_A, layer.lora_B))
    return layer.scaling[name] * low_rank_product(up, down)


@torch.no_grad()
def partial_tensors(network: nn.Module, name: str | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The adapter, and what else was trained: everything that differs from the start, gathered from all processes.

    Adapter tensors are named as diffusers reads them (`transformer.<layer>.lora_A.weight`), others as in the network.
    """
    adapter: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for key, parameter in network.named_parameters():
        if name is not None and ".lora_" in key:
            if f".{name}." in key:
                adapter[f"transformer.{key.replace(f'.{name}.', '.')}"] = whole_tensor(parameter).cpu()
        elif parameter.requires_grad:
            others[key.replace(".base_layer.", ".")] = whole_tensor(parameter).cpu()
    return adapter, others


def whole_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself, detached, gathered from all processes where it is sharded."""
    detached = tensor.detach()
    return detached.full_tensor() if isinstance(detached, DTensor) else detached
