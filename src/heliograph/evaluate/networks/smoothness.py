"""Motion smoothness: odd frames are made again by AMT-S from the even ones beside them; (255 − difference) / 255."""

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from heliograph.evaluate.drift import curve
from heliograph.evaluate.metrics.picture import shrunk
from heliograph.evaluate.metrics.smoothness import MIN_DRIFT_FRAMES
from heliograph.evaluate.networks.amt import MULTIPLE
from heliograph.evaluate.networks.windows import ends
from heliograph.evaluate.scores import Score
from heliograph.evaluate.videos import Shape, Video

SMALLEST = 128
"""Height and width that pictures are padded to at least: below it the likeness cannot be halved as often as it must."""


class Smoothness:
    """`title` names the weights."""

    names = ("motion smoothness", "motion smoothness drift")

    def __init__(self, network: nn.Module, title: str) -> None:
        self.network, self.title = network, title

    def source(self, video: Video) -> str | None:
        """The weights."""
        return self.title

    def watch(self, video: Video, shape: Shape, chunk_frames: int) -> "SmoothnessWatch":
        """Begin with a video."""
        return SmoothnessWatch(self.network, shape.num_frames)


class SmoothnessWatch:
    """Keeps two frames. The last 15 % of a video may begin with an odd frame; its own odd frames are then even ones."""

    def __init__(self, network: nn.Module, num_frames: int) -> None:
        self._network, self._num_frames = network, num_frames
        (_, self._first_stop), (self._last_start, _) = ends(num_frames, MIN_DRIFT_FRAMES)
        self._held: list[UInt8[np.ndarray, "h w 3"]] = []
        self._seen = 0
        self._errors: dict[int, float] = {}

    def push(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Make the frames again that are to be made again."""
        for frame in shrunk(frames):
            self._held = [*self._held[-2:], frame]
            middle = self._seen - 1
            if len(self._held) == 3 and self._is_asked(middle):
                made = between(self._network, self._held[0], self._held[2])
                self._errors[middle] = float(cv2.absdiff(self._held[1], made).mean())
            self._seen += 1

    def scores(self) -> list[Score]:
        """Of the whole video, and of the first 15 % against the last."""
        errors = np.array([error for index, error in self._errors.items() if index % 2])
        if not len(errors):
            reason = f"has {self._num_frames} of the 3 frames that are needed"
            return [Score(name, None, reason) for name in Smoothness.names]
        values = (255 - errors) / 255
        whole = Score("motion smoothness", float(values.mean()), curve=tuple(curve(values)))
        if self._num_frames < 2 * MIN_DRIFT_FRAMES:
            reason = f"has {self._num_frames} of the {2 * MIN_DRIFT_FRAMES} frames that are needed"
            return [whole, Score("motion smoothness drift", None, reason)]
        first = [self._errors[index] for index in range(1, self._first_stop - 1, 2)]
        last = [self._errors[index] for index in range(self._last_start + 1, self._num_frames - 1, 2)]
        return [whole, Score("motion smoothness drift", abs(float(np.mean(first) - np.mean(last))) / 255)]

    def _is_asked(self, middle: int) -> bool:
        """Odd frames of the video, and those of its last part counted from where that begins."""
        is_last = middle > self._last_start and (middle - self._last_start) % 2 == 1
        return middle % 2 == 1 or is_last


@torch.no_grad()
def between(
    network: nn.Module, before: UInt8[np.ndarray, "h w 3"], after: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame between two; levels are cut to whole ones, not rounded, as in the reference."""
    height, width = before.shape[:2]
    made = network(*(_padded(frame).to(next(network.parameters())) for frame in (before, after)))
    top, left = (made.shape[2] - height) // 2, (made.shape[3] - width) // 2
    inner = made[0, :, top : top + height, left : left + width].permute(1, 2, 0)
    return (inner * 255).clamp(0, 255).to(torch.uint8).cpu().numpy()


def _padded(frame: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "1 3 H W"]:
    """In [0, 1], its border repeated on all sides up to a multiple of 16."""
    picture = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    missing = [max(SMALLEST, side + -side % MULTIPLE) - side for side in frame.shape[1::-1]]
    across, down = missing
    return functional.pad(picture, (across // 2, across - across // 2, down // 2, down - down // 2), mode="replicate")
