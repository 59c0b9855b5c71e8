"""Sums and products to about 100 bits: pairs of float64 numbers, high and low.

A value is the unevaluated sum of two arrays, the second being what rounding to float64 leaves out
of the first.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pair", "add", "product", "split", "times", "two_sum"]

Array = NDArray[np.float64]
Pair = tuple[Array, Array]
"""High and low part."""

_SIGNIFICAND = 53
_WANTED_BITS = 104
_SPLITTER = 2.0**27 + 1


def two_sum(a: Array, b: Array) -> Pair:
    """Return a + b rounded, and what the rounding left out, exactly (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def add(first: Pair, second: Pair) -> Pair:
    """Return the sum of two pairs."""
    high, low = two_sum(first[0], second[0])
    return two_sum(high, low + (first[1] + second[1]))


def times(a: Array, b: Array) -> Pair:
    """Return a * b rounded, and what the rounding left out, exactly (Dekker 1971)."""
    high = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return high, ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2


def split(values: NDArray[np.floating]) -> tuple[Array, Array | None]:
    """Return values as float64, and what that leaves out of them where they are wider."""
    high = values.astype(np.float64)
    if values.dtype.itemsize <= high.dtype.itemsize:
        return high, None
    return high, (values - high).astype(np.float64)


def product(a: Array, b: Array, *, a_low: Array | None = None, b_low: Array | None = None) -> Pair:
    """Return aᵀ b of float64 matrices, by products that are exact in float64.

    Parameters
    ----------
    a : ndarray, shape (k, m)
    b : ndarray, shape (k, n)
    a_low, b_low : ndarray, shapes (k, m) and (k, n), optional
        Low parts, where `a` or `b` is a pair.

    Returns
    -------
    pair of ndarray, shape (m, n)
        Good to about 2⁻¹⁰⁰ times k, the largest value of the column of `a` and that of `b`.

    Notes
    -----
    Every column is cut into slices of so few bits that sums of k products of them are exact; the
    matrix products of slices add up, the smallest first (Ozaki, Ogita, Oishi and Rump, "Error-free
    transformations of matrix multiplication", Numerical Algorithms 59, 2012).

    Examples
    --------
    >>> import numpy as np
    >>> high, low = product(np.array([[1e16], [1.0], [-1e16]]), np.ones((3, 1)))
    >>> float(high[0, 0])
    1.0
    """
    bits = (_SIGNIFICAND - math.ceil(math.log2(max(2, len(a))))) // 2
    count = -(-_WANTED_BITS // bits)
    skipped = _SIGNIFICAND // bits
    left, right = (
        _slices(high, bits, count, 0) + _slices(low, bits, count, skipped)
        for high, low in ((a, a_low), (b, b_low))
    )
    total = np.zeros((a.shape[1], b.shape[1])), np.zeros((a.shape[1], b.shape[1]))
    terms = [(i + j, x, y) for i, x in left for j, y in right if i + j <= count]
    for _, x, y in sorted(terms, key=lambda term: term[0], reverse=True):
        high, low = two_sum(total[0], x.T @ y)
        low += total[1]
        total = high, low
    return two_sum(*total)


def _slices(matrix: Array | None, bits: int, count: int, skipped: int) -> list[tuple[int, Array]]:
    """Return numbered matrices that add up to the given one, each of few bits per column.

    Those of a low part begin with the number of slices that its high part has before.
    """
    if matrix is None:
        return []
    rest, slices = matrix.copy(), []
    _, exponents = np.frexp(np.abs(matrix).max(axis=0, initial=0.0))
    for number in range(skipped, count):
        if not rest.any():
            break
        # adding 1.5 times a power of two rounds to a multiple of its last place
        rounder = np.ldexp(1.5, exponents - bits + _SIGNIFICAND - 1)
        slices.append((number, (rest + rounder) - rounder))
        rest -= slices[-1][1]
        exponents = exponents - bits
    return slices


def _halves(a: Array) -> Pair:
    """Return two halves of 26 bits each (Veltkamp 1968)."""
    scaled = _SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high
