"""The components of a model, built from their configuration and filled with their weights.

Networks and the libraries that hold them are imported inside the functions, so that whoever only reads folders does not
wait for them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from heliograph.checkpoint.folder import INDEX_FILE, ModelFolder, first_line, read_json
from heliograph.checkpoint.lora import adapted_table
from heliograph.checkpoint.tensors import tensor_table
from heliograph.checkpoint.weights import Place, load_weights
from heliograph.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from transformers import UMT5EncoderModel

    from heliograph.autoencoder import FastAutoencoder
    from heliograph.linear_autoencoder import LinearAutoencoder
    from heliograph.model.transformer import HeliosTransformer3DModel

BUILD_FAULTS = (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError, AttributeError, NameError)
"""What a network's constructor raises on values that make no sense: constructors check few of them themselves."""


def load_transformer(folder: ModelFolder, dtype: torch.dtype, device: Place) -> "HeliosTransformer3DModel":
    """The transformer, ready to run: `dtype` but for the parts that stay float32, evaluation mode.

    Raises:
        CheckpointError: the configuration asks for what this package does not have, or the weights do not fit it.
    """
    from heliograph.model.transformer import HeliosTransformer3DModel  # noqa: PLC0415

    source = folder.part("transformer") / "config.json"
    given = folder.transformer_config.items()
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in given}
    _check_options(source, config, HeliosTransformer3DModel)
    with _building(source):
        model = cast("HeliosTransformer3DModel", HeliosTransformer3DModel.from_config(config))
    load_weights(model, adapted_table(folder), dtype, device)
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


@contextmanager
def _building(config: Path) -> Iterator[None]:
    """Modules made inside have parameters without memory; a configuration they refuse is the checkpoint's fault."""
    try:
        with init_empty_weights(include_buffers=False):
            yield
    except CheckpointError as error:
        raise CheckpointError(f"{config}: {error}") from error
    except (*BUILD_FAULTS, StrictDataclassError) as error:
        raise CheckpointError(f"{config} describes no model that can be built ({first_line(error)})") from error


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
