"""Products and decompositions on a GPU, by cuBLAS and cuSOLVER through CuPy."""

from __future__ import annotations

import cupy
import cupyx
import numpy as np
from cupyx.scipy.linalg import solve_triangular
from numpy.typing import NDArray

from crossgram.devices import computing_on, to_host

__all__ = ["OnGpu"]

Matrix = NDArray[np.float64]


class OnGpu:
    """What `crossgram.dense` offers, of matrices that are copied there and back.

    Parameters
    ----------
    device : str
        "cuda:K", as `check_device` returns it.

    Raises
    ------
    MemoryLimitError
        By every method, if the GPU has too little memory.
    """

    def __init__(self, device: str) -> None:
        self._device = device

    def product(self, left: Matrix, right: Matrix) -> Matrix:
        """Return left @ right."""
        with computing_on(self._device):
            return to_host(cupy.asarray(left) @ cupy.asarray(right))

    def cholesky(self, matrix: Matrix) -> Matrix:
        """Return the lower triangular L, and zeros."""
        # CuPy ignores what cuSOLVER says of a matrix unless it is told not to
        with computing_on(self._device), cupyx.errstate(linalg="raise"):
            return to_host(cupy.linalg.cholesky(cupy.asarray(matrix)))

    def solve_cholesky(self, lower: Matrix, right: Matrix) -> Matrix:
        """Return the solution of L Lᵀ M = right."""
        with computing_on(self._device):
            triangle = cupy.asarray(lower)
            half = solve_triangular(triangle, cupy.asarray(right), lower=True)
            return to_host(
                solve_triangular(triangle, half, lower=True, trans="T", overwrite_b=True)
            )

    def solve_triangle(
        self, triangle: Matrix, right: Matrix, *, lower: bool, transposed: bool
    ) -> Matrix:
        """Return the solution of T M = right, or of Tᵀ M = right."""
        with computing_on(self._device):
            return to_host(
                solve_triangular(
                    cupy.asarray(triangle),
                    cupy.asarray(right),
                    lower=lower,
                    trans="T" if transposed else "N",
                )
            )

    def inverse_half(self, lower: Matrix) -> Matrix:
        """Return the lower half of the inverse of L Lᵀ, and zeros."""
        with computing_on(self._device):
            half = solve_triangular(cupy.asarray(lower), cupy.eye(len(lower)), lower=True)
            return to_host(cupy.tril(half.T @ half))

    def eigenvalues(self, matrix: Matrix) -> Matrix:
        """Return the eigenvalues of a symmetric matrix."""
        with computing_on(self._device), cupyx.errstate(linalg="raise"):
            return to_host(cupy.linalg.eigvalsh(cupy.asarray(matrix)))

    def eigenvectors(self, matrix: Matrix, *, overwrite: bool) -> tuple[Matrix, Matrix]:
        """Return the eigenvalues and eigenvectors of a symmetric matrix."""
        with computing_on(self._device), cupyx.errstate(linalg="raise"):
            values, vectors = cupy.linalg.eigh(cupy.asarray(matrix))
            return to_host(values), to_host(vectors)

    def singular_values(self, matrix: Matrix) -> Matrix:
        """Return the singular values of a matrix."""
        with computing_on(self._device), cupyx.errstate(linalg="raise"):
            return to_host(cupy.linalg.svd(cupy.asarray(matrix), compute_uv=False))

    def singular_vectors(
        self,
        matrix: Matrix,
        *,
        overwrite: bool,
    ) -> tuple[Matrix, Matrix, Matrix]:
        """Return U, σ and Vᵀ."""
        with computing_on(self._device), cupyx.errstate(linalg="raise"):
            found = cupy.linalg.svd(cupy.asarray(matrix), full_matrices=False)
            left, values, right = (to_host(each) for each in found)
            return left, values, right

    def orthonormal(self, matrix: Matrix) -> tuple[Matrix, Matrix]:
        """Return Q and T."""
        with computing_on(self._device), cupyx.errstate(linalg="raise"):
            basis, triangle = cupy.linalg.qr(cupy.asarray(matrix))
            return to_host(basis), to_host(triangle)
