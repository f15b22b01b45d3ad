"""The two pipelines, with the keywords and defaults of diffusers: one resolution, and the pyramid."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.pipelines.helios.pipeline_output import HeliosPipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heliograph.autoencoder import FastAutoencoder
from heliograph.config import Guidance, SamplerConfig, StartNoise
from heliograph.diffusers.call import Ask, Caller, NoiseInput, Output, Watch
from heliograph.diffusers.conditioning import StartInput
from heliograph.diffusers.plan import MemoryInput, check_sigmas, make_plan
from heliograph.diffusers.prompts import Prompts, TextInput
from heliograph.errors import UserError
from heliograph.linear_autoencoder import LinearAutoencoder
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.seeds import Generators

logger = logging.getLogger(__name__)


class HeliosPipeline(Caller):
    """Helios at one resolution, for Helios-Base and the like; a drop-in for diffusers' class."""

    def __call__(  # noqa: PLR0913, PLR0917 - the library's keywords
        self,
        prompt: Prompts = None,
        negative_prompt: Prompts = None,
        height: int = 384,
        width: int = 640,
        num_frames: int = 132,
        num_inference_steps: int = 50,
        sigmas: Iterable[float] | None = None,
        guidance_scale: float = 5.0,
        num_videos_per_prompt: int | None = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str | None = "np",
        return_dict: bool = True,  # noqa: FBT001, FBT002
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ["latents"],
        max_sequence_length: int = 512,
        image: Any = None,
        image_latents: Tensor | None = None,
        fake_image_latents: Tensor | None = None,
        add_noise_to_image_latents: bool = True,  # noqa: FBT001, FBT002
        image_noise_sigma_min: float = 0.111,
        image_noise_sigma_max: float = 0.135,
        video: Any = None,
        video_latents: Tensor | None = None,
        add_noise_to_video_latents: bool = True,  # noqa: FBT001, FBT002
        video_noise_sigma_min: float = 0.111,
        video_noise_sigma_max: float = 0.135,
        history_sizes: Sequence[int] = [16, 2, 1],
        num_latent_frames_per_chunk: int = 9,
        keep_first_frame: bool = True,  # noqa: FBT001, FBT002
        is_skip_first_chunk: bool = False,  # noqa: FBT001, FBT002
    ) -> HeliosPipelineOutput | tuple:
        """Make a video; keywords and defaults as in diffusers.

        Differs where theirs crash or do nothing: `latents` is the noise of the first chunk, `sigmas` may be a list,
        latents of a picture or clip start a video as their pixels would, one picture or clip serves a whole batch.

        Raises:
            UserError: what was asked for is not possible; the message says what to change.
        """
        schedule = self._schedule()
        if schedule.num_levels != 1:
            raise UserError(
                f"the scheduler has {schedule.num_levels} stages, HeliosPipeline samples at one resolution; "
                "load this model with HeliosPyramidPipeline"
            )
        levels = None if sigmas is None else check_sigmas(sigmas)
        num_steps = num_inference_steps if levels is None else len(levels)
        sampler = SamplerConfig(schedule, (num_steps,), None, Guidance(guidance_scale))
        self._guidance_scale = guidance_scale
        memory = MemoryInput(history_sizes, keep_first_frame, is_skip_first_chunk, num_latent_frames_per_chunk)
        text = TextInput(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, num_videos_per_prompt, max_sequence_length
        )
        image_range = (image_noise_sigma_min, image_noise_sigma_max)
        noise = StartNoise(image_range, (video_noise_sigma_min, video_noise_sigma_max))
        image_noise = noise if add_noise_to_image_latents else None
        video_noise = noise if add_noise_to_video_latents else None
        start = StartInput(image, image_latents, fake_image_latents, video, video_latents, image_noise, video_noise)
        watch = Watch.read(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        numbers, output = NoiseInput(generator, latents), Output(output_type, return_dict)
        plan = make_plan(sampler, memory, num_frames, levels)
        return self._answer(Ask(text, start, plan, (height, width), numbers, watch, output, attention_kwargs))


class HeliosPyramidPipeline(Caller):
    """Helios from coarse to fine, for Helios-Mid, Helios-Distilled and the like; a drop-in for diffusers' class.

    `is_cfg_zero_star` chooses how guidance combines; `is_distilled` says that the model is meant to run without it.
    Which solver runs is decided by the scheduler.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        text_encoder: PreTrainedModel | None,
        vae: AutoencoderKLWan | FastAutoencoder | LinearAutoencoder | None,
        scheduler: SchedulerMixin | None,
        transformer: HeliosTransformer3DModel | nn.Module | None,
        is_cfg_zero_star: bool = False,  # noqa: FBT001, FBT002
        is_distilled: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Take the parts in. Of the scheduler only its configuration is read."""
        super().__init__(tokenizer, text_encoder, vae, scheduler, transformer)
        self.register_to_config(is_cfg_zero_star=is_cfg_zero_star, is_distilled=is_distilled)

    def __call__(  # noqa: PLR0913, PLR0917 - the library's keywords
        self,
        prompt: Prompts = None,
        negative_prompt: Prompts = None,
        height: int = 384,
        width: int = 640,
        num_frames: int = 132,
        sigmas: Iterable[float] | None = None,
        guidance_scale: float = 5.0,
        num_videos_per_prompt: int | None = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str | None = "np",
        return_dict: bool = True,  # noqa: FBT001, FBT002
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ["latents"],
        max_sequence_length: int = 512,
        image: Any = None,
        image_latents: Tensor | None = None,
        fake_image_latents: Tensor | None = None,
        add_noise_to_image_latents: bool = True,  # noqa: FBT001, FBT002
        image_noise_sigma_min: float = 0.111,
        image_noise_sigma_max: float = 0.135,
        video: Any = None,
        video_latents: Tensor | None = None,
        add_noise_to_video_latents: bool = True,  # noqa: FBT001, FBT002
        video_noise_sigma_min: float = 0.111,
        video_noise_sigma_max: float = 0.135,
        history_sizes: Sequence[int] = [16, 2, 1],
        num_latent_frames_per_chunk: int = 9,
        keep_first_frame: bool = True,  # noqa: FBT001, FBT002
        is_skip_first_chunk: bool = False,  # noqa: FBT001, FBT002
        pyramid_num_inference_steps_list: Sequence[int] = [10, 10, 10],
        use_zero_init: bool | None = True,  # noqa: FBT001, FBT002
        zero_steps: int | None = 1,
        is_amplify_first_chunk: bool = False,  # noqa: FBT001, FBT002
    ) -> HeliosPipelineOutput | tuple:
        """Make a video; keywords and defaults as in diffusers.

        Differs where theirs crash or do nothing, as `HeliosPipeline`; `sigmas`, which theirs ignore, is refused.

        Raises:
            UserError: what was asked for is not possible; the message says what to change.
        """
        if sigmas is not None:
            raise UserError("sigmas belongs to HeliosPipeline; the pyramid takes pyramid_num_inference_steps_list")
        zero_init = (zero_steps or 0) + 1 if use_zero_init else 0
        sampler = self._sampler(pyramid_num_inference_steps_list, guidance_scale, zero_init)
        if is_amplify_first_chunk:
            sampler = boost_first_chunk(sampler)
        self._guidance_scale = guidance_scale
        memory = MemoryInput(history_sizes, keep_first_frame, is_skip_first_chunk, num_latent_frames_per_chunk)
        text = TextInput(
            prompt, negative_prompt, prompt_embeds, negative_prompt_embeds, num_videos_per_prompt, max_sequence_length
        )
        image_range = (image_noise_sigma_min, image_noise_sigma_max)
        noise = StartNoise(image_range, (video_noise_sigma_min, video_noise_sigma_max))
        image_noise = noise if add_noise_to_image_latents else None
        video_noise = noise if add_noise_to_video_latents else None
        start = StartInput(image, image_latents, fake_image_latents, video, video_latents, image_noise, video_noise)
        watch = Watch.read(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        numbers, output = NoiseInput(generator, latents), Output(output_type, return_dict)
        plan = make_plan(sampler, memory, num_frames)
        return self._answer(Ask(text, start, plan, (height, width), numbers, watch, output, attention_kwargs))

    def _sampler(self, steps: Sequence[int], guidance_scale: float, zero_init_steps: int) -> SamplerConfig:
        """The sampler for these steps on each level; CFG-Zero* where the model was made for it.

        Raises:
            UserError: there are more or fewer numbers of steps than levels.
        """
        schedule = self._schedule()
        if schedule.num_levels == 1 and len(steps) != 1:
            raise UserError(
                f"the scheduler has one stage, but pyramid_num_inference_steps_list={list(steps)} names {len(steps)}; "
                "use HeliosPipeline"
            )
        switches: Any = self.config
        is_zero_star = switches.is_cfg_zero_star
        guidance = (
            Guidance(guidance_scale, "cfg_zero_star", zero_init_steps) if is_zero_star else Guidance(guidance_scale)
        )
        if guidance.is_on and switches.is_distilled:
            logger.warning("guidance_scale=%s: this model is distilled, it is meant for 1.0", guidance_scale)
        return SamplerConfig(schedule, tuple(steps), None, guidance)


def boost_first_chunk(sampler: SamplerConfig) -> SamplerConfig:
    """Twice the steps for the first chunk. As in diffusers it counts for few-step models only; others are warned of."""
    if sampler.schedule.solver != "few_step":
        logger.warning(
            "is_amplify_first_chunk counts for distilled models only; the first chunk has as many steps as others"
        )
        return sampler
    return replace(sampler, first_chunk_steps=tuple(2 * n for n in sampler.steps))
