"""Sums of products of float64 values by exact products of small integers.

Many GPUs multiply 8-bit integers a hundred times as fast as float64. Ozaki's scheme (Ootomo, Ozaki
and Yokota, DGEMM on Integer Matrix Multiplication Unit, arXiv 2306.11975, section 3): with 2^e
above all values of a column, each of them is cut into S slices of 7 bits, z = 2^e Σ d_a 2^(1 - 7a),
where the d_a are whole and at most 64. Products of slices are added up in 32-bit integers, which is
exact, those of the same weight together, and the sums of each weight go on in float64.

Products whose weight is below that of what was cut off are left out. Of z and y together they and
the rest are at most (S + 2) 2^(-7S) 2^(e + f) a row. Beside the lengths of both columns, of n rows,
the bound of a float64 sum is n 2^-53 (Higham, Accuracy and Stability, section 3.1). With S = 8 what
is left out is below that, unless one value makes up most of the length of both columns, and then it
is at most five times as much.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

__all__ = ["MOST_ROWS", "SLICES", "Integers", "Sliced", "add_cross", "add_gram"]

SLICES = 8
_BITS = 7

MOST_ROWS = 2**31 // (SLICES * 64**2) - 1
"""Of which the products of one weight, all as large as they can be, add up to less than 2^31."""


class Sliced(NamedTuple):
    """Rows cut into slices; arrays are the device's.

    Attributes
    ----------
    digits : array of int8, shape (SLICES, rows, dim)
        d_1, d_2, ...
    exponents : array of int32, shape (dim,)
        e of each column.
    """

    digits: Any
    exponents: Any


class Integers(Protocol):
    """What a device does with integers."""

    def sum_of_products(self, x: Any, y: Any, out: Any, *, add: bool) -> None:
        """Compute out = xᵀy, or add it, of int8 slices (rows, p) and (rows, q) in int32."""

    def add_scaled(self, sums: Any, rows: Any, columns: Any, shift: int, out: Any) -> None:
        """Add sums 2^(e + f + shift) to `out` (p, q), e being those of `rows`, f of `columns`."""


def add_cross(x: Sliced, y: Sliced, out: Any, sums: Any, by: Integers) -> None:
    """Add xᵀy to `out`.

    Parameters
    ----------
    x, y : Sliced
        Of at most `MOST_ROWS` rows.
    out : array of float64 there, shape (p, q)
    sums : array of int32 there, shape (p, q)
        Overwritten.
    by : Integers
        What multiplies.
    """
    for weight in range(SLICES + 1, 1, -1):  # the smallest first
        for a in range(1, weight):
            by.sum_of_products(x.digits[a - 1], y.digits[weight - a - 1], sums, add=a > 1)
        by.add_scaled(sums, x.exponents, y.exponents, 2 - _BITS * weight, out)


def add_gram(z: Sliced, out: Any, sums: Any, by: Integers) -> None:
    """Add zᵀz to `out`; of products of two slices and their transposes one is computed.

    Parameters
    ----------
    z : Sliced
        Of at most `MOST_ROWS` rows.
    out : array of float64 there, shape (p, p)
    sums : array of int32 there, shape (p, p)
        Overwritten.
    by : Integers
        What multiplies.
    """
    exponents = z.exponents
    for weight in range(SLICES + 1, 1, -1):
        shift = 2 - _BITS * weight
        for a in range(1, (weight + 1) // 2):
            by.sum_of_products(z.digits[a - 1], z.digits[weight - a - 1], sums, add=a > 1)
        if weight > 2:
            by.add_scaled(sums + sums.T, exponents, exponents, shift, out)
        if weight % 2 == 0:
            half = z.digits[weight // 2 - 1]
            by.sum_of_products(half, half, sums, add=False)
            by.add_scaled(sums, exponents, exponents, shift, out)
