"""Examples from the procedural world, rendered and encoded when they are asked for: no data set, and no end of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from heliograph.data.clips import DataError
from heliograph.data.diorama import Record, caption, sample_record
from heliograph.data.diorama.render import render
from heliograph.data.loader import Drawing
from heliograph.data.sections import anchor_of, cut_history, first_window
from heliograph.seeds import RequestSeeds
from heliograph.shapes import CHUNK_FRAMES, FRAME_STRIDE, LATENT_STRIDE
from heliograph.train.stage import Batch
from heliograph.vae import LatentCodec

Texts = Callable[[Sequence[str]], Float[Tensor, "b l d"]]
"""From captions to embeddings, padded rows zero."""

Tokens = Callable[[Sequence[str]], Int[Tensor, "b l"]]
"""From captions to the text encoder's input, padding 0, where that encoder is trained along."""


@dataclass(frozen=True)
class WorldClips:
    """Which clips of the world are shown.

    Attributes:
        height, width: pixels.
        max_chunks: a clip's example is one of its first chunks, each of these many equally likely.
        subject_weight: what a latent cell that shows a subject counts in the loss; 1 weighs all alike.
        num_records: clips that differ; None never shows one twice.
    """

    height: int
    width: int
    max_chunks: int = 5
    subject_weight: float = 1.0
    num_records: int | None = None

    def __post_init__(self) -> None:
        if self.max_chunks < 1 or self.subject_weight <= 0 or (self.num_records is not None and self.num_records < 1):
            raise DataError(f"{self} shows nothing; use max_chunks, num_records of 1 or more, subject_weight above 0")


class WorldSource:
    """Batches of the world, by number; `text` gives what a batch holds of the captions: embeddings or tokens."""

    def __init__(self, codec: LatentCodec, text: Texts | None, clips: WorldClips, drawing: Drawing) -> None:
        self.codec, self.text, self.clips, self.drawing = codec, text, clips, drawing
        self.tokens: Tokens | None = None
        self._seeds = RequestSeeds(drawing.seed)

    @classmethod
    def with_tokens(cls, codec: LatentCodec, tokens: Tokens, clips: WorldClips, drawing: Drawing) -> "WorldSource":
        """A source for a stage that trains the text encoder along: batches hold tokens instead of embeddings."""
        source = cls(codec, None, clips, drawing)
        source.tokens = tokens
        return source

    def batch(self, number: int) -> tuple[Batch, ...]:
        """The draws of batch `number`: the same clips and captions, a chunk of each for every draw."""
        first = number * self.drawing.batch_size
        indices = range(first, first + self.drawing.batch_size)
        records = [self._record(index) for index in indices]
        captions = [caption(record, index) for record, index in zip(records, indices, strict=True)]
        text = None if self.text is None else self.text(captions).float().cpu()
        tokens = None if self.tokens is None else self.tokens(captions).cpu()
        draws = (self._draw(records, f"{number}/{draw}") for draw in range(self.drawing.num_draws))
        return tuple(Batch(chunk, history, anchor, text, tokens, weight) for history, chunk, anchor, weight in draws)

    def fingerprint(self) -> str:
        """What the clips are."""
        return f"diorama, {self.clips}, seed {self.drawing.seed}"

    def _record(self, index: int) -> Record:
        limit = self.clips.num_records
        clip = index if limit is None else index % limit
        seed = torch.randint(2**62, (), generator=self._seeds.generator(f"world/{clip}"))
        return sample_record(int(seed), "train")

    def _draw(self, records: Sequence[Record], purpose: str) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """History, chunk, anchor and weight of a draw, if cells are weighted; a chunk of each record."""
        generator = self._seeds.generator(f"world/chunks/{purpose}")
        chunks = torch.randint(self.clips.max_chunks, (len(records),), generator=generator).tolist()
        examples = [self._example(record, chunk, generator) for record, chunk in zip(records, chunks, strict=True)]
        history, chunk, anchor, weight = (torch.stack(part) for part in zip(*examples, strict=True))
        return history, chunk, anchor, weight if self.clips.subject_weight != 1 else None

    def _example(self, record: Record, chunk: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """History, chunk, anchor and weight of one example, on the CPU."""
        clips, device = self.clips, self.codec.autoencoder.device
        first = first_window(chunk, self.drawing.memory_frames)
        num_frames = (chunk + 1 - first) * CHUNK_FRAMES
        footage = render([record], [first * CHUNK_FRAMES], num_frames, clips.height, clips.width, device)
        windows = unit_pixels(footage.frames[0]).split(CHUNK_FRAMES, dim=2)
        latents = torch.cat([self.codec.encode_chunk(window, generator) for window in windows])
        history, target = cut_history(latents, self.drawing.memory_frames)
        start = render([record], [0], 1, clips.height, clips.width, device).frames[0]
        anchor = anchor_of(self.codec.encode_image(unit_pixels(start)[:, :, 0], generator)[0], chunk)
        weight = 1 + (clips.subject_weight - 1) * cell_share(footage.mask[0, -CHUNK_FRAMES:], self.codec.stride)
        return history.cpu(), target.cpu(), anchor.cpu(), weight[None].cpu()


def cell_share(mask: Float[Tensor, "f H W"], stride: int = LATENT_STRIDE) -> Float[Tensor, "t h w"]:
    """How much of each latent cell of a chunk shows a subject, in [0, 1]: first one frame, then four at a time."""
    size = {"y": stride, "x": stride}
    head = reduce(mask[:1], "f (h y) (w x) -> f h w", "mean", **size)
    rest = reduce(mask[1:], "(t f) (h y) (w x) -> t h w", "mean", f=FRAME_STRIDE, **size)
    return torch.cat([head, rest])


def unit_pixels(frames: UInt8[Tensor, "f 3 h w"]) -> Float[Tensor, "1 3 f h w"]:
    """Bytes as the autoencoder takes them, in [-1, 1]."""
    return rearrange(frames, "f c h w -> 1 c f h w").float() / 127.5 - 1
