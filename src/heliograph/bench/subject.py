"""What is measured: a model from a folder, or one of a released shape with random weights made on the device.

Timing does not depend on what the weights say, so a shape is enough; nothing is downloaded for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from heliograph.checkpoint import RELEASED_SIZE, open_model
from heliograph.config import MemoryConfig, SamplerConfig
from heliograph.engine.engine import Engine, load_engine
from heliograph.engine.placement import name_of
from heliograph.engine.prompts import TextEmbeddings
from heliograph.errors import UserError
from heliograph.model.denoiser import TransformerDenoiser
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.pipeline import choose_plan
from heliograph.presets import DISTILLED
from heliograph.request import chosen_sampler
from heliograph.shapes import check_size
from heliograph.text import MAX_TEXT_TOKENS, TextEmbedding, TextEncoder
from heliograph.vae import LatentCodec

SHAPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "14b": MappingProxyType({}),
        "1b": MappingProxyType(
            {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "text_dim": 4096},
        ),
    }
)
"""Transformer configurations that can be filled with random numbers: the released one, and one as small as Wan 1.3B."""

RANDOM_STD = 0.02
"""Deviation of random weights; zeros would run faster than weights ever do."""


@dataclass(frozen=True)
class Subject:
    """A loaded model and what is asked of it."""

    name: str
    engine: Engine
    height: int
    width: int
    sampler: SamplerConfig
    prompt: str = "a red fish swims to the left over a coral reef"

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.engine.device

    @property
    def transformer(self) -> HeliosTransformer3DModel:
        """Whose calls are timed."""
        return self.engine.denoiser.transformer

    def as_json(self) -> dict[str, Any]:
        """What has to stand beside every figure."""
        schedule = self.sampler
        return {
            "model": self.name,
            "height": self.height,
            "width": self.width,
            "steps": list(schedule.steps),
            "first_chunk_steps": list(schedule.steps_for(0)),
            "guidance": f"{schedule.guidance.method} {schedule.guidance.scale:g}" if schedule.guidance.is_on else "off",
            "transformer": name_of(self.engine.denoiser.dtype),
            "autoencoder": name_of(self.engine.codec.autoencoder.dtype),
        }


@dataclass(frozen=True)
class Asked:
    """What is asked of the model; None takes its own. `size` is height and width in pixels."""

    steps: tuple[int, ...] | None = None
    size: tuple[int, int] | None = None
    guidance_scale: float | None = None


def stored_subject(model: str, device: str, dtype: str, asked: Asked) -> Subject:
    """A model as `generate` would run it.

    Raises:
        CheckpointError: the model cannot be loaded.
        UserError: it does not fit, or the steps or the size are not possible.
    """
    folder = open_model(model)
    engine = load_engine(folder, choose_plan(folder, device, dtype))
    return _subject(model, engine, asked)


def random_subject(shape: str, device: str, dtype: torch.dtype, asked: Asked) -> Subject:
    """A model of one of `SHAPES` with random weights, the released autoencoder's shape, and a text of full length.

    Raises:
        UserError: there is no such shape, or the steps or the size are not possible.
    """
    if shape not in SHAPES:
        raise UserError(f"there is no shape {shape!r}; use one of {', '.join(SHAPES)}")
    place = torch.device(device)
    with init_empty_weights(include_buffers=False):
        transformer = HeliosTransformer3DModel(**SHAPES[shape])
        autoencoder = AutoencoderKLWan()
    _fill(transformer, place, dtype)
    _fill(autoencoder, place, torch.float32)
    text_dim = transformer.config["text_dim"]
    engine = Engine(
        denoiser=TransformerDenoiser(transformer, place),
        texts=TextEmbeddings(lambda: cast("TextEncoder", RandomTexts(text_dim, dtype, place)), stays=True),
        codec=LatentCodec(autoencoder),
        sampler=DISTILLED,
        memory=MemoryConfig(),
        size=RELEASED_SIZE,
        num_channels=16,
        fingerprint=f"random {shape}",
        device=place,
    )
    return _subject(f"random weights of the {shape} shape", engine, asked)


class RandomTexts:
    """Stands in for a text encoder: the same random rows for every prompt, as many as the released one gives."""

    def __init__(self, dim: int, dtype: torch.dtype, device: torch.device) -> None:
        rows = torch.randn(1, MAX_TEXT_TOKENS, dim, generator=torch.Generator().manual_seed(0))
        self._embedding = rows.to(device, dtype)

    def encode(self, prompts: list[str]) -> TextEmbedding:
        """One embedding for each prompt."""
        count = len(prompts)
        return TextEmbedding(
            self._embedding.expand(count, -1, -1), (MAX_TEXT_TOKENS,) * count, truncated=(False,) * count
        )


def _subject(name: str, engine: Engine, asked: Asked) -> Subject:
    height, width = asked.size or engine.size
    check_size(height, width, engine.sampler.schedule.num_levels)
    sampler = chosen_sampler(engine.sampler, asked.steps, guidance_scale=asked.guidance_scale)
    return Subject(name, engine, height, width, sampler)


@torch.no_grad()
def _fill(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give a module without memory random weights, made where they stay."""
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        used = torch.float32 if kept & set(name.split(".")) else dtype
        values = torch.empty(parameter.shape, dtype=used, device=device).normal_(0, RANDOM_STD, generator=generator)
        if leaf in ("weight", "gamma") and parameter.ndim == 1:
            values += 1  # a norm
        module.get_submodule(owner).register_parameter(leaf, torch.nn.Parameter(values, requires_grad=False))
    module.to(device).eval()
