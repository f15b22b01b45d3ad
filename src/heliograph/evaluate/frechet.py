"""How far the videos of a folder lie, as a set, from true clips of the same prompts: a Fréchet distance with its floor.

The feature space is fixed and made by hand, so that nothing has to be trained or downloaded and every number can be
traced: for each stretch of 33 frames at a height of 64 pixels, in each of 2 × 3 fields of the picture, the mean of R, G
and B, the mean gradient of luma and the mean change of luma from frame to frame: 30 numbers.

It can tell wrong light and colour layout, blur, noise, stillness and too much motion, and sets that lack variety. It
cannot tell whether a blob is a fish, nor whether it is the one that was asked for: that is what the checkers are for.
The distance is between normal distributions with the sets' means and covariances (Fréchet; as in FID): any two sets of
so few videos lie some way apart, so it is read beside its noise floor, that of true clips against true clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from heliograph.data.diorama.record import Record
from heliograph.data.diorama.render import render
from heliograph.evaluate.sight import GRID
from heliograph.shapes import CHUNK_FRAMES

ROWS, COLUMNS = 2, 3
"""Fields of a picture."""

UNITS = np.array([60.0, 60.0, 60.0, 8.0, 3.0])
"""Levels by which red, green, blue, gradient and change are divided: about their spread over clips of the world."""

SHUFFLES = 200
"""Random halvings of true clips for the floor."""

MIN_VIDEOS = 8
"""Fewest videos that have a covariance worth the name."""

OTHER_SEED = 0x5EED
"""Added to the seeds of records, so that true clips have another layout than any the model could have been shown."""

Features = Float[np.ndarray, "n 30"]


@dataclass(frozen=True)
class Distance:
    """How far a set of videos lies from true clips.

    Attributes:
        value: distance from true clips of the same prompts.
        floor: the same of true clips from true clips, as many: the mean over halvings.
        floor_high: what 95 % of the halvings stay below; a value below it cannot be told from none.
        num_videos: videos in each set.
    """

    value: float
    floor: float
    floor_high: float
    num_videos: int


def distance(videos: Sequence[Features], records: Sequence[Record], height: int, width: int) -> Distance | None:
    """The distance of videos, by their features, from true clips of their records.

    Each record is rendered twice, in two layouts, for as many stretches as its video has, at the shape of the videos.
    None for fewer than `MIN_VIDEOS`, and for pictures of a shape that the world is not drawn in.
    """
    if len(videos) < MIN_VIDEOS or height < 32 or not 32 <= width <= 2 * height:
        return None
    one, other = (
        [_true(record, len(found), height, width, shift) for found, record in zip(videos, records, strict=True)]
        for shift in (1, 2)
    )
    given = np.concatenate(videos)
    value = float(np.mean([frechet(given, np.concatenate(true)) for true in (one, other)]))
    floors = np.array([_halved(one, other, seed) for seed in range(SHUFFLES)])
    return Distance(value, float(floors.mean()), float(np.quantile(floors, 0.95)), len(videos))


def features(frames: UInt8[np.ndarray, "f g v 3"]) -> Features:
    """A row for each whole stretch of 33 frames; of a shorter video one row, of all its frames."""
    stretches = [frames[at : at + CHUNK_FRAMES] for at in range(0, len(frames), CHUNK_FRAMES)]
    whole = [stretch for stretch in stretches if len(stretch) == CHUNK_FRAMES] or stretches[:1]
    return np.stack([_of_stretch(stretch) for stretch in whole])


def frechet(first: Features, second: Features) -> float:
    """|m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁C₂)^½) of the two sets' means and covariances (Dowson and Landau 1982).

    The trace of the root is the sum of the roots of the eigenvalues of C₁^½ C₂ C₁^½, which is symmetric.
    """
    means = first.mean(axis=0) - second.mean(axis=0)
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covariances[1] @ root), 0, None)).sum()
    return float(means @ means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared)


def _of_stretch(frames: UInt8[np.ndarray, "f g v 3"]) -> Float[np.ndarray, "30"]:
    luma = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.float32)
    across = np.abs(np.diff(luma, axis=2)).mean(axis=0)
    down = np.abs(np.diff(luma, axis=1)).mean(axis=0)
    change = np.abs(np.diff(luma, axis=0)).mean(axis=0) if len(luma) > 1 else np.zeros_like(luma[0])
    maps = [*np.moveaxis(frames.mean(axis=0, dtype=np.float32), -1, 0), across[:-1] + down[:, :-1], change]
    fields = [cv2.resize(np.ascontiguousarray(one), (COLUMNS, ROWS), interpolation=cv2.INTER_AREA) for one in maps]
    return (np.stack(fields, axis=-1) / UNITS).reshape(-1).astype(np.float64)


def _true(record: Record, num_stretches: int, height: int, width: int, shift: int) -> Features:
    """Features of a true clip of the record in another layout."""
    seed = (record.seed + shift * OTHER_SEED) % 2**62
    shown = Record(**{**vars(record), "seed": seed})
    shape = (height, width) if height <= GRID else (GRID, round(GRID * width / height))
    frames = render([shown], [0], num_stretches * CHUNK_FRAMES, *shape).frames[0]
    return features(frames.permute(0, 2, 3, 1).numpy())


def _halved(one: Sequence[Features], other: Sequence[Features], seed: int) -> float:
    """The distance of two sets of true clips: of each prompt's two, one goes to either set by a coin's toss."""
    coins = np.random.default_rng(seed).random(len(one)) < 0.5
    first = [a if coin else b for a, b, coin in zip(one, other, coins, strict=True)]
    second = [b if coin else a for a, b, coin in zip(one, other, coins, strict=True)]
    return frechet(np.concatenate(first), np.concatenate(second))
