"""Frames shown larger than they were made: for looking at, nothing is added to them."""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import UInt8


def enlarge(frames: UInt8[np.ndarray, "f h w 3"], factor: int) -> UInt8[np.ndarray, "f h2 w2 3"]:
    """Every frame `factor` times as high and wide, bicubic; 1 gives the frames themselves."""
    if factor == 1:
        return frames
    pixels = rearrange(torch.from_numpy(frames), "f h w c -> f c h w").float()
    larger = F.interpolate(pixels, scale_factor=factor, mode="bicubic", align_corners=False)
    return rearrange(larger.round().clamp(0, 255).to(torch.uint8), "f c h w -> f h w c").contiguous().numpy()
