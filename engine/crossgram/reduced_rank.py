"""Reduced-rank regression from moments: the best map through r directions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from crossgram.dense import product, singular_vectors
from crossgram.errors import InputError
from crossgram.evidence import (
    EPSILON,
    SUM_ROUNDING,
    certified_map,
    correct_digits,
    ends,
    products,
    products_about,
    squares_about,
    sums_of_squares,
)
from crossgram.folds import FoldedMoments
from crossgram.least_squares import (
    Fit,
    check_felt,
    coefficient_digits,
    digit_notes,
    row_notes,
    solve_least_squares,
)
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments
from crossgram.spaces import Space

__all__ = ["ReducedRank", "at_rank", "check_rank", "rank_curve", "solve", "solve_reduced_rank"]

_FEW_DIGITS = 6


@dataclass(frozen=True)
class ReducedRank:
    """A solution of reduced-rank regression and what it was made of.

    Attributes
    ----------
    coefficients : ndarray, shape (p, q)
        The M of X M + 1b.
    bias : ndarray, shape (q,)
        The b.
    full : Fit
        Least squares without the bound on the rank.
    values, directions : ndarray, shape (k,) and (q, k), k = min(p, q)
        What each direction of the target explains, in falling order, and the directions, as
        columns.
    """

    coefficients: NDArray[np.float64]
    bias: NDArray[np.float64]
    full: Fit
    values: NDArray[np.float64]
    directions: NDArray[np.float64]


def check_rank(rank: object, source: Space, target: Space) -> None:
    """Refuse a rank that a map between these spaces cannot have.

    Raises
    ------
    InputError
        If it is no whole number from 1 to the smaller width.
    """
    largest = min(source.dim, target.dim)
    if isinstance(rank, bool) or not isinstance(rank, Integral) or not 1 <= int(rank) <= largest:
        raise InputError(
            f"rank: {rank!r} given, expected a whole number from 1 to {largest}, the smaller width "
            f"of {source.name} ({source.dim}) and {target.name} ({target.dim})"
        )


def solve(
    moments: Moments,
    source: str | None = None,
    target: str | None = None,
    *,
    rank: int,
    intercept: bool = True,
    ridge: float = 0.0,
) -> LinearMap:
    """Solve argmin ||X M + 1b - Y||² + ridge ||M||² over M of at most a rank, with a certificate.

    Prefer it over least squares where the map is to be small, or where most of the target is
    noise.

    Parameters
    ----------
    moments : Moments
        With the blocks source x source and source x target.
    source, target : str, optional
        Names of the spaces X (n, p) and Y (n, q); by default the first and the second.
    rank : int
        From 1 to min(p, q); there the solution is that of least squares.
    intercept : bool
        Whether to fit b.
    ridge : float
        Strength, on the scale of sums of squares.

    Returns
    -------
    LinearMap
        The `rank` of its certificate is that of the map, the `condition` that of the rows.

    Raises
    ------
    InputError
        If the rank is out of range, the moments are of no rows, a name is unknown, a block was not
        kept, or the ridge is negative or not finite.

    Notes
    -----
    With M of least squares or ridge and V_r the leading r eigenvectors of S_yx M, which are right
    singular vectors of the fitted rows: M_r = M V_r V_rᵀ (Izenman, Journal of Multivariate
    Analysis 5, 1975; with a ridge Mukherjee and Zhu, Statistical Analysis and Data Mining 4, 2011).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> moments = Moments({"a": 3, "b": 3})
    >>> moments.update(x, x * [10, 1, 0.1])
    >>> solved = solve(moments, "a", "b", rank=2)
    >>> solved.certificate.rank, solved.certificate.r2 > 0.999
    (2, True)
    """
    from_space, to_space = ends(moments, source, target)
    check_rank(rank, from_space, to_space)
    fit = solve_reduced_rank(
        moments, from_space.name, to_space.name, rank=rank, intercept=intercept, ridge=ridge
    )
    check_felt(ridge, moments, from_space.name, intercept)
    full_rank = fit.full.rank(moments, intercept)
    notes = row_notes(moments, from_space, full_rank, intercept, ridge)
    if rank == min(from_space.dim, to_space.dim):
        digits = coefficient_digits(moments, to_space.name, fit.full, intercept)
        notes += digit_notes(moments, from_space, full_rank, digits)
    else:
        digits = _estimate_digits(moments, to_space.name, fit, rank, intercept)
        notes += _digit_notes(from_space, to_space, fit, rank, digits)
    return certified_map(
        moments,
        from_space,
        to_space,
        fit,
        rank=min(int(rank), fit.full.factor.rank),
        condition=fit.full.factor.condition,
        digits=digits,
        method="reduced rank",
        intercept=intercept,
        ridge=ridge,
        notes=notes,
    )


def solve_reduced_rank(
    moments: Moments, source: str, target: str, *, rank: int, intercept: bool, ridge: float
) -> ReducedRank:
    """Solve as `solve` does, without the certificate."""
    full, values, directions = _decomposed(moments, source, target, intercept, ridge)
    unbounded = ReducedRank(full.coefficients, full.bias, full, values, directions)
    return at_rank(unbounded, moments, source, target, rank=rank, intercept=intercept)


def at_rank(
    solved: ReducedRank, moments: Moments, source: str, target: str, *, rank: int, intercept: bool
) -> ReducedRank:
    """Return the solution of another rank from one that was solved from the same moments."""
    full = solved.full
    if rank == min(full.coefficients.shape):
        return replace(solved, coefficients=full.coefficients, bias=full.bias)
    kept = solved.directions[:, :rank]
    coefficients = product(product(full.coefficients, kept), kept.T)
    mean_x, mean_y = (moments.means[moments.index(name)] for name in (source, target))
    bias = mean_y - mean_x @ coefficients if intercept else np.zeros(len(mean_y))
    return replace(solved, coefficients=coefficients, bias=bias)


def rank_curve(
    moments: Moments | FoldedMoments,
    source: str,
    target: str,
    *,
    intercept: bool = True,
    ridge: float = 0.0,
) -> NDArray[np.float64]:
    """Return the pooled R² of the maps of every rank, from one solution.

    Parameters
    ----------
    moments : Moments or FoldedMoments
        With the blocks source x source and source x target. Of folds, the R² is that on the
        folds held out, from one solution each.
    source, target : str
        Names of the spaces.
    intercept, ridge
        As for `solve`.

    Returns
    -------
    ndarray, shape (min(p, q),)
        R² of rank 1, 2, ...

    Raises
    ------
    InputError
        As for `solve`.

    Notes
    -----
    With directions v_i and A, B the products x x and x y about the means that were fitted, or
    about 0: a rank r lowers the sum of squared residuals by Σ_{i<=r} (2 Mᵀ B - Mᵀ A M)_ii in the
    basis of the v_i, on whatever rows A and B are of.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(1000, 3))
    >>> moments = Moments({"a": 3, "b": 3})
    >>> moments.update(x, x * [3, 2, 1])
    >>> rank_curve(moments, "a", "b").round(1)
    array([0.6, 0.9, 1. ])
    """
    if isinstance(moments, Moments):
        parts = [(moments, moments)]
    else:
        parts = [(moments.without(k), moments.folds[k]) for k in moments.with_rows]
    errors, total = np.zeros(1), 0.0
    for fitted_on, scored_on in parts:
        full, _, directions = _decomposed(fitted_on, source, target, intercept, ridge)
        centre = fitted_on if intercept else None
        normal, cross = products_about(scored_on, source, target, centre)
        reached = product(full.coefficients, directions)
        pull = 2 * product(cross, directions) - product(normal, reached)
        gains = np.einsum("ij,ij->j", reached, pull)
        total += float(squares_about(scored_on, target, fitted_on).sum())
        unexplained = float(squares_about(scored_on, target, centre).sum())
        errors = errors + unexplained - np.cumsum(gains)
    return np.asarray(1.0 - errors / total if total > 0 else np.zeros_like(errors))


def _decomposed(
    moments: Moments, source: str, target: str, intercept: bool, ridge: float
) -> tuple[Fit, NDArray[np.float64], NDArray[np.float64]]:
    """Return the full solution, and what each direction of the target explains, best first."""
    full = solve_least_squares(moments, source, target, intercept=intercept, ridge=ridge)
    _, cross = products(moments, source, target, intercept)
    _, roots, directions = singular_vectors(full.factor.half_solve(cross), overwrite=True)
    return full, roots**2, directions.T


def _estimate_digits(
    moments: Moments, target: str, fit: ReducedRank, rank: int, intercept: bool
) -> float:
    """Estimate the correct digits of the column-scaled coefficients as a whole.

    Rounding moves the full solution, and turns directions that are kept towards directions that
    are not, the more the nearer they are in what they explain: docs/mathematics.md, "Reduced
    rank".
    """
    factor = fit.full.factor
    if fit.full.rank(moments, intercept).doubt:
        return 0.0  # what was left out as noise of the products may have been part of the map
    noise = SUM_ROUNDING * EPSILON[moments.precision]
    values, lengths = fit.values, sums_of_squares(moments, target, intercept)
    squares = fit.directions.T**2 @ lengths
    sizes = np.linalg.norm(product(fit.full.scaled, fit.directions), axis=0)
    if len(fit.directions) > len(values):  # all directions that nothing explains, as one
        squares = np.append(squares, max(float(lengths.sum() - squares.sum()), 0.0))
        sizes, values = np.append(sizes, 0.0), np.append(values, 0.0)
    targets = np.sqrt(squares)
    size = float(np.linalg.norm(sizes[:rank]))
    if size == 0:
        return correct_digits(0.0)
    moved = noise * factor.inverse_norm * (float(np.linalg.norm(targets[:rank])) + size)
    mixed = np.multiply.outer(targets, sizes)
    mixed += mixed.T + np.multiply.outer(sizes, sizes) + values[0] / SUM_ROUNDING
    gaps = np.subtract.outer(values[:rank], values[rank:])
    tiny = np.finfo(np.float64).tiny
    turned = np.minimum(noise * mixed[:rank, rank:] / np.maximum(gaps, tiny), 1.0)
    lever = np.add.outer(sizes[:rank] ** 2, sizes[rank:] ** 2)
    turned_away = float(np.sqrt((turned**2 * lever).sum()))
    return correct_digits((moved + turned_away) / size)


def _digit_notes(
    source: Space, target: Space, fit: ReducedRank, rank: int, digits: float
) -> tuple[str, ...]:
    if digits >= _FEW_DIGITS:
        return ()
    kept, left = (
        fit.values[k] / max(fit.values[0], np.finfo(float).tiny) for k in (rank - 1, rank)
    )
    note = (
        f"about {digits:.0f} digits of the map are correct, because columns of {source.name} are "
        f"nearly dependent, or because directions {rank} and {rank + 1} of {target.name} explain "
        f"nearly the same: {kept:.3g} and {left:.3g} of what the first explains"
    )
    return (note,)
