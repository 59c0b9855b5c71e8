"""Solving A M = C for a symmetric positive semidefinite A, and saying how well it was solved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from numpy.typing import NDArray

from crossgram import dense
from crossgram.dense import product

__all__ = ["Factor", "eigenvalue_rounding", "factor", "minimum_norm", "skew"]

_DENSE_SPECTRUM = 1024
_LANCZOS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Factor:
    """A column-scaled A = D⁻¹ R D⁻¹, factored once to solve for any right-hand side.

    Attributes
    ----------
    scale : ndarray, shape (p,)
        Diagonal of D: one over the column lengths, 0 for a constant column.
    cholesky : ndarray, shape (p, p), or None
        Lower triangular L with L Lᵀ = R; None where R is numerically singular.
    values, vectors : ndarray, shape (r,) and (p, r), or None
        The retained eigenpairs of R where it is singular.
    rank : int
        Numerical rank.
    condition : float
        2-norm condition number of the scaled rows, the square root of that of R, on its range.
    inverse_norm : float
        Frobenius norm of the (pseudo-)inverse of R, times the condition number of the step that
        makes a solution one of minimum norm.
    inverse : ndarray, shape (p,), or None
        Diagonal of the inverse of R, where `inverse_norm` was taken from it.
    """

    scale: NDArray[np.float64]
    cholesky: NDArray[np.float64] | None
    values: NDArray[np.float64] | None
    vectors: NDArray[np.float64] | None
    rank: int
    condition: float
    inverse_norm: float
    inverse: NDArray[np.float64] | None = None

    def solve(self, right: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the solution of A M = right, of minimum norm where A is singular, (p, q)."""
        scaled = self.scale[:, None] * right
        if self.cholesky is not None:
            return self.scale[:, None] * dense.solve_cholesky(self.cholesky, scaled)
        assert self.values is not None
        assert self.vectors is not None
        known = product(self.vectors.T, scaled) / self.values[:, None]
        return minimum_norm(self.scale, self.vectors, known)

    def half_solve(self, right: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a B with Bᵀ B = rightᵀ A⁻¹ right, (p, q), of the pseudo-inverse if A is singular.

        `right` must be in the range of A.
        """
        scaled = self.scale[:, None] * right
        if self.cholesky is not None:
            return dense.solve_triangle(self.cholesky, scaled, lower=True)
        assert self.values is not None
        assert self.vectors is not None
        known = product(self.vectors.T, scaled) / np.sqrt(self.values)[:, None]
        return product(self.vectors, known)

    def inverse_diagonal(self) -> NDArray[np.float64]:
        """Return the diagonal of A⁻¹, (p,), of an A that is not singular."""
        assert self.cholesky is not None
        inverse = self.inverse
        if inverse is None:
            inverse = dense.inverse_half(self.cholesky).diagonal()
        return np.asarray(self.scale**2 * inverse)


def eigenvalue_rounding(size: int, epsilon: float = float(np.finfo(np.float64).eps)) -> float:
    """Return the share of a matrix' largest eigenvalue below which others are its rounding."""
    return max(size, 64) * epsilon


def minimum_norm(
    scale: NDArray[np.float64], vectors: NDArray[np.float64], known: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the M of minimum norm with Vᵀ D⁻¹ M = known, shape (p, q).

    Parameters
    ----------
    scale : ndarray, shape (p,)
        Diagonal of D: one over the column lengths, 0 for a constant column.
    vectors : ndarray, shape (p, r)
        V: an orthonormal basis of the range of the scaled Gram matrix.
    known : ndarray, shape (r, q)
        Coordinates of the scaled solution in it.
    """
    basis, triangle = _range(scale, vectors)
    solution = product(basis, dense.solve_triangle(triangle, known, transposed=True))
    solution[scale == 0] = 0.0
    return np.asarray(solution)


def skew(scale: NDArray[np.float64], vectors: NDArray[np.float64]) -> float:
    """Return by how much `minimum_norm` multiplies a relative error: 1 for columns equally long.

    What it divides between columns that depend on each other is in proportion to their lengths.
    """
    if not vectors.size:
        return 1.0
    singular = dense.singular_values(_range(scale, vectors)[1])
    return float(singular[0] / singular[-1])


def _range(
    scale: NDArray[np.float64], vectors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Q and T of D⁻¹ V = Q T; the range of A = D⁻¹ R D⁻¹ is spanned by both sides.

    Of all M with Vᵀ D⁻¹ M = t, which solve A M = right for t = Λ⁻¹ Vᵀ D right, the one in that
    range, M = Q T⁻ᵀ t, has the smallest norm.
    """
    lengths = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1.0), 0.0)
    return dense.orthonormal(lengths[:, None] * vectors)


def factor(matrix: NDArray[np.float64], constant: NDArray[np.bool_], noise: float) -> Factor:
    """Scale a Gram matrix to unit diagonal and factor it.

    Parameters
    ----------
    matrix : ndarray, shape (p, p)
        Symmetric positive semidefinite up to rounding.
    constant : ndarray of bool, shape (p,)
        Columns whose diagonal is nothing but rounding; their coefficients become 0.
    noise : float
        Rounding of the products that `matrix` is made of, relative to the lengths of the columns.
        Eigenvalues of the scaled matrix below it, or below `eigenvalue_rounding` of the largest,
        cannot be told from 0.

    Notes
    -----
    Scaling the columns to equal length comes within a factor of √p of the best condition number
    that any scaling gives (van der Sluis, Numerische Mathematik 14, 1969).
    """
    diagonal = matrix.diagonal()
    scale = np.where(constant, 0.0, 1.0 / np.sqrt(np.where(constant, 1.0, diagonal)))
    scaled = scale[:, None] * matrix * scale
    rounding = eigenvalue_rounding(len(matrix))
    if not constant.any():
        attempt = _cholesky(scaled, scale, rounding, noise)
        if attempt is not None:
            return attempt
    values, vectors = dense.eigenvectors(scaled)
    kept = values > max(rounding * values[-1], noise)
    values, vectors = values[kept], vectors[:, kept]
    return Factor(
        scale=scale,
        cholesky=None,
        values=values,
        vectors=vectors,
        rank=len(values),
        condition=float(np.sqrt(values[-1] / values[0])) if len(values) else 1.0,
        inverse_norm=float(np.linalg.norm(1 / values)) * skew(scale, vectors),
    )


def _cholesky(
    scaled: NDArray[np.float64], scale: NDArray[np.float64], rounding: float, noise: float
) -> Factor | None:
    try:
        lower = dense.cholesky(scaled)
    except np.linalg.LinAlgError:
        return None
    if len(scaled) > _DENSE_SPECTRUM:
        inverse = dense.inverse_half(lower)
        smallest, largest = 1 / _largest(inverse), _largest(scaled)
        diagonal = inverse.diagonal().copy()
        # of a symmetric matrix of which one half is stored
        whole = 2 * scipy.linalg.norm(inverse, check_finite=False) ** 2 - (diagonal**2).sum()
        inverse_norm = math.sqrt(whole)
    else:
        values = dense.eigenvalues(scaled)
        smallest, largest = float(values[0]), float(values[-1])
        diagonal, inverse_norm = None, float(np.linalg.norm(1 / values)) if smallest > 0 else np.inf
    if smallest <= max(rounding * largest, noise):
        return None
    condition = float(np.sqrt(largest / smallest))
    return Factor(scale, lower, None, None, len(scaled), condition, inverse_norm, diagonal)


def _largest(half: NDArray[np.float64]) -> float:
    """Return the largest eigenvalue of a symmetric matrix by a Lanczos iteration on its lower half.

    What is above the diagonal is not read.
    """
    p = len(half)
    # BLAS reads a transpose as it is, whose upper half that is
    stored, is_lower = (half, 1) if half.flags.f_contiguous else (half.T, 0)
    operator = scipy.sparse.linalg.LinearOperator(
        (p, p), matvec=lambda v: scipy.linalg.blas.dsymv(1.0, stored, v, lower=is_lower)
    )
    start = np.random.default_rng(0).standard_normal(p)
    found = scipy.sparse.linalg.eigsh(
        operator, k=1, v0=start, tol=_LANCZOS_TOLERANCE, return_eigenvectors=False
    )
    return float(found[0])
