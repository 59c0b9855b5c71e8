"""Least squares from moments."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossgram.certificate import Certificate
from crossgram.errors import InputError
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments
from crossgram.normal_equations import Factor, factor
from crossgram.spaces import Space

__all__ = ["Fit", "factor_normal", "solve", "solve_least_squares"]

_EPSILON = {"exact": float(np.finfo(np.float64).eps), "fast": float(np.finfo(np.float32).eps)}
_NOISE = {"exact": 0.0, "fast": 4 * _EPSILON["fast"]}
_MOST_DIGITS = -math.log10(_EPSILON["exact"])
_FEW_DIGITS = 6
_CONSTANT_SPREAD = 8 * _EPSILON["exact"]
_SUM_ROUNDING = 16
"""Relative error of a sum of products in units of ε. Values of few bits, as float16, float32 and
rectified ones are, round the same way time and again: up to 50 ε were measured."""


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
    if len(moments.spaces) < 2 and (source is None or target is None):
        raise InputError("solve: moments of one space only; name the source and the target")
    from_name = moments.spaces[0].name if source is None else source
    to_name = moments.spaces[1].name if target is None else target
    fit = solve_least_squares(moments, from_name, to_name, intercept=intercept, ridge=ridge)
    from_space = moments.spaces[moments.index(from_name)]
    to_space = moments.spaces[moments.index(to_name)]
    return LinearMap(
        weight=np.ascontiguousarray(fit.coefficients.T),
        bias=fit.bias,
        source=from_space,
        target=to_space,
        certificate=_certify(moments, from_space, to_space, fit, intercept, ridge),
    )


def solve_least_squares(
    moments: Moments, source: str, target: str, *, intercept: bool, ridge: float
) -> Fit:
    """Solve as `solve` does, without the certificate."""
    if not (np.issubdtype(type(ridge), np.number) and math.isfinite(ridge) and ridge >= 0):
        raise InputError(f"ridge: {ridge!r} given, expected a finite number of at least 0")
    if moments.weight == 0:
        raise InputError("solve: these moments are of no rows, or every row's weight is zero")
    normal, cross = _products(moments, source, target, intercept)
    factored = factor_normal(moments, source, normal, ridge)
    coefficients = factored.solve(cross)
    mean_x, mean_y = (moments.means[moments.index(name)] for name in (source, target))
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
        constant = _is_rounding(normal.diagonal(), moments, moments.index(source))
    return factor(normal, constant, _NOISE[moments.precision])


def _products(
    moments: Moments, source: str, target: str, intercept: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    normal, cross = moments.scatter(source, source), moments.scatter(source, target)
    if intercept:
        return normal, cross
    mean_x = moments.means[moments.index(source)]
    mean_y = moments.means[moments.index(target)]
    return (
        normal + moments.weight * np.outer(mean_x, mean_x),
        cross + moments.weight * np.outer(mean_x, mean_y),
    )


def _is_rounding(squares: NDArray[np.float64], moments: Moments, space: int) -> NDArray[np.bool_]:
    """Tell sums of squares that are nothing but the rounding of the columns' means."""
    noise = _CONSTANT_SPREAD * np.abs(moments.means[space])
    limit = np.maximum(moments.weight * noise**2, np.finfo(np.float64).tiny)
    return np.asarray(squares <= limit)


def _certify(
    moments: Moments, source: Space, target: Space, fit: Fit, intercept: bool, ridge: float
) -> Certificate:
    j = moments.index(target.name)
    residuals = residual_squares(moments, source.name, target.name, fit)
    totals = moments.squares[j]
    constant, reproduced = _is_rounding(totals, moments, j), _is_rounding(residuals, moments, j)
    shares = np.where(constant, ~reproduced, residuals / np.where(constant, 1.0, totals))
    share = float(shares.max() if constant.all() else residuals.sum() / totals.sum())
    digits = _estimate_digits(moments, target.name, fit, intercept)
    return Certificate(
        rows=moments.rows,
        skipped=moments.skipped,
        source_dim=source.dim,
        target_dim=target.dim,
        rank=fit.factor.rank,
        condition=fit.factor.condition,
        digits=digits,
        residual=math.sqrt(share),
        r2=1.0 - share,
        r2_per_output=tuple(float(value) for value in 1.0 - shares),
        passes=1,
        method="cholesky" if fit.factor.cholesky is not None else "minimum norm",
        precision=moments.precision,
        backend="numpy",
        intercept=intercept,
        ridge=ridge,
        notes=_notes(moments, source, fit, intercept, ridge, digits),
    )


def residual_squares(moments: Moments, source: str, target: str, fit: Fit) -> NDArray[np.float64]:
    """Return the sum of squared residuals of each output over the rows of `moments`, (q,).

    Any coefficients may be asked about, also ones fitted on other rows. With e = y - x M - b:
    Σ w e² = diag(S_yy - 2 Mᵀ S_xy + Mᵀ S_xx M) + W (mean e)².
    """
    normal, cross = moments.scatter(source, source), moments.scatter(source, target)
    m = fit.coefficients
    i, j = moments.index(source), moments.index(target)
    mean_error = moments.means[j] - moments.means[i] @ m - fit.bias
    squares = moments.squares[j] + np.einsum("ij,ij->j", m, normal @ m - 2 * cross)
    squares += moments.weight * mean_error**2
    return np.asarray(np.maximum(squares, 0.0))


def _estimate_digits(moments: Moments, target: str, fit: Fit, intercept: bool) -> float:
    """Estimate the correct digits of the column-scaled coefficients of the worst output.

    Rounding perturbs the scaled Gram matrix R and the scaled cross products c by about ε times
    the lengths of the columns, times `_SUM_ROUNDING`, independently, so that R β = c gives
    ‖Δβ‖ ≈ ε ‖R⁻¹‖_F (‖β‖ + ‖y‖): docs/mathematics.md, "Digits".
    """
    if moments.precision == "fast" and fit.factor.rank < np.count_nonzero(fit.factor.scale):
        return 0.0  # what was left out as noise of the products may have been part of the map
    j = moments.index(target)
    lengths = moments.squares[j] + (0.0 if intercept else moments.weight * moments.means[j] ** 2)
    scale = fit.factor.scale
    scaled = fit.coefficients / np.where(scale > 0, scale, np.inf)[:, None]
    sizes = np.linalg.norm(scaled, axis=0)
    known = sizes > 0
    if not known.any():
        return _MOST_DIGITS
    ratio = 1 + float((np.sqrt(lengths[known]) / sizes[known]).max())
    error = _SUM_ROUNDING * _EPSILON[moments.precision] * fit.factor.inverse_norm * ratio
    return float(min(max(-math.log10(error), 0.0), _MOST_DIGITS))


def _notes(
    moments: Moments, source: Space, fit: Fit, intercept: bool, ridge: float, digits: float
) -> tuple[str, ...]:
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
    if digits < _FEW_DIGITS and moments.precision == "fast":
        notes.append(
            f"no more than about {digits:.0f} digits of the map are certain, because its products "
            "were of float32; its predictions keep more. --precision exact gives more digits"
        )
    elif digits < _FEW_DIGITS:
        notes.append(
            f"about {digits:.0f} digits of the map are correct, because columns of {source.name} "
            "are nearly dependent; its predictions keep more. Ridge gives more digits"
        )
    return tuple(notes)
