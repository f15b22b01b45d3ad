"""Pairs of pipelines, ours and that of diffusers, over the same small random parts."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, HeliosDMDScheduler, HeliosScheduler
from torch import Tensor
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

import heliograph.diffusers
from tests.small import SIZES, randomise

TEXT_LENGTH = 12

WORDS = ["a", "red", "fish", "swims", "to", "the", "left", "blue", "bird", "flies", "up", "static", "blurred"]

SCHEDULES: dict[str, dict[str, Any]] = {
    "base": {"stages": 1, "stage_range": [0, 1], "use_dynamic_shifting": True, "time_shift_type": "exponential"},
    "mid": {"use_dynamic_shifting": True, "time_shift_type": "exponential"},
    "distilled": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
}

# At 1/3, the released value, the covariance of block noise is singular, and the Cholesky of diffusers raises on a CPU.
GAMMA = 0.3


class Pair:
    """Our pipeline and theirs: the same weights in the same memory, the same scheduler.

    Theirs differs from the released class in two ways, neither of which touches latents: with `output_type="latent"`
    frames are not decoded (it decodes and throws them away), and the velocity is made contiguous (its CFG-Zero* takes
    a view that a 1×1 token grid does not allow). What the autoencoder makes of the same pixels is computed once.
    """

    def __init__(self, variant: str, **schedule: Any) -> None:
        self.variant = variant
        parts = small_parts(variant, **schedule)
        parts["vae"].encode = remembering(parts["vae"].encode)
        name = "HeliosPipeline" if variant == "base" else "HeliosPyramidPipeline"
        switches = {} if variant == "base" else {"is_distilled": variant == "distilled"}
        self.theirs = getattr(diffusers, name)(**parts, **switches)
        self.ours = getattr(heliograph.diffusers, name)(**parts, **switches)
        self.theirs.transformer.register_forward_hook(lambda module, args, out: tuple(x.contiguous() for x in out))
        for pipeline in (self.theirs, self.ours):
            pipeline.set_progress_bar_config(disable=True)

    def latents(self, seed: int = 0, **call: Any) -> tuple[Tensor, Tensor]:
        """Latents of ours and of theirs for the same call."""
        return self.run(self.ours, seed, **call), self.run(self.theirs, seed, **call)

    def run(self, pipeline: Any, seed: int = 0, **call: Any) -> Tensor:
        """Latents of one of the two."""
        call = {"generator": torch.Generator().manual_seed(seed), **small_call(self.variant), **call}
        vae, decode = pipeline.vae, pipeline.vae.decode
        try:
            if pipeline is self.theirs:
                vae.decode = lambda z, **_: (torch.zeros(z.shape[0], 3, 1, 8, 8),)
            return pipeline(**call, output_type="latent").frames
        finally:
            vae.decode = decode


def remembering(encode: Callable[[Tensor], Any]) -> Callable[..., Any]:
    """The same function of a tensor, which looks up what it has computed before."""
    known: dict[tuple[torch.Size, bytes], Any] = {}

    def recall(pixels: Tensor) -> Any:
        key = (pixels.shape, pixels.contiguous().numpy().tobytes())
        if key not in known:
            known[key] = encode(pixels)
        return known[key]

    return recall


def small_parts(variant: str, **schedule: Any) -> dict[str, Any]:
    """Constructor arguments of either library's pipeline."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = diffusers.HeliosTransformer3DModel(**SIZES).eval()
        tokenizer = small_tokenizer()
        config = UMT5Config(vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
        text_encoder = UMT5EncoderModel(config).eval()
    randomise(transformer)
    options = {"gamma": GAMMA, **SCHEDULES[variant], **schedule}
    scheduler = HeliosDMDScheduler(**options) if variant == "distilled" else HeliosScheduler(**options)
    return {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder,
        "vae": small_vae(),
        "scheduler": scheduler,
        "transformer": transformer,
    }


def small_vae() -> AutoencoderKLWan:
    """An autoencoder whose latents depend on the picture more than on the noise of its posterior."""
    generator = torch.Generator().manual_seed(0)
    vae = AutoencoderKLWan(base_dim=2, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    with torch.no_grad():
        for parameter in vae.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
            else:
                parameter.zero_()
        vae.quant_conv.bias[16:] = -4.0
    return vae


def small_tokenizer() -> T5Tokenizer:
    """A unigram tokenizer of a few words and all letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [("▁", -6.0)] + [(chr(code), -8.0) for code in range(ord("a"), ord("z") + 1)]
    words = special + letters + [(f"▁{word}", -4.0) for word in WORDS if len(word) > 1]
    return T5Tokenizer(vocab=words, extra_ids=0, model_max_length=TEXT_LENGTH)


def small_call(variant: str) -> dict[str, Any]:
    """A short call: three chunks of 64×64 pixels, few steps, no guidance."""
    steps: dict[str, Any] = {
        "base": {"num_inference_steps": 3},
        "mid": {"pyramid_num_inference_steps_list": [3, 1, 1]},
        "distilled": {"pyramid_num_inference_steps_list": [2, 2, 1]},
    }
    return {
        "prompt": "a red fish",
        "negative_prompt": "static blurred",
        "height": 64,
        "width": 64,
        "num_frames": 99,
        "guidance_scale": 1.0,
        "max_sequence_length": TEXT_LENGTH,
        **steps[variant],
    }


def picture(height: int = 64, width: int = 64, batch: int = 1, seed: int = 0) -> Tensor:
    """Smooth random pictures in [0, 1], `b 3 h w`."""
    coarse = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


def clip(num_frames: int = 33, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """A smooth random video in [0, 1], `1 f 3 h w`."""
    return picture(height, width, num_frames, seed)[None]
