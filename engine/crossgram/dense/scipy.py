"""Products and decompositions by SciPy's BLAS and LAPACK, and by no others.

NumPy brings a BLAS of its own, with threads of its own, which go on spinning for some time after a
call: where calls of the two follow each other, they take each other's processors.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from crossgram.kernels.blas import product

__all__ = [
    "cholesky",
    "eigenvalues",
    "eigenvectors",
    "inverse_half",
    "orthonormal",
    "product",
    "singular_values",
    "singular_vectors",
    "solve_cholesky",
    "solve_triangle",
]

Matrix = NDArray[np.float64]


def cholesky(matrix: Matrix) -> Matrix:
    """Return the lower triangular L, and zeros."""
    return np.asarray(scipy.linalg.cholesky(matrix, lower=True, check_finite=False))


def solve_cholesky(lower: Matrix, right: Matrix) -> Matrix:
    """Return the solution of L Lᵀ M = right."""
    return np.asarray(scipy.linalg.cho_solve((lower, True), right, check_finite=False))


def solve_triangle(triangle: Matrix, right: Matrix, *, lower: bool, transposed: bool) -> Matrix:
    """Return the solution of T M = right, or of Tᵀ M = right."""
    return np.asarray(
        scipy.linalg.solve_triangular(
            triangle, right, lower=lower, trans=int(transposed), check_finite=False
        )
    )


def inverse_half(lower: Matrix) -> Matrix:
    """Return the lower half of the inverse of L Lᵀ, and zeros."""
    inverse, _ = scipy.linalg.lapack.dpotri(lower, lower=True)
    return np.asarray(inverse)


def eigenvalues(matrix: Matrix) -> Matrix:
    """Return the eigenvalues of a symmetric matrix."""
    return np.asarray(scipy.linalg.eigvalsh(matrix, check_finite=False, driver="evd"))


def eigenvectors(matrix: Matrix, *, overwrite: bool) -> tuple[Matrix, Matrix]:
    """Return the eigenvalues and eigenvectors of a symmetric matrix."""
    values, vectors = scipy.linalg.eigh(
        matrix, check_finite=False, driver="evd", overwrite_a=overwrite
    )
    return values, vectors


def singular_values(matrix: Matrix) -> Matrix:
    """Return the singular values of a matrix."""
    return np.asarray(scipy.linalg.svdvals(matrix, check_finite=False))


def singular_vectors(matrix: Matrix, *, overwrite: bool) -> tuple[Matrix, Matrix, Matrix]:
    """Return U, σ and Vᵀ."""
    left, values, right = scipy.linalg.svd(
        matrix, full_matrices=False, check_finite=False, overwrite_a=overwrite
    )
    return left, values, right


def orthonormal(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Return Q and T."""
    basis, triangle = scipy.linalg.qr(matrix, overwrite_a=True, mode="economic", check_finite=False)
    return basis, triangle
