"""What a run will cost, before anything is loaded: parameters trained, tokens a step, memory of every role per device.

Sizes of weights, gradients, moments and averages are exact. Activations are an estimate: they depend on kernels.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import nn

from heliograph.checkpoint import FP32_COMPONENTS
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.train.activations import activation_bytes, forward_passes
from heliograph.train.adapter import AdapterConfig
from heliograph.train.build import attends_by_products
from heliograph.train.distill import DistillConfig
from heliograph.train.gan import GanConfig
from heliograph.train.lora import trained_size
from heliograph.train.parallel import Layout, device_type, units
from heliograph.train.recipe import TrainConfig
from heliograph.train.roles import make_heads
from heliograph.train.start import empty_network, start_config, start_stride

GRADIENT_BYTES, MOMENT_BYTES, AVERAGE_BYTES, TRAINED_BYTES = 4, 8, 4, 4
"""Per trained parameter: its gradient, AdamW's two moments, its average, itself; all float32."""

BLOCKS_GATHERED = 2
"""Blocks of a sharded network that are whole at a time: the one that runs, and the next, which is fetched meanwhile."""


@dataclass(frozen=True)
class RoleMemory:
    """Bytes that one role takes on each device.

    Attributes:
        role: `student`, `teacher and critic`, `heads`.
        parameters, trained: numbers, over all devices.
        frozen_bytes: frozen weights in their own dtype.
        trained_bytes, gradient_bytes, moment_bytes, average_bytes: of what is trained.
        gathered_bytes: weights of other devices that are here while they are used.
    """

    role: str
    parameters: int
    trained: int
    frozen_bytes: int
    trained_bytes: int
    gradient_bytes: int
    moment_bytes: int
    average_bytes: int
    gathered_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return (
            self.frozen_bytes
            + self.trained_bytes
            + self.gradient_bytes
            + self.moment_bytes
            + self.average_bytes
            + self.gathered_bytes
        )


@dataclass(frozen=True)
class Device:
    """What each process of a run computes on: its name, its memory in bytes (None: not known), and if it is a CPU."""

    name: str
    num_bytes: int | None
    is_cpu: bool = False


@dataclass(frozen=True)
class TrainPlan:
    """A resolved run and its cost on `world` devices.

    `tokens` are those of one step on all devices; `away_bytes` are frozen weights that are in host memory while the
    other network works.
    """

    config: TrainConfig
    world: int
    roles: tuple[RoleMemory, ...]
    tokens: int
    activation_bytes: int
    away_bytes: int
    device: Device

    @property
    def total_bytes(self) -> int:
        """Bytes that each device needs."""
        return sum(role.total_bytes for role in self.roles) + self.activation_bytes - self.away_bytes

    @property
    def fits(self) -> bool:
        """Whether the device has that much; false where it is not known."""
        return self.device.num_bytes is not None and self.total_bytes <= self.device.num_bytes

    def as_json(self) -> dict[str, Any]:
        """Everything, for a program."""
        return {
            "config": json.loads(json.dumps(asdict(self.config))),
            "devices": self.world,
            "tokens_per_step": self.tokens,
            "roles": [{**asdict(role), "total_bytes": role.total_bytes} for role in self.roles],
            "activation_bytes": self.activation_bytes,
            "away_bytes": self.away_bytes,
            "total_bytes": self.total_bytes,
            "device": self.device.name,
            "device_bytes": self.device.num_bytes,
            "fits": self.fits,
        }

    def lines(self) -> list[str]:
        """Everything, for a person."""
        lines = [f"preset {self.config.name}", *_settings("", asdict(self.config)), ""]
        for role in self.roles:
            lines.append(f"{role.role}: {_count(role.parameters)} parameters, {_count(role.trained)} of them trained")
        examples = self.config.batch_size * self.config.loop.accumulation * self.world
        lines += [f"a step: {examples} examples, {_count(self.tokens)} tokens on {self.world} device(s)", ""]
        lines.append(f"{'GB on each device':22}{'frozen':>9}{'trained':>9}{'gradient':>9}{'moments':>9}{'average':>9}"
                     f"{'gathered':>9}{'total':>9}")  # fmt: skip
        for role in self.roles:
            parts = (role.frozen_bytes, role.trained_bytes, role.gradient_bytes, role.moment_bytes)
            parts += (role.average_bytes, role.gathered_bytes, role.total_bytes)
            lines.append(f"{role.role:22}" + "".join(f"{part / 1e9:9.2f}" for part in parts))
        lines.append(f"{'activations (estimate)':22}{self.activation_bytes / 1e9:63.2f}")
        if self.away_bytes:
            lines.append(f"{'idle, in host memory':22}{-self.away_bytes / 1e9:63.2f}")
        lines.append(f"{'all':22}{self.total_bytes / 1e9:63.2f}")
        return [*lines, "", self._verdict()]

    def _verdict(self) -> str:
        need = f"{self.total_bytes / 1e9:.1f} GB"
        if self.device.num_bytes is None:
            return f"needs {need} on each device"
        have, place = f"{self.device.num_bytes / 1e9:.1f} GB", self.device.name
        if self.fits:
            return f"fits: {need} of the {have} of {place}"
        return f"does not fit: {need}, but {place} has {have}; use more devices, a smaller batch or --layout shard"


def make_plan(config: TrainConfig, world: int, device: Device) -> TrainPlan:
    """The cost of a run on `world` devices; networks are built without memory.

    Raises:
        CheckpointError: a starting point is not found or of another architecture.
    """
    network = _network(config)
    student = role_memory("student", network, config.adapter, config.layout, world, has_average=config.ema is not None)
    roles = [student]
    if config.scores is not None and isinstance(config.stage, DistillConfig):
        scores = empty_network(start_config(config.scores))
        roles.append(role_memory("teacher and critic", scores, config.critic, config.scores_layout, world))
        if config.stage.gan is not None:
            roles.append(_heads_memory(scores, config.stage.gan, config.scores_layout, world))
    passes = forward_passes(config, start_stride(config.start))
    tokens = round(sum(one.tokens * one.share for one in passes) * config.batch_size)
    return TrainPlan(
        config=config,
        world=world,
        roles=tuple(roles),
        tokens=tokens * config.loop.accumulation * world,
        activation_bytes=activation_bytes(
            network,
            passes,
            config.batch_size,
            saves_memory=config.saves_memory,
            keeps_scores=attends_by_products(config, is_cpu=device.is_cpu),
        ),
        away_bytes=min(role.frozen_bytes for role in roles[:2]) if config.idle == "leave" else 0,
        device=device,
    )


def this_device(device: str, world: int) -> Device:
    """The device that a run would use: a GPU if there is one, else this process' part of the host, of `world`.

    A GPU that is asked for and is not here has a memory that nobody knows: a run can be planned on a laptop.

    Raises:
        UserError: there is no device of that name.
    """
    if device_type(device) == "cuda":
        if not torch.cuda.is_available():
            return Device(f"{device}, which is not here", None)
        properties = torch.cuda.get_device_properties(torch.device("cuda" if device == "auto" else device))
        return Device(properties.name, properties.total_memory)
    name = "this machine's memory" if world == 1 else f"each of {world} processes on this machine"
    return Device(name, psutil.virtual_memory().total // world, is_cpu=True)


def role_memory(
    role: str,
    network: nn.Module,
    adapter: AdapterConfig | None,
    layout: Layout,
    world: int,
    *,
    has_average: bool = False,
) -> RoleMemory:
    """Bytes of one network on each of `world` devices; without an adapter all of it is trained.

    A sharded network is divided evenly, and gathers a block at a time. The average is divided in either layout.
    """
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    whole = [name for name in sizes if adapter is None or name.startswith(tuple(f"{layer}." for layer in adapter.full))]
    trained = sum(sizes.values()) if adapter is None else trained_size(network, adapter)
    frozen_bytes = sum(count * frozen_width(name) for name, count in sizes.items() if name not in set(whole))
    parts = world if layout == "shard" else 1
    frozen = sum(sizes.values()) - sum(sizes[name] for name in whole)
    return RoleMemory(
        role=role,
        parameters=frozen + trained,
        trained=trained,
        frozen_bytes=frozen_bytes // parts,
        trained_bytes=trained * TRAINED_BYTES // parts,
        gradient_bytes=trained * GRADIENT_BYTES // parts,
        moment_bytes=trained * MOMENT_BYTES // parts,
        average_bytes=trained * AVERAGE_BYTES // world if has_average else 0,
        gathered_bytes=_gathered(network, frozen_bytes + trained * TRAINED_BYTES) if parts > 1 else 0,
    )


def frozen_width(name: str) -> int:
    """Bytes of one frozen parameter: bfloat16 but for the parts that stay float32."""
    return 4 if FP32_COMPONENTS & set(name.split(".")) else 2


def _network(config: TrainConfig) -> HeliosTransformer3DModel:
    values = start_config(config.start)
    return empty_network({**values, **asdict(config.network)} if config.network else values)


def _heads_memory(scores: HeliosTransformer3DModel, gan: GanConfig, layout: Layout, world: int) -> RoleMemory:
    with torch.device("meta"):
        heads = make_heads(scores, gan)
    return role_memory("heads", heads, None, layout, world)


def _gathered(network: nn.Module, held_bytes: int) -> int:
    """The blocks that are whole at a time; their part of the whole is their part of the parameters."""
    blocks = [sum(p.numel() for p in block.parameters()) for block in units(network) or [network]]
    share = min(1.0, BLOCKS_GATHERED * max(blocks) / sum(p.numel() for p in network.parameters()))
    return round(held_bytes * share)


def _settings(prefix: str, values: Mapping[str, Any]) -> list[str]:
    """One line for each value of a nested configuration: `stage.optimiser.learning_rate = 5e-05`."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += _settings(f"{prefix}{name}.", value)
        else:
            lines.append(f"  {prefix}{name} = {value}")
    return lines


def _count(number: int) -> str:
    """`14.31 billion`, `4.43 million`, `2400`."""
    for size, word in ((1e9, " billion"), (1e6, " million")):
        if number >= size:
            return f"{number / size:.2f}{word}"
    return str(number)
