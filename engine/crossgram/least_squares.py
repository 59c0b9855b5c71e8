"""Least squares from moments."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError
from crossgram.evidence import (
    EPSILON,
    SUM_ROUNDING,
    certified_map,
    correct_digits,
    ends,
    is_rounding,
    output_lengths,
    products,
)
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments
from crossgram.normal_equations import Factor, factor
from crossgram.spaces import Space

__all__ = ["Fit", "coefficient_digits", "digit_notes", "row_notes", "solve", "solve_least_squares"]

_FEW_DIGITS = 6
_NOISE = {"exact": 0.0, "fast": 4 * EPSILON["fast"]}


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
        negative or not finite.

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
        notes=row_notes(moments, from_space, fit, intercept, ridge)
        + digit_notes(moments, from_space, digits),
    )


def solve_least_squares(
    moments: Moments, source: str, target: str, *, intercept: bool, ridge: float
) -> Fit:
    """Solve as `solve` does, without the certificate."""
    if not (np.issubdtype(type(ridge), np.number) and math.isfinite(ridge) and ridge >= 0):
        raise InputError(f"ridge: {ridge!r} given, expected a finite number of at least 0")
    normal, cross = products(moments, source, target, intercept)
    i = moments.index(source)
    if ridge:
        constant = np.zeros(len(normal), bool)
        normal = normal.copy()
        np.fill_diagonal(normal, np.maximum(normal.diagonal(), 0.0) + ridge)
    else:
        constant = is_rounding(normal.diagonal(), moments, i)
    factored = factor(normal, constant, _NOISE[moments.precision])
    coefficients = factored.solve(cross)
    mean_x, mean_y = moments.means[i], moments.means[moments.index(target)]
    bias = mean_y - mean_x @ coefficients if intercept else np.zeros(len(mean_y))
    return Fit(coefficients, bias, factored)


def coefficient_digits(moments: Moments, target: str, fit: Fit, intercept: bool) -> float:
    """Estimate the correct digits of the column-scaled coefficients of the worst output.

    Rounding perturbs the scaled Gram matrix R and the scaled cross products c by about ε times
    the lengths of the columns, times `SUM_ROUNDING`, independently, so that R β = c gives
    ‖Δβ‖ ≈ ε ‖R⁻¹‖_F (‖β‖ + ‖y‖): docs/mathematics.md, "Digits".
    """
    if moments.precision == "fast" and fit.factor.rank < np.count_nonzero(fit.factor.scale):
        return 0.0  # what was left out as noise of the products may have been part of the map
    lengths, sizes = output_lengths(moments, target, intercept), np.linalg.norm(fit.scaled, axis=0)
    known = sizes > 0
    ratio = 1 + float((lengths[known] / sizes[known]).max(initial=0.0))
    error = SUM_ROUNDING * EPSILON[moments.precision] * fit.factor.inverse_norm * ratio
    return correct_digits(error if known.any() else 0.0)


def row_notes(
    moments: Moments, source: Space, fit: Fit, intercept: bool, ridge: float
) -> tuple[str, ...]:
    """Return what is to be said of rows that are few or of deficient rank."""
    notes = []
    unknowns = source.dim + intercept
    if moments.rows < unknowns:
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
    if fit.factor.rank < source.dim:
        constant = source.dim - np.count_nonzero(fit.factor.scale)
        notes.append(
            f"the rows of {source.name} have rank {fit.factor.rank} of {source.dim}"
            f"{'' if moments.precision == 'exact' else ' as far as float32 products can tell'}"
            f"{f' (constant columns: {constant})' if constant else ''}: "
            "this is the solution of minimum norm"
        )
    return tuple(notes)


def digit_notes(moments: Moments, source: Space, digits: float) -> tuple[str, ...]:
    """Return what is to be said of a solution of few digits."""
    if digits >= _FEW_DIGITS:
        return ()
    note = (
        f"about {digits:.0f} digits of the map are correct, because columns of {source.name} "
        "are nearly dependent; its predictions keep more. Ridge gives more digits"
    )
    if moments.precision == "fast":
        note = (
            f"no more than about {digits:.0f} digits of the map are certain, because its products "
            "were of float32; its predictions keep more. --precision exact gives more digits"
        )
    return (note,)
