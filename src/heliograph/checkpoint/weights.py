"""Weights into a module: strict, tensor by tensor, each cast as it is read and put where it stays."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from heliograph.checkpoint.tensors import TensorInfo, check_tensors, opened, tensor_table

FP32_COMPONENTS = frozenset({"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3", "history_key_scale"})
"""Transformer tensors with one of these as a complete component of their dotted name stay float32 in every dtype."""

Place = torch.device | Callable[[str], torch.device]
"""Where weights go: one device, or the device for each tensor name; `meta` leaves a tensor in its file, unread."""


def load_weights(
    module: nn.Module,
    source: Path | Mapping[str, TensorInfo],
    dtype: torch.dtype,
    device: Place,
    keep_in_fp32: Collection[str] = FP32_COMPONENTS,
) -> None:
    """Fill a module that was built without memory (`accelerate.init_empty_weights`) from a component's folder.

    Strict, tensor by tensor, shard by shard. The most that is held at a time is the finished weights and the mapped
    pages of one shard; towards a GPU, the host holds one shard and one tensor.

    Args:
        module: parameters on the meta device; buffers that are not stored must hold their values already.
        source: the component's folder, or the table of the tensors in it.
        dtype: what the weights are cast to.
        device: where they go; what is placed on `meta` is checked but not read.
        keep_in_fp32: name components whose tensors are float32 whatever `dtype` is.

    Raises:
        CheckpointError: a file is missing or damaged, or the tensors are not those of the module.
    """
    table = tensor_table(source) if isinstance(source, Path) else source
    check_tensors(table, _expected_shapes(module, table))
    place = device if callable(device) else lambda _: device
    fill_module(module, table, dtype, place, keep_in_fp32)
    _move_buffers(module, place, table)
    left = [name for name, tensor in _tensors(module) if tensor.is_meta and place(name).type != "meta"]
    assert not left, f"still without memory after loading: {left}"
    module.eval()


def fill_module(
    module: nn.Module,
    table: Mapping[str, TensorInfo],
    dtype: torch.dtype,
    place: Callable[[str], torch.device],
    keep_in_fp32: Collection[str] = FP32_COMPONENTS,
    prefix: str = "",
) -> None:
    """Read the stored tensors whose names begin with `prefix` into the module that has them without it."""

    def settled(name: str, shard: safe_open) -> torch.Tensor:
        target = torch.float32 if set(keep_in_fp32) & set(name.split(".")) else dtype
        if place(name).type == "meta":
            return torch.empty(table[name].shape, dtype=target, device="meta")
        # A copy even where nothing changes: a view would keep the whole file mapped for as long as the model lives.
        return table[name].read(shard, name).to(device=place(name), dtype=target, copy=True)

    for file in sorted({info.file for name, info in table.items() if name.startswith(prefix)}):
        with opened(file, "pt") as shard:
            names = [name for name in shard.offset_keys() if name.startswith(prefix)]
            tensors = {name.removeprefix(prefix): settled(name, shard) for name in names}
        module.load_state_dict(tensors, strict=False, assign=True)


def _expected_shapes(module: nn.Module, table: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    """What the module needs stored. A tensor that the module has under two names is needed under one of them."""
    tensors = module.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    needed = [([name for name in group if name in table] or group[:1]) for group in names.values()]
    return {name: tuple(tensors[name].shape) for group in needed for name in group}


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _move_buffers(module: nn.Module, place: Callable[[str], torch.device], table: Collection[str]) -> None:
    """Put buffers that no file stores where their module's weights are; their dtype is the module's own choice."""
    for name, buffer in list(module.named_buffers()):
        if name not in table and not buffer.is_meta:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, buffer.to(place(name)))
