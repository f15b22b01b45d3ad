"""Whether a video made chunk by chunk shows where its chunks meet."""

import numpy as np
from jaxtyping import Float


def seam_ratio(jumps: Float[np.ndarray, "n"], chunk_frames: int, floor: float) -> float:
    """(median jump at chunk borders + floor) / (median jump inside chunks + floor); 1 is no seam, 2 twice the jump.

    `jumps[i]` is how much something changes from frame i to frame i + 1, and borders lie before frames
    `chunk_frames`, 2 `chunk_frames`, …. `floor`, in the unit of the jumps, is a change too small to see: it keeps a
    still video at 1. Medians, because one scene cut inside a chunk must not hide the seams.

    Raises:
        ValueError: the video has no border, or nothing but borders.
    """
    is_border = (np.arange(len(jumps)) + 1) % chunk_frames == 0
    if not is_border.any() or is_border.all():
        raise ValueError(f"{len(jumps) + 1} frames hold no border between chunks of {chunk_frames} frames")
    return float((np.median(jumps[is_border]) + floor) / (np.median(jumps[~is_border]) + floor))


def steps(values: Float[np.ndarray, "f"]) -> Float[np.ndarray, "n"]:
    """How far a property of a frame lies from that of the frame before, n = f − 1."""
    return np.abs(np.diff(values))
