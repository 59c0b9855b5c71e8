"""Accuracy of verification by the protocol of Labeled Faces in the Wild."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError

__all__ = ["FoldedAccuracy", "folded_accuracy"]


@dataclass(frozen=True)
class FoldedAccuracy:
    """Share of pairs that are told rightly, with thresholds from other pairs.

    Attributes
    ----------
    mean : float
        Over the folds.
    standard_error : float
        Of the mean: the folds' standard deviation, over one less than their number, divided by the
        root of their number.
    folds : tuple of float
        Per fold.
    thresholds : tuple of float
        What each was told with: a pair is accepted if its score is above.
    """

    mean: float
    standard_error: float
    folds: tuple[float, ...]
    thresholds: tuple[float, ...]


def folded_accuracy(
    scores: NDArray[np.float64], same: NDArray[np.bool_], fold: NDArray[np.int64]
) -> FoldedAccuracy:
    """Tell the pairs of each fold by the threshold that tells most of the others rightly.

    Parameters
    ----------
    scores : ndarray, shape (m,)
        Higher is more alike.
    same : ndarray of bool, shape (m,)
        The truth.
    fold : ndarray of int, shape (m,)
        Which fold each is in, at least two.

    Raises
    ------
    InputError
        If there is one fold only.

    Notes
    -----
    View 2 of LFW (Huang et al. 2007, technical report 07-49, section III). The report leaves open
    which of equally good thresholds is taken: here the middle between two scores, or beyond all,
    and of several such places the middle one, of two the lower.
    """
    names = np.unique(fold)
    if len(names) < 2:
        raise InputError("fold: one given, expected at least two")
    accuracies, thresholds = [], []
    for name in names:
        held_out = fold == name
        threshold = _best_threshold(scores[~held_out], same[~held_out])
        told = (scores[held_out] > threshold) == same[held_out]
        accuracies.append(float(np.mean(told)))
        thresholds.append(threshold)
    spread = float(np.std(accuracies, ddof=1))
    return FoldedAccuracy(
        float(np.mean(accuracies)),
        spread / np.sqrt(len(names)),
        tuple(accuracies),
        tuple(thresholds),
    )


def _best_threshold(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    values, position = np.unique(scores, return_inverse=True)
    gain = np.bincount(position, np.where(same, 1, -1), len(values))
    # rightly told, less the number of impostors, if the values from k on are accepted
    right = np.append(np.cumsum(gain[::-1])[::-1], 0.0)
    best = np.flatnonzero(right == right.max())
    k = int(best[(len(best) - 1) // 2])
    if k == 0:
        return -np.inf
    if k == len(values):
        return np.inf
    below, above = float(values[k - 1]), float(values[k])
    middle = below + (above - below) / 2
    return middle if middle < above else below
