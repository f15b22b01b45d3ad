"""The semantic score: the cosine of ViCLIP's features of a video and of its prompt."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from heliograph.evaluate.networks.vit import TextTower, VisionTower
from heliograph.evaluate.networks.vocabulary import Vocabulary
from heliograph.evaluate.networks.windows import clip_pictures, ends, middles
from heliograph.evaluate.scores import Score
from heliograph.evaluate.videos import Shape, Video

NUM_FRAMES = 8
"""Frames that the network sees of a video, unless its weights say otherwise."""


class Semantic:
    """`title` names the weights. Most of a long prompt is ignored: the text tower reads 32 tokens."""

    names = ("semantic", "semantic drift")

    def __init__(self, vision: VisionTower, text: TextTower, vocabulary: Vocabulary, title: str) -> None:
        self.vision, self.text, self.vocabulary, self.title = vision, text, vocabulary, title

    def source(self, video: Video) -> str | None:
        """The weights and the prompt."""
        return f"{self.title} · {hashlib.sha256((video.prompt or '').encode()).hexdigest()[:12]}"

    def watch(self, video: Video, shape: Shape, chunk_frames: int) -> "SemanticWatch":
        """Begin with a video."""
        return SemanticWatch(self, video.prompt, shape.num_frames)


class SemanticWatch:
    """Keeps the frames that are to be shown."""

    def __init__(self, network: Semantic, prompt: str | None, num_frames: int) -> None:
        self._network, self._prompt = network, prompt
        parts = ((0, num_frames), *ends(num_frames, NUM_FRAMES))
        self._asked = [middles(*part, NUM_FRAMES) for part in parts]
        self._pictures: dict[int, Float[Tensor, "3 s s"]] = {}
        self._seen = 0

    def push(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Keep those that are asked for."""
        wanted = {index for part in self._asked for index in part}
        for index in range(self._seen, self._seen + len(frames)):
            if index in wanted:
                frame = frames[index - self._seen]
                self._pictures[index] = clip_pictures(frame[None], self._network.vision.side)[0]
        self._seen += len(frames)

    @torch.no_grad()
    def scores(self) -> list[Score]:
        """The whole video, and |first 15 % − last 15 %|."""
        if self._prompt is None:
            return [Score(name, None, "its prompt is not known") for name in Semantic.names]
        network = self._network
        like = next(network.vision.parameters())
        text = network.text(network.vocabulary.tokens(self._prompt, network.text.num_tokens).to(like.device))
        clips = torch.stack([torch.stack([self._pictures[index] for index in part]) for part in self._asked])
        likeness = torch.cosine_similarity(network.vision(clips.to(like)), text, dim=1)
        whole, first, last = likeness.tolist()
        return [Score("semantic", whole), Score("semantic drift", abs(first - last))]
