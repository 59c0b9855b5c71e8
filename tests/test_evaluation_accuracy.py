"""Accuracy by LFW's protocol, against the protocol's text carried out step by step."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossgram.errors import InputError
from crossgram.evaluation.accuracy import folded_accuracy


def by_the_text(scores: list[float], same: list[bool], fold: list[int]) -> list[set[float]]:
    """Return, per fold, the accuracies of all thresholds that are best on the others."""
    values = sorted(set(scores))
    between = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    thresholds = [-math.inf, *between, math.inf]

    def right(threshold: float, pairs: list[int]) -> int:
        return sum((scores[k] > threshold) == same[k] for k in pairs)

    found = []
    for name in sorted(set(fold)):
        inside = [k for k in range(len(scores)) if fold[k] == name]
        others = [k for k in range(len(scores)) if fold[k] != name]
        best = max(right(threshold, others) for threshold in thresholds)
        chosen = [threshold for threshold in thresholds if right(threshold, others) == best]
        found.append({right(threshold, inside) / len(inside) for threshold in chosen})
    return found


pairs = st.lists(
    st.tuples(st.integers(-4, 4), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40
).filter(lambda drawn: len({fold for *_, fold in drawn}) > 1)


@given(pairs)
def test_each_fold_is_told_by_a_best_threshold_of_the_others(
    drawn: list[tuple[int, bool, int]],
) -> None:
    scores, same, fold = (list(column) for column in zip(*drawn, strict=True))
    found = folded_accuracy(np.array(scores, float), np.array(same), np.array(fold))
    possible = by_the_text([float(score) for score in scores], same, fold)
    assert all(own in allowed for own, allowed in zip(found.folds, possible, strict=True))


def test_equals_the_text_where_thresholds_are_clear() -> None:
    rng = np.random.default_rng(0)
    same = np.tile(np.repeat([True, False], 30), 10)
    scores = rng.normal(same * 2.0, 1)
    fold = np.repeat(np.arange(10), 60)
    found = folded_accuracy(scores, same, fold)
    possible = by_the_text(scores.tolist(), same.tolist(), fold.tolist())
    clear = [k for k in range(10) if len(possible[k]) == 1]
    assert len(clear) >= 5
    for k in clear:
        assert {found.folds[k]} == possible[k]
    assert found.mean == pytest.approx(sum(found.folds) / 10, abs=1e-15)
    deviation = math.sqrt(sum((own - found.mean) ** 2 for own in found.folds) / 9)
    assert found.standard_error == pytest.approx(deviation / math.sqrt(10), rel=1e-12)


def test_neighbouring_scores_have_a_threshold_between_them() -> None:
    low = 1.0
    high = np.nextafter(low, 2)
    scores = np.array([low, high] * 2)
    found = folded_accuracy(scores, np.array([False, True] * 2), np.array([0, 0, 1, 1]))
    assert found.folds == (1.0, 1.0)
    assert all(low <= threshold < high for threshold in found.thresholds)


def test_scores_that_tell_nothing_are_all_accepted_or_none() -> None:
    same = np.array([True, True, False, True, True, False])
    found = folded_accuracy(np.zeros(6), same, np.array([0, 0, 0, 1, 1, 1]))
    assert found.thresholds == (-math.inf, -math.inf)
    assert found.folds == (2 / 3, 2 / 3)


def test_one_fold_is_refused() -> None:
    with pytest.raises(InputError, match="fold: one given"):
        folded_accuracy(np.zeros(2), np.array([True, False]), np.zeros(2, int))
