"""Starts: from a picture or a clip to the history that a video goes on from, with a little noise on it (Helios, image-
and video-to-video).

Noise on the start lets the model move away from what it is given: more noise, more motion and less identity. Every
number is drawn in the order of the released engine: first all that the autoencoder draws, then the noise.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from heliograph.config import MemoryConfig, StartNoise
from heliograph.flow.path import interpolate
from heliograph.memory import History
from heliograph.seeds import Seeds
from heliograph.shapes import CHUNK_LATENTS
from heliograph.vae import LatentCodec


@dataclass(frozen=True, eq=False)
class Start:
    """What comes before the first chunk, as normalised float32 latents.

    `anchor` is the latent of the first frame alone (None: the first frame that is made becomes the anchor), `latents`
    are the latent frames before the video, oldest first.
    """

    anchor: Float[Tensor, "b c 1 h w"] | None
    latents: Float[Tensor, "b c t h w"]

    def history(self, memory: MemoryConfig) -> History:
        """The history of a video that goes on from here; what is older than it remembers is forgotten."""
        return History.from_video(self.anchor, self.latents, memory)


def image_start(
    codec: LatentCodec, image: Float[Tensor, "b 3 H W"], noise: StartNoise | None, seeds: Seeds, memory: MemoryConfig
) -> History:
    """The history of a video that starts from a picture, pixels in [-1, 1].

    The picture is the anchor, and the last latent of it standing still for a whole chunk is the newest frame. The
    history lies where `seeds` draws; without noise, where the autoencoder is.
    """
    start = encode_image(codec, image, seeds)
    return (start if noise is None else noisy_image(start, noise, seeds)).history(memory)


def video_start(
    codec: LatentCodec, video: Float[Tensor, "b 3 f H W"], noise: StartNoise | None, seeds: Seeds, memory: MemoryConfig
) -> History:
    """The history of a video that continues a clip of at least 33 frames, pixels in [-1, 1].

    Frame 0 is the anchor; the last 33·n frames fill the tiers. The history lies where `seeds` draws; without noise,
    where the autoencoder is.

    Raises:
        UserError: the clip is too short.
    """
    start = encode_video(codec, video, seeds)
    return (start if noise is None else noisy_video(start, noise, seeds)).history(memory)


def encode_image(codec: LatentCodec, image: Float[Tensor, "b 3 H W"], seeds: Seeds) -> Start:
    """The start from a picture, without noise on it."""
    anchor = codec.encode_image(image, seeds.generator("start/anchor"))
    return Start(anchor, codec.encode_still(image, seeds.generator("start/newest")))


def encode_video(codec: LatentCodec, video: Float[Tensor, "b 3 f H W"], seeds: Seeds) -> Start:
    """The start from a clip, without noise on it.

    Raises:
        UserError: the clip has fewer than 33 frames.
    """
    return Start(*codec.encode_video(video, seeds.generator("start/video")))


def noisy_image(start: Start, noise: StartNoise, seeds: Seeds) -> Start:
    """The start from a picture with noise on the anchor (`noise.image`) and on the newest frame (`noise.video`)."""
    assert start.anchor is not None, "a picture is the anchor"
    anchor = _with_noise(start.anchor, noise.image, "start/anchor-noise", seeds)
    return Start(anchor, _with_noise(start.latents, noise.video, "start/newest-noise", seeds))


def noisy_video(start: Start, noise: StartNoise, seeds: Seeds, chunk_latents: int = CHUNK_LATENTS) -> Start:
    """The start from a clip with noise on the anchor (`noise.image`) and on every latent frame (`noise.video`).

    Numbers are drawn for `chunk_latents` latent frames at a time, the levels of all of them before their noise.
    """
    assert start.anchor is not None, "the first frame of a clip is the anchor"
    anchor = _with_noise(start.anchor, noise.image, "start/anchor-noise", seeds)
    chunks = [
        _with_noise(chunk, noise.video, f"start/video-noise/{index}", seeds)
        for index, chunk in enumerate(start.latents.split(chunk_latents, dim=2))
    ]
    return Start(anchor, torch.cat(chunks, dim=2))


def _with_noise(
    latents: Float[Tensor, "b c t h w"], sigmas: tuple[float, float], purpose: str, seeds: Seeds
) -> Float[Tensor, "b c t h w"]:
    """(1 − σ)·x0 + σ·ε with one σ for each latent frame, drawn evenly from `sigmas`, and fresh ε."""
    low, high = sigmas
    sigma = seeds.uniform(f"{purpose}/sigma", latents.shape[2]) * (high - low) + low
    eps = seeds.normal(purpose, tuple(latents.shape))
    return interpolate(latents.to(eps.device), eps, rearrange(sigma, "t -> 1 1 t 1 1"))
