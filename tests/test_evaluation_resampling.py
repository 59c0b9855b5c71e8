"""Figures of weighted pairs, and intervals over people."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from crossgram.errors import InputError
from crossgram.evaluation.pair_list import all_pairs
from crossgram.evaluation.resampling import WeightedPairs, drawn_figures, fewest_people, intervals
from crossgram.verification import (
    PairScores,
    area_under_curve,
    equal_error_rate,
    true_accepts_at,
)

FARS = (0.5, 0.25, 0.1)

counted = st.lists(
    st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40
)


@given(counted)
def test_a_weight_is_a_number_of_copies(drawn: list[tuple[int, bool, int]]) -> None:
    scores, same, weights = (np.array(column) for column in zip(*drawn, strict=True))
    pairs_by_score = WeightedPairs(scores.astype(float), same)
    found = pairs_by_score.figures(
        weights[pairs_by_score.genuine], weights[pairs_by_score.impostor], FARS
    )
    copies, kinds = np.repeat(scores.astype(float), weights), np.repeat(same, weights)
    if not kinds.any() or kinds.all():
        assert np.isnan(found).all()
        return
    pairs = PairScores(copies[kinds], copies[~kinds])
    assert found[0] == area_under_curve(pairs)
    # one rounding less or more in a share
    assert found[1] == pytest.approx(equal_error_rate(pairs), abs=1e-15)
    for far, rate in zip(FARS, found[2:], strict=True):
        if Fraction(str(far)) * len(pairs.impostor) < 1:
            assert np.isnan(rate)
            with pytest.raises(InputError):
                true_accepts_at(far, pairs)
        else:
            assert rate == true_accepts_at(far, pairs).true_accept_rate


def people(count: int, images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count), images)
    rows = rng.normal(size=(count, 8))[labels] + 0.8 * rng.normal(size=(count * images, 8))
    return labels, rows


def test_draws_are_of_people_and_the_same_for_other_scores() -> None:
    labels, rows = people(12, 4)
    pairs = all_pairs(labels)
    scores = np.einsum("ij,ij->i", rows[pairs.left], rows[pairs.right])
    drawn = drawn_figures(scores, pairs, (0.1,), resamples=20, seed=3)
    np.testing.assert_array_equal(drawn, drawn_figures(scores, pairs, (0.1,), resamples=20, seed=3))
    stretched = drawn_figures(np.exp(scores / 10), pairs, (0.1,), resamples=20, seed=3)
    np.testing.assert_array_equal(drawn, stretched)
    # by hand: the people of the first draw, and the pairs of two of them
    times = np.bincount(np.random.default_rng(3).integers(12, size=12), minlength=12)
    copies = [
        np.repeat(scores[kind], weight[kind])
        for kind, weight in (
            (pairs.same, times[labels[pairs.left]]),
            (~pairs.same, times[labels[pairs.left]] * times[labels[pairs.right]]),
        )
    ]
    assert drawn[0, 0] == area_under_curve(PairScores(*copies))


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """At 90 %, fewer than 40 of 60 hold it twice in 10 million series of trials."""
    truth = _area(*people(3000, 2, seed=99))
    held = 0
    for seed in range(60):
        labels, rows = people(40, 4, seed)
        pairs = all_pairs(labels)
        scores = np.einsum("ij,ij->i", rows[pairs.left], rows[pairs.right])
        area, *_ = intervals(
            drawn_figures(scores, pairs, (), resamples=100, seed=seed), 0.9, people=40
        )
        assert area is not None
        held += area.low <= truth <= area.high
    assert held >= 40


def _area(labels: np.ndarray, rows: np.ndarray) -> float:
    genuine = np.einsum("ij,ij->i", rows[0::2], rows[1::2])
    impostor = np.einsum("ij,ij->i", rows[0::2], np.roll(rows[1::2], 1, axis=0))
    assert len(labels) == 2 * len(genuine)
    return area_under_curve(PairScores(genuine, impostor))


def test_figures_that_few_draws_have_have_no_interval() -> None:
    drawn = np.array([[0.5, np.nan]] * 2 + [[0.7, 0.3]] * 10)
    area, rate = intervals(drawn, 0.5, people=12)
    assert area is not None
    assert rate is None


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
def test_intervals_over_so_few_people_that_they_miss_twice_as_often_are_not_given(
    confidence: float,
) -> None:
    fewest = fewest_people(confidence)
    drawn = np.tile(np.linspace(0.4, 0.6, 50)[:, None], (1, 2))
    assert intervals(drawn, confidence, fewest - 1) == [None, None]
    assert None not in intervals(drawn, confidence, fewest)
    # of means of normal figures, to whose standard errors the draws' are as (n - 1) / n
    rng = np.random.default_rng(0)
    z = stats.norm.ppf((1 + confidence) / 2)
    for people, is_enough in ((fewest, True), (max(2, fewest // 2), False)):
        figures = rng.normal(size=(200_000, people))
        reach = z * figures.std(axis=1) / np.sqrt(people)
        missed = float(np.mean(np.abs(figures.mean(axis=1)) > reach))
        assert (missed < 2.05 * (1 - confidence)) == is_enough


def test_ten_people_are_enough_for_the_usual_interval() -> None:
    assert fewest_people(0.95) == 10
