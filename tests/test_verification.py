"""Rates of accepted pairs, against scikit-learn and against counting one pair at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from crossgram.errors import InputError, NonFiniteError, WidthMismatchError
from crossgram.verification import (
    PairScores,
    allowed_false_accepts,
    area_under_curve,
    equal_error_rate,
    least_rate,
    pair_scores,
    roc_curve,
    thinned,
    true_accepts_at,
)

# few distinct values, so that most scores are tied
tied = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30).map(np.array)
scores_with_ties = st.builds(PairScores, tied, tied)


def as_labels(scores: PairScores) -> tuple[np.ndarray, np.ndarray]:
    truth = np.repeat([1, 0], [len(scores.genuine), len(scores.impostor)])
    return truth, np.concatenate([scores.genuine, scores.impostor])


def random_scores(genuine: int, impostor: int) -> PairScores:
    rng = np.random.default_rng(3)
    return PairScores(rng.normal(1, 1, genuine), rng.normal(0, 1, impostor))


class TestAreaUnderCurve:
    @given(scores_with_ties)
    def test_is_the_share_of_pairs_of_pairs_in_the_right_order(self, scores: PairScores) -> None:
        points = sum((g > i) + (g == i) / 2 for g in scores.genuine for i in scores.impostor)
        assert area_under_curve(scores) == points / (len(scores.genuine) * len(scores.impostor))

    @given(scores_with_ties)
    def test_equals_scikit_learn(self, scores: PairScores) -> None:
        # a sum of at most 60 trapezoids of area below 1
        assert area_under_curve(scores) == pytest.approx(
            roc_auc_score(*as_labels(scores)), abs=1e-13
        )

    def test_only_the_order_of_scores_counts(self) -> None:
        scores = random_scores(500, 700)
        stretched = PairScores(np.exp(scores.genuine), np.exp(scores.impostor))
        assert area_under_curve(stretched) == area_under_curve(scores)


class TestRocCurve:
    @given(scores_with_ties)
    def test_equals_scikit_learn(self, scores: PairScores) -> None:
        false_accept, true_accept, threshold = sklearn_roc_curve(
            *as_labels(scores), drop_intermediate=False
        )
        roc = roc_curve(scores)
        np.testing.assert_array_equal(roc.threshold, threshold)
        np.testing.assert_array_equal(roc.false_accept, false_accept)
        np.testing.assert_array_equal(roc.true_accept, true_accept)


class TestThinned:
    @given(scores_with_ties)
    def test_no_point_left_out_is_better_at_a_rate_of_the_grid(self, scores: PairScores) -> None:
        roc = roc_curve(scores)
        few = thinned(roc, per_decade=5)
        points = list(zip(few.threshold, few.false_accept, few.true_accept, strict=True))
        assert points[-1][1:] == (1.0, 1.0)
        whole = zip(roc.threshold, roc.false_accept, roc.true_accept, strict=True)
        assert set(points) <= set(whole)
        for power in range(40):
            rate = float(f"{10 ** (-power / 5):.12g}")
            if rate >= roc.false_accept[roc.false_accept > 0].min():
                kept = roc.false_accept <= rate
                best = few.true_accept[few.false_accept <= rate].max()
                assert best == roc.true_accept[kept].max()


class TestEqualErrorRate:
    @given(scores_with_ties)
    def test_lies_on_the_curve_where_both_errors_are_equal(self, scores: PairScores) -> None:
        rate = equal_error_rate(scores)
        roc = roc_curve(scores)
        on_curve = [
            math.hypot(x0 + s * (x1 - x0) - rate, y0 + s * (y1 - y0) - (1 - rate))
            for (x0, y0), (x1, y1) in zip(
                zip(roc.false_accept, roc.true_accept, strict=True),
                list(zip(roc.false_accept, roc.true_accept, strict=True))[1:],
                strict=False,
            )
            for s in [
                np.clip(
                    ((rate - x0) * (x1 - x0) + (1 - rate - y0) * (y1 - y0))
                    / ((x1 - x0) ** 2 + (y1 - y0) ** 2),
                    0,
                    1,
                )
            ]
        ]
        assert min(on_curve) < 1e-12

    @pytest.mark.parametrize(
        ("genuine", "impostor", "expected"),
        [
            ([1.0, 2.0], [-1.0, 0.0], 0.0),
            ([-1.0, 0.0], [1.0, 2.0], 1.0),
            ([0.0], [0.0], 0.5),
            ([0.0, 2.0], [1.0, -1.0], 0.5),
            ([3.0, 3.0, 1.0, 3.0], [0.0, 0.0, 2.0, 0.0], 0.25),
        ],
    )
    def test_by_hand(self, genuine: list[float], impostor: list[float], expected: float) -> None:
        assert equal_error_rate(PairScores(np.array(genuine), np.array(impostor))) == expected


class TestTrueAcceptsAt:
    @given(scores_with_ties, st.integers(1, 99).map(lambda percent: percent / 100))
    def test_no_lower_threshold_keeps_the_rate(self, scores: PairScores, far: float) -> None:
        count = len(scores.impostor)
        allowed = round(far * 100) * count // 100
        if allowed == 0:
            with pytest.raises(InputError, match="less than one false accept"):
                true_accepts_at(far, scores)
            return
        point = true_accepts_at(far, scores)
        accepted = sum(s > point.threshold for s in scores.impostor)
        assert point.false_accepts == accepted <= allowed
        assert point.achieved_far == accepted / count
        assert point.true_accept_rate == np.mean(scores.genuine > point.threshold)
        # the threshold is an impostor's score: just below it, that impostor is accepted as well
        assert sum(s >= point.threshold for s in scores.impostor) > allowed

    def test_equal_scores_are_refused_together(self) -> None:
        scores = PairScores(np.array([0.9, 0.5, 0.1]), np.array([0.5] * 5 + [0.0] * 5))
        point = true_accepts_at(0.3, scores)
        assert (point.threshold, point.false_accepts) == (0.5, 0)
        assert point.true_accept_rate == 1 / 3

    @pytest.mark.parametrize("percent", range(1, 100))
    def test_the_rate_is_taken_as_the_decimal_that_was_written(self, percent: int) -> None:
        scores = PairScores(np.zeros(1), np.arange(100.0))
        assert true_accepts_at(percent / 100, scores).false_accepts == percent

    @pytest.mark.parametrize("far", [0.0, 1.0, -0.1, math.nan])
    def test_rates_outside_0_and_1_are_refused(self, far: float) -> None:
        with pytest.raises(InputError, match="above 0 and below 1"):
            true_accepts_at(far, random_scores(10, 10))


class TestPairScores:
    LABELS = np.array(["p", "q", "p", "r", "q", "p"])

    def rows(self, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(len(self.LABELS), 4))

    def by_hand(self, x: np.ndarray, y: np.ndarray, *, once: bool) -> tuple[list, list]:
        genuine, impostor = [], []
        for i in range(len(x)):
            for j in range(i + 1 if once else 0, len(y)):
                if i != j:
                    cosine = x[i] @ y[j] / np.linalg.norm(x[i]) / np.linalg.norm(y[j])
                    (genuine if self.LABELS[i] == self.LABELS[j] else impostor).append(cosine)
        return genuine, impostor

    def check(self, scores: PairScores, expected: tuple[list, list]) -> None:
        # cosines of four numbers each: a few roundings of values below 1
        for found, wanted in zip((scores.genuine, scores.impostor), expected, strict=True):
            np.testing.assert_allclose(np.sort(found), np.sort(wanted), rtol=0, atol=1e-15)

    def test_within_a_space_every_pair_counts_once(self) -> None:
        x = self.rows(0)
        self.check(pair_scores(self.LABELS, x), self.by_hand(x, x, once=True))

    def test_across_spaces_no_image_meets_itself(self) -> None:
        x, y = self.rows(0), self.rows(1)
        self.check(pair_scores(self.LABELS, x, y), self.by_hand(x, y, once=False))

    def test_a_space_against_itself_has_the_same_area_both_ways(self) -> None:
        x = self.rows(2)
        within, across = pair_scores(self.LABELS, x), pair_scores(self.LABELS, x, x)
        assert area_under_curve(within) == area_under_curve(across)

    def test_lengths_do_not_matter(self) -> None:
        x = self.rows(0)
        scaled = pair_scores(self.LABELS, x * np.arange(1, 7)[:, None])
        np.testing.assert_allclose(
            scaled.genuine, pair_scores(self.LABELS, x).genuine, rtol=0, atol=1e-15
        )

    def test_a_zero_row_is_named(self) -> None:
        x = self.rows(0)
        x[3] = 0
        with pytest.raises(NonFiniteError, match="probes: row 3"):
            pair_scores(self.LABELS, x)

    def test_arrays_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(WidthMismatchError, match="pair_scores"):
            pair_scores(self.LABELS, self.rows(0), self.rows(0)[:, :3])
        with pytest.raises(WidthMismatchError, match="pair_scores"):
            pair_scores(self.LABELS[1:], self.rows(0))

    def test_labels_without_a_genuine_pair_are_refused(self) -> None:
        with pytest.raises(InputError, match="genuine scores"):
            pair_scores(np.arange(6), self.rows(0))

    def test_nan_scores_are_refused(self) -> None:
        with pytest.raises(NonFiniteError, match="impostor"):
            PairScores(np.zeros(2), np.array([0.0, np.nan]))


class TestOtherReadings:
    """What other tools report as the true accept rate at a false accept rate."""

    @given(scores_with_ties, st.sampled_from([0.1, 0.25, 0.29, 0.5, 0.9]))
    @example(PairScores(np.array([-1.0]), np.array([0.0, 1.0])), 0.5)
    @example(PairScores(np.array([1.0]), np.array([1.0, 1.0])), 0.5)
    def test_nearest_is_that_of_insightface(self, scores: PairScores, far: float) -> None:
        if math.floor(Fraction(str(far)) * len(scores.impostor)) < 1:
            return
        # as its evaluation of IJB does it
        fpr, tpr, _ = sklearn_roc_curve(*as_labels(scores))
        fpr, tpr = np.flipud(fpr), np.flipud(tpr)
        _, best = min(zip(abs(fpr - far), range(len(fpr)), strict=True))
        point = true_accepts_at(far, scores, "nearest")
        assert point.true_accept_rate == tpr[best]
        assert point.achieved_far == fpr[best]
        assert np.mean(scores.impostor >= point.threshold) == fpr[best]

    @given(scores_with_ties, st.sampled_from([0.1, 0.25, 0.29, 0.5, 0.9]))
    def test_interpolated_lies_on_the_curve(self, scores: PairScores, far: float) -> None:
        if math.floor(Fraction(str(far)) * len(scores.impostor)) < 1:
            return
        points = {}
        fpr, tpr, _ = sklearn_roc_curve(*as_labels(scores), drop_intermediate=False)
        for x, y in zip(fpr, tpr, strict=True):
            points[x] = max(y, points.get(x, 0))
        left = max(x for x in points if x <= far)
        right = min(x for x in points if x >= far)
        share = 0 if left == right else (far - left) / (right - left)
        expected = points[left] + share * (points[right] - points[left])
        point = true_accepts_at(far, scores, "interpolate")
        assert point.true_accept_rate == pytest.approx(expected, abs=1e-14)
        assert point.achieved_far == left
        assert point.true_accept_rate >= true_accepts_at(far, scores).true_accept_rate - 1e-14

    def test_nearest_may_be_above_the_rate_asked_for(self) -> None:
        scores = PairScores(np.array([1.0]), np.array([0.9, 0.9, 0.1]))
        assert true_accepts_at(0.4, scores).achieved_far == 0
        assert true_accepts_at(0.4, scores, "nearest").achieved_far == 2 / 3

    def test_an_unknown_one_is_refused(self) -> None:
        with pytest.raises(InputError, match="mode: 'best' given"):
            true_accepts_at(0.5, random_scores(5, 5), "best")


@given(st.integers(1, 10**9))
def test_the_least_rate_that_is_named_allows_one(impostors: int) -> None:
    rate = float(least_rate(impostors))
    # 1 of 1 is no rate
    assert rate == 1 if impostors == 1 else allowed_false_accepts(rate, impostors) >= 1
    assert rate <= 1.1 / impostors
