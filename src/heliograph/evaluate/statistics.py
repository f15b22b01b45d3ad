"""How sure a mean is, and whether two sets of videos differ: resampling, without assumptions on the distribution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float

RESAMPLES = 4000
"""Bootstrap samples of an interval."""

SIGN_PATTERNS = 20000
"""Random sign patterns of a test: p is never below 1 over this, also where a hundred tests are judged together."""

EXACT_PAIRS = 12
"""Up to so many pairs every sign pattern is tried."""

SEED = 0
"""The same scores always give the same interval."""


@dataclass(frozen=True)
class Interval:
    """A mean over videos. `low` and `high` are its 95 % interval; None for a mean of fewer than two videos."""

    mean: float
    low: float | None
    high: float | None
    num: int


@dataclass(frozen=True)
class PairedTest:
    """Second minus first, over pairs of videos.

    Attributes:
        difference: the mean, with its bootstrap interval.
        p: chance of a mean difference at least this large in size, if each pair's order were a coin's toss; None for
            fewer than two pairs.
    """

    difference: Interval
    p: float | None


def interval(values: Sequence[float]) -> Interval:
    """The mean of at least one value and its 95 % percentile bootstrap over the values."""
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return Interval(float(array.mean()), None, None, len(array))
    draws = np.random.default_rng(SEED).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), [0.025, 0.975])
    return Interval(float(array.mean()), float(low), float(high), len(array))


def share_interval(num_right: int, num: int) -> Interval:
    """The share of yes among `num` answers and its 95 % interval after Wilson (1927).

    Resampling would say of four right answers out of four that the share is 100 % for certain; this does not.
    """
    share, z = num_right / num, 1.959964
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), num)


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Sign-flip permutation test of the mean difference of pairs, two-sided.

    Exact for up to `EXACT_PAIRS` pairs; otherwise from random sign patterns, the observed one among them, so that p is
    never 0.
    """
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    found = interval(list(differences))
    if len(differences) < 2:
        return PairedTest(found, None)
    means = np.abs(_signs(len(differences)) @ differences) / len(differences)
    # Sums in another order differ in their last bits; equal means must count as equal.
    return PairedTest(found, float((means >= abs(found.mean) * (1 - 1e-9)).mean()))


def holm(chances: Sequence[float]) -> list[float]:
    """The same chances made fit to be judged together (Holm 1979): among many metrics some differ by luck."""
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    adjusted = [0.0] * len(chances)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = highest
    return adjusted


def _signs(num: int) -> Float[np.ndarray, "patterns num"]:
    if num <= EXACT_PAIRS:
        return np.array(list(product((1.0, -1.0), repeat=num)))
    drawn = np.random.default_rng(SEED).choice((-1.0, 1.0), (SIGN_PATTERNS - 1, num))
    return np.concatenate([np.ones((1, num)), drawn])
