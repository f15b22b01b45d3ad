"""More numbers for every latent cell: a code with further components, and a network that takes them.

What was learnt stays: the old components keep their numbers, and the network says of them nearly what it said. New ones
are read with weights that are random and not large, and their velocity is zero. Training then goes on from there
(`embedded-widen`).
"""

from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from heliograph.checkpoint import NATIVE_FILE, read_json
from heliograph.embedded.code import CODE_CLIPS, extend_code
from heliograph.embedded.recode import check_free, linear_code, write_recoded
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.start import StartPoint, load_start

READ_SHARE = 0.5
"""Weights that read new channels, relative to those that read the old ones (root mean squares).

Were they zero, like those that speak of them, neither would have a gradient through the other: after 45 steps of 64
next to nothing was learnt. With half the size the old channels' errors grow at first, and on the coarsest level both
together are where the old ones were after 150 steps of 16.
"""


def widen(model: Path, folder: Path, z_dim: int) -> None:
    """Write `model` with `z_dim` numbers a cell as `folder`, whole or not at all; its decoder's networks are fresh.

    Raises:
        UserError: it has as many already, or no linear code, or there is something in the place of `folder`.
    """
    check_free(folder)
    size = read_json(model / NATIVE_FILE)
    wider = extend_code(linear_code(str(model)), CODE_CLIPS, (size["height"], size["width"]), z_dim)
    network = wider_network(load_start(StartPoint(str(model)), torch.float32), z_dim, torch.Generator().manual_seed(0))
    write_recoded(model, folder, wider, network)


def wider_network(
    network: HeliosTransformer3DModel, channels: int, generator: torch.Generator
) -> HeliosTransformer3DModel:
    """The same network for latents of more `channels`; those it knows come first."""
    config: dict[str, Any] = {name: value for name, value in network.config.items() if not name.startswith("_")}
    known = config["in_channels"]
    config |= {"in_channels": channels, "out_channels": channels}
    wider = HeliosTransformer3DModel(**config)
    state = network.state_dict()
    for name, old in state.items():
        if name.startswith("patch_") and name.endswith(".weight"):
            new = torch.randn(old.shape[0], channels - known, *old.shape[2:], generator=generator)
            state[name] = torch.cat([old, READ_SHARE * old.square().mean().sqrt() * new], dim=1)
        elif name.startswith("proj_out."):
            by_channel = rearrange(old, "(n c) ... -> n c ...", c=known)
            new = old.new_zeros(by_channel.shape[0], channels - known, *by_channel.shape[2:])
            state[name] = rearrange(torch.cat([by_channel, new], dim=1), "n c ... -> (n c) ...")
    wider.load_state_dict(state)
    return wider.eval()
