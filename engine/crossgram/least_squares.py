"""Least squares from moments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.certificate import Certificate
from crossgram.errors import InputError
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments
from crossgram.normal_equations import Factor, factor
from crossgram.spaces import Space, map_pairs

__all__ = [
    "NOISE",
    "Fit",
    "check_ridge",
    "is_rounding",
    "named",
    "products",
    "residual_squares",
    "solve",
    "solve_least_squares",
    "sums_of_squares",
]

_EPSILON = {"exact": float(np.finfo(np.float64).eps), "fast": float(np.finfo(np.float32).eps)}
NOISE = {"exact": 0.0, "fast": 4 * _EPSILON["fast"]}
"""Eigenvalues of a Gram matrix, as shares of the largest, that its products' rounding makes up."""
_MOST_DIGITS = -math.log10(_EPSILON["exact"])
_FEW_DIGITS = 6
_VISIBLE_IN_R2 = 1e-6
_AS_FAR = {
    "exact": " as far as one pass can tell, which is up to a condition number of about 1e7",
    "fast": " as far as float32 products can tell",
}
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
    from_name, to_name = named(moments, source, target)
    fit = solve_least_squares(moments, from_name, to_name, intercept=intercept, ridge=ridge)
    _check_felt(ridge, moments, from_name, intercept)
    from_space = moments.spaces[moments.index(from_name)]
    to_space = moments.spaces[moments.index(to_name)]
    return LinearMap(
        weight=np.ascontiguousarray(fit.coefficients.T),
        bias=fit.bias,
        source=from_space,
        target=to_space,
        certificate=_certify(moments, from_space, to_space, fit, intercept, ridge),
    )


def named(moments: Moments, source: str | None, target: str | None) -> tuple[str, str]:
    """Return the names of the spaces to map between; by default the first and the second.

    Raises
    ------
    InputError
        If there is no second.
    """
    if len(moments.spaces) < 2 and (source is None or target is None):
        raise InputError("solve: moments of one space only; name the source and the target")
    return (
        moments.spaces[0].name if source is None else source,
        moments.spaces[1].name if target is None else target,
    )


def solve_least_squares(
    moments: Moments, source: str, target: str, *, intercept: bool, ridge: float
) -> Fit:
    """Solve as `solve` does, without the certificate."""
    check_ridge(ridge)
    _check_blocks(moments, source, target)
    if moments.weight == 0:
        raise InputError("solve: these moments are of no rows, or every row's weight is zero")
    normal, cross = products(moments, source, target, intercept)
    i = moments.index(source)
    if ridge:
        constant = np.zeros(len(normal), bool)
        normal = normal.copy()
        np.fill_diagonal(normal, np.maximum(normal.diagonal(), 0.0) + ridge)
    else:
        constant = is_rounding(normal.diagonal(), moments, source)
    factored = factor(normal, constant, NOISE[moments.precision])
    coefficients = factored.solve(cross)
    j = moments.index(target)
    if intercept:
        coefficients[:, is_rounding(moments.squares[j], moments, target)] = 0.0
    mean_x, mean_y = moments.means[i], moments.means[j]
    bias = mean_y - mean_x @ coefficients if intercept else np.zeros(len(mean_y))
    return Fit(coefficients, bias, factored)


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


def _check_felt(ridge: float, moments: Moments, source: str, intercept: bool) -> None:
    """Refuse a strength that float64 loses beside the sums of squares, or they beside it."""
    squares = sums_of_squares(moments, source, intercept)
    felt = squares[~is_rounding(squares, moments, source)]
    if not ridge or not len(felt):
        return
    epsilon, least, whole = _EPSILON["exact"], float(felt.min()), float(felt.sum())
    if ridge < epsilon * least or epsilon * ridge > whole:
        raise InputError(
            f"ridge: {ridge:g} given, which in float64 "
            f"{'changes nothing' if ridge < least else 'leaves nothing of the map'}: sums of "
            f"squares of {source} are {least:.3g} and more per column, {whole:.3g} in all; "
            "give a strength between or near them, or 0 for none"
        )


def _check_blocks(moments: Moments, source: str, target: str) -> None:
    spaces = moments.spaces[moments.index(source)], moments.spaces[moments.index(target)]
    lost = map_pairs(moments.spaces, [(spaces[0].name, spaces[1].name)]) - moments.pairs
    if lost:
        names = [" x ".join(moments.spaces[k].name for k in pair) for pair in sorted(lost)]
        raise InputError(
            f"solve: {' and '.join(names)} was not kept in these moments, and the map from "
            f"{source} to {target} needs it; accumulate again with --map {source}:{target}, or "
            "without --map to keep every block"
        )


def products(
    moments: Moments, source: str, target: str, intercept: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Gram matrix of the source and its products with the target, (p, p) and (p, q).

    About the means with an intercept, about zero without.
    """
    normal, cross = moments.scatter(source, source), moments.scatter(source, target)
    if intercept:
        return normal, cross
    mean_x = moments.means[moments.index(source)]
    mean_y = moments.means[moments.index(target)]
    return (
        normal + moments.weight * np.outer(mean_x, mean_x),
        cross + moments.weight * np.outer(mean_x, mean_y),
    )


def is_rounding(squares: NDArray[np.float64], moments: Moments, space: str) -> NDArray[np.bool_]:
    """Tell which sums of squares, (dim,), are nothing but the rounding of a space's means."""
    noise = _CONSTANT_SPREAD * np.abs(moments.means[moments.index(space)])
    limit = np.maximum(moments.weight * noise**2, np.finfo(np.float64).tiny)
    return np.asarray(squares <= limit)


def _certify(
    moments: Moments, source: Space, target: Space, fit: Fit, intercept: bool, ridge: float
) -> Certificate:
    j = moments.index(target.name)
    residuals = residual_squares(moments, source.name, target.name, fit)
    totals = moments.squares[j]
    noise = _residual_noise(moments, source.name, fit, intercept)
    constant = is_rounding(totals, moments, target.name)
    reproduced = is_rounding(residuals, moments, target.name) | (residuals <= noise)
    shares = np.where(constant, ~reproduced, residuals / np.where(constant, 1.0, totals))
    share = float(shares.max() if constant.all() else residuals.sum() / totals.sum())
    r2_noise = 0.0 if constant.all() else float(noise[~constant].sum() / totals.sum())
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
        notes=_notes(moments, source, fit, intercept, ridge, digits, r2_noise),
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


def _residual_noise(
    moments: Moments, source: str, fit: Fit, intercept: bool
) -> NDArray[np.float64]:
    """Return how much rounding there may be in `residual_squares`, shape (q,).

    What cancels in it are products of S_xx, whose relative error is that of sums of products.
    """
    lengths = np.sqrt(sums_of_squares(moments, source, intercept))
    scaled = lengths[:, None] * fit.coefficients
    return np.asarray(_SUM_ROUNDING * _EPSILON[moments.precision] * (scaled**2).sum(axis=0))


def sums_of_squares(moments: Moments, space: str, intercept: bool) -> NDArray[np.float64]:
    """Return those of a space's columns, about their means if there is an intercept, (dim,)."""
    i = moments.index(space)
    return moments.squares[i] + (0.0 if intercept else moments.weight * moments.means[i] ** 2)


def _estimate_digits(moments: Moments, target: str, fit: Fit, intercept: bool) -> float:
    """Estimate the correct digits of the column-scaled coefficients of the worst output.

    Rounding perturbs the scaled Gram matrix R and the scaled cross products c by about ε times
    the lengths of the columns, times `_SUM_ROUNDING`, independently, so that R β = c gives
    ‖Δβ‖ ≈ ε ‖R⁻¹‖_F (‖β‖ + ‖y‖): docs/mathematics.md, "Digits".
    """
    if not _rank_is_known(moments, fit, intercept):
        return 0.0  # what was left out as noise of the products may have been part of the map
    lengths = sums_of_squares(moments, target, intercept)
    scale = fit.factor.scale
    scaled = fit.coefficients / np.where(scale > 0, scale, np.inf)[:, None]
    sizes = np.linalg.norm(scaled, axis=0)
    known = sizes > 0
    if not known.any():
        return _MOST_DIGITS
    ratio = 1 + float((np.sqrt(lengths[known]) / sizes[known]).max())
    error = _SUM_ROUNDING * _EPSILON[moments.precision] * fit.factor.inverse_norm * ratio
    return float(min(max(-math.log10(error), 0.0), _MOST_DIGITS))


def _rank_is_known(moments: Moments, fit: Fit, intercept: bool) -> bool:
    """Tell whether no direction was left out that one more pass might find to be there.

    Of a Gram matrix, eigenvalues are seen down to ε times the largest, so singular values of the
    rows down to √ε. Few rows explain a low rank by themselves.
    """
    varying = int(np.count_nonzero(fit.factor.scale))
    return fit.factor.rank >= min(varying, moments.rows - intercept)


def _notes(
    moments: Moments,
    source: Space,
    fit: Fit,
    intercept: bool,
    ridge: float,
    digits: float,
    r2_noise: float,
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
            f"{'' if _rank_is_known(moments, fit, intercept) else _AS_FAR[moments.precision]}"
            f"{f' (constant columns: {constant})' if constant else ''}: "
            "this is the solution of minimum norm"
        )
    if r2_noise > _VISIBLE_IN_R2:
        notes.append(f"R2 is known to about {r2_noise:.0e}, because the coefficients are so large")
    if digits < _FEW_DIGITS and not _rank_is_known(moments, fit, intercept):
        notes.append(
            f"no digit of the map is certain: columns of {source.name} depend on each other, or "
            "nearly so, and which of the two cannot be told. Ridge makes the map well defined"
        )
    elif digits < _FEW_DIGITS and moments.precision == "fast":
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
