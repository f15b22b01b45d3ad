"""The aesthetic score: CLIP's features of every frame, normalised, through LAION's linear head, over ten."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn
from torch.nn import functional

from heliograph.evaluate.drift import curve, drift
from heliograph.evaluate.networks.vit import VisionTower
from heliograph.evaluate.networks.windows import clip_pictures
from heliograph.evaluate.scores import Score
from heliograph.evaluate.videos import Shape, Video


class Aesthetic:
    """`title` names the weights."""

    names = ("aesthetic", "aesthetic drift")

    def __init__(self, tower: VisionTower, head: nn.Linear, title: str) -> None:
        self.tower, self.head, self.title = tower, head, title

    def source(self, video: Video) -> str | None:
        """The weights."""
        return self.title

    def watch(self, video: Video, shape: Shape, chunk_frames: int) -> "AestheticWatch":
        """Begin with a video."""
        return AestheticWatch(self)


class AestheticWatch:
    """A number for each frame."""

    def __init__(self, network: Aesthetic) -> None:
        self._network = network
        self._found: list[float] = []

    @torch.no_grad()
    def push(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Rate each frame."""
        tower, head = self._network.tower, self._network.head
        pictures = clip_pictures(frames, tower.side).to(head.weight)
        features = functional.normalize(tower(pictures[:, None]), dim=-1)
        self._found += (head(features)[:, 0] / 10).tolist()

    def scores(self) -> list[Score]:
        """Mean over frames; |first 15 % − last 15 %|."""
        values = np.array(self._found)
        return [
            Score("aesthetic", float(values.mean()), curve=tuple(curve(values))),
            Score("aesthetic drift", drift(values)),
        ]
