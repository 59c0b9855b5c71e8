"""Products of float64 values by those of small integers, which the processor computes in int64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossgram.kernels import tile_rows_of
from crossgram.kernels.slices import MOST_ROWS, SLICES, Sliced, add_cross, add_gram

EPSILON = float(np.finfo(np.float64).eps)
Matrix = NDArray[np.float64]


class WholeNumbers:
    """The processor's `Integers`, which refuse what 32 bits do not hold."""

    def sum_of_products(self, x: Any, y: Any, out: Any, *, add: bool) -> None:
        found = x.astype(np.int64).T @ y.astype(np.int64) + (out if add else 0)
        assert np.abs(found).max() < 2**31
        out[:] = found

    def add_scaled(self, sums: Any, rows: Any, columns: Any, shift: int, out: Any) -> None:
        out += np.ldexp(sums.astype(np.float64), rows[:, None] + columns + shift)


def sliced(z: Matrix) -> Sliced:
    _, exponents = np.frexp(np.abs(z).max(axis=0))
    rest, digits = np.ldexp(z, 6 - exponents), []
    for _ in range(SLICES):
        digits.append(np.rint(rest))
        rest = (rest - digits[-1]) * 128
    assert max(np.abs(each).max() for each in digits) <= 64
    return Sliced(np.stack(digits).astype(np.int8), exponents)


def gram_by_slices(z: Matrix, out: Matrix, scratch: None) -> None:
    assert scratch is None
    add_gram(sliced(z), out, np.empty(out.shape, np.int32), WholeNumbers())


def cross_by_slices(x: Matrix, y: Matrix, out: Matrix, scratch: None) -> None:
    assert scratch is None
    add_cross(sliced(x), sliced(y), out, np.empty(out.shape, np.int32), WholeNumbers())


def rows_of_all_sizes(rows: int, columns: int) -> Matrix:
    """Return columns of very different lengths, some of few bits, one of zeros, one with a peak."""
    rng = np.random.default_rng()
    z = rng.normal(size=(rows, columns)) * np.ldexp(1.0, rng.integers(-300, 300, columns))
    z[:, 0] = 0
    z[:, 1] = np.ldexp(1.0, rng.integers(-3, 3, rows))
    z[:, 2] = rng.normal(size=rows).astype(np.float32)
    z[0, 3] = 1e4 * np.abs(z[:, 3]).max()
    return z


def bound(x: Matrix, y: Matrix) -> NDArray[np.longdouble]:
    """Return what is left out of xᵀy, and what its sums in float64 round."""
    scales = [np.ldexp(np.longdouble(1), sliced(each).exponents) for each in (x, y)]
    left_out = len(x) * (SLICES + 2) * np.ldexp(np.longdouble(1), -7 * SLICES)
    sizes = np.abs(x).astype(np.longdouble).T @ np.abs(y).astype(np.longdouble)
    rounded = (2 * SLICES + 2) * EPSILON * sizes
    return np.asarray(left_out * np.outer(*scales) * (1 + 4 * EPSILON) + rounded)


def test_slices_add_up_to_the_values() -> None:
    z = rows_of_all_sizes(50, 9)
    digits, exponents = sliced(z)
    weights = np.ldexp(np.longdouble(1), 1 - 7 * np.arange(1, SLICES + 1))
    found = np.tensordot(weights, digits.astype(np.longdouble), 1) * np.ldexp(1.0, exponents)
    assert (np.abs(found - z) <= np.ldexp(1.0, exponents - 7 * SLICES)).all()


@pytest.mark.parametrize("rows", [1, 2, 700])
def test_cross(rows: int) -> None:
    x, y = rows_of_all_sizes(rows, 9), rows_of_all_sizes(rows, 5)
    before = np.random.default_rng().normal(size=(9, 5))
    found = before.copy()
    cross_by_slices(x, y, found, None)
    expected = x.astype(np.longdouble).T @ y.astype(np.longdouble)
    # to add it to what was there rounds each time
    slack = (2 * SLICES + 2) * EPSILON * np.abs(before)
    assert (np.abs(found - (before + expected)) <= bound(x, y) + slack).all()


@pytest.mark.parametrize("rows", [1, 2, 700])
def test_gram(rows: int) -> None:
    z = rows_of_all_sizes(rows, 9)
    found = np.zeros((9, 9))
    gram_by_slices(z, found, None)
    expected = z.astype(np.longdouble).T @ z.astype(np.longdouble)
    assert (np.abs(found - expected) <= bound(z, z)).all()
    assert (found == found.T).all()


def test_error_is_far_below_what_is_promised() -> None:
    """Of a GPU's tile of values without peaks: 1e-12 of the lengths of columns."""
    rng = np.random.default_rng()
    x, y = (np.maximum(rng.normal(size=(4000, 6)), 0) - 0.4 for _ in range(2))
    found = np.zeros((6, 6))
    cross_by_slices(x, y, found, None)
    expected = x.astype(np.longdouble).T @ y.astype(np.longdouble)
    lengths = np.outer(np.linalg.norm(x, axis=0), np.linalg.norm(y, axis=0))
    assert (np.abs(found - expected) <= 1e-12 * lengths).all()


def test_sums_of_a_tile_fit_into_32_bits() -> None:
    assert tile_rows_of("cuda") <= MOST_ROWS
    assert MOST_ROWS * SLICES * 64**2 < 2**31
    # the largest digits, all of one sign
    digits = np.full((SLICES, tile_rows_of("cuda"), 1), 64, np.int8)
    largest = Sliced(digits, np.zeros(1, np.int32))
    add_cross(largest, largest, np.zeros((1, 1)), np.empty((1, 1), np.int32), WholeNumbers())
