"""Pixels to normalised latents and back, one chunk at a time: the only place where latents are not normalised.

Every chunk is encoded and decoded on its own, with nothing carried over, as in training: its first latent frame holds
one pixel frame and the other eight hold four each.
"""

from collections.abc import Callable, Mapping
from threading import Lock
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor

from heliograph.checkpoint import STRIDE_KEY, ModelFolder, Place, load_fast_vae, load_linear_vae, load_vae
from heliograph.errors import CheckpointError, UserError
from heliograph.seeds import Generators
from heliograph.shapes import CHUNK_FRAMES, CHUNK_LATENTS, LATENT_STRIDE


@runtime_checkable
class Autoencoder(Protocol):
    """A video autoencoder with the calls of diffusers: 33 frames to 9 latent frames, 8 × 8 pixels to a cell.

    `encode(x).latent_dist` is a `DiagonalGaussianDistribution`, `decode(z).sample` a video in [-1, 1]; `config` has
    `z_dim`, `latents_mean` and `latents_std` (one number per channel).
    """

    @property
    def config(self) -> Any:
        """The values of `config.json`."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def encode(self, x: Tensor, /) -> Any:
        """Posterior of a video, pixels in [-1, 1], `b c f h w`."""
        ...

    def decode(self, z: Tensor, /) -> Any:
        """Video of latents that are not normalised."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """Another way to decode what an `Autoencoder` has encoded, on the same device."""

    def decode(self, z: Tensor, /) -> Tensor:
        """Video in [-1, 1] of latents that are not normalised."""
        ...


def stride_of(autoencoder: Autoencoder) -> int:
    """Pixels per latent cell in height and width: what the autoencoder's configuration says, else 8."""
    return int(getattr(autoencoder.config, STRIDE_KEY, LATENT_STRIDE))


class LatentCodec:
    """Normalised latents, float32, from pixels in [-1, 1], and back, through any `Autoencoder`.

    Inputs may lie on another device; they are moved to the autoencoder's, one piece at a time, and results stay there.
    No gradients are recorded. `generator` (or one per batch row) draws the posterior's noise, in the order of the
    calls; None draws from torch's own.
    """

    def __init__(self, autoencoder: Autoencoder, decoder: Decoder | None = None) -> None:
        """Encode with `autoencoder`, and decode with it too, or with another `decoder` of the same latents."""
        config = autoencoder.config
        if not len(config.latents_mean) == len(config.latents_std) == config.z_dim:
            raise CheckpointError(
                f"the autoencoder has z_dim={config.z_dim} channels but {len(config.latents_mean)} latents_mean and "
                f"{len(config.latents_std)} latents_std; correct vae/config.json"
            )
        self.autoencoder = autoencoder
        self.decoder = decoder
        # The library's autoencoder keeps the past of its convolutions in itself: two callers at once would mix theirs.
        self._alone = Lock()
        self._places: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._mean = rearrange(torch.tensor(config.latents_mean), "c -> 1 c 1 1 1")
        self._std = rearrange(torch.tensor(config.latents_std), "c -> 1 c 1 1 1")

    @torch.no_grad()
    def decode_chunk(self, latents: Float[Tensor, "b c 9 h w"]) -> Float[Tensor, "b 3 33 H W"]:
        """The frames of one chunk, in [-1, 1]."""
        mean, inverse_std = self._statistics()
        # divided by 1/std, not multiplied by std: the last bit of the reference depends on it
        z = latents.to(mean) / inverse_std + mean
        with self._alone:
            frames = self.autoencoder.decode(z).sample if self.decoder is None else self.decoder.decode(z)
        return frames.float()

    @property
    def device(self) -> torch.device:
        """Where encoding and decoding happen."""
        return self.autoencoder.device

    @property
    def stride(self) -> int:
        """Pixels per latent cell in height and width."""
        return stride_of(self.autoencoder)

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Latent height and width of pictures of `height` × `width` pixels."""
        return height // self.stride, width // self.stride

    def encode_image(self, image: Float[Tensor, "b 3 H W"], generator: Generators = None) -> Float[Tensor, "b c 1 h w"]:
        """The latent frame of a picture alone: the anchor of a video that starts from it."""
        return self._encode(rearrange(image, "b c h w -> b c 1 h w"), generator)

    def encode_still(self, image: Float[Tensor, "b 3 H W"], generator: Generators = None) -> Float[Tensor, "b c 1 h w"]:
        """The last latent frame of a chunk that shows only this picture: a "newest frame" with the right statistics.

        The first latent frame of a chunk, which holds one pixel frame, is distributed differently from the others.
        """
        return self.encode_chunk(repeat(image, "b c h w -> b c f h w", f=CHUNK_FRAMES), generator)[:, :, -1:]

    def encode_chunk(
        self, frames: Float[Tensor, "b 3 33 H W"], generator: Generators = None
    ) -> Float[Tensor, "b c 9 h w"]:
        """The latents of one chunk of frames."""
        latents = self._encode(frames, generator)
        assert latents.shape[2] == CHUNK_LATENTS, latents.shape
        return latents

    def encode_video(
        self, frames: Float[Tensor, "b 3 f H W"], generator: Generators = None
    ) -> tuple[Float[Tensor, "b c 1 h w"], Float[Tensor, "b c t h w"]]:
        """(anchor, latents): the latent of frame 0 alone, and those of the last whole chunks, each on its own.

        Of f frames the last 33·n are encoded, n = f // 33; the anchor is frame 0 of the video as given. The posterior
        of the anchor is drawn first, then those of the chunks in the order of time.

        Raises:
            UserError: there are fewer than 33 frames.
        """
        num_frames = frames.shape[2]
        if num_frames < CHUNK_FRAMES:
            raise UserError(
                f"the video has {num_frames} frames, a start needs at least {CHUNK_FRAMES}; give a longer one, "
                "or start from one of its frames as an image"
            )
        anchor = self.encode_image(frames[:, :, 0], generator)
        used = frames[:, :, num_frames % CHUNK_FRAMES :]
        chunks = [self.encode_chunk(chunk, generator) for chunk in used.split(CHUNK_FRAMES, dim=2)]
        return anchor, torch.cat(chunks, dim=2)

    @torch.no_grad()
    def _encode(self, frames: Float[Tensor, "b 3 f H W"], generator: Generators) -> Float[Tensor, "b c t h w"]:
        """Normalised latents drawn from the posterior of the frames."""
        height, width = frames.shape[-2:]
        assert height % self.stride == width % self.stride == 0, frames.shape
        mean, inverse_std = self._statistics()
        with self._alone:
            posterior = self.autoencoder.encode(frames.to(mean)).latent_dist
        z = posterior.sample(generator)
        return ((z - mean) * inverse_std).float()

    def _statistics(self) -> tuple[Float[Tensor, "1 c 1 1 1"], Float[Tensor, "1 c 1 1 1"]]:
        """Mean and 1/std of the raw latents, where and as the autoencoder computes (it may have been moved)."""
        place = self.autoencoder.device, self.autoencoder.dtype
        if place not in self._places:
            self._places[place] = self._mean.to(*place), 1.0 / self._std.to(*place)
        return self._places[place]


def to_uint8(frames: Float[Tensor, "b 3 f H W"]) -> UInt8[Tensor, "b f H W 3"]:
    """Frames in [-1, 1] as bytes for a screen or a file, rounded to the nearest, on the same device."""
    levels = ((frames.float() / 2 + 0.5).clamp(0, 1) * 255).round()
    return rearrange(levels.to(torch.uint8), "b c f h w -> b f h w c").contiguous()


Loader = Callable[[ModelFolder, torch.dtype, Place], Autoencoder]

LOADERS: Mapping[tuple[str, str], Loader] = MappingProxyType(
    {
        ("diffusers", "AutoencoderKLWan"): load_vae,
        ("heliograph", "FastAutoencoder"): load_fast_vae,
        ("heliograph", "LinearAutoencoder"): load_linear_vae,
    }
)
"""How to load each supported (library, class) of `model_index.json`; this package's own are of "heliograph"."""


def load_autoencoder(folder: ModelFolder, dtype: torch.dtype, device: Place) -> Autoencoder:
    """The autoencoder of a model, of the class that `model_index.json` names; the reference runs it in float32.

    Nothing is imported by a name that a file gives.

    Raises:
        CheckpointError: the class is not supported, or the weights are missing, damaged or not its own.
    """
    component = folder.index.components.get("vae")
    if component is None:
        raise CheckpointError(f"the model {folder.path} names no vae in model_index.json; use a complete model")
    loader = LOADERS.get((component.library, component.class_name))
    if loader is None:
        names = ", ".join(f"{library}.{name}" for library, name in LOADERS)
        raise CheckpointError(
            f"the autoencoder {component.library}.{component.class_name} of {folder.path} is not supported; "
            f"use a model with one of: {names}"
        )
    return loader(folder, dtype, device)
