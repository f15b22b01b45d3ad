"""Ratings and totals of HeliosBench: the reference's own toy case, each of its quirks, and the corrected forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.evaluate.heliosbench import (
    CORRECTED,
    NETWORKS,
    REFERENCE,
    RULES,
    Quirk,
    Rule,
    long_scorecard,
    needed,
    rate,
    rate_throughput,
    short_scorecard,
)

TOY = {
    "aesthetic": 0.6564,
    "motion amplitude": 0.1290,
    "motion smoothness": 0.9922,
    "semantic": 0.2818,
    "naturalness": 0.5,
    "drift aesthetic": 0.0279,
    "drift smoothness": 0.00096,
    "drift semantic": 0.0066,
    "drift naturalness": 0.0,
}
"""Raw means of the two videos that the reference ships with its result."""

BY_NAME = {rule.name: rule for rule in RULES}


def without(*quirks: Quirk) -> frozenset[Quirk]:
    return REFERENCE - set(quirks)


def test_the_toy_case_of_the_reference_comes_to_its_total() -> None:
    card = long_scorecard(TOY, REFERENCE)
    assert [row.rating for row in card.rows] == [9, 3, 10, 8, 7, 8, 10, 10, 10]
    assert card.total == pytest.approx(8.247, abs=1e-12)
    assert card.weight == pytest.approx(1)


def test_corrected_weights_sum_to_one_and_raise_the_toy_case_by_that() -> None:
    assert sum(row.weight for row in long_scorecard(TOY, REFERENCE).rows) == pytest.approx(0.996)
    card = long_scorecard(TOY, CORRECTED)
    assert sum(row.weight for row in card.rows) == pytest.approx(1)
    assert card.total == pytest.approx(8.247 / 0.996)


def test_short_videos_have_no_drift_and_weights_that_sum_to_one() -> None:
    card = short_scorecard(TOY, REFERENCE)
    assert [row.name for row in card.rows] == list(TOY)[:5]
    assert sum(row.weight for row in card.rows) == pytest.approx(1)
    assert card.total == pytest.approx(0.1 * (9 + 3 + 10) + 0.35 * (8 + 7))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_threshold_reaches_its_rating_and_the_next_worse_value_does_not(rule: Rule) -> None:
    worse = 1e-6 if rule.low_is_good else -1e-6
    assert [rate(t, rule, CORRECTED) for t in rule.thresholds] == list(range(10, 1, -1))
    assert [rate(t + worse, rule, CORRECTED) for t in rule.thresholds] == list(range(9, 0, -1))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@given(st.floats(-2, 2), st.floats(-2, 2))
def test_a_better_value_is_never_rated_worse(rule: Rule, one: float, other: float) -> None:
    for quirks in (REFERENCE, CORRECTED):
        low, high = (rate(value, rule, quirks) for value in sorted((one, other)))
        assert (low >= high) if rule.low_is_good else (low <= high)


def test_ratings_3_and_2_of_long_aesthetic_cannot_be_reached_in_the_reference() -> None:
    def rating(raw: float, quirks: frozenset[Quirk]) -> int | None:
        return long_scorecard({"aesthetic": raw}, quirks).rows[0].rating

    values = [index / 100 + 0.001 for index in range(100)]
    assert {rating(value, REFERENCE) for value in values} == {1, 4, 5, 6, 7, 8, 9, 10}
    assert {rating(value, without(Quirk.LONG_AESTHETIC_REPEATS)) for value in values} == set(range(1, 11))
    assert {row.rating for value in values for row in short_scorecard({"aesthetic": value}, REFERENCE).rows[:1]} == set(
        range(1, 11)
    )


def test_a_mean_of_exactly_zero_is_missing_in_the_reference_unless_it_is_a_drift() -> None:
    still = TOY | {"motion amplitude": 0.0}
    reference, corrected = long_scorecard(still, REFERENCE), long_scorecard(still, without(Quirk.ZERO_IS_MISSING))
    assert reference.rows[1].rating is None and corrected.rows[1].rating == 1
    assert reference.total == pytest.approx(8.247 - 3 * 0.03)
    assert corrected.total == pytest.approx(8.247 - 2 * 0.03)


def test_what_is_missing_loses_its_weight_in_the_reference_and_makes_no_total_when_put_right() -> None:
    some = {"motion amplitude": 0.129}
    assert long_scorecard(some, REFERENCE).total == pytest.approx(3 * 0.03)
    assert long_scorecard(some, REFERENCE).weight == pytest.approx(0.03 / 0.996)
    assert long_scorecard(some, CORRECTED).total is None
    assert long_scorecard({}, REFERENCE).total is None


def test_a_mean_on_a_threshold_reaches_it_once_it_is_rounded() -> None:
    value = 0.70 - 0.69  # 0.010000000000000009
    assert value > 0.01
    assert rate(value, BY_NAME["drift aesthetic"], REFERENCE) == 9
    assert rate(value, BY_NAME["drift aesthetic"], CORRECTED) == 10


def test_every_metric_and_drift_but_motion_amplitude_names_the_network_it_needs() -> None:
    without_network = [rule.name for rule in RULES if needed(rule.name) not in NETWORKS.values()]
    assert without_network == ["motion amplitude"]
    assert needed("drift smoothness") == NETWORKS["motion smoothness"] == "AMT-S"


def test_throughput_is_rated_one_more_for_each_3_2_frames_a_second() -> None:
    assert [rate_throughput(speed) for speed in (0.1, 3.2, 3.3, 6.4, 6.5, 19.5, 31.9, 32.0, 100.0)] == [
        *(1, 1, 2, 2, 3, 7, 10, 10, 10)
    ]
    assert [rate_throughput(3.2 * index) for index in range(1, 11)] == list(range(1, 11))
