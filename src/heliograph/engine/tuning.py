"""The transformer as this machine runs it fastest: loaded the way of the plan, and then what `SpeedConfig` says."""

import torch

from heliograph.checkpoint import ModelFolder, load_transformer
from heliograph.config import SpeedConfig
from heliograph.engine.attention import choose_attention, set_attention
from heliograph.engine.offload import offload_blocks
from heliograph.engine.placement import Plan
from heliograph.engine.quantise import load_rounded_transformer, round_matrices
from heliograph.errors import UserError
from heliograph.model.attention import SelfAttention
from heliograph.model.float8 import spared_blocks, to_float8
from heliograph.model.packing import pack
from heliograph.model.transformer import HeliosTransformer3DModel

STREAMED = ("blocks offloaded", "blocks on disk")
"""Ways of running whose blocks come and go."""


def tuned_transformer(folder: ModelFolder, plan: Plan, speed: SpeedConfig) -> HeliosTransformer3DModel:
    """Load the transformer and make it fast.

    Raises:
        CheckpointError: the weights are missing, damaged or not the model's.
        UserError: what `speed` asks for is not possible here; says why.
    """
    device = torch.device(plan.device)
    if speed.fp8 and (plan.way in STREAMED or plan.way == "int8 weights"):
        raise UserError(f"fp8 is not possible with {plan.way!r}; leave out --fp8, or use a smaller model")
    if speed.fp8:
        num_blocks = int(folder.transformer_config.get("num_layers", 40))
        spared = spared_blocks(num_blocks)
        transformer = load_rounded_transformer(
            folder, plan, lambda index, block: None if index in spared else to_float8(block)
        )
    elif plan.way == "int8 weights":
        transformer = load_rounded_transformer(folder, plan, lambda _, block: round_matrices(block))
    else:
        transformer = load_transformer(folder, plan.dtype, plan.place)
    if plan.way in STREAMED:
        offload_blocks(transformer, folder, plan)
    elif packs(device):
        pack_products(transformer)
    set_attention(transformer, choose_attention(speed.attention, device, plan.dtype, is_rounded=speed.attention8))
    return transformer


def packs(device: torch.device) -> bool:
    """Whether one product for queries, keys and values pays: on a GPU, whose units a single one leaves idle.

    On a CPU it changes the last bit and gains nothing.
    """
    return device.type == "cuda"


def pack_products(transformer: HeliosTransformer3DModel) -> None:
    """Lay the weights for queries, keys and values of every block side by side."""
    for module in transformer.modules():
        if isinstance(module, SelfAttention) and module.to_qkv is None:
            pack([module.to_q, module.to_k, module.to_v])


def device_for_vae(name: str | None, device: torch.device) -> torch.device:
    """Where the autoencoder goes: the device of this name, or the model's.

    Raises:
        UserError: there is no such device.
    """
    if name is None:
        return device
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no device {name!r} here for the autoencoder; use for example cuda:1") from error
    return chosen
