"""Intervals and tests by resampling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.evaluate.statistics import holm, interval, paired_test, share_interval

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=10)


@settings(max_examples=25)
@given(VALUES)
def test_an_interval_holds_the_mean_and_lies_among_the_values(values: list[float]) -> None:
    found = interval(values)
    assert found.low is not None and found.high is not None
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert found.mean == pytest.approx(np.mean(values), abs=slack)


def test_one_value_has_a_mean_and_no_interval() -> None:
    assert interval([3.0]).low is None
    assert paired_test([1.0], [2.0]).p is None


def test_an_interval_is_about_as_wide_as_theory_says() -> None:
    found = interval(list(np.random.default_rng(0).standard_normal(400)))
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_equal_folders_do_not_differ() -> None:
    found = paired_test([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert found.difference.mean == 0 and found.p == 1


@pytest.mark.parametrize("num", [2, 5, 10])
def test_a_difference_of_one_sign_has_the_smallest_chance_there_is(num: int) -> None:
    found = paired_test([0.0] * num, [1.0 + index for index in range(num)])
    assert found.p == pytest.approx(2 / 2**num)


def test_many_pairs_are_tested_from_random_signs_and_never_give_zero() -> None:
    draws = np.random.default_rng(1)
    first = draws.standard_normal(40)
    apart = paired_test(list(first), list(first + 3))
    alike = paired_test(list(first), list(first + draws.standard_normal(40)))
    assert apart.p is not None and 0 < apart.p < 0.001
    assert alike.p is not None and alike.p > 0.05


@settings(max_examples=25)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_chances_judged_together_are_larger_and_keep_their_order(chances: list[float]) -> None:
    adjusted = holm(chances)
    assert all(chance <= together <= 1 for chance, together in zip(chances, adjusted, strict=True))
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    assert [adjusted[index] for index in order] == sorted(adjusted)


def test_holm_on_a_known_case() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_interval_of_a_share_is_wilsons_and_never_certain():
    found = share_interval(8, 10)  # worked example: 0.490 to 0.943
    assert (found.mean, found.num) == (0.8, 10)
    assert found.low == pytest.approx(0.4902, abs=1e-3) and found.high == pytest.approx(0.9433, abs=1e-3)
    assert share_interval(4, 4).low < 0.6 and share_interval(0, 4).high > 0.4
