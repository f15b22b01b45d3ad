"""Looking at a run: clips that the student makes now, as contact sheets."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from heliograph.config import MemoryConfig, SamplerConfig
from heliograph.media.stills import contact_sheet
from heliograph.media.target import write_whole
from heliograph.memory import History
from heliograph.model.denoiser import TransformerDenoiser
from heliograph.model.transformer import HeliosTransformer3DModel
from heliograph.rollout import rollout
from heliograph.seeds import RequestSeeds
from heliograph.shapes import FPS
from heliograph.train.parallel import Parallel
from heliograph.train.prompted import prompted
from heliograph.vae import LatentCodec, to_uint8

NUM_SHOWN, COLUMNS = 12, 4


@dataclass(frozen=True)
class SamplePlan:
    """What is made at every look: for each of the `texts` a clip of `num_chunks` chunks, always from the same noise.

    `texts` and `negative` are embeddings of one prompt each (1 l d); `size` is height and width in pixels.
    """

    texts: Sequence[Float[Tensor, "1 l d"]]
    negative: Float[Tensor, "1 l d"]
    sampler: SamplerConfig
    memory: MemoryConfig
    size: tuple[int, int]
    num_chunks: int = 3
    precision: torch.dtype = torch.float32


class ContactSheets:
    """Makes `folder/step-00000500-0.png`, one for each prompt; every process must call it, the first one writes."""

    def __init__(
        self, network: HeliosTransformer3DModel, codec: LatentCodec, plan: SamplePlan, folder: Path, parallel: Parallel
    ) -> None:
        self.network, self.codec, self.plan = network, codec, plan
        self.folder, self.parallel = folder, parallel

    def __call__(self, step: int) -> None:
        """Look at the student after `step` steps.

        Raises:
            OutputError: the disk is full or fails.
        """
        for number, text in enumerate(self.plan.texts):
            latents = self.clip(text, number)
            if self.parallel.is_first:
                self.folder.mkdir(parents=True, exist_ok=True)
                frames = torch.cat([to_uint8(self.codec.decode_chunk(chunk))[0] for chunk in latents])
                write_whole(self.folder / f"step-{step:08}-{number}.png", _sheet(frames))

    @torch.no_grad()
    def clip(self, text: Float[Tensor, "1 l d"], number: int) -> list[Float[Tensor, "1 c t h w"]]:
        """The chunks of one clip, from text alone."""
        plan, device = self.plan, self.parallel.device
        denoiser = TransformerDenoiser(self.network, device)
        channels = self.network.config["in_channels"]
        cells = self.codec.cells(*plan.size)
        history = History.empty((1, channels, *cells), plan.memory, device)
        conditioning = prompted(denoiser, text, plan.negative)
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == torch.bfloat16):
            turns = rollout(denoiser, history, conditioning, plan.sampler, RequestSeeds(number, device))
            return [turn.latents for turn in islice(turns, plan.num_chunks)]


def _sheet(frames: Tensor) -> bytes:
    """PNG of evenly spaced frames with their times."""
    count = min(NUM_SHOWN, len(frames))
    chosen = [round(place) for place in np.linspace(0, len(frames) - 1, count)]
    sheet = contact_sheet(frames[chosen].cpu().numpy(), [index / FPS for index in chosen], COLUMNS)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG")
    return buffer.getvalue()
