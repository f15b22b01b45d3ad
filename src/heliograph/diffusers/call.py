"""What happens in a call, from what was asked to what is returned; both pipelines put the question, this answers it."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.helios.pipeline_output import HeliosPipelineOutput
from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers
from jaxtyping import Float
from torch import Tensor

from heliograph.config import BlockNoiseSource, ScheduleConfig
from heliograph.diffusers.codec import ChunkCodec, make_codec
from heliograph.diffusers.components import Components, HeliosTransformer3DModel
from heliograph.diffusers.conditioning import StartInput, StartReader
from heliograph.diffusers.generation import Generation, SteeredDenoiser
from heliograph.diffusers.plan import Plan, scheduler_schedule
from heliograph.diffusers.prompts import PromptEncoder, Prompts, TextInput
from heliograph.errors import UserError
from heliograph.memory import History
from heliograph.model.denoiser import TransformerDenoiser
from heliograph.seeds import Generators, GeneratorSeeds
from heliograph.shapes import FRAME_STRIDE, check_size
from heliograph.starts import Start

logger = logging.getLogger(__name__)

OUTPUT_TYPES = ("np", "pt", "pil", "latent")


@dataclass(frozen=True, eq=False)
class NoiseInput:
    """Where numbers come from: a generator, or one for each video; and what the first chunk is made from, if given."""

    generator: Generators
    latents: Tensor | None

    def seeds(self, batch: int, device: torch.device, block_noise: BlockNoiseSource) -> GeneratorSeeds:
        """The numbers of a call, in the order of diffusers."""
        if isinstance(self.generator, list) and len(self.generator) != batch:
            raise UserError(
                f"{len(self.generator)} generators do not go with {batch} videos; give one for each, or one"
            )
        return GeneratorSeeds(self.generator, device, block_noise)

    def first(self, shape: tuple[int, ...], device: torch.device) -> Float[Tensor, "b c t h w"] | None:
        """The noise of the first chunk, float32, if it was given."""
        if self.latents is None:
            return None
        if tuple(self.latents.shape) != shape:
            raise UserError(
                f"latents has shape {tuple(self.latents.shape)}; the noise of the first chunk has shape {shape}, "
                "all of it at full size"
            )
        return self.latents.to(device, torch.float32)


@dataclass(frozen=True, eq=False)
class Watch:
    """The callback after each step and the tensors that it is shown."""

    callback: Callable[..., Any] | None
    tensor_inputs: tuple[str, ...]

    @classmethod
    def read(cls, callback: Any, tensor_inputs: Any, known: list[str]) -> "Watch":
        """The callback as given; one of the library's own says itself what it wants to see.

        Raises:
            UserError: it wants to see what there is not.
        """
        is_official = isinstance(callback, PipelineCallback | MultiPipelineCallbacks)
        wanted = tuple((callback.tensor_inputs if is_official else tensor_inputs) or ())
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise UserError(f"callback_on_step_end_tensor_inputs has {unknown}; there are {known}")
        return cls(callback, wanted)


@dataclass(frozen=True)
class Output:
    """How the video is returned."""

    kind: Any
    as_dict: bool

    def __post_init__(self) -> None:
        if self.kind not in OUTPUT_TYPES:
            raise UserError(f"output_type={self.kind!r} is not known; use one of {', '.join(OUTPUT_TYPES)}")


@dataclass(frozen=True, eq=False)
class Ask:
    """A call, sorted by what its keywords are about. Height and width are pixels."""

    text: TextInput
    start: StartInput
    plan: Plan
    size: tuple[int, int]
    noise: NoiseInput
    watch: Watch
    output: Output
    attention_kwargs: Mapping[str, Any] | None


class Caller(Components):
    """Components that answer a call, and what a callback can read and change while they do.

    `block_noise` says where the block noise of the pyramid comes from: "request", the call's generator, as in
    diffusers; or "fixed", the default generator, the same numbers for every chunk and every seed, as in the released
    engine.
    """

    block_noise: BlockNoiseSource = "request"
    _guidance_scale: float = 1.0
    _attention_kwargs: Mapping[str, Any] | None = None
    _num_timesteps: int = 0
    _current_timestep: Tensor | None = None
    _interrupt: bool = False

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether guidance is on."""
        return self._guidance_scale > 1.0

    @property
    def num_timesteps(self) -> int:
        """Steps of the pyramid level under way."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep of the step under way, in [0, 1000]; None between calls."""
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Whether the call is to end after the step under way; a callback sets `_interrupt`."""
        return self._interrupt

    @property
    def attention_kwargs(self) -> Mapping[str, Any] | None:
        """`attention_kwargs` of the call."""
        return self._attention_kwargs

    @torch.no_grad()
    def encode_prompt(  # noqa: PLR0913, PLR0917 - the library's keywords
        self,
        prompt: Prompts,
        negative_prompt: Prompts = None,
        do_classifier_free_guidance: bool = True,  # noqa: FBT001, FBT002
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        max_sequence_length: int = 226,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings of prompts and, where guidance is on, of negative prompts: what a call takes as `prompt_embeds`.

        Raises:
            UserError: as a call.
        """
        text = TextInput(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, num_videos_per_prompt, max_sequence_length
        )
        encoder = PromptEncoder(self.tokenizer, self.text_encoder, torch.device(device or self._execution_device))
        embeddings = encoder.prompt(text).to(dtype)
        return embeddings, encoder.negative(text).to(dtype) if do_classifier_free_guidance else negative_prompt_embeds

    def _schedule(self) -> ScheduleConfig:
        """The schedule of the scheduler's configuration."""
        return scheduler_schedule(self.require("scheduler"))

    @torch.no_grad()
    def _answer(self, ask: Ask) -> HeliosPipelineOutput | tuple:
        """Make the video of a call, with the parts where the library keeps them."""
        device = torch.device(self._execution_device)
        transformer = self._own_transformer()
        codec = make_codec(self.require("vae"), device, ask.plan.chunk_latents)
        check_size(*ask.size, ask.plan.sampler.schedule.num_levels, codec.stride)
        self._interrupt, self._attention_kwargs = False, ask.attention_kwargs
        seeds = ask.noise.seeds(ask.text.batch, device, self.block_noise)
        height, width = ask.size
        shape = (ask.text.batch, transformer.config.in_channels, *codec.cells(height, width))
        first_noise = ask.noise.first((*shape[:2], ask.plan.chunk_latents, *shape[2:]), device)
        denoiser = self._denoiser(ask, transformer, device)
        reader = StartReader(codec, self.video_processor, seeds, ask.text.batch, height, width, ask.plan.chunk_latents)
        start = reader.read(ask.start)
        memory = ask.plan.memory
        history = History.empty(shape, memory, device) if start is None else start.history(memory)
        generation = Generation(
            self, denoiser, ask.plan, seeds, first_noise, ask.watch.callback, ask.watch.tensor_inputs
        )
        with lora_scale(transformer, ask.attention_kwargs):
            video = self._collect(generation.chunks(history), start, codec, ask.output)
        self._current_timestep = None
        self.maybe_free_model_hooks()
        return HeliosPipelineOutput(frames=video) if ask.output.as_dict else (video,)

    def _own_transformer(self) -> Any:
        """The transformer, which may be wrapped by `torch.compile`."""
        transformer = self.require("transformer")
        if not isinstance(getattr(transformer, "_orig_mod", transformer), HeliosTransformer3DModel):
            raise UserError(
                f"the transformer is a {type(transformer).__name__}; use heliograph's HeliosTransformer3DModel"
            )
        return transformer

    def _denoiser(self, ask: Ask, transformer: Any, device: torch.device) -> SteeredDenoiser:
        """The transformer under the prompts of the call."""
        encoder = PromptEncoder(self.tokenizer, self.text_encoder, device)
        denoiser = SteeredDenoiser(TransformerDenoiser(transformer, device), self, {})
        denoiser.set_prompt("prompt", encoder.prompt(ask.text))
        if self.do_classifier_free_guidance:
            denoiser.set_prompt("negative_prompt", encoder.negative(ask.text))
        return denoiser

    def _collect(self, chunks: Iterator[Tensor], start: Start | None, codec: ChunkCodec, output: Output) -> Any:
        """The video as it is to be returned: latents with those of the start before them, or frames.

        Frames are cut to 4·n + 1, as in diffusers: 33 chunks' frames are 33·K, and (33·K − 1) // 4 · 4 + 1 remain.
        """
        if output.kind == "latent":
            before = [] if start is None else [start.latents]
            return torch.cat([*before, *chunks], dim=2)
        dtype = codec.autoencoder.dtype
        frames = torch.cat([codec.decode_chunk(chunk).to(dtype) for chunk in chunks], dim=2)
        count = (frames.shape[2] - 1) // FRAME_STRIDE * FRAME_STRIDE + 1
        return self.video_processor.postprocess_video(frames[:, :, :count], output_type=output.kind)


@contextmanager
def lora_scale(transformer: Any, attention_kwargs: Mapping[str, Any] | None) -> Iterator[None]:
    """Weigh the adapters of the transformer with `attention_kwargs["scale"]` meanwhile.

    Raises:
        UserError: there is another key, which nothing would read.
    """
    unknown = sorted(set(attention_kwargs or {}) - {"scale"})
    if unknown:
        raise UserError(f"attention_kwargs has {unknown}, which nothing reads; the one key is 'scale', for adapters")
    scale = (attention_kwargs or {}).get("scale", 1.0)
    scale_lora_layers(transformer, scale)
    try:
        yield
    finally:
        unscale_lora_layers(transformer, scale)
