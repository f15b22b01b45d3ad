"""More numbers for every latent cell: a code with further components, and a network that takes them.

What was learnt stays: the old components keep their numbers, the network reads the new ones with zero weights and says
zero of them, so its velocity of the old ones is what it was. Training then goes on from there.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor

from heliograph.checkpoint import read_json
from heliograph.embedded.code import CODE_CLIPS, extend_code
from heliograph.embedded.render import open_codec
from heliograph.linear_autoencoder import LinearAutoencoder
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.start import StartPoint, load_start

WEIGHTS = "diffusion_pytorch_model.safetensors"


def widen(model: Path, folder: Path, z_dim: int) -> None:
    """Write `model` with `z_dim` numbers a cell as `folder`; its decoder's networks are fresh.

    Raises:
        ValueError: it has as many already.
    """
    size = read_json(model / "heliograph.json")
    code = open_codec(str(model)).autoencoder
    assert isinstance(code, LinearAutoencoder)
    wider = extend_code(code, CODE_CLIPS, (size["height"], size["width"]), z_dim)
    network = wider_network(load_start(StartPoint(str(model)), torch.float32), z_dim)
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("vae", "transformer"))
    wider.save_pretrained(folder / "vae")
    network.save_config(folder / "transformer")
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / "transformer" / WEIGHTS, metadata={"format": "pt"})


def wider_network(network: HeliosTransformer3DModel, channels: int) -> HeliosTransformer3DModel:
    """The same network for latents of more `channels`: those it knows come first, those that are new count nothing."""
    config: dict[str, Any] = {name: value for name, value in network.config.items() if not name.startswith("_")}
    config |= {"in_channels": channels, "out_channels": channels}
    wider = HeliosTransformer3DModel(**config)
    state = network.state_dict()
    for name in state:
        if name.startswith("patch_") and name.endswith(".weight"):
            state[name] = _padded(state[name], 1, channels)
        elif name.startswith("proj_out."):
            by_channel = rearrange(state[name], "(n c) ... -> n c ...", c=network.config["out_channels"])
            state[name] = rearrange(_padded(by_channel, 1, channels), "n c ... -> (n c) ...")
    wider.load_state_dict(state)
    return wider.eval()


def _padded(tensor: Tensor, axis: int, size: int) -> Tensor:
    """`tensor` with zeros behind it, so that `axis` has `size`."""
    shape = list(tensor.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=axis)
