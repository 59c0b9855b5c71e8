"""What is known of a factored matrix, by eigenvalues or, of wide ones, by the inverse."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray

from crossgram.normal_equations import factor

pytestmark = pytest.mark.usefixtures("one_blas_thread")

EPSILON = float(np.finfo(np.float64).eps)
LANCZOS = 1e-3


def gram(dim: int, condition: float) -> NDArray[np.float64]:
    """Return a matrix whose scaled rows have about a condition number, columns of other lengths."""
    rng = np.random.default_rng(dim)
    basis, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    matrix = (basis * np.geomspace(1, condition**-2, dim)) @ basis.T
    lengths = np.exp(rng.standard_normal(dim))
    return lengths[:, None] * (matrix + matrix.T) / 2 * lengths


@pytest.mark.parametrize("dim", [40, 1024, 1025, 1500])
@pytest.mark.parametrize("condition", [10.0, 1e4])
def test_condition_and_inverse(dim: int, condition: float) -> None:
    matrix = gram(dim, condition)
    found = factor(matrix, np.zeros(dim, bool), 0.0)
    scale = 1 / np.sqrt(matrix.diagonal())
    values, vectors = scipy.linalg.eigh(scale[:, None] * matrix * scale)
    # eigenvalues of a matrix of unit diagonal, and a decomposition, err by about p ε of the largest
    rounding = 8 * dim * EPSILON * values[-1] / values[0]
    assert found.rank == dim
    assert found.condition == pytest.approx(
        np.sqrt(values[-1] / values[0]), rel=LANCZOS + rounding, abs=0
    )
    assert found.inverse_norm == pytest.approx(np.linalg.norm(1 / values), rel=rounding, abs=0)
    diagonal = scale**2 * (vectors**2 / values).sum(axis=1)
    np.testing.assert_allclose(found.inverse_diagonal(), diagonal, rtol=rounding)


@pytest.mark.parametrize("dim", [60, 1100])
def test_dependent_columns(dim: int) -> None:
    half = gram(dim // 2, 100.0)
    matrix = np.tile(half, (2, 2))
    found = factor(matrix, np.zeros(dim, bool), 0.0)
    assert found.cholesky is None
    assert found.rank == dim // 2
