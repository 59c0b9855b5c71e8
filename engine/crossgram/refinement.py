"""Reading the rows again until the map has the digits that were asked for.

The first pass's Gram matrix squares the condition number of the rows. Later passes undo that:

1. of rows multiplied by the inverse Cholesky factor of the pass before, which are orthonormal up to
   its rounding, so that their own Gram matrix loses nothing (CholeskyQR2: Yamamoto, Nakatsukasa,
   Yanagisawa and Fukaya, ETNA 44, 2015); above a condition number of about 10⁷ that factor is of
   a shifted matrix, and one pass more is needed (shifted CholeskyQR3: Fukaya, Kannan, Nakatsukasa,
   Yamamoto and Yanagisawa, SIAM J. Sci. Comput. 42, 2020);
2. of residuals, to about 100 bits, whose products with the rows correct the map (iterative
   refinement: Björck, Numerical Methods for Least Squares Problems, section 2.9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crossgram import dense
from crossgram.dense import product
from crossgram.double_double import Pair, add, times
from crossgram.normal_equations import minimum_norm, skew
from crossgram.preconditioner import Preconditioner
from crossgram.residual_moments import ResidualMoments

__all__ = [
    "NEARLY_ORTHONORMAL",
    "Problem",
    "Solution",
    "contraction",
    "corrected",
    "least_error",
    "precondition",
    "solve_preconditioned",
]

_EPSILON = float(np.finfo(np.float64).eps)
_SHIFT = 32
_SUM_ROUNDING = 4
_ROW_ROUNDING = 1
_RANK_ROUNDING = 3
NEARLY_ORTHONORMAL = 100.0
"""A defect that another pass would not lessen the error by."""


@dataclass(frozen=True)
class Problem:
    """What stays the same from pass to pass.

    Attributes
    ----------
    rows : int
        Rows of weight.
    most_rank : int
        What the rank cannot exceed: columns that vary, or rows, less one for an intercept.
    lengths : ndarray, shape (p,)
        Of the source's columns about their means (about 0 without an intercept), with the ridge
        rows below them; 0 for a constant column.
    target_lengths : ndarray, shape (q,)
        Of the target's columns, likewise.
    ridge : float
        Strength.
    rounded : bool
        Whether rows were divided by their lengths, and rounded by that.
    """

    rows: int
    most_rank: int
    lengths: NDArray[np.float64]
    target_lengths: NDArray[np.float64]
    ridge: float
    rounded: bool

    @property
    def scale(self) -> NDArray[np.float64]:
        """One over the lengths, 0 for a constant column, (p,)."""
        return np.where(self.lengths > 0, 1 / np.where(self.lengths > 0, self.lengths, 1.0), 0.0)


@dataclass(frozen=True)
class Solution:
    """What passes so far have given.

    Attributes
    ----------
    coefficients : ndarray, shape (p, q)
        M.
    triangle : ndarray, shape (p, p)
        R of the next preconditioner.
    vectors, singular : ndarray, shapes (p, r) and (r,)
        Right singular vectors and singular values of the rows with columns scaled to length 1.
    defect : float
        How far the rows of this pass were from orthonormal: the largest over the smallest
        eigenvalue of their Gram matrix.
    error : float
        Estimated relative error of the scaled coefficients, of the worst output.
    residuals : ndarray, shape (q,)
        Sums of squares.
    rank_is_certain : bool
        Whether what was left out is nothing but rounding.
    skew : float
        By how much the step to the solution of minimum norm multiplies errors; 1 without it.
    """

    coefficients: NDArray[np.float64]
    triangle: NDArray[np.float64]
    vectors: NDArray[np.float64]
    singular: NDArray[np.float64]
    defect: float
    error: float
    residuals: NDArray[np.float64]
    rank_is_certain: bool
    skew: float

    @property
    def rank(self) -> int:
        """Numerical rank."""
        return len(self.singular)

    @property
    def condition(self) -> float:
        """Condition number of the scaled rows, on their range."""
        return float(self.singular[0] / self.singular[-1]) if len(self.singular) else 1.0


def precondition(normal: NDArray[np.float64], problem: Problem) -> NDArray[np.float64]:
    """Return R of the first preconditioner, from the Gram matrix of the first pass, (p, p)."""
    scale = problem.scale
    scaled = scale[:, None] * (normal + problem.ridge * np.eye(len(normal))) * scale
    np.fill_diagonal(scaled, 1.0)
    lengths = np.where(problem.lengths > 0, problem.lengths, 1.0)
    return np.ascontiguousarray(_cholesky(scaled) * lengths)


def solve_preconditioned(
    normal: NDArray[np.float64],
    cross: NDArray[np.float64],
    preconditioner: Preconditioner,
    problem: Problem,
    squares: NDArray[np.float64],
) -> Solution:
    """Solve from the products of preconditioned rows.

    Parameters
    ----------
    normal, cross : ndarray, shapes (p, p) and (p, q)
        Of the preconditioned rows with themselves and with the targets.
    preconditioner : Preconditioner
        What made them.
    problem : Problem
        What is solved.
    squares : ndarray, shape (q,)
        Sums of squares of the targets.
    """
    triangle = preconditioner.triangle * problem.scale
    if problem.ridge:
        inverse = dense.solve_triangle(preconditioner.triangle, np.eye(len(normal)))
        normal = normal + problem.ridge * product(inverse.T, inverse)
    values, basis = dense.eigenvectors(normal)
    lengths = np.sqrt(np.maximum(values, 0.0))
    rows = product(basis.T, triangle)
    # of what is nothing but rounding no direction can be told
    cutoff = max(problem.rows, len(normal)) * _EPSILON
    sizes = lengths * np.linalg.norm(rows, axis=1)
    present = sizes > cutoff
    lengths, basis, rows = lengths[present], basis[:, present], rows[present]
    left, singular, right = dense.singular_vectors(lengths[:, None] * rows, overwrite=True)
    kept = singular > cutoff * singular.max(initial=0.0)
    left_out = max(sizes[~present].max(initial=0.0), singular[~kept].max(initial=0.0))
    defect = _ratio(values[np.count_nonzero(preconditioner.constant) :])
    certain = int(np.count_nonzero(kept)) >= problem.most_rank or bool(
        defect <= NEARLY_ORTHONORMAL
        and left_out <= _RANK_ROUNDING * _EPSILON * singular.max(initial=0.0)
    )
    singular, vectors = singular[kept], right[kept].T
    outward = product(left[:, kept].T / lengths, basis.T)
    coordinates = product(outward, cross)
    coefficients = _coefficients(coordinates, singular, vectors, problem)
    residuals = np.maximum(squares - (coordinates**2).sum(axis=0), _EPSILON * squares)
    uneven = skew(problem.scale, vectors) if _is_deficient(singular, problem) else 1.0
    return Solution(
        coefficients=coefficients,
        triangle=product(_cholesky(normal), preconditioner.triangle),
        vectors=vectors,
        singular=singular,
        defect=defect,
        error=uneven * _error(outward, singular, coefficients, np.sqrt(residuals), problem)
        if certain
        else 1.0,
        residuals=residuals,
        rank_is_certain=certain,
        skew=uneven,
    )


def corrected(
    solution: Solution,
    bias: NDArray[np.float64],
    moments: ResidualMoments,
    problem: Problem,
    *,
    intercept: bool,
) -> tuple[Solution, NDArray[np.float64]]:
    """Return the solution and the bias, corrected by the residuals that they leave."""
    (weight, *sums_x), (tail, *tails_x) = moments.products[0][:, 0], moments.products[1][:, 0]
    sums_r = moments.products[0][0, 1:], moments.products[1][0, 1:]
    cross = moments.products[0][1:, 1:], moments.products[1][1:, 1:]
    if intercept:
        sums = np.array(sums_x)[:, None], np.array(tails_x)[:, None]
        cross = _centred(cross, sums, (sums_r[0][None], sums_r[1][None]), (weight, tail))
    right = (cross[0] - problem.ridge * solution.coefficients) + cross[1]
    coordinates = product(solution.vectors.T, problem.scale[:, None] * right)
    coordinates /= solution.singular[:, None]
    change = _coefficients(coordinates, solution.singular, solution.vectors, problem)
    coefficients = solution.coefficients + change
    residuals = moments.squares - (coordinates**2).sum(axis=0)
    if intercept:
        mean = sums_r[0] / weight
        bias = bias + (mean - (np.array(sums_x) / weight) @ change)
        residuals = residuals - weight * mean**2
    before = _relative(change, coefficients, problem)
    # the coefficients themselves are rounded, and R turns that into directions that are weak
    rounded = _EPSILON * max(0.5, _EPSILON * solution.condition**2)
    error = max(rounded, before * contraction(solution), least_error(solution))
    if problem.rounded:
        error = max(error, _of_rounded_rows(solution.singular, coefficients, problem))
    return (
        replace(
            solution,
            coefficients=coefficients,
            residuals=np.maximum(residuals, 0.0),
            error=error,
        ),
        bias,
    )


def contraction(solution: Solution) -> float:
    """Return by how much a correction shrinks the error, as a factor: the rounding of R."""
    return _SUM_ROUNDING * _EPSILON * (solution.defect + solution.condition)


def least_error(solution: Solution) -> float:
    """Return the error that no correction lessens: that of the range it stays in."""
    if solution.skew == 1.0:
        return 0.0
    return _EPSILON * float(np.linalg.norm(1 / solution.singular)) * solution.skew


def _centred(cross: Pair, sums_x: Pair, sums_r: Pair, weight: tuple[float, float]) -> Pair:
    """Return Σ w xᵀ r - (Σ w x)(Σ w r) / W, of which almost all cancels."""
    high, low = times(cross[0], np.full_like(cross[0], weight[0]))
    whole_cross = high, low + (cross[1] * weight[0] + cross[0] * weight[1])
    high, low = times(sums_x[0], sums_r[0])
    low = low + (sums_x[0] * sums_r[1] + sums_x[1] * sums_r[0])
    difference = add(whole_cross, (-high, -low))
    return difference[0] / weight[0], difference[1] / weight[0]


def _ratio(rising: NDArray[np.float64]) -> float:
    """Return the last of some eigenvalues over the first."""
    return float(rising[-1] / max(rising[0], _EPSILON * rising[-1])) if len(rising) else 1.0


def _cholesky(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper factor, of a matrix as little shifted as makes it certain to exist."""
    p = len(matrix)
    least = dense.eigenvalues(matrix)[0]
    noise = _SHIFT * p * _EPSILON
    shift = 0.0 if least > 4 * noise else noise
    while True:
        try:
            lower = dense.cholesky(matrix + shift * np.eye(p))
        except np.linalg.LinAlgError:
            shift = max(2 * shift, noise)
        else:
            return lower.T


def _coefficients(
    coordinates: NDArray[np.float64],
    singular: NDArray[np.float64],
    vectors: NDArray[np.float64],
    problem: Problem,
) -> NDArray[np.float64]:
    """Return M from the coordinates of X M in the left singular vectors, (p, q)."""
    known = coordinates / singular[:, None]
    if _is_deficient(singular, problem):
        return minimum_norm(problem.scale, vectors, known)
    return np.asarray(problem.scale[:, None] * product(vectors, known))


def _is_deficient(singular: NDArray[np.float64], problem: Problem) -> bool:
    return len(singular) < int(np.count_nonzero(problem.lengths))


def _error(
    outward: NDArray[np.float64],
    singular: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    residual_lengths: NDArray[np.float64],
    problem: Problem,
) -> float:
    scaled = np.linalg.norm(problem.lengths[:, None] * coefficients, axis=0)
    known = scaled > 0
    if not known.any():
        return _EPSILON
    spread = float(np.linalg.norm(1 / singular))
    inverse = float(np.linalg.norm(outward / singular[:, None]))
    # sums of products; rows that were rounded; and what that moves where residuals are large
    sums = _SUM_ROUNDING * inverse * problem.target_lengths[known]
    rows = _ROW_ROUNDING * spread * scaled[known]
    moved = float(np.linalg.norm(1 / singular**2)) * residual_lengths[known]
    moved = moved / math.sqrt(max(1, problem.rows))
    return _EPSILON * float(((sums + rows + moved) / scaled[known]).max())


def _of_rounded_rows(
    singular: NDArray[np.float64], coefficients: NDArray[np.float64], problem: Problem
) -> float:
    """Return what the rounding of rows and targets to float64 does, of the worst output."""
    scaled = np.linalg.norm(problem.lengths[:, None] * coefficients, axis=0)
    known = scaled > 0
    ratio = float((problem.target_lengths[known] / scaled[known]).max(initial=0.0))
    return _EPSILON * float(np.linalg.norm(1 / singular)) * (1 + ratio)


def _relative(
    change: NDArray[np.float64], coefficients: NDArray[np.float64], problem: Problem
) -> float:
    sizes = [
        np.linalg.norm(problem.lengths[:, None] * values, axis=0)
        for values in (change, coefficients)
    ]
    known = sizes[1] > 0
    return float((sizes[0][known] / sizes[1][known]).max(initial=0.0))
