"""The parts of a pipeline: loading, saving, moving and offloading are the library's, the transformer is ours.

A folder names the transformer as the library's class, which has the same configuration and the same tensors. So it is
read as ours and written under the library's name, and either library loads what the other saved.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

from accelerate import cpu_offload, init_empty_weights
from accelerate.hooks import remove_hook_from_submodules
from diffusers.loaders.lora_pipeline import HeliosLoraLoaderMixin
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.video_processor import VideoProcessor
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heliograph.autoencoder import FastAutoencoder
from heliograph.errors import CheckpointError, UserError
from heliograph.linear_autoencoder import LinearAutoencoder
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.shapes import FRAME_STRIDE, LATENT_STRIDE
from heliograph.vae import stride_of

__all__ = [
    "Components",
    "FastAutoencoder",
    "HeliosTransformer3DModel",
    "LinearAutoencoder",
    "ModelMixin",
    "adopt_transformer",
]

WRITTEN_AS: Mapping[tuple[str, str], tuple[str, str]] = MappingProxyType(
    {
        (HeliosTransformer3DModel.__module__, "HeliosTransformer3DModel"): ("diffusers", "HeliosTransformer3DModel"),
        (FastAutoencoder.__module__, "FastAutoencoder"): ("heliograph", "FastAutoencoder"),
        (LinearAutoencoder.__module__, "LinearAutoencoder"): ("heliograph", "LinearAutoencoder"),
    }
)
"""Where a class of ours is defined, and how `model_index.json` names it."""

READ_AS: Mapping[tuple[str, str], tuple[str, str]] = MappingProxyType(
    {written: (__name__, written[1]) for written in WRITTEN_AS.values()}
)
"""How `model_index.json` names a class of ours, and where the library's loader finds it: in this module.

The loader also looks for `ModelMixin` there, to know how the class is loaded.
"""


WHOLE_MODULES: Mapping[str, str] = MappingProxyType(
    {"text_encoder": "UMT5Attention", "transformer": "TransformerBlock"}
)
"""Modules that read weights of their layers outside these layers' own calls, so that all must come at once."""


class Components(DiffusionPipeline, HeliosLoraLoaderMixin):
    """What both pipelines share: their parts and how these come and go."""

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # noqa: RUF012 - the library's names
    _optional_components = ["transformer"]  # noqa: RUF012

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        text_encoder: PreTrainedModel | None,
        vae: AutoencoderKLWan | FastAutoencoder | LinearAutoencoder | None,
        scheduler: SchedulerMixin | None,
        transformer: HeliosTransformer3DModel | nn.Module | None,
    ) -> None:
        """Take the parts in. Of the scheduler only its configuration is read."""
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer, scheduler=scheduler
        )
        self.vae_scale_factor_temporal = FRAME_STRIDE
        self.vae_scale_factor_spatial = LATENT_STRIDE if vae is None else stride_of(cast("Any", vae))
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor_spatial)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a transformer of the library becomes ours, with the same weights."""
        super().__setattr__(name, adopt_transformer(value) if _is_library_transformer(value) else value)

    def register_to_config(self, **values: Any) -> None:
        """Write into the configuration, where classes of ours have the names of `WRITTEN_AS`."""
        super().register_to_config(**{key: _renamed(value, WRITTEN_AS) for key, value in values.items()})

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> tuple[dict, dict, dict]:
        """What `from_pretrained` loads, by `model_index.json`: classes of ours are found where `READ_AS` says."""
        init, unused, hidden = super().extract_init_dict(config_dict, **kwargs)
        return {key: _renamed(value, READ_AS) for key, value in init.items()}, unused, hidden

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Any:
        """A pipeline over the parts of another, of this package or of the library."""
        return super().from_pipe(pipeline, **{"transformer": pipeline.components.get("transformer"), **kwargs})

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """Keep weights in host memory and bring each module when its turn is; some come whole (`WHOLE_MODULES`)."""
        super().enable_sequential_cpu_offload(gpu_id, device)
        for name, module_class in WHOLE_MODULES.items():
            part = getattr(self, name)
            if part is not None:
                remove_hook_from_submodules(part)
                offload_buffers = len(part._parameters) > 0
                cpu_offload(part, self._offload_device, offload_buffers, preload_module_classes=[module_class])

    def require(self, name: str) -> Any:
        """The part of this name.

        Raises:
            UserError: the pipeline was loaded without it.
        """
        part = getattr(self, name)
        if part is None:
            raise UserError(f"this pipeline has no {name}; load it without {name}=None to generate video")
        return part


def adopt_transformer(theirs: Any) -> HeliosTransformer3DModel:
    """Our transformer with the weights of the library's: the same memory, the same dtypes, no copy.

    Raises:
        CheckpointError: its tensors are not those of a plain Helios transformer (quantised, or with adapters).
    """
    with init_empty_weights(include_buffers=False):
        ours = HeliosTransformer3DModel.from_config(theirs.config)
    assert isinstance(ours, HeliosTransformer3DModel)
    weights = theirs.state_dict()
    odd = sorted(weights.keys() ^ ours.state_dict().keys())
    if odd:
        raise CheckpointError(
            f"the transformer has other tensors than Helios ({', '.join(odd[:3])}, {len(odd)} in all); "
            "load it with heliograph's from_pretrained, and adapters with load_lora_weights afterwards"
        )
    ours.load_state_dict(weights, assign=True)
    return ours.train(theirs.training)


def _is_library_transformer(value: object) -> bool:
    """Whether this is diffusers' class, which is not imported here: only its weights are wanted."""
    kind = type(value)
    return kind.__name__ == HeliosTransformer3DModel.__name__ and kind.__module__.startswith("diffusers.")


def _renamed(value: Any, names: Mapping[tuple[str, str], tuple[str, str]]) -> Any:
    """A (library, class) under its other name, where it has one; anything else as it is."""
    is_name = isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, str) for part in value)
    return names.get((value[0], value[1]), value) if is_name else value
