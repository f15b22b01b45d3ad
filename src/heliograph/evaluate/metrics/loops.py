"""A video that comes back to what it showed before: self-similarity at every distance in time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from heliograph.evaluate.metrics.thumbnails import Thumbnails

MIN_PERIOD = 12
"""Shortest loop that is looked for, in frames: half a second."""

STILL_VARIANCE = 0.25
"""Variance over time, in levels², under which a video does not move and so cannot loop."""


@dataclass(frozen=True)
class Loop:
    """How much a video repeats itself.

    Attributes:
        score: 0 (never comes back) to 1 (repeats exactly).
        period: after how many frames it does so; 0 where it never does.
    """

    score: float
    period: int


def find_loop(pictures: Thumbnails) -> Loop:
    """The distance in time at which a video comes back the most.

    With s(L) of `self_similarity`, a return at distance L is how far s has risen since its lowest value at a shorter
    distance, and no more than s(L) itself: slow motion is alike at short distances but does not come back.
    """
    likeness = self_similarity(pictures)
    lowest = np.minimum.accumulate(likeness)
    returns = np.clip(np.minimum(likeness, likeness - lowest), 0.0, 1.0)
    returns[:MIN_PERIOD] = 0.0
    if returns.max(initial=0.0) <= 0.0:
        return Loop(0.0, 0)
    # Of a loop that runs several times every multiple of the period is as good; the first of them is the period.
    best = int(np.argmax(returns >= returns.max() - 0.02))
    return Loop(float(returns[best]), best)


def self_similarity(pictures: Thumbnails) -> Float[np.ndarray, "lags"]:
    """s(L) = 1 − D(L) / D for L from 0 to half the video: 1 the same picture, about 0 any two pictures of the video.

    D(L) is the mean over time of |x(t) − x(t + L)|² and D its expectation for two frames drawn at random, twice the
    variance over time. All distances at once: |x − y|² = |x|² + |y|² − 2xy, the products by a Fourier transform.
    A video that does not move has s = 0 beyond L = 0.
    """
    rows = pictures.reshape(len(pictures), -1).astype(np.float64)
    rows -= rows.mean(axis=0)
    num, cells = rows.shape
    lags = np.arange(num // 2 + 1)
    typical = 2 * float((rows**2).mean())
    if typical < 2 * STILL_VARIANCE:
        return (lags == 0).astype(np.float64)
    products = np.zeros(num)
    for column in rows.T:  # one cell at a time: memory stays that of the thumbnails
        spectrum = np.fft.rfft(column, 2 * num)
        products += np.fft.irfft(np.abs(spectrum) ** 2, 2 * num)[:num]
    squares = np.concatenate([[0.0], np.cumsum((rows**2).sum(axis=1))])
    distance = squares[num - lags] + (squares[num] - squares[lags]) - 2 * products[lags]
    return 1.0 - distance / (num - lags) / cells / typical
