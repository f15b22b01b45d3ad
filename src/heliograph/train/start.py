"""Starting points: the network a phase begins with, from a Helios model, from Wan 2.1, or from random numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor, nn

from heliograph.checkpoint import (
    FP32_COMPONENTS,
    INDEX_FILE,
    PIPELINES,
    find_local,
    find_model,
    latent_stride,
    load_weights,
    read_json,
    tensor_table,
)
from heliograph.errors import CheckpointError
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.shapes import LATENT_STRIDE
from heliograph.train.adapt import load_text_to_video

WAN_PIPELINE, WAN_TRANSFORMER = "WanPipeline", "WanTransformer3DModel"


@dataclass(frozen=True)
class StartPoint:
    """Where weights come from: a model (`tiny`, a folder or a hub id) and the folder in it that holds the transformer.

    The released repositories keep intermediate networks beside the final one (`transformer_init`, `transformer_ode`).
    """

    model: str
    subfolder: str = "transformer"


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes of a network that is trained from scratch; everything else is as in the model it starts beside."""

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    ffn_dim: int
    rope_dim: tuple[int, int, int]


def load_start(start: StartPoint, dtype: torch.dtype) -> HeliosTransformer3DModel:
    """The network of a starting point, on the CPU, in `dtype` but for the parts that stay float32.

    A Wan 2.1 text-to-video model gets its memory patches from its patch embedding.

    Raises:
        CheckpointError: it is not found, of another architecture, or its weights do not fit its configuration.
    """
    folder = _part(find_model(start.model), start)
    config = read_json(folder / "config.json")
    if config.get("_class_name") == WAN_TRANSFORMER:
        network = empty_network(helios_config(config, folder)).to_empty(device="cpu")
        load_text_to_video(network, _state(folder))
        return settle(network, dtype)
    network = empty_network(helios_config(config, folder))
    load_weights(network, folder, dtype, torch.device("cpu"))
    return network


def start_config(start: StartPoint) -> dict[str, Any]:
    """Configuration of the network of a starting point, without reading a weight and without any download.

    For a hub model that is not here it is that of the released 14B models, which all have the same.
    """
    path = find_local(start.model)
    if path is None:
        return {}
    folder = _part(path, start)
    return helios_config(read_json(folder / "config.json"), folder)


def start_stride(start: StartPoint) -> int:
    """Pixels per latent cell beside a starting point, without any download; as released where it is not here."""
    path = find_local(start.model)
    return LATENT_STRIDE if path is None else latent_stride(path)


def empty_network(config: Mapping[str, Any]) -> HeliosTransformer3DModel:
    """A network without memory (meta tensors); an empty `config` is that of the released models."""
    with init_empty_weights(include_buffers=False):
        return cast(HeliosTransformer3DModel, HeliosTransformer3DModel.from_config(dict(config)))


def random_network(config: Mapping[str, Any], sizes: NetworkSizes, seed: int) -> HeliosTransformer3DModel:
    """A network of other `sizes` with fresh weights, float32; the same seed gives the same weights.

    Linear and patch weights are Xavier-uniform with zero bias, those of the time and text embedders normal with
    deviation 0.02; the output is zero, so that training begins with velocity 0. Memory patches begin as the mean of
    what they stand for.
    """
    values = {**config, **asdict(sizes)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = cast(HeliosTransformer3DModel, HeliosTransformer3DModel.from_config(values))
        with torch.no_grad():
            _init(network)
    return network


def settle(network: nn.Module, dtype: torch.dtype) -> Any:
    """The network in `dtype`, but for the parts that stay float32; evaluation mode."""
    for name, parameter in network.named_parameters():
        target = torch.float32 if FP32_COMPONENTS & set(name.split(".")) else dtype
        parameter.data = parameter.data.to(target)
    return network.eval()


def _init(network: HeliosTransformer3DModel) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if "time_embedder" in name or "text_embedder" in name:
                nn.init.normal_(module.weight, std=0.02)
    embedding = network.patch_embedding
    nn.init.xavier_uniform_(embedding.weight.flatten(1))
    nn.init.zeros_(cast(Tensor, embedding.bias))
    nn.init.zeros_(network.proj_out.weight)
    network.init_tier_patches()


def helios_config(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Configuration of the Helios network for a `config.json` of Helios or Wan 2.1.

    Raises:
        CheckpointError: it is of another architecture, or of a Wan model that takes more than text.
    """
    name = config.get("_class_name")
    if name == "HeliosTransformer3DModel":
        return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    if name != WAN_TRANSFORMER:
        raise CheckpointError(
            f"{folder} holds a {name}; training starts from a HeliosTransformer3DModel or a Wan 2.1 text-to-video model"
        )
    extra = [key for key in ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len") if config.get(key) is not None]
    if extra:
        raise CheckpointError(
            f"{folder} takes pictures too ({', '.join(extra)}); use the text-to-video model of Wan 2.1"
        )
    head_dim = config["attention_head_dim"]
    side = 2 * (head_dim // 6)
    same = ("num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "text_dim", "freq_dim")
    same += ("ffn_dim", "num_layers", "cross_attn_norm", "qk_norm", "eps")
    return {
        **{key: config[key] for key in same if key in config},
        "patch_size": tuple(config.get("patch_size", (1, 2, 2))),
        "rope_dim": (head_dim - 2 * side, side, side),
    }


def is_helios(folder: Path) -> bool:
    """Whether a model folder is of Helios, not of Wan."""
    return read_json(folder / INDEX_FILE).get("_class_name") in PIPELINES


def _part(model: Path, start: StartPoint) -> Path:
    """The folder of the transformer; fetched where a hub model has it and it is not here yet."""
    kind = read_json(model / INDEX_FILE).get("_class_name")
    if kind not in (*PIPELINES, WAN_PIPELINE):
        raise CheckpointError(f"{model} is a {kind}; training starts from a Helios or a Wan 2.1 text-to-video model")
    folder = model / start.subfolder
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(start.model, allow_patterns=[f"{start.subfolder}/*"])) / start.subfolder
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(f"{model} has no folder {start.subfolder}; name another with --from") from error


def _state(folder: Path) -> dict[str, Tensor]:
    """All tensors of a component's folder, mapped into memory."""
    files = sorted({info.file for info in tensor_table(folder).values()})
    return {name: tensor for file in files for name, tensor in load_file(file).items()}
