"""The same work by the pipeline of diffusers 0.42.1, on the same weights in the same memory.

It has no streaming: frames reach the caller when the whole video is done, and are then written to a file, as its
examples do. The text is given as an embedding to both, so the text encoder is in neither figure.
"""

import time
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from accelerate import init_empty_weights

from heliograph.bench.clock import now
from heliograph.bench.run import Watch
from heliograph.bench.subject import Subject
from heliograph.media.sink import open_sink
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.shapes import CHUNK_FRAMES, FPS, FRAME_STRIDE
from heliograph.vae import Autoencoder, stride_of

LIBRARY: Any = diffusers
"""Without its types: it hides these classes from checkers, and takes any object for an autoencoder."""

REGULAR_GAMMA = 0.3
"""Its block noise cannot be drawn at 1/3 where its Cholesky raises, as on CPUs; the time does not depend on it."""

COMPILED: dict[str, Any] = {"mode": "max-autotune-no-cudagraphs", "dynamic": False}
"""How the released script compiles the transformer."""

Compiling = Literal["whole", "by blocks"]
"""What is compiled at once: all, as the released script does, minutes for each of the three sizes; or one block for
all, the same kernels for less."""


class WatchedAutoencoder:
    """The autoencoder as its pipeline calls it, decode timed."""

    def __init__(self, autoencoder: Autoencoder, watch: Watch) -> None:
        self._autoencoder = autoencoder
        self._watch = watch
        self.dtype, self.device = autoencoder.dtype, autoencoder.device
        strides = {"scale_factor_temporal": FRAME_STRIDE, "scale_factor_spatial": stride_of(autoencoder)}
        self.config = diffusers.configuration_utils.FrozenDict({**autoencoder.config, **strides})

    def decode(self, z: torch.Tensor, *, return_dict: bool) -> tuple[torch.Tensor]:
        """Frames of a chunk."""
        decode = self._watch.decode.watched(self._autoencoder.decode)
        frames = self._watch.handing_over(decode)(z).sample
        now(self.device)
        self._watch.chunk_done()
        return (frames,)


def their_transformer(ours: HeliosTransformer3DModel, device: torch.device) -> Any:
    """Their network over our tensors."""
    keys = {key: value for key, value in ours.config.items() if not key.startswith("_")}
    with init_empty_weights(include_buffers=False):
        transformer = LIBRARY.HeliosTransformer3DModel(**keys)
    transformer.load_state_dict(ours.state_dict(), assign=True)
    # Its guidance views the output flat, which fails on a token grid of one cell, whose strides are those of a view.
    transformer.register_forward_hook(lambda _module, _inputs, outputs: (outputs[0].contiguous(),))
    return transformer.to(device).eval()


def their_pipeline(subject: Subject, transformer: Any) -> Any:
    """Their pipeline over the same parts, without a text encoder; its autoencoder is set for each run."""
    schedule = subject.sampler.schedule
    options: dict[str, Any] = {
        "stages": schedule.num_levels,
        "stage_range": list(schedule.borders),
        "gamma": schedule.gamma if _can_draw(schedule.gamma, subject.device) else REGULAR_GAMMA,
        "use_dynamic_shifting": schedule.time_shift != "constant",
        "time_shift_type": schedule.time_shift if schedule.time_shift != "constant" else "exponential",
        "shift": schedule.shift,
    }
    is_few_step = schedule.solver == "few_step"
    if is_few_step:
        scheduler = LIBRARY.HeliosDMDScheduler(**options)
    else:
        scheduler = LIBRARY.HeliosScheduler(**options, scheduler_type=schedule.solver)
    # Its pipelines look these up in the configuration, though its schedulers do not take them.
    scheduler.register_to_config(
        base_shift=schedule.base_shift,
        max_shift=schedule.max_shift,
        base_image_seq_len=schedule.base_tokens,
        max_image_seq_len=schedule.max_tokens,
    )
    parts = {"tokenizer": None, "text_encoder": None, "scheduler": scheduler, "transformer": transformer}
    watched = WatchedAutoencoder(subject.engine.codec.autoencoder, Watch(subject.device))
    if schedule.num_levels == 1:
        pipeline = LIBRARY.HeliosPipeline(**parts, vae=watched)
    else:
        is_zero_star = subject.sampler.guidance.method == "cfg_zero_star"
        pipeline = LIBRARY.HeliosPyramidPipeline(
            **parts, vae=watched, is_distilled=is_few_step, is_cfg_zero_star=is_zero_star
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _can_draw(gamma: float, device: torch.device) -> bool:
    """Whether the covariance of its block noise, singular at 1/3, has a Cholesky factor in float32 on this device."""
    cells = torch.eye(4, device=device)
    return not torch.linalg.cholesky_ex(cells * (1 + gamma) - gamma + cells * 1e-8).info.any()


class MakeTheirs:
    """Makes chunks with their pipeline."""

    def __init__(self, subject: Subject, compiling: Compiling | None = None) -> None:
        """Put their network over our tensors and, where that is asked for, compile it; nothing runs yet."""
        self.transformer: Any = their_transformer(subject.transformer, subject.device)
        if compiling is not None:
            torch.backends.cudnn.benchmark = True
        if compiling == "by blocks":
            self.transformer.compile_repeated_blocks(**COMPILED)
        elif compiling == "whole":
            # Not by the module's own `compile`: the hooks of a clock would be compiled, too, and anew for every run.
            self.transformer = torch.compile(self.transformer, **COMPILED)
        self._pipeline = their_pipeline(subject, self.transformer)
        # Text keys are part of the transformer's work; encoding the prompt is not.
        texts = subject.engine.texts
        self._texts = {"prompt_embeds": texts.of(subject.prompt).embedding}
        if subject.sampler.guidance.is_on:
            self._texts["negative_prompt_embeds"] = texts.of("").embedding

    def __call__(self, subject: Subject, num_chunks: int, watch: Watch, file: Path) -> float:
        """As the examples of its documentation: the whole video, then the file, which is there when it is closed."""
        self._pipeline.vae = WatchedAutoencoder(subject.engine.codec.autoencoder, watch)
        with watch.transformer.watching(self.transformer):
            frames = self._frames(subject, num_chunks)
        with open_sink(file, FPS) as sink:
            for start in range(0, len(frames), CHUNK_FRAMES):
                sink.write((frames[start : start + CHUNK_FRAMES] * 255).round().astype(np.uint8))
        return time.perf_counter()

    def _frames(self, subject: Subject, num_chunks: int) -> np.ndarray:
        return self._pipeline(
            **self._texts,
            height=subject.height,
            width=subject.width,
            num_frames=num_chunks * CHUNK_FRAMES,
            guidance_scale=subject.sampler.guidance.scale,
            generator=torch.Generator(subject.device).manual_seed(0),
            output_type="np",
            **_steps(subject),
        ).frames[0]


def _steps(subject: Subject) -> dict[str, Any]:
    sampler = subject.sampler
    if sampler.schedule.num_levels == 1:
        return {"num_inference_steps": sampler.steps[0]}
    zero_steps = sampler.guidance.zero_init_steps
    return {
        "pyramid_num_inference_steps_list": list(sampler.steps),
        "is_amplify_first_chunk": sampler.first_chunk_steps is not None,
        "use_zero_init": zero_steps > 0,
        "zero_steps": zero_steps - 1,  # it counts to this one, and includes it
    }
