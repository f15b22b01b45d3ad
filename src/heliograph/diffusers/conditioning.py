"""What a call starts from: nothing, a picture or a clip, as pixels or as latents that were encoded before."""

from dataclasses import dataclass
from typing import Any

from diffusers.video_processor import VideoProcessor
from jaxtyping import Float
from torch import Tensor

from heliograph.config import StartNoise
from heliograph.diffusers.codec import ChunkCodec
from heliograph.errors import UserError
from heliograph.seeds import GeneratorSeeds
from heliograph.starts import Start, encode_image, encode_video, noisy_image, noisy_video


@dataclass(frozen=True, eq=False)
class StartInput:
    """The start that a call asks for. One picture or clip serves all videos of the batch, or there is one for each.

    Latents stand in for what would be encoded: `image_latents` for the anchor, `fake_image_latents` for the newest
    frame of a picture, `video_latents` for a clip. What is missing is derived from what is there. The noise of each
    kind is None where none is to be added; it counts only for a start of its kind.
    """

    image: Any = None
    image_latents: Float[Tensor, "b c 1 h w"] | None = None
    fake_image_latents: Float[Tensor, "b2 c 1 h w"] | None = None
    video: Any = None
    video_latents: Float[Tensor, "b3 c t h w"] | None = None
    image_noise: StartNoise | None = None
    video_noise: StartNoise | None = None

    def __post_init__(self) -> None:
        from_image = [n for n in ("image", "fake_image_latents") if getattr(self, n) is not None]
        from_video = [n for n in ("video", "video_latents") if getattr(self, n) is not None]
        if self.image_latents is not None and self.video is not None:
            from_image.append("image_latents")
        if from_image and from_video:
            raise UserError(f"{from_image[0]} and {from_video[0]} were both given to start from; give one of them")


@dataclass(frozen=True)
class StartReader:
    """Reads the start of a batch of `batch` videos of `height` × `width` pixels."""

    codec: ChunkCodec
    processor: VideoProcessor
    seeds: GeneratorSeeds
    batch: int
    height: int
    width: int
    chunk_latents: int

    def read(self, given: StartInput) -> Start | None:
        """The start with its noise, one row for each video; None for a video from text alone.

        Raises:
            UserError: a size or a number of rows does not fit, or a clip is too short.
        """
        if given.video is not None or given.video_latents is not None:
            start = self._video(given)
            noise = given.video_noise
            return start if noise is None else noisy_video(start, noise, self.seeds, self.chunk_latents)
        if given.image is not None or given.image_latents is not None:
            start = self._image(given)
            return start if given.image_noise is None else noisy_image(start, given.image_noise, self.seeds)
        if given.fake_image_latents is not None:
            return Start(None, self._rows("fake_image_latents", given.fake_image_latents))
        return None

    def _image(self, given: StartInput) -> Start:
        """The anchor and the newest frame of a picture, each as given or encoded."""
        if given.image is not None and given.image_latents is None and given.fake_image_latents is None:
            return encode_image(self.codec, self._pixels(given.image), self.seeds)
        generator = self.seeds.generators
        if given.image_latents is not None:
            anchor = self._rows("image_latents", given.image_latents)
        else:
            anchor = self.codec.encode_image(self._pixels(given.image), generator)
        if given.fake_image_latents is not None:
            return Start(anchor, self._rows("fake_image_latents", given.fake_image_latents))
        if given.image is not None:
            return Start(anchor, self.codec.encode_still(self._pixels(given.image), generator))
        # Latents of a picture start the video as the picture would: it is decoded to let it stand still for a chunk.
        return Start(anchor, self.codec.encode_still(self.codec.decode_chunk(anchor)[:, :, 0], generator))

    def _video(self, given: StartInput) -> Start:
        """The anchor and the latent frames of a clip, each as given or encoded."""
        if given.video_latents is None:
            return encode_video(self.codec, self._clip(given.video), self.seeds)
        latents = self._rows("video_latents", given.video_latents)
        if given.image_latents is not None:
            return Start(self._rows("image_latents", given.image_latents), latents)
        if given.video is not None:
            first = self._clip(given.video)[:, :, 0]
            return Start(self.codec.encode_image(first, self.seeds.generators), latents)
        # The encoder is causal: the first latent frame of a clip is the latent of its first frame alone.
        return Start(latents[:, :, :1], latents)

    def _pixels(self, image: Any) -> Float[Tensor, "b 3 H W"]:
        """The picture of each video, in [-1, 1]."""
        return self._spread("image", self.processor.preprocess(image, height=self.height, width=self.width))

    def _clip(self, video: Any) -> Float[Tensor, "b 3 f H W"]:
        """The clip of each video, in [-1, 1]."""
        return self._spread("video", self.processor.preprocess_video(video, height=self.height, width=self.width))

    def _rows(self, name: str, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b2 c t h w"]:
        """Latents of each video, float32, where the pipeline computes."""
        channels = self.codec.autoencoder.config.z_dim
        wanted = (channels, latents.shape[2], *self.codec.cells(self.height, self.width))
        if tuple(latents.shape[1:]) != wanted:
            raise UserError(
                f"{name} has shape {tuple(latents.shape)}; a video of {self.height}×{self.width} needs "
                f"(batch, {channels}, frames, {wanted[2]}, {wanted[3]})"
            )
        return self._spread(name, latents).to(self.seeds.device).float()

    def _spread(self, name: str, given: Tensor) -> Tensor:
        """One row for each video."""
        if given.shape[0] not in (1, self.batch):
            raise UserError(
                f"{name} has {given.shape[0]} rows for {self.batch} videos; give one for each, or one for all"
            )
        return given.expand(self.batch, *given.shape[1:])
