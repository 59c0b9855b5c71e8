"""What moments say of any map between two of their spaces, however it was solved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crossgram.certificate import Certificate
from crossgram.dense import product
from crossgram.errors import InputError
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments
from crossgram.spaces import Space, map_pairs

__all__ = [
    "EPSILON",
    "NOISE",
    "SUM_ROUNDING",
    "Affine",
    "Spread",
    "certified_map",
    "correct_digits",
    "ends",
    "is_rounding",
    "products",
    "products_about",
    "rank_is_in_doubt",
    "residual_squares",
    "squares_about",
    "sums_of_squares",
]

EPSILON = {"exact": float(np.finfo(np.float64).eps), "fast": float(np.finfo(np.float32).eps)}
"""Unit of rounding of the products, by precision."""

NOISE = {"exact": 0.0, "fast": 4 * EPSILON["fast"]}
"""Eigenvalues of a Gram matrix, as shares of the largest, that its products' rounding makes up."""

SUM_ROUNDING = 8
"""Relative error of a sum of products in units of ε. Values of few bits, as float16, float32 and
rectified ones are, round the same way time and again: up to 50 ε were measured."""

_MOST_DIGITS = -math.log10(EPSILON["exact"])
_VISIBLE_IN_R2 = 1e-6
_CONSTANT_SPREAD = 8 * EPSILON["exact"]


@dataclass(frozen=True)
class Spread:
    """What standard errors are made of, besides the residuals.

    Attributes
    ----------
    coefficients : ndarray, shape (p,)
        Square roots of the diagonal of (XᵀX)⁻¹.
    bias : float
        The same for the intercept, 0 without.
    """

    coefficients: NDArray[np.float64]
    bias: float


class Affine(Protocol):
    """Whatever was solved, as x M + b."""

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """M, shape (p, q)."""
        ...

    @property
    def bias(self) -> NDArray[np.float64]:
        """b, shape (q,)."""
        ...


def ends(moments: Moments, source: str | None, target: str | None) -> tuple[Space, Space]:
    """Return the spaces of these names; by default the first and the second.

    Raises
    ------
    InputError
        If there is no such space, or only one and not both names.
    """
    if len(moments.spaces) < 2 and (source is None or target is None):
        raise InputError("solve: moments of one space only; name the source and the target")
    from_space = moments.spaces[0 if source is None else moments.index(source)]
    to_space = moments.spaces[1 if target is None else moments.index(target)]
    return from_space, to_space


def products(
    moments: Moments, source: str, target: str, intercept: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums of products source x source and source x target.

    About the means with an intercept, about 0 without.

    Raises
    ------
    InputError
        If a block was not kept, or the moments are of no rows.
    """
    _check_blocks(moments, source, target)
    if moments.weight == 0:
        raise InputError("solve: these moments are of no rows, or every row's weight is zero")
    return products_about(moments, source, target, moments if intercept else None)


def products_about(
    moments: Moments, source: str, target: str, centre: Moments | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums of products of `products` about the means of other moments; None: about 0."""
    normal, cross = moments.scatter(source, source), moments.scatter(source, target)
    if centre is moments:
        return normal, cross
    x, y = _offset(moments, source, centre), _offset(moments, target, centre)
    return normal + moments.weight * np.outer(x, x), cross + moments.weight * np.outer(x, y)


def _offset(moments: Moments, space: str, centre: Moments | None) -> NDArray[np.float64]:
    i = moments.index(space)
    return moments.means[i] - (0.0 if centre is None else centre.means[i])


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


def is_rounding(squares: NDArray[np.float64], moments: Moments, space: str) -> NDArray[np.bool_]:
    """Tell which sums of squares, (dim,), are nothing but the rounding of a space's means."""
    noise = _CONSTANT_SPREAD * np.abs(moments.means[moments.index(space)])
    limit = np.maximum(moments.weight * noise**2, np.finfo(np.float64).tiny)
    return np.asarray(squares <= limit)


def rank_is_in_doubt(moments: Moments, space: str, rank: int, intercept: bool) -> bool:
    """Tell whether directions were left out that one more pass might find to be there.

    Of a Gram matrix, eigenvalues are seen down to ε times the largest, so singular values of the
    rows down to √ε. Constant columns and few rows explain a low rank by themselves.
    """
    squares = sums_of_squares(moments, space, intercept)
    varying = int(np.count_nonzero(~is_rounding(squares, moments, space)))
    return rank < min(varying, moments.rows - intercept)


def residual_squares(
    moments: Moments, source: str, target: str, fit: Affine
) -> NDArray[np.float64]:
    """Return the sum of squared residuals of each output over the rows of `moments`, (q,).

    Any coefficients may be asked about, also ones fitted on other rows. With e = y - x M - b:
    Σ w e² = diag(S_yy - 2 Mᵀ S_xy + Mᵀ S_xx M) + W (mean e)².
    """
    normal, cross = moments.scatter(source, source), moments.scatter(source, target)
    m = fit.coefficients
    i, j = moments.index(source), moments.index(target)
    mean_error = moments.means[j] - moments.means[i] @ m - fit.bias
    squares = moments.squares[j] + np.einsum("ij,ij->j", m, product(normal, m) - 2 * cross)
    squares += moments.weight * mean_error**2
    return np.asarray(np.maximum(squares, 0.0))


def residual_noise(
    moments: Moments, source: str, fit: Affine, intercept: bool
) -> NDArray[np.float64]:
    """Return how much rounding there may be in `residual_squares`, shape (q,).

    What cancels in it are products of S_xx, whose relative error is that of sums of products.
    """
    lengths = np.sqrt(sums_of_squares(moments, source, intercept))
    scaled = lengths[:, None] * fit.coefficients
    return np.asarray(SUM_ROUNDING * EPSILON[moments.precision] * (scaled**2).sum(axis=0))


def sums_of_squares(moments: Moments, space: str, intercept: bool) -> NDArray[np.float64]:
    """Return those of a space's columns, about their means if there is an intercept, (dim,)."""
    return squares_about(moments, space, moments if intercept else None)


def squares_about(moments: Moments, space: str, centre: Moments | None) -> NDArray[np.float64]:
    """Return a space's sums of squares about the means of other moments, (dim,); None: about 0."""
    offset = _offset(moments, space, centre)
    return moments.squares[moments.index(space)] + moments.weight * offset**2


def correct_digits(error: float) -> float:
    """Return the correct decimal digits that a relative error leaves, from 0 to 16."""
    if error <= EPSILON["exact"]:
        return _MOST_DIGITS
    return -math.log10(min(error, 1.0)) + 0.0


def _errors(
    moments: Moments, residuals: NDArray[np.float64], spread: Spread | None, unknowns: int
) -> dict[str, Any]:
    freedom = moments.rows - unknowns
    if spread is None or freedom < 1 or moments.weight != moments.rows:
        return {}
    return {
        "residual_sd": tuple(map(float, np.sqrt(residuals / freedom))),
        "coefficient_spread": tuple(map(float, spread.coefficients)),
        "bias_spread": spread.bias,
    }


def certified_map(
    moments: Moments,
    source: Space,
    target: Space,
    fit: Affine,
    *,
    rank: int,
    condition: float,
    digits: float,
    method: str,
    intercept: bool,
    ridge: float,
    notes: tuple[str, ...],
    spread: Spread | None = None,
    passes: int = 1,
    residuals: NDArray[np.float64] | None = None,
) -> LinearMap:
    """Return a solution as a map, with a certificate that says how it fits these moments' rows.

    The sums of squared residuals are of the moments, unless later passes gave better ones.
    """
    j = moments.index(target.name)
    totals = moments.squares[j]
    noise = np.zeros(target.dim)
    if residuals is None:
        residuals = residual_squares(moments, source.name, target.name, fit)
        noise = residual_noise(moments, source.name, fit, intercept)
    constant = is_rounding(totals, moments, target.name)
    reproduced = is_rounding(residuals, moments, target.name) | (residuals <= noise)
    shares = np.where(constant, ~reproduced, residuals / np.where(constant, 1.0, totals))
    share = float(shares.max() if constant.all() else residuals.sum() / totals.sum())
    r2_noise = 0.0 if constant.all() else float(noise[~constant].sum() / totals.sum())
    if r2_noise > _VISIBLE_IN_R2:
        known = f"R2 is known to about {r2_noise:.0e}, because the coefficients are so large"
        notes = (*notes, known)
    certificate = Certificate(
        rows=moments.rows,
        skipped=moments.skipped,
        source_dim=source.dim,
        target_dim=target.dim,
        rank=rank,
        condition=condition,
        digits=digits,
        residual=math.sqrt(share),
        r2=1.0 - share,
        r2_per_output=tuple(float(value) for value in 1.0 - shares),
        passes=passes,
        method=method,
        precision=moments.precision,
        backend="numpy",
        intercept=intercept,
        ridge=ridge,
        notes=notes,
        **_errors(moments, residuals, spread, rank + intercept),
    )
    return LinearMap(
        weight=np.ascontiguousarray(fit.coefficients.T),
        bias=fit.bias,
        source=source,
        target=target,
        certificate=certificate,
        fitted_on=moments.seen.once(),
    )
