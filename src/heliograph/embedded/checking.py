"""How far the checkers can be trusted: what they read from true clips of the world, clean and damaged."""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from einops import rearrange
from jaxtyping import UInt8

from heliograph.data.diorama import sample_record
from heliograph.data.diorama.render import render
from heliograph.embedded.endurance import Frames
from heliograph.evaluate.truth import Reader

FIRST_SEED = 9 * 10**6
"""Seeds of the clips."""

NUM_FRAMES = 99
"""Three chunks: what models are scored on."""


def noisy(frames: Frames) -> Frames:
    """White noise of deviation 12."""
    noise = np.random.default_rng(0).normal(0, 12, frames.shape)
    return (frames + noise).clip(0, 255).astype(np.uint8)


def blurred(frames: Frames) -> Frames:
    """A Gaussian of deviation 1 % of the height."""
    deviation = frames.shape[1] / 100
    return np.stack([cv2.GaussianBlur(frame, (0, 0), deviation) for frame in frames])


def darkened(frames: Frames) -> Frames:
    """Nine tenths of the light."""
    return (frames * 0.9).astype(np.uint8)


def squeezed(frames: Frames) -> Frames:
    """Each frame as a JPEG of quality 40."""
    return np.stack([_jpeg(frame) for frame in frames])


def _jpeg(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    written = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    read = cv2.imdecode(written, cv2.IMREAD_COLOR)
    assert read is not None, "a picture that was just written can be read"
    return read.astype(np.uint8)


DAMAGES: Mapping[str, Callable[[Frames], Frames]] = {
    "clean": lambda frames: frames,
    "noise": noisy,
    "blur": blurred,
    "dark": darkened,
    "jpeg": squeezed,
}


def check_checkers(num_clips: int, size: int, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Shares of clips of the whole world read right, by damage and attribute, and how many could be judged."""
    reader = Reader()
    right: dict[str, dict[str, list[bool]]] = {damage: {} for damage in DAMAGES}
    for number in range(num_clips):
        record = sample_record(FIRST_SEED + number, "train")
        frames = rearrange(render([record], [0], NUM_FRAMES, size, size).frames[0], "f c h w -> f h w c").numpy()
        for damage, harm in DAMAGES.items():
            for name, value in reader.check(harm(frames), record).items():
                right[damage].setdefault(name, []).append(value)
        if (number + 1) % 25 == 0:
            tell(f"{number + 1}/{num_clips} clips read")
    return {
        damage: {name: {"share": sum(found) / len(found), "num": len(found)} for name, found in sorted(read.items())}
        for damage, read in right.items()
    }
