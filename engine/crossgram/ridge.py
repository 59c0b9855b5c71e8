"""Every strength of a ridge at once, from one eigendecomposition of each training set."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossgram.cross_validation import cross_validated_r2
from crossgram.dense import eigenvectors, product
from crossgram.errors import InputError
from crossgram.evidence import (
    NOISE,
    is_rounding,
    products,
    products_about,
    rank_is_in_doubt,
    squares_about,
    sums_of_squares,
)
from crossgram.folds import FoldedMoments
from crossgram.least_squares import solve_least_squares
from crossgram.moments import Moments
from crossgram.normal_equations import eigenvalue_rounding

__all__ = ["RidgePath", "held_out_curve", "ridge_path"]

_EPSILON = float(np.finfo(np.float64).eps)
_PER_DECADE = 10
_BEYOND = 100.0
"""Beyond the eigenvalues by this factor, every direction is shrunk by less than 1 % or by more
than 99 %."""
_STRIP = 256


@dataclass(frozen=True, eq=False)
class RidgePath:
    """How a map generalises at each of many strengths of its ridge.

    Attributes
    ----------
    strengths : ndarray, shape (s,)
        Ascending, on the scale of sums of squares, as `alpha` of scikit-learn's Ridge.
    cross_validated_r2 : ndarray, shape (s,), or None
        Share of variance explained on held-out folds, pooled over folds and outputs; None without
        folds.
    gcv : ndarray, shape (s,)
        Generalised cross-validation, of all rows: the smaller the better.
    degrees_of_freedom : ndarray, shape (s,)
        Trace of the matrix that takes targets to predictions, of all rows, the intercept included.
    chosen : float
        The strength of the largest cross-validated R², or of the smallest score without folds.
    chosen_by : {"cross-validation", "generalised cross-validation"}
        Which of the two.
    rank_is_in_doubt : bool
        Whether directions were left out, as nothing but rounding, that may be there: every
        strength is then one of a map without them.
    """

    strengths: NDArray[np.float64]
    cross_validated_r2: NDArray[np.float64] | None
    gcv: NDArray[np.float64]
    degrees_of_freedom: NDArray[np.float64]
    chosen: float
    chosen_by: str
    rank_is_in_doubt: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        held_out = self.cross_validated_r2
        return {
            "strengths": self.strengths.tolist(),
            "cross_validated_r2": None if held_out is None else held_out.tolist(),
            "gcv": self.gcv.tolist(),
            "degrees_of_freedom": self.degrees_of_freedom.tolist(),
            "chosen": self.chosen,
            "chosen_by": self.chosen_by,
            "rank_is_in_doubt": self.rank_is_in_doubt,
        }


@dataclass(frozen=True)
class _Training:
    """The eigenbasis of a training set's Gram matrix, on its range, and the targets in it."""

    values: NDArray[np.float64]  # (r,), ascending
    vectors: NDArray[np.float64]  # (p, r)
    cross: NDArray[np.float64]  # (r, q): Vᵀ S_xy
    rounding: float  # the share of the largest eigenvalue below which one is noise


def ridge_path(
    moments: Moments | FoldedMoments,
    source: str,
    target: str,
    strengths: ArrayLike | None = None,
    *,
    intercept: bool = True,
) -> RidgePath:
    """Score every strength of the ridge from moments alone, and choose one.

    Prefer it over solving for one strength after another: after an eigendecomposition for each
    fold, a strength costs O(p²).

    Parameters
    ----------
    moments : Moments or FoldedMoments
        With the blocks source x source and source x target. Folds are each held out of training
        in turn; without them there is generalised cross-validation only.
    source, target : str
        Names of the spaces.
    strengths : array, shape (s,), optional
        Positive, on the scale of sums of squares, as `alpha` of scikit-learn's Ridge. By default
        ten per decade, from a hundredth of the smallest eigenvalue of the source's scatter above
        rounding to a hundred times the largest.
    intercept : bool
        As for `solve`.

    Returns
    -------
    RidgePath

    Raises
    ------
    InputError
        If the moments are of no rows, a name is unknown, a block was not kept, fewer than two
        folds hold rows, the source's rows are all the same, or a strength is not positive and
        finite, or more than 1/ε away from the largest eigenvalue.

    Notes
    -----
    With the training Gram V diag(e) Vᵀ and d = 1 / (e + strength), M = V diag(d) Vᵀ S_xy, whose
    squared residuals on rows held out are a quadratic form in d (docs/mathematics.md, "Ridge").
    Generalised cross-validation: Golub, Heath and Wahba, Technometrics 21, 1979.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(60, 40))
    >>> moments = Moments({"a": 40, "b": 1})
    >>> moments.update(x, x[:, :1] + rng.normal(size=(60, 1)))
    >>> path = ridge_path(moments, "a", "b", [1.0, 10.0, 100.0, 1000.0])
    >>> path.chosen, path.degrees_of_freedom.round(1)
    (100.0, array([39.1, 30.6, 13.5,  3.1]))
    """
    total = moments if isinstance(moments, Moments) else moments.total()
    whole = _train_all(total, source, target, intercept)
    path = _grid(whole) if strengths is None else _checked(strengths, whole)
    gcv, freedom = _in_strips(_generalised(total, target, whole, intercept), path)
    if isinstance(moments, Moments):
        chosen, by, held_out = path[gcv.argmin()], "generalised cross-validation", None
    else:
        held_out = _held_out_r2(moments, source, target, path, intercept)
        chosen, by = path[held_out.argmax()], "cross-validation"
    doubt = rank_is_in_doubt(total, source, len(whole.values), intercept)
    return RidgePath(path, held_out, gcv, freedom, float(chosen), by, doubt)


def held_out_curve(
    training: Moments, held_out: Moments, source: str, target: str, *, intercept: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score every strength of the ridge on rows held out, from moments alone.

    Parameters
    ----------
    training, held_out : Moments
        Of the rows that maps are fitted to, and of the others.
    source, target, intercept
        As for `ridge_path`.

    Returns
    -------
    strengths, r2 : ndarray, shape (s,)
        The strengths that `ridge_path` tries, and the share of variance explained of the rows held
        out, about the mean of the training rows.

    Raises
    ------
    InputError
        As `ridge_path` does; if the targets held out are all the same.
    """
    whole = _train_all(training, source, target, intercept)
    strengths = _grid(whole)
    totals = squares_about(held_out, target, training)
    if is_rounding(totals, held_out, target).all():
        raise InputError(f"ridge: the rows of {target} held out are all the same")
    curve = _held_out(held_out, training, source, target, whole, intercept)
    return strengths, np.asarray(1.0 - _in_strips(curve, strengths) / totals.sum())


def _train_all(total: Moments, source: str, target: str, intercept: bool) -> _Training:
    if total.weight == 0:
        raise InputError("ridge: these moments are of no rows, or every row's weight is zero")
    whole = _train(total, source, target, intercept)
    if not len(whole.values):
        raise InputError(
            f"ridge: the rows of {source} are all {'the same' if intercept else 'zero'}, so that "
            "every strength gives the same map; give one, or other rows"
        )
    return whole


def _train(moments: Moments, source: str, target: str, intercept: bool) -> _Training:
    normal, cross = products(moments, source, target, intercept)
    constant = is_rounding(normal.diagonal(), moments, source)
    values, vectors = eigenvectors(
        np.where(constant[:, None] | constant, 0.0, normal), overwrite=True
    )
    rounding = max(eigenvalue_rounding(len(normal)), NOISE[moments.precision])
    kept = values > rounding * values[-1]
    kept[: max(0, len(values) - (moments.rows - intercept))] = False  # more is not their rank
    vectors = vectors[:, kept]
    return _Training(values[kept], vectors, product(vectors.T, cross), rounding)


def _grid(whole: _Training) -> NDArray[np.float64]:
    smallest, largest = float(whole.values[0]), float(whole.values[-1])
    weakest = max(smallest / _BEYOND, whole.rounding * largest)
    strongest = largest * _BEYOND
    count = math.ceil(_PER_DECADE * math.log10(strongest / weakest)) + 1
    return np.geomspace(weakest, strongest, count)


def _checked(given: ArrayLike, whole: _Training) -> NDArray[np.float64]:
    try:
        strengths = np.unique(np.asarray(given, np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"ridge: strengths {given!r} given, expected numbers") from error
    if np.ndim(given) != 1 or not len(strengths):
        raise InputError(
            f"ridge: strengths of shape {np.shape(given)} given, expected at least one in a row"
        )
    largest = float(whole.values[-1])
    for strength in strengths:
        if not (math.isfinite(strength) and strength > 0):
            raise InputError(f"ridge: strength {strength:g} given, expected positive and finite")
        if not _EPSILON * largest <= strength <= largest / _EPSILON:
            raise InputError(
                f"ridge: strength {strength:g} given, but the source's largest sum of squares in "
                f"any direction is {largest:.3g}; float64 tells strengths from "
                f"{_EPSILON * largest:.2g} to {largest / _EPSILON:.2g}"
            )
    return strengths


def _held_out_r2(
    moments: FoldedMoments,
    source: str,
    target: str,
    strengths: NDArray[np.float64],
    intercept: bool,
) -> NDArray[np.float64]:
    """Return what `cross_validated_r2` returns, of every strength."""
    if len(moments.with_rows) < 2:
        raise InputError(
            f"ridge: {len(moments.with_rows)} of {len(moments.folds)} folds holds rows, expected "
            "at least 2 to hold one out; accumulate with other folds, or take their total"
        )
    errors = np.zeros(len(strengths))
    totals = np.zeros(moments.folds[0].spaces[moments.folds[0].index(target)].dim)
    for k in moments.with_rows:
        fold, rest = moments.folds[k], moments.without(k)
        training = _train(rest, source, target, intercept)
        errors += _in_strips(_held_out(fold, rest, source, target, training, intercept), strengths)
        totals = totals + squares_about(fold, target, rest)
    if is_rounding(totals, moments.total(), target).all():
        weakest = partial(solve_least_squares, intercept=intercept, ridge=float(strengths[0]))
        return np.full(len(strengths), cross_validated_r2(moments, source, target, weakest))
    return np.asarray(1.0 - errors / totals.sum())


_Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Scores of some strengths, (..., s)."""


def _in_strips(curve: _Curve, strengths: NDArray[np.float64]) -> NDArray[np.float64]:
    starts = range(0, len(strengths), _STRIP)
    return np.concatenate([curve(strengths[k : k + _STRIP]) for k in starts], axis=-1)


def _held_out(
    fold: Moments, rest: Moments, source: str, target: str, training: _Training, intercept: bool
) -> _Curve:
    """Return the sum of squared residuals on a fold, as a function of the strengths.

    With the fold's Gram H and cross products G about the means that the intercept was fitted to,
    and A = Vᵀ S_xy of the training rows, it is t + dᵀ (Vᵀ H V ∘ A Aᵀ) d - 2 dᵀ diag(Vᵀ G Aᵀ).
    """
    centre = rest if intercept else None
    total = float(squares_about(fold, target, centre).sum())
    gram, cross = products_about(fold, source, target, centre)
    # coefficients of size 1, and the rest of them with the rows: no square overflows before its sum
    largest = training.values[-1] if len(training.values) else 1.0
    size = np.abs(training.cross).max(initial=0.0) / largest or 1.0
    loadings, vectors = training.cross / largest / size, training.vectors * size
    quadratic = product(product(vectors.T, gram), vectors) * product(loadings, loadings.T)
    linear = np.einsum("ij,ij->i", product(vectors.T, cross), loadings)

    def errors(strengths: NDArray[np.float64]) -> NDArray[np.float64]:
        d = 1.0 / (training.values[:, None] / largest + strengths / largest)
        form = np.einsum("ij,ij->j", d, product(quadratic, d) - 2.0 * linear[:, None])
        return np.asarray(np.maximum(total + form, 0.0))

    return errors


def _generalised(moments: Moments, target: str, whole: _Training, intercept: bool) -> _Curve:
    """Return the GCV score and the degrees of freedom, as a function of the strengths."""
    squares = sums_of_squares(moments, target, intercept)
    explained = ((whole.cross / np.sqrt(whole.values)[:, None]) ** 2).sum(axis=1)
    free = moments.rows - intercept - len(whole.values)
    # rows that are all interpolated leave nothing but rounding, which weak strengths would magnify
    unexplained = max(float(squares.sum() - explained.sum()), 0.0) if free else 0.0

    def scores(strengths: NDArray[np.float64]) -> NDArray[np.float64]:
        kept = 1.0 / (1.0 + strengths / whole.values[:, None])
        shrunk = 1.0 / (1.0 + whole.values[:, None] / strengths)
        residuals = unexplained + explained @ shrunk**2
        gcv = residuals * (moments.rows / (free + shrunk.sum(axis=0)) ** 2)
        return np.stack([gcv, intercept + kept.sum(axis=0)])

    return scores
