"""Products that SciPy's BLAS computes where the arrays lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crossgram.kernels.blas import gemv, product

SIZES = st.integers(0, 20)
LAYOUTS = st.sampled_from(["rows", "columns", "every other row", "every other column"])


def matrix(rows: int, columns: int, layout: str, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    if layout == "columns":
        return rng.standard_normal((columns, rows)).T
    if layout == "every other row":
        return rng.standard_normal((2 * rows, columns))[::2]
    if layout == "every other column":
        return rng.standard_normal((rows, 2 * columns))[:, ::2]
    return rng.standard_normal((rows, columns))


@given(SIZES, SIZES, SIZES, LAYOUTS, LAYOUTS, st.integers(0, 99))
def test_product_of_matrices_however_they_lie(
    m: int, k: int, n: int, first: str, second: str, seed: int
) -> None:
    left, right = matrix(m, k, first, seed), matrix(k, n, second, seed + 1)
    found = product(left, right)
    exact = left.astype(np.longdouble) @ right.astype(np.longdouble)
    bound = (k + 1) * np.finfo(np.float64).eps * (np.abs(left) @ np.abs(right))
    assert found.shape == (m, n)
    assert found.flags.c_contiguous
    assert (np.abs(found - exact) <= bound).all()


def test_product_refuses_what_blas_would_misread() -> None:
    with pytest.raises(ValueError, match="float32"):
        product(np.ones((2, 2), np.float32), np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 2\)"):
        product(np.ones((2, 3)), np.ones((2, 2)))


@given(st.integers(1, 300), st.integers(1, 20), st.sampled_from(["f4", "f8"]), st.integers(0, 99))
def test_sums_of_rows_by_their_weights(rows: int, dim: int, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights, z = rng.random(rows).astype(dtype), rng.standard_normal((rows, dim)).astype(dtype)
    found = gemv(weights, z)
    exact = weights.astype(np.longdouble) @ z.astype(np.longdouble)
    assert found.dtype == z.dtype
    bound = (rows + 1) * np.finfo(dtype).eps * (weights @ np.abs(z).astype(np.float64))
    assert (np.abs(found - exact) <= bound).all()
