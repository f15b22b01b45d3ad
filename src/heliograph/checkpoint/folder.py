"""A model folder as its configuration files describe it, and who may read it; no weight is read."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heliograph.checkpoint.addition import Additions
from heliograph.errors import CheckpointError

INDEX_FILE = "model_index.json"
"""The file that makes a folder a model."""

RANDOM_MARK = "RANDOM_WEIGHTS.txt"
"""A model folder that holds this file was never trained."""

PIPELINES = ("HeliosPipeline", "HeliosPyramidPipeline")
"""Values of `_class_name` that are a Helios model."""

MAX_JSON_BYTES = 64 * 2**20
"""Largest configuration or index file that is read; the released ones are below one MiB."""


@dataclass(frozen=True)
class Component:
    """One line of the component table: the library and the class that wrote the component's folder."""

    library: str
    class_name: str


@dataclass(frozen=True)
class ModelIndex:
    """`model_index.json`: the pipeline's class, its two switches (false where the file is silent), its components."""

    class_name: str
    is_distilled: bool
    is_cfg_zero_star: bool
    components: Mapping[str, Component]


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine: where it is and what its configuration files say. No weight has been read.

    `additions` is what adapters add to the transformer's tensors.

    `is_random` says that its weights were never trained: it runs, and what it makes is noise. Whoever shows results of
    such a model says so.
    """

    path: Path
    index: ModelIndex
    scheduler_config: Mapping[str, Any]
    transformer_config: Mapping[str, Any]
    is_random: bool
    additions: Additions = field(default_factory=dict, compare=False, repr=False)

    def part(self, name: str) -> Path:
        """Folder of one component, for example `vae`.

        Raises:
            CheckpointError: this model has no such component.
        """
        folder = self.path / name
        if name not in self.index.components or not folder.is_dir():
            raise CheckpointError(
                f"the model {self.path} has no {name}; it has {', '.join(sorted(self.index.components))}. "
                f"Add the folder {name} and its line in {INDEX_FILE}, or use a complete model"
            )
        return folder


def read_folder(path: Path) -> ModelFolder:
    """Read the configuration files of a model folder.

    Raises:
        CheckpointError: a file is missing, damaged, or of something that is not Helios; the message names it.
    """
    index = _read_index(path / INDEX_FILE)
    return ModelFolder(
        path=path,
        index=index,
        scheduler_config=read_json(path / "scheduler" / "scheduler_config.json"),
        transformer_config=read_json(path / "transformer" / "config.json"),
        is_random=(path / RANDOM_MARK).is_file(),
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        CheckpointError: it is missing or damaged; the message names it.
    """
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{file} is larger than {MAX_JSON_BYTES} bytes, so it is no configuration file")
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; download or copy the model again") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file} cannot be read as JSON ({first_line(error)}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds a JSON {type(value).__name__}, not an object; download it again")
    return value


def _read_index(file: Path) -> ModelIndex:
    values = read_json(file)
    name = values.get("_class_name")
    if name not in PIPELINES:
        raise CheckpointError(f"{file} says _class_name={name!r}; a Helios model says {' or '.join(PIPELINES)}")
    components = dict(_components(values))
    transformer = components.get("transformer")
    if transformer is None or transformer.class_name != "HeliosTransformer3DModel":
        given = "none" if transformer is None else transformer.class_name
        raise CheckpointError(f"{file} names the transformer class {given}; this package runs HeliosTransformer3DModel")
    return ModelIndex(
        class_name=str(name),
        is_distilled=_switch(values, "is_distilled", file),
        is_cfg_zero_star=_switch(values, "is_cfg_zero_star", file),
        components=components,
    )


def _components(values: Mapping[str, Any]) -> Iterator[tuple[str, Component]]:
    """Entries of the form [library, class]; [null, null] means that the component was left out."""
    for name, value in values.items():
        match value:
            case [str() as library, str() as class_name]:
                yield name, Component(library, class_name)


def _switch(values: Mapping[str, Any], key: str, file: Path) -> bool:
    value = values.get(key, False)
    if not isinstance(value, bool):
        raise CheckpointError(f"{file} says {key}={value!r}; use true or false")
    return value


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def set_usual_permissions(folder: Path) -> None:
    """Give the weights of a model that was just written, and its folder, the permissions of what lies beside them.

    safetensors 0.8 writes files that nobody but their owner can read (its issue 782), and temporary folders are such,
    too. A file that has another name elsewhere is part of another model and stays as it is there.
    """
    for file in folder.rglob("*.safetensors"):
        if file.stat().st_nlink == 1:
            shutil.copymode(folder / INDEX_FILE, file)
    shutil.copymode(folder / "scheduler", folder)
