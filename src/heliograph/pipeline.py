"""The model from Python: load it once, call it for a video, stream it, steer it.

pipe = heliograph.HeliosPipeline.from_pretrained("tiny")
pipe("a red fish swims to the left", seconds=10, seed=0).save("fish.mp4")
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from heliograph.checkpoint import ModelFolder, adapted, native_size, open_model
from heliograph.config import EXACT, Lora, SpeedConfig, StartNoise
from heliograph.engine.engine import Engine, load_engine
from heliograph.engine.machine import this_machine
from heliograph.engine.needs import needs_of, workload_of
from heliograph.engine.pictures import Chunk
from heliograph.engine.placement import plans_for
from heliograph.engine.plan import Plan, choose, choose_rounded
from heliograph.engine.session import Session, chunks_of, resume
from heliograph.errors import UserError
from heliograph.media.frames import Fit, fill, read_first_frame, read_image, read_video
from heliograph.media.sink import open_sink
from heliograph.memory import History
from heliograph.request import Request, chosen_sampler
from heliograph.sample import make_sampler
from heliograph.seeds import RequestSeeds, check_seed
from heliograph.shapes import CHUNK_FRAMES, FPS, chunks_for, frames_for
from heliograph.starts import image_start, video_start
from heliograph.text import check_prompt
from heliograph.timeline import Cue, PromptTimeline

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats that the transformer and the text encoder may run in."""

START_FRAMES = 1 + 3 * CHUNK_FRAMES
"""Frames read of a clip: the first one, and the newest three chunks, more than is remembered."""

Picture = str | Path | Image.Image | UInt8[np.ndarray, "h w 3"]
Clip = str | Path | UInt8[np.ndarray, "f h w 3"]


class Choices(TypedDict, total=False):
    """What a video may be asked with, besides its prompt; all optional.

    `image` or `video` (not both) start it from a picture or a clip: a path, or RGB bytes; `start_noise` then trades
    identity for motion. `height` and `width` are pixels; the default is the size the model was trained at. `steps` are
    sampling steps on each pyramid level, `first_chunk_steps` those of the first chunk. `guidance_scale` 1 turns
    guidance off, `guided_levels` is how many levels, coarse ones first, have it, and `negative_prompt` counts only
    there. `match_chunks` leads each chunk in from the end of the one before, against jumps between chunks; the default
    is the model's, off for the released ones.
    """

    image: Picture | None
    video: Clip | None
    height: int | None
    width: int | None
    seed: int
    steps: tuple[int, ...] | None
    first_chunk_steps: tuple[int, ...] | None
    guidance_scale: float | None
    guided_levels: int | None
    negative_prompt: str
    start_noise: StartNoise
    match_chunks: bool | None


@dataclass(frozen=True)
class Video:
    """A finished video in memory."""

    frames: UInt8[np.ndarray, "f h w 3"]
    fps: int

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write it as `.mp4`, `.gif`, `.png` (contact sheet) or `.npy`, by the name's ending.

        Raises:
            OutputError: the ending is not known, the file exists, or it cannot be written.
        """
        with open_sink(Path(path), self.fps, overwrite=overwrite) as sink:
            for start in range(0, len(self.frames), CHUNK_FRAMES):
                sink.write(self.frames[start : start + CHUNK_FRAMES])


class HeliosPipeline:
    """A loaded Helios model."""

    def __init__(self, engine: Engine, folder: ModelFolder) -> None:
        self.engine = engine
        self.folder = folder

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "tiny",
        *,
        device: str = "auto",
        dtype: str = "auto",
        prompts: tuple[str, ...] = (),
        speed: SpeedConfig = EXACT,
        loras: Sequence[Lora] = (),
    ) -> "HeliosPipeline":
        """Load a model, in the way of running that fits this machine best (`heliograph doctor` explains it).

        Args:
            model: `tiny`, a folder, or a hub id.
            device: `auto`, or a device of PyTorch such as `cpu`, `cuda`, `cuda:1`, `mps`.
            dtype: `auto`, `float32`, `bfloat16` or `float16`; `int8` rounds the transformer's matrices to 8 bits.
            prompts: prompts that will be used, the negative one included. Where the text encoder does not fit beside
                the transformer they are encoded first; any other prompt then loads the text encoder again.
            speed: how the machine is used, and what is approximated; `FAST` is every approximation.
            loras: low-rank adapters, folded into the transformer's weights.

        Raises:
            CheckpointError: the model or an adapter is not found, incomplete, damaged or of another architecture.
            UserError: the device or dtype is not there, or the model fits no way of running it here.
        """
        folder = open_model(str(model))
        if folder.is_random:
            logger.warning("%s has random weights: it was never trained, and what it makes is noise", model)
        plan = choose_plan(folder, device, dtype)
        return cls(load_engine(adapted(folder, loras), plan, prompts, speed), folder)

    @property
    def is_random(self) -> bool:
        """Whether the weights were never trained, so that only noise comes out."""
        return self.folder.is_random

    def __call__(
        self,
        prompt: str | PromptTimeline,
        *,
        seconds: float | None = None,
        num_frames: int | None = None,
        **choices: Unpack[Choices],
    ) -> Video:
        """Make a whole video. Its length is `num_frames`, exactly, or `seconds` (5 if neither is given).

        The frames are held in memory: for long videos use `stream` and a sink.

        Raises:
            UserError: something that was asked for is not possible; the message says what to change.
        """
        length = video_length(seconds, num_frames)
        session = self.session(prompt, **choices)
        chunks = [chunk.frames for chunk in chunks_of(session, chunks_for(length))]
        return Video(np.concatenate(chunks)[:length], FPS)

    def stream(self, prompt: str | PromptTimeline, **choices: Unpack[Choices]) -> Iterator[Chunk]:
        """Chunk after chunk of 33 frames, for ever, in memory that does not grow."""
        yield from chunks_of(self.session(prompt, **choices))

    def session(self, prompt: str | PromptTimeline, **choices: Unpack[Choices]) -> Session:
        """A video that is made chunk by chunk and can be steered, saved and forked between them.

        Raises:
            UserError: something that was asked for is not possible; the message says what to change.
        """
        request = self.request(prompt, **choices)
        return Session(self.engine, request, self._start(request, **choices))

    def resume(self, path: str | Path) -> Session:
        """The session that `session.save(path)` stored; it goes on exactly as it would have.

        Raises:
            StateError: the file is damaged, of another version, or was made with another model.
        """
        return resume(self.engine, path)

    def request(self, prompt: str | PromptTimeline, **choices: Unpack[Choices]) -> Request:
        """What the choices ask for, checked and complete, before anything is computed."""
        timeline = prompt if isinstance(prompt, PromptTimeline) else PromptTimeline((Cue(0, check_prompt(prompt)),))
        seed = choices.get("seed", 0)
        check_seed(seed)
        sampler = chosen_sampler(
            self.engine.sampler,
            choices.get("steps"),
            choices.get("first_chunk_steps"),
            choices.get("guidance_scale"),
            choices.get("guided_levels"),
        )
        height = choices.get("height") or self.engine.size[0]
        width = choices.get("width") or self.engine.size[1]
        asked = choices.get("match_chunks")
        matches = self.engine.matches_chunks if asked is None else asked
        negative, codec = choices.get("negative_prompt", ""), self.engine.codec
        request = Request(timeline, negative, height, width, seed, sampler, matches, codec.stride)
        make_sampler(sampler, 0, *codec.cells(height, width))  # refuses a size with no schedule
        return request

    def _start(self, request: Request, **choices: Unpack[Choices]) -> History:
        """The history that the video starts from."""
        image, video = choices.get("image"), choices.get("video")
        if image is not None and video is not None:
            raise UserError("both an image and a video were given to start from; give one of them")
        seeds = RequestSeeds(request.seed, self.engine.device)
        noise = choices.get("start_noise", StartNoise())
        if image is not None:
            pixels = as_picture(image, request.height, request.width)
            return image_start(self.engine.codec, pixels, noise, seeds, self.engine.memory)
        if video is not None:
            pixels = as_clip(video, request.height, request.width)
            return video_start(self.engine.codec, pixels, noise, seeds, self.engine.memory)
        cells = self.engine.codec.cells(request.height, request.width)
        channels = self.engine.num_channels
        return History.empty((1, channels, *cells), self.engine.memory, self.engine.device)


def choose_plan(folder: ModelFolder, device: str, dtype: str) -> Plan:
    """The way of running this model that fits the machine best, on the device and in the dtype asked for.

    Raises:
        UserError: there is no such device or dtype, or nothing fits; the message says what is missing.
    """
    if dtype not in ("auto", "int8") and dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r} is not known; use auto, {', '.join(DTYPES)}, or int8 for 8-bit weights")
    height, width = native_size(folder.path)
    needs = needs_of(folder, workload_of(folder, height, width))
    plans = plans_for(needs, this_machine(folder.path), DTYPES.get(dtype))
    return choose_rounded(plans, device) if dtype == "int8" else choose(plans, device)


def as_picture(image: Picture, height: int, width: int) -> Float[Tensor, "1 3 H W"]:
    """A picture to start from, cropped to the shape asked for, pixels in [-1, 1].

    Raises:
        MediaError: the file is missing, damaged, too large, or no picture.
    """
    if isinstance(image, str | Path):
        pixels = read_image(image, height, width)
    else:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        pixels = fill(picture.convert("RGB"), height, width, Fit.CROP)
    return rearrange(_signed(pixels), "h w c -> 1 c h w")


def as_clip(video: Clip, height: int, width: int) -> Float[Tensor, "1 3 n H W"]:
    """What a start needs of a clip, pixels in [-1, 1]: its first frame, and the newest frames that memory can hold.

    Raises:
        MediaError: the file is missing, damaged, too large, no video, or shorter than 33 frames.
    """
    if isinstance(video, str | Path):
        pixels = read_video(video, height, width, last=START_FRAMES, min_frames=CHUNK_FRAMES)
        if len(pixels) == START_FRAMES:  # more came before these; the first of all is the anchor
            pixels[0] = read_first_frame(video, height, width)
    else:
        is_long = len(video) > START_FRAMES
        chosen = np.concatenate([video[:1], video[1 - START_FRAMES :]]) if is_long else video
        pixels = np.stack([fill(Image.fromarray(frame), height, width, Fit.CROP) for frame in chosen])
    return rearrange(_signed(pixels), "f h w c -> 1 c f h w")


def _signed(pixels: UInt8[np.ndarray, "..."]) -> Float[Tensor, "..."]:
    """Bytes as numbers in [-1, 1]."""
    return torch.from_numpy(pixels).float() / 127.5 - 1


def video_length(seconds: float | None, num_frames: int | None) -> int:
    """Pixel frames asked for: `num_frames`, or `seconds`, or 5 seconds."""
    if seconds is not None and num_frames is not None:
        raise UserError(f"both seconds={seconds} and num_frames={num_frames} were given; give one of them")
    length = num_frames if num_frames is not None else frames_for(5.0 if seconds is None else seconds)
    chunks_for(length)
    return length
