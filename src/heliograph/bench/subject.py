"""What is measured: a model from a folder, or one of a released shape with random weights made on the device.

Timing does not depend on what the weights say, so a shape is enough; nothing is downloaded for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from heliograph.checkpoint import RELEASED_SIZE, open_model
from heliograph.config import EXACT, Guidance, MemoryConfig, SamplerConfig, SpeedConfig
from heliograph.engine.attention import attention_of
from heliograph.engine.decoders import choose_decoder
from heliograph.engine.engine import Engine, load_engine
from heliograph.engine.machine import free_bytes
from heliograph.engine.plan import Plan, name_of
from heliograph.engine.prompts import TextEmbeddings
from heliograph.engine.tuning import approximate, device_for_vae, resolved, tried, tune, tuned_denoiser
from heliograph.errors import UserError
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.pipeline import choose_plan
from heliograph.presets import DISTILLED
from heliograph.request import chosen_sampler
from heliograph.shapes import check_size
from heliograph.text import MAX_TEXT_TOKENS, TextEmbedding, TextEncoder
from heliograph.vae import LatentCodec


@dataclass(frozen=True)
class RandomShape:
    """Configurations of a transformer and of a Wan autoencoder, and the size in pixels that such a model is for."""

    transformer: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    size: tuple[int, int] = RELEASED_SIZE


SHAPES: Mapping[str, RandomShape] = MappingProxyType(
    {
        "14b": RandomShape({}, {}),
        "1b": RandomShape({"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "text_dim": 4096}, {}),
        "small": RandomShape(
            {
                **{"num_attention_heads": 2, "attention_head_dim": 24, "rope_dim": (8, 8, 8)},
                **{"ffn_dim": 96, "num_layers": 4, "text_dim": 32},
            },
            {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
            (64, 64),
        ),
    }
)
"""Models to fill with random numbers: the released one, one as small as Wan 1.3B, and one to try this with."""

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
            "guidance": _in_words(schedule.guidance),
            "transformer": name_of(self.engine.denoiser.dtype),
            "autoencoder": name_of(self.engine.codec.autoencoder.dtype),
            "decoder": self._decoder,
            "runner": self._runner,
            "attention": attention_of(self.transformer),
            "approximated": list(self.engine.approximations),
        }

    @property
    def _runner(self) -> str:
        """What runs the blocks."""
        run = self.engine.denoiser.run
        return type(run if run is not self.transformer or not self.transformer.lean else self.transformer.lean).__name__

    @property
    def _decoder(self) -> str:
        """What decodes, and in which precision."""
        codec = self.engine.codec
        decoder = codec.autoencoder if codec.decoder is None else codec.decoder
        return f"{type(decoder).__name__} {name_of(decoder.dtype)}"  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Asked:
    """What is asked of the model; None takes its own. `size` is height and width in pixels."""

    steps: tuple[int, ...] | None = None
    size: tuple[int, int] | None = None
    guidance_scale: float | None = None
    speed: SpeedConfig = EXACT


def stored_subject(model: str, device: str, dtype: str, asked: Asked) -> Subject:
    """A model as `generate` would run it.

    Raises:
        CheckpointError: the model cannot be loaded.
        UserError: it does not fit, or the steps or the size are not possible.
    """
    folder = open_model(model)
    engine = load_engine(folder, choose_plan(folder, device, dtype), speed=exact_part(asked.speed))
    return _subject(model, engine, asked)


def random_subject(shape: str, device: str, dtype: torch.dtype, asked: Asked) -> Subject:
    """A model of one of `SHAPES` with random weights and a text of full length.

    Raises:
        UserError: there is no such shape, or the steps or the size are not possible.
    """
    if shape not in SHAPES:
        raise UserError(f"there is no shape {shape!r}; use one of {', '.join(SHAPES)}")
    place = torch.device(device)
    transformer = random_transformer(SHAPES[shape].transformer, place, dtype)
    with init_empty_weights(include_buffers=False):
        autoencoder = AutoencoderKLWan(**SHAPES[shape].autoencoder)
    text_dim = transformer.config["text_dim"]
    plan = Plan("whole", device, device, dtype, len(transformer.blocks), 0, 0)
    speed = resolved(exact_part(asked.speed), plan)
    tune(transformer, plan, speed)
    vae_place = device_for_vae(speed.vae_device, place)
    _fill(autoencoder, vae_place, torch.float32)
    engine = Engine(
        denoiser=tuned_denoiser(transformer, plan, speed),
        texts=TextEmbeddings(lambda: cast("TextEncoder", RandomTexts(text_dim, dtype, place)), stays=True),
        codec=LatentCodec(autoencoder, choose_decoder(autoencoder, asked.size or SHAPES[shape].size, free_bytes)),
        sampler=DISTILLED,
        memory=MemoryConfig(),
        size=SHAPES[shape].size,
        num_channels=16,
        fingerprint=f"random {shape}",
        device=place,
    )
    return _subject(f"random weights of the {shape} shape", engine, asked)


def random_transformer(config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> HeliosTransformer3DModel:
    """A transformer of this configuration, not tuned yet."""
    with init_empty_weights(include_buffers=False):
        transformer = HeliosTransformer3DModel(**config)
    _fill(transformer, device, dtype)
    return transformer


def approximated(subject: Subject, speed: SpeedConfig) -> Subject:
    """The same with what `speed` gives up for speed; nothing else of the model is touched.

    Raises:
        CheckpointError: the file of the small decoder holds something else.
        UserError: a part is not possible here.
    """
    engine, transformer = subject.engine, subject.transformer
    plan = whole_plan(transformer, engine.device, engine.denoiser.dtype)
    speed = tried(speed, plan)
    if not speed.approximations:
        return subject
    approximate(transformer, plan, speed)
    codec = engine.codec
    if speed.decoder is not None:
        size = subject.height, subject.width
        codec = LatentCodec(codec.autoencoder, choose_decoder(codec.autoencoder, size, free_bytes, speed.decoder))
    denoiser = tuned_denoiser(transformer, plan, speed)
    return replace(subject, engine=replace(engine, denoiser=denoiser, codec=codec, approximations=speed.approximations))


def whole_plan(transformer: HeliosTransformer3DModel, device: torch.device, dtype: torch.dtype) -> Plan:
    """All blocks and the decoder on one device."""
    return Plan("whole", str(device), str(device), dtype, len(transformer.blocks), 0, 0)


def exact_part(speed: SpeedConfig) -> SpeedConfig:
    """The same without approximations."""
    return replace(speed, mode="exact", fp8=False, history_reuse="off", attention8=False, decoder=None)


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


def guided_everywhere(subject: Subject) -> Subject:
    """The same work with guidance on every level, as pipelines do it that know no other."""
    guidance = replace(subject.sampler.guidance, levels=None)
    return replace(subject, sampler=replace(subject.sampler, guidance=guidance))


def _in_words(guidance: Guidance) -> str:
    if not guidance.is_on:
        return "off"
    where = "" if guidance.levels is None else f" on {guidance.levels} level(s)"
    return f"{guidance.method} {guidance.scale:g}{where}"


def _subject(name: str, engine: Engine, asked: Asked) -> Subject:
    height, width = asked.size or engine.size
    check_size(height, width, engine.sampler.schedule.num_levels, engine.codec.stride)
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
