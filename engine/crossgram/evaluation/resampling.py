"""Confidence intervals of verification figures, by drawing people anew."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr

from crossgram.errors import InputError
from crossgram.evaluation.pair_list import PairList
from crossgram.verification import allowed_false_accepts, equal_error_of

__all__ = [
    "Interval",
    "WeightedPairs",
    "check_draws",
    "drawn_figures",
    "fewest_people",
    "intervals",
]

_LEAST_KNOWN = 0.9
_MOST_MISSED = 2.0
"""Of what an interval says that it misses: one that misses more is worse than none."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes
    ----------
    low, high : float
        Its ends.
    """

    low: float
    high: float


def check_draws(resamples: int, confidence: float) -> None:
    """Refuse a number of draws, or a share of them, that makes no sense."""
    if resamples < 0:
        raise InputError(f"resamples: {resamples} given, expected 0 or more")
    if not 0 < confidence < 1:
        raise InputError(f"confidence: {confidence} given, expected a share between 0 and 1")


class WeightedPairs:
    """Scores of pairs of which each may count several times; sorted once for many weightings.

    Parameters
    ----------
    scores : ndarray, shape (m,)
        Of all pairs.
    same : ndarray of bool, shape (m,)
        Which are genuine.

    Attributes
    ----------
    genuine, impostor : ndarray of int
        Pairs of each kind, the one of the highest score first.
    """

    def __init__(self, scores: NDArray[np.float64], same: NDArray[np.bool_]) -> None:
        genuine, impostor = np.flatnonzero(same), np.flatnonzero(~same)
        self.genuine = genuine[np.argsort(-scores[genuine], kind="stable")]
        self.impostor = impostor[np.argsort(-scores[impostor], kind="stable")]
        own, other = -scores[self.genuine], -scores[self.impostor]
        self._genuine_scores, self._impostor_scores = own, other
        # how many impostors are above each genuine pair, and how many reach it
        self._above = np.searchsorted(other, own, "left")
        self._reaching = np.searchsorted(other, own, "right")
        self._thresholds = np.unique(np.concatenate([own, other]))

    def figures(
        self, genuine: NDArray[np.int64], impostor: NDArray[np.int64], fars: Sequence[float]
    ) -> list[float]:
        """Return the area under the curve, the equal error rate, and true accept rates at FARs.

        Parameters
        ----------
        genuine, impostor : ndarray of int
            How often each pair counts, in the order of the attributes of these names.
        fars : sequence of float
            False accept rates.

        Returns
        -------
        list of float
            NaN where too few pairs count for a figure.
        """
        true, false = (np.append(0, np.cumsum(counts)) for counts in (genuine, impostor))
        if not true[-1] or not false[-1]:
            return [np.nan] * (2 + len(fars))
        return [
            self._area(genuine, false),
            self._equal_error(true, false),
            *(self._true_accepts(true, false, far) for far in fars),
        ]

    def _area(self, weights: NDArray[np.int64], impostor: NDArray[np.int64]) -> float:
        lower = 2 * impostor[-1] - impostor[self._above] - impostor[self._reaching]
        total = int((weights * lower).sum(dtype=np.int64))
        return total / (2 * int(weights.sum()) * int(impostor[-1]))

    def _equal_error(self, genuine: NDArray[np.int64], impostor: NDArray[np.int64]) -> float:
        def rates(accepting: int) -> tuple[float, float]:
            """Return both rates if so many of the thresholds are reached."""
            if not accepting:
                return 0.0, 0.0
            lowest = self._thresholds[accepting - 1]
            false = impostor[np.searchsorted(self._impostor_scores, lowest, "right")]
            true = genuine[np.searchsorted(self._genuine_scores, lowest, "right")]
            return float(false / impostor[-1]), float(true / genuine[-1])

        after = bisect_left(range(len(self._thresholds)), 0.0, key=lambda k: sum(rates(k)) - 1.0)
        false, true = zip(rates(after - 1), rates(after), strict=True)
        return equal_error_of(np.array(false), np.array(true))

    def _true_accepts(
        self, genuine: NDArray[np.int64], impostor: NDArray[np.int64], far: float
    ) -> float:
        allowed = allowed_false_accepts(far, int(impostor[-1]))
        if allowed < 1:
            return float("nan")
        first = int(np.searchsorted(impostor, allowed, "right"))
        threshold = self._impostor_scores[first - 1]
        accepted = int(np.searchsorted(self._genuine_scores, threshold, "left"))
        return float(genuine[accepted] / genuine[-1])


def drawn_figures(
    scores: NDArray[np.float64],
    pairs: PairList,
    fars: Sequence[float],
    *,
    resamples: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return area, equal error rate and true accept rates of people drawn anew, many times.

    Parameters
    ----------
    scores : ndarray, shape (m,)
        Of the pairs.
    pairs : PairList
        Whose people are drawn; the same people are drawn for other scores of the same pairs.
    fars : sequence of float
        False accept rates.
    resamples : int
        How often people are drawn, as many as there are, with replacement.
    seed : int
        Of the generator.

    Returns
    -------
    ndarray, shape (resamples, 2 + number of fars)
        NaN where too few pairs were drawn for a figure.

    Notes
    -----
    Pairs are not independent, people are: a pair of one person counts as often as he was drawn, a
    pair of two as often as both together (the bootstrap of vertices, Snijders and Borgatti 1999,
    Connections 22(2), with a person's images kept together). Two people drawn from one are never
    paired with each other.
    """
    used, position = np.unique(
        pairs.subject[np.append(pairs.left, pairs.right)], return_inverse=True
    )
    left, right = np.split(position, 2)
    sorted_pairs = WeightedPairs(scores, pairs.same)
    person = left[sorted_pairs.genuine]
    ends = left[sorted_pairs.impostor], right[sorted_pairs.impostor]
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, 2 + len(fars)))
    for figures in drawn:
        times = np.bincount(rng.integers(len(used), size=len(used)), minlength=len(used))
        figures[:] = sorted_pairs.figures(times[person], times[ends[0]] * times[ends[1]], fars)
    return drawn


def fewest_people(confidence: float) -> int:
    """Return how many people there must be for an interval that is not far too narrow.

    Notes
    -----
    Of a mean over n people, the percentile interval reaches z √((n-1)/n) standard errors to both
    sides where Student's t of n - 1 degrees of freedom is needed (Hesterberg 2015, The American
    Statistician 69(4), 371-386). Even of normal figures it therefore misses the truth more often
    than it says; it is given from the n on where that is at most twice as often: 10 people for
    95 %, who have one of 90.4 %.
    """
    z = float(ndtri((1 + confidence) / 2))
    people = 2
    while 2 * stdtr(people - 1, -z * np.sqrt((people - 1) / people)) > _MOST_MISSED * (
        1 - confidence
    ):
        people += 1
    return people


def intervals(drawn: NDArray[np.float64], confidence: float, people: int) -> list[Interval | None]:
    """Return the percentile interval of each column.

    Parameters
    ----------
    drawn : ndarray, shape (resamples, figures)
        As `drawn_figures` returns them.
    confidence : float
        Of the intervals.
    people : int
        Whom the figures rest on.

    Returns
    -------
    list of Interval or None
        None of fewer people than `fewest_people`, and where a tenth of a column or more is NaN.
    """
    found: list[Interval | None] = []
    enough = people >= fewest_people(confidence)
    for figures in drawn.T:
        known = figures[~np.isnan(figures)]
        if not enough or len(known) <= _LEAST_KNOWN * len(figures):
            found.append(None)
        else:
            low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
            found.append(Interval(float(low), float(high)))
    return found
