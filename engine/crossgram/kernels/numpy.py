"""The kernels on the CPU."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from crossgram.kernels.blas import gemm, gemv, syrk, trsm

__all__ = [
    "add_cross",
    "add_gram",
    "add_norms",
    "add_squares",
    "allocate",
    "centre",
    "clear",
    "clear_columns",
    "host_buffer",
    "products",
    "provisional_shift",
    "scale_rows",
    "solve_triangle",
    "staging",
    "tile_sets",
    "to_host",
    "turn",
    "unit_rows",
    "upload",
    "weighted_sum",
]

tile_sets = 1
turn = 0

# Casting and subtracting separately is twice as fast as one ufunc call with mixed dtypes, which
# goes through NumPy's small casting buffer; so few rows stay in the cache between the two.
_CACHED_ROWS = 128
_MAPPED_BYTES = 1 << 20

_LARGE_SQUARE = 1e303
"""Of more, the sums of a run could overflow about 0 where they do not about the mean."""


def allocate(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return zeros, in memory that goes back to the system as soon as it is freed.

    What a thread has from malloc, its arena may keep, and the next pass would come on top.
    """
    kind = np.dtype(dtype)
    count = math.prod(shape)
    if count * kind.itemsize < _MAPPED_BYTES:
        return np.zeros(shape, kind)
    # private: pages of memory that processes could share cost more to be given
    memory = mmap.mmap(-1, count * kind.itemsize, access=mmap.ACCESS_COPY)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel that has none
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, kind, count).reshape(shape)


host_buffer = allocate


def staging() -> AbstractContextManager[None]:
    """Do what follows at once."""
    return nullcontext()


def products() -> AbstractContextManager[None]:
    """Do what follows at once."""
    return nullcontext()


def upload(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array itself."""
    return array


def to_host(
    arrays: Sequence[NDArray[Any]], into: Sequence[NDArray[Any]] | None = None
) -> list[NDArray[Any]]:
    """Return the arrays themselves."""
    return list(arrays)


def provisional_shift(
    rows: NDArray[Any], weights: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return the weighted mean of rows, shape (dim,), or 0 where no column needs a shift.

    To cast rows without one takes a third of the time, and where every mean is below half of the
    spread, squares about 0 are at most a quarter larger than those about it.
    """
    if weights is not None and weights.any():
        mean: NDArray[np.float64] = weights @ rows.astype(np.float64) / weights.sum()
        return mean
    mean = rows.mean(axis=0, dtype=np.float64)
    if rows.dtype.itemsize > mean.dtype.itemsize:
        return mean
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->j", rows, rows, dtype=np.float64) / len(rows)
        is_small = (5 * mean**2 <= squares) & (squares < _LARGE_SQUARE)
    return np.zeros_like(mean) if is_small.all() else mean


def centre(block: NDArray[Any], shift: NDArray[Any], out: NDArray[Any]) -> None:
    """Write block - shift into `out`, computed in the wider of the dtypes of both."""
    if block.dtype.itemsize > out.dtype.itemsize:
        for start in range(0, len(block), _CACHED_ROWS):
            out[start : start + _CACHED_ROWS] = block[start : start + _CACHED_ROWS] - shift
        return
    if not shift.any():
        np.copyto(out, block, casting="same_kind")
        return
    own_shift = shift.astype(out.dtype)
    for start in range(0, len(block), _CACHED_ROWS):
        rows = out[start : start + _CACHED_ROWS]
        np.copyto(rows, block[start : start + _CACHED_ROWS], casting="same_kind")
        rows -= own_shift


def scale_rows(z: NDArray[Any], factors: NDArray[Any]) -> None:
    """Multiply each row of `z` by its factor."""
    z *= factors[:, None]


def clear_columns(z: NDArray[Any], which: NDArray[np.bool_]) -> None:
    """Set columns of `z` to 0, but for NaN and infinity, which become NaN."""
    z[:, which] *= 0.0


def clear(array: NDArray[Any]) -> None:
    """Set an array to 0."""
    array.fill(0.0)


def solve_triangle(z: NDArray[np.float64], triangle: NDArray[np.float64]) -> None:
    """Replace the rows of z (rows, p) by those of z R⁻¹, R (p, p) being upper triangular."""
    trsm(z, triangle)


def unit_rows(block: NDArray[Any]) -> NDArray[np.float64]:
    """Return the rows divided by their Euclidean lengths, float64; a zero row becomes NaN."""
    rows = block.astype(np.float64)
    largest = np.maximum(rows.max(axis=1, keepdims=True), -rows.min(axis=1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        rows /= largest
        rows /= np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return rows


def weighted_sum(weights: NDArray[Any], z: NDArray[Any]) -> NDArray[np.float64]:
    """Return the column sums of the rows of `z`, each times its weight, shape (p,)."""
    return gemv(weights, z).astype(np.float64, copy=False)


def add_gram(z: NDArray[Any], out: NDArray[np.float64], scratch: NDArray[Any] | None) -> None:
    """Add the upper triangle of zᵀz to `out` (p, p); float32 rows go through `scratch`."""
    if scratch is None:
        syrk(z, out)
    else:
        syrk(z, scratch, beta=0.0)
        out += scratch


def add_cross(
    x: NDArray[Any], y: NDArray[Any], out: NDArray[np.float64], scratch: NDArray[Any] | None
) -> None:
    """Add xᵀy to `out` (p, q); float32 rows go through `scratch`."""
    if scratch is None:
        gemm(x, y, out)
    else:
        gemm(x, y, scratch, beta=0.0)
        out += scratch


def add_squares(z: NDArray[Any], out: NDArray[np.float64]) -> None:
    """Add the sums of squares of the columns of `z` to `out` (p,)."""
    out += np.einsum("ij,ij->j", z, z)


def add_norms(
    tiles: Sequence[NDArray[Any]],
    fourth: NDArray[np.float64],
    third: Sequence[NDArray[np.float64]],
) -> None:
    """Add the sums Σ a_i a_j to `fourth` (K, K) and Σ a_i z_j to `third` (K, dim) of each space.

    a_i is the squared length of a row of tile i; float32 rows are widened, a few at a time.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(tiles[0]), _CACHED_ROWS):
            rows = [
                tile[start : start + _CACHED_ROWS].astype(np.float64, copy=False) for tile in tiles
            ]
            lengths = np.stack([np.einsum("ij,ij->i", z, z) for z in rows])
            fourth += lengths @ lengths.T
            for sums, z in zip(third, rows, strict=True):
                sums += lengths @ z
