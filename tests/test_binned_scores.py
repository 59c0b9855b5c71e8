"""Scores that are counted and not stored: the same figures as of sorting them all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import crossgram as cg
from crossgram.evaluation import binned_scores
from crossgram.evaluation.binned_scores import BinnedScores, score_all_pairs
from crossgram.verification import (
    PairScores,
    area_under_curve,
    equal_error_rate,
    true_accepts_at,
)

FARS = (0.3, 0.1, 0.01)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def images(seed: int, count: int, dim: int, people: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    person = rng.integers(0, people, count)
    return unit(rng.normal(size=(people, dim))[person] + rng.normal(size=(count, dim))), person


def sorted_out(
    probes: np.ndarray, references: np.ndarray, person: np.ndarray, ordered: bool
) -> PairScores:
    """All scores as the blocks have them, when there is only one."""
    order = np.argsort(person, kind="stable")
    cosines = (probes[order] @ references[order].T).astype(float)
    same = person[order][:, None] == person[order]
    counted = ~np.eye(len(person), dtype=bool)
    if not ordered:
        counted = np.triu(counted)
    return PairScores(cosines[counted & same], cosines[counted & ~same])


def assert_same(found: BinnedScores, expected: PairScores) -> None:
    assert (found.genuine.sum(), found.impostor.sum()) == (
        len(expected.genuine),
        len(expected.impostor),
    )
    area, error = found.area_under_curve()
    assert abs(area - area_under_curve(expected)) <= error + 1e-15
    assert_on_curve(found, expected)
    # one rounding less or more in a share
    assert found.equal_error_rate() == pytest.approx(equal_error_rate(expected), abs=1e-15)
    for far in FARS:
        if far * len(expected.impostor) >= 1:
            assert found.true_accepts_at(far) == true_accepts_at(far, expected)


def assert_on_curve(found: BinnedScores, expected: PairScores) -> None:
    roc = found.roc_curve()
    for k in range(0, len(roc.threshold), 4001):
        for rate, scores in (
            (roc.false_accept[k], expected.impostor),
            (roc.true_accept[k], expected.genuine),
        ):
            assert rate == np.mean(scores >= roc.threshold[k])


@pytest.mark.parametrize("ordered", [False, True])
@example(seed=271, count=35, dim=2)
@given(seed=st.integers(0, 1000), count=st.integers(5, 60), dim=st.integers(1, 4))
def test_figures_are_those_of_sorted_scores(ordered: bool, seed: int, count: int, dim: int) -> None:
    probes, person = images(seed, count, dim, 4)
    references = unit(np.random.default_rng(seed + 1).normal(size=probes.shape) + probes)
    references = references if ordered else probes
    expected = sorted_out(probes, references, person, ordered) if _both(person) else None
    if expected is None:
        return
    found = score_all_pairs(probes, references, person, FARS, ordered=ordered, threads=2)
    assert_same(found, expected)


def _both(person: np.ndarray) -> bool:
    same = person[:, None] == person
    return bool(same.sum() > len(person)) and not same.all()


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_cover_every_pair_once(
    ordered: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # few bits in each number, so that products and sums are exact in any order
    rng = np.random.default_rng(0)
    rows = (rng.integers(-4, 5, (300, 6)) / 16).astype(np.float32)
    other = (rng.integers(-4, 5, (300, 6)) / 16).astype(np.float32) if ordered else rows
    person = rng.integers(0, 40, 300)
    monkeypatch.setattr(binned_scores, "_BLOCK", 37)
    seen: list[int] = []
    found = score_all_pairs(
        rows, other, person, FARS, ordered=ordered, threads=threads, report=seen.append
    )
    assert_same(found, sorted_out(rows, other, person, ordered))
    assert sum(seen) == 2 * 300 * 299 // (1 if ordered else 2)


def test_scores_at_the_ends_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.array([[1, 0], [1, 0], [-1, 0], [0, 1], [1.0000002, 0]], np.float32)
    person = np.array([0, 0, 1, 1, 2])
    found = score_all_pairs(rows, rows, person, FARS, ordered=False, threads=1)
    assert_same(found, sorted_out(rows, rows, person, False))


def test_people_of_one_kind_are_refused() -> None:
    rows, _ = images(0, 10, 3, 2)
    for person in (np.zeros(10, int), np.arange(10)):
        with pytest.raises(cg.InputError, match="labels: no pairs of one person, or none of two"):
            score_all_pairs(rows, rows, person, FARS, ordered=False, threads=1)


def test_scores_that_are_all_alike_are_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    # a network that has collapsed, but for a few
    rows = np.tile(unit(np.ones((1, 4))), (300, 1))
    rows[:5] = unit(rng.normal(size=(5, 4)))
    person = rng.integers(0, 40, 300)
    monkeypatch.setattr(binned_scores, "_FEW", 1000)
    held: list[int] = []
    add = binned_scores._Collected.add

    def watched(self: binned_scores._Collected, scores: binned_scores.Tally) -> None:
        add(self, scores)
        held.append(sum(len(own.scores) for own in (self._known, *self._new)))

    monkeypatch.setattr(binned_scores._Collected, "add", watched)
    monkeypatch.setattr(binned_scores, "_BLOCK", 29)
    found = score_all_pairs(rows, rows, person, FARS, ordered=False, threads=2)
    assert max(held) < 2 * 1000
    assert sum(own.counts.sum() for own in found.impostor_in.values()) > 40_000
    assert_same(found, sorted_out(rows, rows, person, False))
