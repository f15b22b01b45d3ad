"""What tensors a component's files hold, from their headers, and whether they are those that a model needs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open

from heliograph.checkpoint.addition import Addition, folded
from heliograph.checkpoint.folder import first_line, read_json
from heliograph.errors import CheckpointError

WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
"""What diffusers and transformers call a component's weights; a sharded one has the name plus `.index.json`."""

NAMES_LISTED = 8
"""Names of each kind that a message about differing tensors lists before it counts the rest."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Safetensors' names of the dtypes that a model's weights may be stored in."""


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor, as the header of its file describes it, and what adapters add to it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    additions: tuple[Addition, ...] = field(default=(), compare=False, repr=False)

    def read(self, shard: safe_open, name: str) -> torch.Tensor:
        """The tensor from its file, which is open as `shard`, in the dtype it is stored in."""
        return folded(shard.get_tensor(name), self.additions)


def tensor_table(folder: Path) -> dict[str, TensorInfo]:
    """Name, shape, dtype and file of every tensor in a component's folder, from the headers of its safetensors files.

    Raises:
        CheckpointError: a weight file is missing, truncated or damaged; the message names it.
    """
    for name in WEIGHT_FILES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _sharded_table(index)
        if (folder / name).is_file():
            return _header(folder / name)
    raise CheckpointError(f"{folder} holds no {' or '.join(WEIGHT_FILES)}, whole or sharded; download the model again")


def _sharded_table(index: Path) -> dict[str, TensorInfo]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_file_name(file) for file in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map from tensor names to files beside it; download it again")
    table: dict[str, TensorInfo] = {}
    for file in sorted(set(weight_map.values())):
        table |= _header(index.parent / file)
    strays = sorted(name for name in weight_map.keys() | table.keys() if not _agrees(name, weight_map, table))
    if strays:
        raise CheckpointError(f"{index} and the files it names disagree about {listed(strays)}; download them again")
    return table


def _is_file_name(value: object) -> bool:
    """Whether the value is the name of a file in the same folder, not a path that leads out of it."""
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & set("/\\\0")


def _agrees(name: str, weight_map: Mapping[str, str], table: Mapping[str, TensorInfo]) -> bool:
    return name in weight_map and name in table and table[name].file.name == weight_map[name]


def _header(file: Path) -> dict[str, TensorInfo]:
    # As numpy, the file is mapped read-only. As torch, it counts as memory that might be written to, and a file larger
    # than the machine's memory cannot even be looked at.
    with opened(file, "np") as shard:
        entries = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118 - not a dict
        return {name: _info(file, name, entry.get_shape(), entry.get_dtype()) for name, entry in entries.items()}


@contextmanager
def opened(file: Path, framework: Literal["np", "pt"]) -> Iterator[safe_open]:
    """A safetensors file, mapped into memory: a page is read when it is touched and goes when the file is closed."""
    try:
        with _mapped(file, framework) as shard:
            yield shard
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; download the model again") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged or incomplete ({first_line(error)}); delete it and download it again"
        ) from error


def _mapped(file: Path, framework: Literal["np", "pt"]) -> safe_open:
    try:
        return safe_open(file, framework=framework, device="cpu")
    except RuntimeError as error:  # torch, when the system does not promise it as much memory as the file is long
        raise CheckpointError(
            f"{file} cannot be mapped into memory ({first_line(error)}); this machine has too little for a file of "
            f"{file.stat().st_size / 1e9:.1f} GB"
        ) from error


def _info(file: Path, name: str, shape: list[int], dtype: str) -> TensorInfo:
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{file} stores {name} as {dtype}; weights are read from {', '.join(DTYPES)}, so convert the file first"
        )
    return TensorInfo(tuple(shape), DTYPES[dtype], file)


def check_tensors(table: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a checkpoint whose tensors are not exactly those that a model expects.

    Args:
        table: what is stored.
        expected: name → shape of everything the model needs.

    Raises:
        CheckpointError: lists missing, unexpected and wrongly shaped tensors, the first of each kind by name.
    """
    missing = sorted(expected.keys() - table.keys())
    unexpected = sorted(table.keys() - expected.keys())
    wrong = sorted(name for name in expected.keys() & table.keys() if table[name].shape != tuple(expected[name]))
    faults = [f"missing: {listed(missing)}"] if missing else []
    faults += [f"not part of the model: {listed(unexpected)}"] if unexpected else []
    if wrong:
        shapes = [f"{name} {list(table[name].shape)} instead of {list(expected[name])}" for name in wrong]
        faults.append(f"of another shape: {listed(shapes)}")
    if faults:
        where = next(iter(table.values())).file.parent if table else "the checkpoint"
        raise CheckpointError(
            f"{where} does not hold the weights that its config.json describes; {'; '.join(faults)}. "
            "Use config.json and weights of the same model"
        )


def listed(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    rest = len(names) - NAMES_LISTED
    return ", ".join(names[:NAMES_LISTED]) + (f" and {rest} more" if rest > 0 else "")
