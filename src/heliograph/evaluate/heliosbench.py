"""HeliosBench's ratings and total, as its scripts compute them, and with what is odd about them put right.

Raw means over all videos become ratings of 1 to 10, and those a weighted total. What the reference does differently
from what it says is a `Quirk`, each with a name; `REFERENCE` has all of them and `CORRECTED` none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Quirk(Enum):
    """What the reference's scripts do, though nobody would want it."""

    LONG_AESTHETIC_REPEATS = "the long list for aesthetic ends with .45, .40, not .35, .30: no video is rated 3 or 2"
    LONG_WEIGHTS_LOSE_A_BIT = "the weights of the long rules sum to 0.996"
    ZERO_IS_MISSING = "a mean of exactly 0 of a metric that is no drift counts as missing"
    MISSING_LOSES_WEIGHT = "the weight of what is missing is lost, which lowers the total"
    NO_ROUNDING = "means on a threshold may miss it by the last bit of a floating-point number"


REFERENCE = frozenset(Quirk)
"""The scripts as they were shipped."""

CORRECTED: frozenset[Quirk] = frozenset()
"""Everything put right."""

SIGNED_MOTION = "motion amplitude is the mean of signed flow, in which opposite motions cancel"
"""A further oddity, of the raw metric: the corrected total takes `metrics.motion.component_motion` in its place."""

ROUNDED_TO = 9
"""Decimals to which a mean is rounded before it is compared, where rounding is put right."""


@dataclass(frozen=True)
class Rule:
    """How one metric is rated.

    Attributes:
        name: of the metric.
        thresholds: of the ratings 10, 9, …, 2; anything worse is rated 1.
        short, long: weight in the total of the rules for short (81 frames) and long videos; 0 is not used.
        low_is_good: drifts; the others are good when high.
    """

    name: str
    thresholds: tuple[float, ...]
    short: float
    long: float
    low_is_good: bool = False


def _down_from(high: float, by: float) -> tuple[float, ...]:
    return tuple(round(high - by * index, 6) for index in range(9))


RULES: tuple[Rule, ...] = (
    Rule("aesthetic", _down_from(0.70, 0.05), 0.10, 0.03),
    Rule("motion amplitude", _down_from(0.45, 0.05), 0.10, 0.03),
    Rule("motion smoothness", _down_from(0.99, 0.01), 0.10, 0.03),
    Rule("semantic", _down_from(0.30, 0.01), 0.35, 0.255),
    Rule("naturalness", (0.65, 0.60, 0.55, 0.50, 0.45, 0.40, 0.30, 0.25, 0.20), 0.35, 0.255),
    Rule("drift aesthetic", _down_from(0.01, -0.01), 0.0, 0.099, low_is_good=True),
    Rule("drift smoothness", _down_from(0.01, -0.01), 0.0, 0.099, low_is_good=True),
    Rule("drift semantic", _down_from(0.01, -0.01), 0.0, 0.099, low_is_good=True),
    Rule("drift naturalness", _down_from(0.06, -0.02), 0.0, 0.099, low_is_good=True),
)
"""The nine metrics, in the reference's order."""

LONG_AESTHETIC_AS_SHIPPED = (0.70, 0.65, 0.60, 0.55, 0.50, 0.45, 0.40, 0.45, 0.40)

NETWORKS: dict[str, str] = {
    "aesthetic": "CLIP ViT-L/14 and the LAION aesthetic head",
    "motion smoothness": "AMT-S",
    "semantic": "ViCLIP-L/14",
    "naturalness": "a judge that sees pictures",
}
"""What has to look at the frames for a metric and for its drift."""


def needed(name: str) -> str:
    """What a metric or a drift cannot be measured without; for motion amplitude that is only a second frame."""
    subject = name.removeprefix("drift ")
    return next((network for metric, network in NETWORKS.items() if metric.endswith(subject)), "two frames")


@dataclass(frozen=True)
class Rated:
    """One metric of a set of videos. `rating` is None where `raw` is not measured, or counts as missing."""

    name: str
    raw: float | None
    rating: int | None
    weight: float


@dataclass(frozen=True)
class Scorecard:
    """All ratings, and what they come to.

    Attributes:
        rows: one for each metric that the rules weigh.
        total: weighted total, 0 to 10; None where nothing is rated, or where metrics are missing and losing their
            weight has been put right: a total of other metrics could not be compared.
        weight: share of the whole weight that is rated, 0 to 1.
    """

    rows: tuple[Rated, ...]
    total: float | None
    weight: float


def long_scorecard(raw: Mapping[str, float], quirks: frozenset[Quirk]) -> Scorecard:
    """Rate by the rules for long videos, which the reference's run script always uses.

    `raw` has means over all videos by metric name; those not measured are left out.
    """
    rules = [_shipped(rule) if Quirk.LONG_AESTHETIC_REPEATS in quirks else rule for rule in RULES]
    weights = [rule.long for rule in rules]
    if Quirk.LONG_WEIGHTS_LOSE_A_BIT not in quirks:
        weights = [weight / sum(weights) for weight in weights]
    return _scorecard(raw, rules, weights, quirks)


def short_scorecard(raw: Mapping[str, float], quirks: frozenset[Quirk]) -> Scorecard:
    """Rate by the rules for short videos (the first 81 frames of each): no drifts."""
    rules = [rule for rule in RULES if rule.short > 0]
    return _scorecard(raw, rules, [rule.short for rule in rules], quirks)


def rate(value: float, rule: Rule, quirks: frozenset[Quirk]) -> int:
    """10 for the first threshold that `value`, clipped to 0..1, reaches, 9 for the second, …; 1 for none."""
    value = min(max(value, 0.0), 1.0)
    if Quirk.NO_ROUNDING not in quirks:
        value = round(value, ROUNDED_TO)
    for rating, threshold in zip(range(10, 1, -1), rule.thresholds, strict=True):
        if (value <= threshold) if rule.low_is_good else (value >= threshold):
            return rating
    return 1


def rate_throughput(frames_per_second: float) -> int:
    """Speed from end to end as a rating: 1 up to 3.2 frames/s, one more for each 3.2, 10 from 32 on."""
    if frames_per_second <= 3.2:
        return 1
    return min(10, math.ceil(round(frames_per_second / 3.2, ROUNDED_TO)))


def _shipped(rule: Rule) -> Rule:
    if rule.name != "aesthetic":
        return rule
    return Rule(rule.name, LONG_AESTHETIC_AS_SHIPPED, rule.short, rule.long)


def _scorecard(
    raw: Mapping[str, float], rules: Sequence[Rule], weights: Sequence[float], quirks: frozenset[Quirk]
) -> Scorecard:
    rows = tuple(_rated(raw.get(rule.name), rule, weight, quirks) for rule, weight in zip(rules, weights, strict=True))
    rated = [(row.rating, row.weight) for row in rows if row.rating is not None]
    is_whole = len(rated) == len(rows) or Quirk.MISSING_LOSES_WEIGHT in quirks
    total = sum(rating * weight for rating, weight in rated) if rated and is_whole else None
    return Scorecard(rows, total, sum(weight for _, weight in rated) / sum(weights))


def _rated(value: float | None, rule: Rule, weight: float, quirks: frozenset[Quirk]) -> Rated:
    if value is None or (value == 0 and not rule.low_is_good and Quirk.ZERO_IS_MISSING in quirks):
        return Rated(rule.name, value, None, weight)
    return Rated(rule.name, value, rate(value, rule, quirks), weight)
