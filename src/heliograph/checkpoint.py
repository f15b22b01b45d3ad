"""Model folders: found by name, checked without reading a weight, loaded one tensor at a time.

A folder has the layout of the released checkpoints: `model_index.json` beside one folder for each component. Loading
is strict (every tensor must be there under its name in its shape) and bounded: the weights in the dtype they run in,
and the pages of one shard. Whoever only reads folders imports neither networks nor the libraries that hold them: those
imports are inside the functions that load.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, resources
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - httpx or httpx2, by the client's version
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError, safe_open
from torch import nn

from heliograph.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from transformers import UMT5EncoderModel

    from heliograph.autoencoder import FastAutoencoder
    from heliograph.linear_autoencoder import LinearAutoencoder
    from heliograph.model.transformer import HeliosTransformer3DModel

TINY = "tiny"
"""Name of the embedded model."""

RELEASED = ("BestWishYsh/Helios-Base", "BestWishYsh/Helios-Mid", "BestWishYsh/Helios-Distilled")
"""Hub ids of the released 14B models."""

INDEX_FILE = "model_index.json"
"""The file that makes a folder a model."""

RANDOM_MARK = "RANDOM_WEIGHTS.txt"
"""A model folder that holds this file was never trained."""

PIPELINES = ("HeliosPipeline", "HeliosPyramidPipeline")
"""Values of `_class_name` that are a Helios model."""

PARTS = ("transformer", "scheduler", "vae", "text_encoder", "tokenizer")
"""Component folders that inference reads; the hub's `transformer_init` and `transformer_ode` are not among them."""

FP32_COMPONENTS = frozenset({"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3", "history_key_scale"})
"""Transformer tensors with one of these as a complete component of their dotted name stay float32 in every dtype."""

WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
"""What diffusers and transformers call a component's weights; a sharded one has the name plus `.index.json`."""

MAX_JSON_BYTES = 64 * 2**20
"""Largest configuration or index file that is read; the released ones are below one MiB."""

NAMES_LISTED = 8
"""Names of each kind that a message about differing tensors lists before it counts the rest."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Safetensors' names of the dtypes that a model's weights may be stored in."""

BUILD_FAULTS = (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError, AttributeError, NameError)
"""What a network's constructor raises on values that make no sense: constructors check few of them themselves."""

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)

Place = torch.device | Callable[[str], torch.device]
"""Where weights go: one device, or the device for each tensor name; `meta` leaves a tensor in its file, unread."""


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

    `is_random` says that its weights were never trained: it runs, and what it makes is noise. Whoever shows results of
    such a model says so.
    """

    path: Path
    index: ModelIndex
    scheduler_config: Mapping[str, Any]
    transformer_config: Mapping[str, Any]
    is_random: bool

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


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor, as the header of its file describes it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path


# Finding


def open_model(name: str, cache: Path | None = None) -> ModelFolder:
    """Find the model `name` as `find_model` does and read its configuration."""
    return read_folder(find_model(name, cache))


def find_model(name: str, cache: Path | None = None) -> Path:
    """Folder of the model `name`: `tiny`, a folder, or a hub id `org/name`, which is downloaded if it is not here yet.

    Args:
        name: a folder that exists wins over a hub id of the same spelling; `tiny` is always the embedded model.
        cache: where this package keeps files of its own; None is `~/.cache/heliograph`. Downloads are kept in the hub
            client's cache, shared with every other program that uses it.

    Raises:
        CheckpointError: no such model, or the hub refused or could not be reached.
    """
    found = find_local(name, cache)
    return found if found is not None else _download(name)


def find_local(name: str, cache: Path | None = None) -> Path | None:
    """Folder of the model `name` where that needs no network; None for a hub id that was not downloaded yet.

    Raises:
        CheckpointError: the name is neither `tiny`, nor a model folder, nor spelt like a hub id.
    """
    if name == TINY:
        return _tiny(cache or default_cache())
    folder = _existing_folder(name)
    if folder is not None:
        return _checked_folder(folder)
    if not HUB_ID.fullmatch(name):
        raise CheckpointError(f"there is no model {name!r}: {_accepted()}")
    try:
        return _checked_folder(Path(snapshot_download(name, allow_patterns=_patterns(), local_files_only=True)))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def default_cache() -> Path:
    """Where this package keeps files of its own."""
    return Path.home() / ".cache" / "heliograph"


def _accepted() -> str:
    return f"use {TINY!r}, a folder that holds {INDEX_FILE}, or a hub id such as {', '.join(RELEASED)}"


def _existing_folder(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder if name and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, an unknown home directory, a zero byte
        return None


def _checked_folder(folder: Path) -> Path:
    if (folder / INDEX_FILE).is_file():
        return folder
    if (folder.parent / INDEX_FILE).is_file():
        raise CheckpointError(f"{folder} is one component of a model; give the folder above it, {folder.parent}")
    raise CheckpointError(f"the folder {folder} holds no {INDEX_FILE}, so it is no model: {_accepted()}")


def _patterns() -> list[str]:
    return [INDEX_FILE, *(f"{part}/*" for part in PARTS)]


def _download(name: str) -> Path:
    """Fetch the components that inference needs; what is there already is kept."""
    try:
        return _checked_folder(Path(snapshot_download(name, allow_patterns=_patterns())))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} is open only to those its owners let in: ask on https://huggingface.co/{name}, "
            "then run 'hf auth login'"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"there is no folder {name}, and the hub has no model of that name that you may see: {_accepted()}"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"there is no folder {name}, the hub model of that name is not completely downloaded, and the hub cannot "
            f"be reached; connect to the network, or use {TINY!r} or a folder"
        ) from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise CheckpointError(
            f"{name} could not be downloaded ({_first_line(error)}); look at the network and the free disk space, "
            "then try again: what has arrived is kept"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _tiny(cache: Path) -> Path:
    """The embedded model if this installation has one, else the random model of the same size."""
    embedded = Path(str(resources.files("heliograph"))) / "assets" / TINY
    if (embedded / INDEX_FILE).is_file():
        return embedded
    # Only here: writing the model builds networks, which nobody else who looks for a folder needs.
    from heliograph.tiny import write_random_fast  # noqa: PLC0415

    return write_once(cache / f"tiny-random-{metadata.version('heliograph')}", write_random_fast)


def write_once(target: Path, write: Callable[[Path], object]) -> Path:
    """Make the random model `target` with `write(folder)` unless it is there; marked as random, and whole or absent.

    Several processes may do this at once: each writes a folder of its own, the first to finish gives it the name.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    if (target / INDEX_FILE).is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    except OSError as error:
        raise CheckpointError(f"{target.parent} cannot be written ({_first_line(error)}); make it writable") from error
    try:
        write(draft / TINY)
        (draft / TINY / RANDOM_MARK).write_text("These weights are random numbers: the model was never trained.\n")
        (draft / TINY).rename(target)
    except OSError as error:
        if not (target / INDEX_FILE).is_file():  # else another process was first, with the same model
            raise CheckpointError(f"{target} cannot be written ({_first_line(error)}); is the disk full?") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


# Reading configuration


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
        raise CheckpointError(f"{file} cannot be read as JSON ({_first_line(error)}); download it again") from error
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


# Reading headers


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
        raise CheckpointError(f"{index} and the files it names disagree about {_listed(strays)}; download them again")
    return table


def _is_file_name(value: object) -> bool:
    """Whether the value is the name of a file in the same folder, not a path that leads out of it."""
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & set("/\\\0")


def _agrees(name: str, weight_map: Mapping[str, str], table: Mapping[str, TensorInfo]) -> bool:
    return name in weight_map and name in table and table[name].file.name == weight_map[name]


def _header(file: Path) -> dict[str, TensorInfo]:
    # As numpy, the file is mapped read-only. As torch, it counts as memory that might be written to, and a file larger
    # than the machine's memory cannot even be looked at.
    with _opened(file, "np") as shard:
        entries = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118 - not a dict
        return {name: _info(file, name, entry.get_shape(), entry.get_dtype()) for name, entry in entries.items()}


@contextmanager
def _opened(file: Path, framework: Literal["np", "pt"]) -> Iterator[safe_open]:
    """A safetensors file, mapped into memory: a page is read when it is touched and goes when the file is closed."""
    try:
        with _mapped(file, framework) as shard:
            yield shard
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; download the model again") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged or incomplete ({_first_line(error)}); delete it and download it again"
        ) from error


def _mapped(file: Path, framework: Literal["np", "pt"]) -> safe_open:
    try:
        return safe_open(file, framework=framework, device="cpu")
    except RuntimeError as error:  # torch, when the system does not promise it as much memory as the file is long
        raise CheckpointError(
            f"{file} cannot be mapped into memory ({_first_line(error)}); this machine has too little for a file of "
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
    faults = [f"missing: {_listed(missing)}"] if missing else []
    faults += [f"not part of the model: {_listed(unexpected)}"] if unexpected else []
    if wrong:
        shapes = [f"{name} {list(table[name].shape)} instead of {list(expected[name])}" for name in wrong]
        faults.append(f"of another shape: {_listed(shapes)}")
    if faults:
        where = next(iter(table.values())).file.parent if table else "the checkpoint"
        raise CheckpointError(
            f"{where} does not hold the weights that its config.json describes; {'; '.join(faults)}. "
            "Use config.json and weights of the same model"
        )


def _listed(names: list[str]) -> str:
    rest = len(names) - NAMES_LISTED
    return ", ".join(names[:NAMES_LISTED]) + (f" and {rest} more" if rest > 0 else "")


# Loading


def load_transformer(folder: ModelFolder, dtype: torch.dtype, device: Place) -> "HeliosTransformer3DModel":
    """The transformer, ready to run: `dtype` but for the parts that stay float32, evaluation mode.

    Raises:
        CheckpointError: the configuration asks for what this package does not have, or the weights do not fit it.
    """
    from heliograph.model.transformer import HeliosTransformer3DModel  # noqa: PLC0415

    weights = folder.part("transformer")
    given = folder.transformer_config.items()
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in given}
    _check_options(weights / "config.json", config, HeliosTransformer3DModel)
    with _building(weights / "config.json"):
        model = cast("HeliosTransformer3DModel", HeliosTransformer3DModel.from_config(config))
    load_weights(model, weights, dtype, device)
    return model


def load_text_encoder(folder: ModelFolder, dtype: torch.dtype, device: Place) -> "UMT5EncoderModel":
    """The UMT5 text encoder, in `dtype` and evaluation mode.

    Raises:
        CheckpointError: the folder holds another text encoder, or its weights do not fit its configuration.
    """
    from transformers import UMT5Config, UMT5EncoderModel  # noqa: PLC0415

    weights = folder.part("text_encoder")
    _check_class(folder, "text_encoder", "UMT5EncoderModel")
    config = read_json(weights / "config.json")
    with _building(weights / "config.json"):
        model = UMT5EncoderModel(UMT5Config.from_dict(config))
    if len({"shared.weight", "encoder.embed_tokens.weight"} & tensor_table(weights).keys()) == 1:
        # The released files store the embedding once although their configuration says that it is not shared.
        model.set_input_embeddings(model.shared)
    # float16 overflows in these projections; bfloat16 has the range.
    load_weights(model, weights, dtype, device, {"wo"} if dtype == torch.float16 else ())
    return model


def load_vae(folder: ModelFolder, dtype: torch.dtype, device: Place) -> "AutoencoderKLWan":
    """The Wan 2.1 video autoencoder, in `dtype` (the reference runs float32) and evaluation mode.

    Raises:
        CheckpointError: the folder holds another autoencoder, or its weights do not fit its configuration.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan  # noqa: PLC0415

    return cast("AutoencoderKLWan", _load_vae(folder, AutoencoderKLWan, dtype, device))


def load_fast_vae(folder: ModelFolder, dtype: torch.dtype, device: Place) -> "FastAutoencoder":
    """This package's own fast autoencoder, in `dtype` and evaluation mode.

    Raises:
        CheckpointError: the folder holds another autoencoder, or its weights do not fit its configuration.
    """
    from heliograph.autoencoder import FastAutoencoder  # noqa: PLC0415

    return cast("FastAutoencoder", _load_vae(folder, FastAutoencoder, dtype, device))


def load_linear_vae(folder: ModelFolder, dtype: torch.dtype, device: Place) -> "LinearAutoencoder":
    """The autoencoder with a linear code, in `dtype` and evaluation mode.

    Raises:
        CheckpointError: the folder holds another autoencoder, or its weights do not fit its configuration.
    """
    from heliograph.linear_autoencoder import LinearAutoencoder  # noqa: PLC0415

    return cast("LinearAutoencoder", _load_vae(folder, LinearAutoencoder, dtype, device))


def _load_vae(folder: ModelFolder, kind: "type[ConfigMixin]", dtype: torch.dtype, device: Place) -> nn.Module:
    """An autoencoder of diffusers' kind, whose configuration is all that its constructor takes."""
    weights = folder.part("vae")
    _check_class(folder, "vae", kind.__name__)
    config = read_json(weights / "config.json")
    _check_options(weights / "config.json", config, cast("type[nn.Module]", kind))
    with _building(weights / "config.json"):
        model = cast("nn.Module", kind.from_config(config))
    # The reference has no parts that stay float32 here; Wan's own norm1 and norm2 are not the transformer's.
    load_weights(model, weights, dtype, device, keep_in_fp32=())
    return model


def load_weights(
    module: nn.Module,
    folder: Path,
    dtype: torch.dtype,
    device: Place,
    keep_in_fp32: Collection[str] = FP32_COMPONENTS,
) -> None:
    """Fill a module that was built without memory (`accelerate.init_empty_weights`) from a component's folder.

    Strict, tensor by tensor, shard by shard. The most that is held at a time is the finished weights and the mapped
    pages of one shard; towards a GPU, the host holds one shard and one tensor.

    Args:
        module: parameters on the meta device; buffers that are not stored must hold their values already.
        folder: the component's folder.
        dtype: what the weights are cast to.
        device: where they go; what is placed on `meta` is checked but not read.
        keep_in_fp32: name components whose tensors are float32 whatever `dtype` is.

    Raises:
        CheckpointError: a file is missing or damaged, or the tensors are not those of the module.
    """
    table = tensor_table(folder)
    check_tensors(table, _expected_shapes(module, table))
    place = device if callable(device) else lambda _: device
    fill_module(module, table, dtype, place, keep_in_fp32)
    _move_buffers(module, place, table)
    left = [name for name, tensor in _tensors(module) if tensor.is_meta and place(name).type != "meta"]
    assert not left, f"still without memory after loading {folder}: {left}"
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
        return shard.get_tensor(name).to(device=place(name), dtype=target, copy=True)

    for file in sorted({info.file for name, info in table.items() if name.startswith(prefix)}):
        with _opened(file, "pt") as shard:
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


@contextmanager
def _building(config: Path) -> Iterator[None]:
    """Modules made inside have parameters without memory; a configuration they refuse is the checkpoint's fault."""
    try:
        with init_empty_weights(include_buffers=False):
            yield
    except CheckpointError as error:
        raise CheckpointError(f"{config}: {error}") from error
    except (*BUILD_FAULTS, StrictDataclassError) as error:
        raise CheckpointError(f"{config} describes no model that can be built ({_first_line(error)})") from error


def _check_class(folder: ModelFolder, part: str, class_name: str) -> None:
    given = folder.index.components[part].class_name
    if given != class_name:
        index = folder.path / INDEX_FILE
        raise CheckpointError(f"{index} names the {part} class {given}; this package runs {class_name}")


def _check_options(file: Path, config: Mapping[str, Any], model: type[nn.Module]) -> None:
    """Refuse an option that is on in the configuration and unknown to the model: without it the result would differ.

    Unknown values that are no switches only qualify a switch (the released files carry such for training).
    """
    known = signature(model.__init__).parameters
    unknown = sorted(key for key, value in config.items() if key not in known and value is True)
    if unknown:
        raise CheckpointError(
            f"{file} switches on {', '.join(unknown)}, which this package does not implement; set it to false only if "
            "the weights were trained without it"
        )
