"""Which frames a network is shown, and how they are prepared: HeliosBench's choices."""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from heliograph.evaluate.drift import portion

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on, red, green, blue."""


def middles(first: int, stop: int, num: int) -> list[int]:
    """The middle frame of each of `num` equal stretches of frames `first` … `stop − 1`.

    Of fewer frames than that each is taken once, and the last again for those that are missing.
    """
    length = stop - first
    assert length >= 1, f"no frame from {first} to {stop}"
    borders = np.linspace(0, length, min(num, length) + 1).astype(int)
    found = [first + int(low + high - 1) // 2 for low, high in pairwise(borders)]
    return found + [found[-1]] * (num - len(found))


def strides(first: int, stop: int, num: int) -> list[int]:
    """Every ⌊n / num⌋-th of the n frames `first` … `stop − 1`, from the first on; at most n."""
    step = max(1, (stop - first) // num)
    return list(range(first, stop, step))[:num]


def ends(num_frames: int, least: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(first, stop) of the first and the last 15 % of a video, each of `least` frames or more where it has as many."""
    part = min(num_frames, max(portion(num_frames), least))
    return (0, part), (num_frames - part, num_frames)


def clip_pictures(frames: UInt8[np.ndarray, "f h w 3"], side: int) -> Float[Tensor, "f 3 side side"]:
    """As CLIP sees them: the shorter side enlarged or shrunk to `side` (bicubic, no antialiasing, rounded to whole
    levels), the middle cut out, and each colour normalised.
    """
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    height, width = pixels.shape[-2:]
    short = min(height, width)
    size = (int(side * height / short), int(side * width / short))
    sized = functional.interpolate(pixels, size=size, mode="bicubic", align_corners=False).round().clamp(0, 255)
    top, left = round((size[0] - side) / 2), round((size[1] - side) / 2)
    middle = sized[:, :, top : top + side, left : left + side] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (middle - mean) / std
