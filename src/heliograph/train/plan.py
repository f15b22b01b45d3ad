"""What a run will cost, before anything is loaded: parameters trained, tokens a step, memory of every role per device.

Sizes of weights, gradients, moments and averages are exact. Activations are an estimate: they depend on kernels.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import nn

from heliograph.checkpoint import FP32_COMPONENTS
from heliograph.config import MemoryConfig
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.presets import PYRAMID_BORDERS
from heliograph.shapes import CHUNK_LATENTS, LATENT_STRIDE, PATCH
from heliograph.train.adapter import AdapterConfig
from heliograph.train.distill import DistillConfig
from heliograph.train.gan import GanConfig
from heliograph.train.lora import trained_size
from heliograph.train.multiscale import MultiscaleConfig
from heliograph.train.ode import OdeConfig
from heliograph.train.parallel import Layout, units
from heliograph.train.recipe import TrainConfig
from heliograph.train.roles import make_heads
from heliograph.train.start import empty_network, start_config, start_stride

GRADIENT_BYTES, MOMENT_BYTES, AVERAGE_BYTES, TRAINED_BYTES = 4, 8, 4, 4
"""Per trained parameter: its gradient, AdamW's two moments, its average, itself; all float32."""

BLOCKS_GATHERED = 2
"""Blocks of a sharded network that are whole at a time: the one that runs, and the next, which is fetched meanwhile."""

TIERS_FACTORS = {"long": 4, "mid": 2, "short": 1}


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
class TrainPlan:
    """A resolved run and its cost on `world` devices.

    `tokens` are those of one step on all devices; `away_bytes` are frozen weights that are in host memory while the
    other network works; `device_bytes` is what each device has, None if it is not known.
    """

    config: TrainConfig
    world: int
    roles: tuple[RoleMemory, ...]
    tokens: int
    activation_bytes: int
    away_bytes: int
    device: str
    device_bytes: int | None

    @property
    def total_bytes(self) -> int:
        """Bytes that each device needs."""
        return sum(role.total_bytes for role in self.roles) + self.activation_bytes - self.away_bytes

    @property
    def fits(self) -> bool:
        """Whether the device has that much; false where it is not known."""
        return self.device_bytes is not None and self.total_bytes <= self.device_bytes

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
            "device": self.device,
            "device_bytes": self.device_bytes,
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
        if self.device_bytes is None:
            return f"needs {need} on each device"
        have = f"{self.device_bytes / 1e9:.1f} GB"
        if self.fits:
            return f"fits: {need} of the {have} of {self.device}"
        return (
            f"does not fit: {need}, but {self.device} has {have}; use more devices, a smaller batch or --layout shard"
        )


def make_plan(config: TrainConfig, world: int, device: str, device_bytes: int | None) -> TrainPlan:
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
    tokens = [count * config.batch_size for count in sequences(config, start_stride(config.start))]
    return TrainPlan(
        config=config,
        world=world,
        roles=tuple(roles),
        tokens=sum(tokens) * config.loop.accumulation * world,
        activation_bytes=activation_bytes(network, tokens, saves_memory=config.saves_memory),
        away_bytes=min(role.frozen_bytes for role in roles[:2]) if config.idle == "leave" else 0,
        device=device,
        device_bytes=device_bytes,
    )


def this_device(device: str) -> tuple[str, int]:
    """Name and memory in bytes of the device that a run would use: a GPU if there is one, else the host."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        properties = torch.cuda.get_device_properties(torch.device("cuda" if device == "auto" else device))
        return properties.name, properties.total_memory
    return "this machine's memory", psutil.virtual_memory().total


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


def sequences(config: TrainConfig, stride: int = LATENT_STRIDE) -> tuple[int, ...]:
    """Tokens of each sequence that the student reads for one example, with its history, before one backward pass.

    `stride` is the pixels per latent cell.
    """
    height, width = (side // stride for side in config.size)
    history = history_tokens(height, width, config.memory)
    full = CHUNK_LATENTS * (height // PATCH) * (width // PATCH)
    levels = [history + full // 4**smaller for smaller in range(len(PYRAMID_BORDERS) - 1)][::-1]
    match config.stage:
        case MultiscaleConfig(repeats=repeats):  # one packed sequence
            return (sum(count * tokens for count, tokens in zip(repeats, levels, strict=True)),)
        case OdeConfig(num_chunks=count):
            return tuple(levels) * count
        case DistillConfig():
            return tuple(levels)
        case _:
            return (history + full,)


def history_tokens(height: int, width: int, memory: MemoryConfig) -> int:
    """Tokens of a full memory with its anchor, for pictures of `height` × `width` latent cells."""
    frames = {"long": memory.long, "mid": memory.mid, "short": memory.short + int(memory.keeps_anchor)}
    return sum(
        -(-frames[tier] // factor) * -(-height // (PATCH * factor)) * -(-width // (PATCH * factor))
        for tier, factor in TIERS_FACTORS.items()
    )


def activation_bytes(network: HeliosTransformer3DModel, tokens: Sequence[int], *, saves_memory: bool) -> int:
    """About what the backward pass needs for sequences of so many `tokens`, in bytes.

    A block keeps some 17 values of width d per token (norms and residuals in float32, projections in bfloat16) and two
    of the feed-forward's width. With checkpointing each block keeps its input alone, and one is computed again.
    """
    dim, hidden, count = network.proj_out.in_features, network.config["ffn_dim"], len(network.blocks)
    per_token = 2 * 17 * dim + 2 * 2 * hidden
    return sum(tokens) * count * dim * 2 + max(tokens) * per_token if saves_memory else sum(tokens) * count * per_token


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
