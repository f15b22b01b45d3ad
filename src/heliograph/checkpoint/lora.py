"""Low-rank adapters (LoRA) that were trained for Helios or for Wan 2.1: files, and what they add to a model's weights.

W + strength·(alpha/rank)·B·A, added as each weight is read. So an adapter costs nothing while video is made, and it
goes wherever weights go: into 8-bit numbers, onto a GPU, or from disk block by block, where every reading adds it.

File formats are the library's business: it reads its own, those of the original Wan code, and musubi-tuner's.
"""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from torch import Tensor

from heliograph.checkpoint.addition import Addition
from heliograph.checkpoint.find import HUB_ID, explained
from heliograph.checkpoint.folder import ModelFolder, first_line
from heliograph.checkpoint.tensors import TensorInfo, listed, opened, tensor_table
from heliograph.config import Lora
from heliograph.errors import CheckpointError

if TYPE_CHECKING:
    from peft import LoraConfig

logger = logging.getLogger(__name__)

DOWN, UP, BIAS = ".lora_A.weight", ".lora_B.weight", ".lora_B.bias"
"""How the library names the two matrices of an adapted layer, and what is added to the layer's bias."""

ACCEPTED = "use a safetensors file, a folder that holds one, or one on the hub as org/name/file.safetensors"
"""What a message about a bad adapter says could be given."""

HUB_FILE = re.compile(HUB_ID.pattern + r"/.+\.safetensors", re.ASCII)
"""A file on the hub: a hub id and a path in its repository."""

PREFIX = "transformer."
"""The component that an adapter's tensors belong to."""


def adapted(folder: ModelFolder, loras: Sequence[Lora]) -> ModelFolder:
    """The same model with adapters, which are read here; their strengths add up.

    Layers that this model does not have (image keys of Wan's image models) are left out, with a warning.

    Raises:
        CheckpointError: an adapter cannot be read, is of another kind, or does not fit this model.
    """
    if not loras:
        return folder
    table = tensor_table(folder.part("transformer"))
    additions: dict[str, tuple[Addition, ...]] = dict(folder.additions)
    for lora in loras:
        for name, addition in _fitting(lora, dict(_additions(lora)), table):
            additions[name] = (*additions.get(name, ()), addition)
    return replace(folder, additions=additions)


def adapted_table(folder: ModelFolder) -> dict[str, TensorInfo]:
    """`tensor_table` of the model's transformer; what adapters add is read with each tensor."""
    table = tensor_table(folder.part("transformer"))
    return table | {name: replace(table[name], additions=added) for name, added in folder.additions.items()}


def find_adapter(source: str) -> Path:
    """The adapter's file: `source` itself, the one in a folder, or `org/name/file.safetensors`, which is downloaded.

    Raises:
        CheckpointError: there is none, or the hub refused or could not be reached.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file.name for file in path.glob("*.safetensors"))
        if len(files) != 1:
            raise CheckpointError(f"the folder {path} holds {listed(files) or 'no adapter'}; name one safetensors file")
        return path / files[0]
    if path.is_file():
        return path
    if not HUB_FILE.fullmatch(source):
        raise CheckpointError(f"there is no adapter {source}: {ACCEPTED}")
    owner, name, file = source.split("/", 2)
    with explained(source, ACCEPTED):
        return Path(hf_hub_download(f"{owner}/{name}", file))


def _additions(lora: Lora) -> Iterator[tuple[str, Addition]]:
    """Names of the transformer's tensors, and what the adapter adds to each."""
    tensors, metadata = _read(lora.source)
    config = _training_config(metadata) if metadata else None
    strays = [name for name in tensors if not name.startswith(PREFIX) or not name.endswith((DOWN, UP, BIAS))]
    layers = sorted({name.removesuffix(end) for name in tensors for end in (DOWN, UP, BIAS) if name.endswith(end)})
    if strays or not layers:
        raise CheckpointError(
            f"{lora.source} is no low-rank adapter of a transformer: it holds {listed(strays) or 'nothing'}; "
            "use a LoRA for Helios or Wan 2.1 14B (not DoRA, LoKr or weights)"
        )
    for layer in layers:
        up, down, bias = (tensors.get(layer + end) for end in (UP, DOWN, BIAS))
        name, weight = layer.removeprefix(PREFIX), lora.strength
        if up is not None and down is not None and up.shape[1:2] == down.shape[:1]:
            weight *= _scale(config, name, len(down))
            yield f"{name}.weight", Addition(up, down, weight)
        elif up is not None or down is not None:
            raise CheckpointError(f"{lora.source} is damaged: the two matrices of {name} do not belong together")
        if bias is not None:  # it belongs to the second matrix, and is scaled with it
            yield f"{name}.bias", Addition(bias, None, weight)


def _read(source: str) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors under the library's names, and the configuration that its own files carry."""
    from diffusers.loaders.lora_pipeline import HeliosLoraLoaderMixin  # noqa: PLC0415 - slow to import

    file = find_adapter(source)
    with opened(file, "np") as stored:
        if any("dora_scale" in name for name in stored.keys()):  # noqa: SIM118 - not a dict
            raise CheckpointError(f"{source} is a DoRA, which scales whole weights; only plain LoRA can be added")
    try:
        read = HeliosLoraLoaderMixin.lora_state_dict(str(file), use_safetensors=True, return_lora_metadata=True)
        return cast(tuple[dict[str, Tensor], dict[str, Any] | None], read)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"the adapter {source} cannot be read ({first_line(error)}): {ACCEPTED}") from error


def _training_config(metadata: Mapping[str, Any]) -> "LoraConfig":
    """The configuration that the adapter was trained with."""
    from peft import LoraConfig  # noqa: PLC0415 - slow to import

    given = {key.removeprefix(PREFIX): value for key, value in metadata.items()}
    return LoraConfig(**{key: value for key, value in given.items() if key in LoraConfig.__dataclass_fields__})


def _scale(config: "LoraConfig | None", layer: str, rank: int) -> float:
    """alpha/rank, or alpha/√rank where the adapter was trained so; 1 in files that do not say."""
    if config is None:
        return 1.0
    from peft.utils.other import get_pattern_key  # noqa: PLC0415 - slow to import

    patterns: Mapping[str, float] = config.alpha_pattern or {}
    alpha = patterns.get(get_pattern_key(list(patterns), layer), config.lora_alpha)
    return alpha / (math.sqrt(rank) if config.use_rslora else rank)


def _fitting(
    lora: Lora, additions: Mapping[str, Addition], table: Mapping[str, TensorInfo]
) -> Iterator[tuple[str, Addition]]:
    """Those that are added to tensors of this model."""
    absent = sorted(additions.keys() - table.keys())
    wrong = sorted(name for name in additions.keys() & table.keys() if additions[name].shape != table[name].shape)
    if wrong or len(absent) == len(additions):
        first = wrong[0] if wrong else absent[0]
        has = list(table[first].shape) if wrong else "no such tensor"
        raise CheckpointError(
            f"the adapter {lora.source} is for another model: {first} is {list(additions[first].shape)} there, and "
            f"this model has {has}; use one that was trained for this model's size"
        )
    if absent:
        logger.warning("%s also changes %s, which this model lacks; the rest is used", lora.source, listed(absent))
    yield from ((name, addition) for name, addition in additions.items() if name in table)
