"""Dense matrices of float64: products and decompositions, by SciPy, or of wide ones on a GPU.

All arrays are the host's. What is copied to a GPU for one of these is little beside the work, from
a width on at which the processor takes longer than the copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crossgram.dense import scipy as processor
from crossgram.devices import check_device

__all__ = [
    "cholesky",
    "decomposed_on",
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

_WIDE = 1024
_device: ContextVar[str] = ContextVar("device", default="cpu")


class _Ways(Protocol):
    """What `scipy` and `cupy` here have."""

    def product(self, left: Matrix, right: Matrix) -> Matrix: ...
    def cholesky(self, matrix: Matrix) -> Matrix: ...
    def solve_cholesky(self, lower: Matrix, right: Matrix) -> Matrix: ...
    def solve_triangle(
        self, triangle: Matrix, right: Matrix, *, lower: bool, transposed: bool
    ) -> Matrix: ...
    def inverse_half(self, lower: Matrix) -> Matrix: ...
    def eigenvalues(self, matrix: Matrix) -> Matrix: ...
    def eigenvectors(self, matrix: Matrix, *, overwrite: bool) -> tuple[Matrix, Matrix]: ...
    def singular_values(self, matrix: Matrix) -> Matrix: ...
    def singular_vectors(
        self, matrix: Matrix, *, overwrite: bool
    ) -> tuple[Matrix, Matrix, Matrix]: ...
    def orthonormal(self, matrix: Matrix) -> tuple[Matrix, Matrix]: ...


@contextmanager
def decomposed_on(device: str) -> Iterator[None]:
    """Have what is wide computed on a device inside the block.

    Parameters
    ----------
    device : str
        "cpu", "cuda", "cuda:K" or "auto".

    Raises
    ------
    InputError
        If it is no device, or CuPy or the GPU is missing.
    """
    before = _device.set(check_device(device))
    try:
        yield
    finally:
        _device.reset(before)


def _ways(matrix: Matrix) -> _Ways:
    device = _device.get()
    if device == "cpu" or min(matrix.shape) < _WIDE:
        return processor
    from crossgram.dense.cupy import OnGpu

    return OnGpu(device)


def product(left: Matrix, right: Matrix) -> Matrix:
    """Return left @ right, of shapes (m, k) and (k, n), C-contiguous."""
    return _ways(left).product(left, right)


def cholesky(matrix: Matrix) -> Matrix:
    """Return the lower triangular L, zeros above, with L Lᵀ the matrix, shape (p, p).

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not positive definite.
    """
    return _ways(matrix).cholesky(matrix)


def solve_cholesky(lower: Matrix, right: Matrix) -> Matrix:
    """Return the solution of L Lᵀ M = right, shape (p, q)."""
    return _ways(lower).solve_cholesky(lower, right)


def solve_triangle(
    triangle: Matrix, right: Matrix, *, lower: bool = False, transposed: bool = False
) -> Matrix:
    """Return the solution of T M = right, or of Tᵀ M = right, shape (p, q).

    Parameters
    ----------
    triangle : ndarray, shape (p, p)
        T, of which the other triangle is not read.
    right : ndarray, shape (p, q)
    lower : bool
        Which triangle it is.
    transposed : bool
    """
    return _ways(triangle).solve_triangle(triangle, right, lower=lower, transposed=transposed)


def inverse_half(lower: Matrix) -> Matrix:
    """Return the lower half of the inverse of L Lᵀ, and zeros above, shape (p, p)."""
    return _ways(lower).inverse_half(lower)


def eigenvalues(matrix: Matrix) -> Matrix:
    """Return the eigenvalues of a symmetric matrix, rising, shape (p,)."""
    return _ways(matrix).eigenvalues(matrix)


def eigenvectors(matrix: Matrix, *, overwrite: bool = False) -> tuple[Matrix, Matrix]:
    """Return the eigenvalues of a symmetric matrix, rising, and as columns its eigenvectors.

    Parameters
    ----------
    matrix : ndarray, shape (p, p)
    overwrite : bool
        Whether its memory may be used.
    """
    return _ways(matrix).eigenvectors(matrix, overwrite=overwrite)


def singular_values(matrix: Matrix) -> Matrix:
    """Return the singular values of a matrix, falling, shape (min(m, n),)."""
    return _ways(matrix).singular_values(matrix)


def singular_vectors(matrix: Matrix, *, overwrite: bool = False) -> tuple[Matrix, Matrix, Matrix]:
    """Return U, σ, falling, and Vᵀ with U diag(σ) Vᵀ the matrix, (m, k), (k,), (k, n), k the least.

    Parameters
    ----------
    matrix : ndarray, shape (m, n)
    overwrite : bool
        Whether its memory may be used.
    """
    return _ways(matrix).singular_vectors(matrix, overwrite=overwrite)


def orthonormal(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Return Q with orthonormal columns and an upper triangular T with Q T the matrix.

    Parameters
    ----------
    matrix : ndarray, shape (m, n)
        Of which m is not less than n; its memory is used.
    """
    return _ways(matrix).orthonormal(matrix)
