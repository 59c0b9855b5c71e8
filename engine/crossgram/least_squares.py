"""Least squares from moments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError
from crossgram.evidence import (
    EPSILON,
    NOISE,
    SUM_ROUNDING,
    Spread,
    certified_map,
    correct_digits,
    ends,
    is_rounding,
    products,
    sums_of_squares,
)
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments
from crossgram.normal_equations import Factor, factor
from crossgram.spaces import Space

__all__ = [
    "Fit",
    "Rank",
    "check_felt",
    "check_ridge",
    "coefficient_digits",
    "digit_notes",
    "factor_normal",
    "row_notes",
    "solve",
    "solve_least_squares",
]

_FEW_DIGITS = 6
_AS_FAR = {
    "exact": " as far as one pass can tell, which is up to a condition number of about 1e7",
    "fast": " as far as float32 products can tell",
}


@dataclass(frozen=True)
class Rank:
    """How many directions the source's rows have.

    Attributes
    ----------
    found : int
        Numerical rank.
    varying : int
        Columns that are not constant.
    doubt : str
        How far that can be told, in words; empty if no direction was left out that may be there.
    """

    found: int
    varying: int
    doubt: str = ""


@dataclass(frozen=True)
class Fit:
    """Coefficients and what is known of them, before they become a `LinearMap`.

    Attributes
    ----------
    coefficients : ndarray, shape (p, q)
        The M of X M + 1b.
    bias : ndarray, shape (q,)
        The b.
    factor : Factor
        The factored normal matrix.
    """

    coefficients: NDArray[np.float64]
    bias: NDArray[np.float64]
    factor: Factor

    def rank(self, moments: Moments, intercept: bool) -> Rank:
        """Return the rank that one pass found, and whether another could find a higher one.

        Of a Gram matrix, eigenvalues are seen down to ε times the largest, so singular values of
        the rows down to √ε. Few rows explain a low rank by themselves.
        """
        varying = int(np.count_nonzero(self.factor.scale))
        found = self.factor.rank
        is_certain = found >= min(varying, moments.rows - intercept)
        return Rank(found, varying, "" if is_certain else _AS_FAR[moments.precision])

    @property
    def scaled(self) -> NDArray[np.float64]:
        """Coefficients of columns that were scaled to length 1, shape (p, q)."""
        scale = self.factor.scale
        return np.asarray(self.coefficients / np.where(scale > 0, scale, np.inf)[:, None])


def solve(
    moments: Moments,
    source: str | None = None,
    target: str | None = None,
    *,
    intercept: bool = True,
    ridge: float = 0.0,
) -> LinearMap:
    """Solve argmin ||X M + 1b - Y||² + ridge ||M||² from moments, with a certificate.

    Parameters
    ----------
    moments : Moments
        With the blocks source x source and source x target.
    source, target : str, optional
        Names of the spaces X and Y; by default the first and the second.
    intercept : bool
        Whether to fit b; it is never penalised. Without it the rows are not centred.
    ridge : float
        Strength, on the scale of sums of squares, as in scikit-learn's Ridge.

    Returns
    -------
    LinearMap

    Raises
    ------
    InputError
        If the moments are of no rows, a name is unknown, a block was not kept, or the ridge is
        negative, not finite, or beyond what float64 can tell beside the sums of squares.

    Notes
    -----
    With the scatter S: M = (S_xx + ridge I)⁻¹ S_xy and b = mean_y - mean_x M. The columns are
    scaled to unit length, then Cholesky; where the matrix is numerically singular, the solution
    of minimum norm by its eigendecomposition, as numpy.linalg.lstsq gives it.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> moments = Moments({"a": 4, "b": 2})
    >>> moments.update(x, x[:, :2] + 1)
    >>> solved = solve(moments, "a", "b")
    >>> solved.bias.round(9), solved.certificate.rank
    (array([1., 1.]), 4)
    """
    from_space, to_space = ends(moments, source, target)
    fit = solve_least_squares(
        moments, from_space.name, to_space.name, intercept=intercept, ridge=ridge
    )
    check_felt(ridge, moments, from_space.name, intercept)
    rank = fit.rank(moments, intercept)
    digits = coefficient_digits(moments, to_space.name, fit, intercept)
    return certified_map(
        moments,
        from_space,
        to_space,
        fit,
        rank=fit.factor.rank,
        condition=fit.factor.condition,
        digits=digits,
        method="cholesky" if fit.factor.cholesky is not None else "minimum norm",
        intercept=intercept,
        ridge=ridge,
        spread=_spread(moments, from_space.name, fit, intercept, ridge),
        notes=row_notes(moments, from_space, rank, intercept, ridge)
        + digit_notes(moments, from_space, rank, digits),
    )


def solve_least_squares(
    moments: Moments, source: str, target: str, *, intercept: bool, ridge: float
) -> Fit:
    """Solve as `solve` does, without the certificate."""
    check_ridge(ridge)
    normal, cross = products(moments, source, target, intercept)
    factored = factor_normal(moments, source, normal, ridge)
    coefficients = factored.solve(cross)
    i, j = moments.index(source), moments.index(target)
    if intercept:
        coefficients[:, is_rounding(moments.squares[j], moments, target)] = 0.0
    mean_x, mean_y = moments.means[i], moments.means[j]
    bias = mean_y - mean_x @ coefficients if intercept else np.zeros(len(mean_y))
    return Fit(coefficients, bias, factored)


def factor_normal(
    moments: Moments, source: str, normal: NDArray[np.float64], ridge: float
) -> Factor:
    """Factor `normal`, the scatter of a space about its mean or 0, with the ridge added."""
    if ridge:
        constant = np.zeros(len(normal), bool)
        normal = normal.copy()
        np.fill_diagonal(normal, np.maximum(normal.diagonal(), 0.0) + ridge)
    else:
        constant = is_rounding(normal.diagonal(), moments, source)
    return factor(normal, constant, NOISE[moments.precision])


def check_ridge(ridge: Any) -> None:
    """Refuse a strength that is none.

    Raises
    ------
    InputError
        If it is not a finite number of at least 0.
    """
    is_number = isinstance(ridge, Real) and not isinstance(ridge, bool)
    if not (is_number and 0 <= float(ridge) < math.inf):
        raise InputError(f"ridge: {ridge!r} given, expected a finite number of at least 0")


def check_felt(ridge: float, moments: Moments, source: str, intercept: bool) -> None:
    """Refuse a strength that float64 loses beside the sums of squares, or they beside it."""
    squares = sums_of_squares(moments, source, intercept)
    felt = squares[~is_rounding(squares, moments, source)]
    if not ridge or not len(felt):
        return
    epsilon, least, whole = EPSILON["exact"], float(felt.min()), float(felt.sum())
    if ridge < epsilon * least or epsilon * ridge > whole:
        raise InputError(
            f"ridge: {ridge:g} given, which in float64 "
            f"{'changes nothing' if ridge < least else 'leaves nothing of the map'}: sums of "
            f"squares of {source} are {least:.3g} and more per column, {whole:.3g} in all; "
            "give a strength between or near them, or 0 for none"
        )


def coefficient_digits(moments: Moments, target: str, fit: Fit, intercept: bool) -> float:
    """Estimate the correct digits of the column-scaled coefficients of the worst output.

    Rounding perturbs the scaled Gram matrix R and the scaled cross products c by about ε times
    the lengths of the columns, times `SUM_ROUNDING`, independently, so that R β = c gives
    ‖Δβ‖ ≈ ε ‖R⁻¹‖_F (‖β‖ + ‖y‖): docs/mathematics.md, "Digits".
    """
    if fit.rank(moments, intercept).doubt:
        return 0.0  # what was left out as noise of the products may have been part of the map
    lengths = np.sqrt(sums_of_squares(moments, target, intercept))
    sizes = np.linalg.norm(fit.scaled, axis=0)
    known = sizes > 0
    ratio = 1 + float((lengths[known] / sizes[known]).max(initial=0.0))
    error = SUM_ROUNDING * EPSILON[moments.precision] * fit.factor.inverse_norm * ratio
    return correct_digits(error if known.any() else 0.0)


def _spread(
    moments: Moments, source: str, fit: Fit, intercept: bool, ridge: float
) -> Spread | None:
    """Return what standard errors are made of, where the solution is unique and not shrunk."""
    if ridge or fit.factor.cholesky is None:
        return None
    bias = 0.0
    if intercept:
        mean = moments.means[moments.index(source)]
        half = fit.factor.half_solve(mean[:, None])
        bias = math.sqrt(1 / moments.weight + float((half**2).sum()))
    return Spread(np.sqrt(fit.factor.inverse_diagonal()), bias)


def row_notes(
    moments: Moments, source: Space, rank: Rank, intercept: bool, ridge: float
) -> tuple[str, ...]:
    """Return what is to be said of rows that are few or of deficient rank."""
    notes = []
    unknowns = source.dim + intercept
    if moments.rows <= unknowns:
        notes.append(
            f"{moments.rows} rows for {unknowns} coefficients per output: the map interpolates "
            "its rows and will not generalise; use ridge, or more rows"
            if ridge == 0
            else f"{moments.rows} rows for {unknowns} coefficients per output"
        )
    elif moments.rows < 2 * unknowns and ridge == 0:
        notes.append(
            f"only {moments.rows} rows for {unknowns} coefficients per output: expect "
            "overfitting; check with --folds, use ridge, or more rows"
        )
    if rank.found < source.dim:
        constant = source.dim - rank.varying
        notes.append(
            f"the rows of {source.name} have rank {rank.found} of {source.dim}"
            f"{rank.doubt}"
            f"{f' (constant columns: {constant})' if constant else ''}: "
            "this is the solution of minimum norm"
        )
    return tuple(notes)


def digit_notes(moments: Moments, source: Space, rank: Rank, digits: float) -> tuple[str, ...]:
    """Return what is to be said of a solution of few digits."""
    if digits >= _FEW_DIGITS:
        return ()
    note = (
        f"about {digits:.0f} digits of the map are correct, because columns of {source.name} "
        "are nearly dependent, or explain next to nothing of the targets; its predictions keep "
        "more. Ridge gives more digits"
    )
    if rank.doubt:
        note = (
            f"no digit of the map is certain: columns of {source.name} depend on each other, or "
            "nearly so, and which of the two cannot be told. Ridge makes the map well defined"
        )
    elif moments.precision == "fast":
        note = (
            f"no more than about {digits:.0f} digits of the map are certain, because its products "
            "were of float32; its predictions keep more. --precision exact gives more digits"
        )
    return (note,)
