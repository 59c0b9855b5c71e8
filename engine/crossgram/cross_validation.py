"""How much a map explains of rows that it was not fitted on, from per-fold moments alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crossgram.evidence import Affine, is_rounding, residual_squares, squares_about
from crossgram.folds import FoldedMoments
from crossgram.moments import Moments

__all__ = ["Solver", "cross_validated_r2"]

Solver = Callable[[Moments, str, str], Affine]
"""Solves a map from moments, given the names of the source and the target."""


def cross_validated_r2(moments: FoldedMoments, source: str, target: str, solver: Solver) -> float:
    """Return the share of variance explained on held-out folds, pooled over folds and outputs.

    For each fold the map is solved from the other folds' moments and its residuals on the fold
    follow from the fold's moments: no row is read again.

    Parameters
    ----------
    moments : FoldedMoments
        At least two folds with rows; others are passed over.
    source, target : str
        Names of the spaces.
    solver : Solver
        What fits a map to the moments of the other folds.

    Notes
    -----
    1 - Σ_k SSE_k / Σ_k SST_k, with SST_k about the mean of fold k's targets in the other folds.
    Of targets that are all constant, 1 if they are reproduced and 0 otherwise.
    Partition-based cross-validation: Engstrøm, arXiv 2401.13185.
    """
    errors = totals = np.zeros(moments.folds[0].spaces[moments.folds[0].index(target)].dim)
    for k in moments.with_rows:
        fold = moments.folds[k]
        rest = moments.without(k)
        fit = solver(rest, source, target)
        errors = errors + residual_squares(fold, source, target, fit)
        totals = totals + squares_about(fold, target, rest)
    whole = moments.total()
    constant = is_rounding(totals, whole, target)
    if constant.all():
        return float(is_rounding(errors, whole, target).all())
    return 1.0 - float(errors.sum() / totals.sum())
