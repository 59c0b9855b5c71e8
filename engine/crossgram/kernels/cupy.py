"""The kernels on a GPU, through CuPy.

Of the two streams of a lane, one copies rows and makes tiles of them, the other multiplies tiles:
while a tile is multiplied, the next one is copied and made. Lanes have streams of their own and
wait for nothing but these. Neither is the default stream, and what is allocated is set to zero on
a stream of the lane, so that nothing synchronises the device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cupy
import cupy.cublas
import numpy as np
from cupy_backends.cuda.libs import cublas
from numpy.typing import DTypeLike, NDArray

from crossgram.devices import on_gpu
from crossgram.errors import MemoryLimitError
from crossgram.kernels.cupy_slices import (
    add_cross_by_slices,
    add_gram_by_slices,
    slices_are_faster,
)

__all__ = ["GpuKernels"]

# products of two streams share a thread's handle of cuBLAS: with a workspace for each stream, they
# are the same in every run
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

_FLOAT32_ROWS = 1024
"""Rows that are added up in float32 before they go on in float64, as on the CPU."""

_SUM_PARTS = 64

_CENTRE = cupy.ElementwiseKernel(
    "B block, float64 shift", "Z z", "z = (Z)((double)block - shift)", "crossgram_centre"
)
_WEIGHTED_SUM = cupy.ReductionKernel(
    "Z z, W w",
    "float64 total",
    "(double)z * (double)w",
    "a + b",
    "total = a",
    "0",
    "crossgram_weighted_sum",
)
_SQUARES = cupy.ReductionKernel(
    "Z z", "float64 total", "(double)z * (double)z", "a + b", "total = a", "0", "crossgram_squares"
)


class GpuKernels:
    """What one lane computes with on a GPU.

    Parameters
    ----------
    number : int
        Of the GPU, among those that this process sees.

    Attributes
    ----------
    by_slices : bool
        Whether float64 products are made of products of integers: where that is faster.
    """

    tile_sets = 2

    def __init__(self, number: int) -> None:
        self._device = cupy.cuda.Device(number)
        self.turn = 0
        with self._device:
            self._copying, self._computing = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
            self._staged = cupy.cuda.Event(disable_timing=True)
            self._multiplied = [cupy.cuda.Event(disable_timing=True) for _ in range(self.tile_sets)]
        with self._on(self._computing):
            self.by_slices = slices_are_faster(number)

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Return zeros there."""
        with self._on(self._computing):
            array = cupy.zeros(shape, dtype)
            self._computing.synchronize()
            return array

    def host_buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return pinned memory, which is copied from at full rate."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape))
        size = max(1, count * kind.itemsize)
        try:
            with self._device:
                # not of the pool, which rounds up to powers of two
                memory = cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(size), 0)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise MemoryLimitError(
                f"memory: {size / 1e6:,.0f} MB that a GPU can copy from are not to be had "
                f"({error}); give fewer threads or smaller blocks (--threads, --memory)"
            ) from error
        return np.frombuffer(memory, kind, count).reshape(shape)

    @contextmanager
    def staging(self) -> Iterator[None]:
        """Copy and make a tile, once the products of the one before it there are done."""
        with self._on(self._copying):
            self._copying.wait_event(self._multiplied[self.turn])
            yield

    @contextmanager
    def products(self) -> Iterator[None]:
        """Add up what was staged before, without being waited for."""
        with self._on(self._computing):
            self._staged.record(self._copying)
            self._computing.wait_event(self._staged)
            yield
            self._multiplied[self.turn].record(self._computing)
        self.turn = (self.turn + 1) % self.tile_sets

    def upload(self, array: Any) -> Any:
        """Return an array there; the host's may change again once `to_host` gives a result."""
        if isinstance(array, cupy.ndarray):
            return array
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        there = cupy.empty(native.shape, native.dtype)
        there.set(np.ascontiguousarray(native), stream=cupy.cuda.get_current_stream())
        return there

    def to_host(
        self, arrays: Sequence[Any], into: Sequence[NDArray[Any]] | None = None
    ) -> list[NDArray[Any]]:
        """Return arrays from there, once all that was asked of the same stream is done."""
        places: Sequence[NDArray[Any] | None] = [None] * len(arrays) if into is None else into
        found = [
            array.get(out=place, blocking=False)
            for array, place in zip(arrays, places, strict=True)
        ]
        cupy.cuda.get_current_stream().synchronize()
        return found

    def provisional_shift(
        self, rows: Any, weights: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """Return the weighted mean of rows there, shape (dim,)."""
        if weights is None or not weights.any():
            weights = np.ones(len(rows))
        (total,) = self.to_host([self.weighted_sum(weights, rows)])
        mean: NDArray[np.float64] = total / weights.sum()
        return mean

    def unit_rows(self, block: Any) -> Any:
        """Return the rows divided by their Euclidean lengths, float64; a zero row becomes NaN."""
        rows = block.astype(cupy.float64)
        rows /= cupy.abs(rows).max(axis=1, keepdims=True)
        rows /= cupy.sqrt(_SQUARES(rows, axis=1, keepdims=True))
        return rows

    def centre(self, block: Any, shift: NDArray[Any], out: Any) -> None:
        """Write block - shift into `out`, computed in float64."""
        _CENTRE(block, self.upload(shift.astype(np.float64)), out)

    def scale_rows(self, z: Any, factors: NDArray[Any]) -> None:
        """Multiply each row of `z` by its factor."""
        z *= self.upload(factors.astype(z.dtype))[:, None]

    def clear_columns(self, z: Any, which: NDArray[np.bool_]) -> None:
        """Set columns of `z` to 0, but for NaN and infinity, which become NaN."""
        if which.any():
            z[:, self.upload(np.flatnonzero(which))] *= 0.0

    def solve_triangle(self, z: Any, triangle: Any) -> None:
        """Replace the rows of z (rows, p) by those of z R⁻¹, R (p, p) being upper triangular."""
        rows, p = z.shape
        one = np.array(1.0)
        # as the CPU's: in the order of Fortran, both arrays are their own transposes
        cublas.dtrsm(
            cupy.cuda.device.get_cublas_handle(),
            cublas.CUBLAS_SIDE_LEFT,
            cublas.CUBLAS_FILL_MODE_LOWER,
            cublas.CUBLAS_OP_N,
            cublas.CUBLAS_DIAG_NON_UNIT,
            p,
            rows,
            one.ctypes.data,
            triangle.data.ptr,
            p,
            z.data.ptr,
            p,
        )

    def weighted_sum(self, weights: NDArray[Any], z: Any) -> Any:
        """Return the column sums of the rows of `z`, each times its weight, shape (p,), float64."""
        # in parts, of which the GPU adds up many at once
        parts = _SUM_PARTS if len(z) % _SUM_PARTS == 0 else 1
        shape = (parts, len(z) // parts, -1)
        sums = _WEIGHTED_SUM(z.reshape(shape), self.upload(weights).reshape(shape), axis=1)
        return sums.sum(axis=0)

    def add_gram(self, z: Any, out: Any, scratch: Any | None) -> None:
        """Add the upper triangle of zᵀz to `out` (p, p); float32 rows go through `scratch`."""
        if scratch is None:
            if self.by_slices:
                add_gram_by_slices(z, out)
            else:
                cupy.cublas.syrk("T", z, out=out, beta=1.0)
            return
        for start in range(0, len(z), _FLOAT32_ROWS):
            cupy.cublas.syrk("T", z[start : start + _FLOAT32_ROWS], out=scratch)
            out += scratch

    def add_cross(self, x: Any, y: Any, out: Any, scratch: Any | None) -> None:
        """Add xᵀy to `out` (p, q); float32 rows go through `scratch`."""
        if scratch is None:
            if self.by_slices:
                add_cross_by_slices(x, y, out)
            else:
                cupy.cublas.gemm("T", "N", x, y, out=out, beta=1.0)
            return
        for start in range(0, len(x), _FLOAT32_ROWS):
            rows = slice(start, start + _FLOAT32_ROWS)
            cupy.cublas.gemm("T", "N", x[rows], y[rows], out=scratch)
            out += scratch

    def add_squares(self, z: Any, out: Any) -> None:
        """Add the sums of squares of the columns of `z` to `out` (p,)."""
        out += _SQUARES(z, axis=0)

    def add_norms(
        self,
        tiles: Sequence[Any],
        fourth: NDArray[np.float64],
        third: Sequence[NDArray[np.float64]],
    ) -> None:
        """Add Σ a_i a_j to `fourth` (K, K) and Σ a_i z_j to `third` (K, dim) of each space.

        a_i is the squared length of a row of tile i.
        """
        lengths = cupy.stack([_SQUARES(z, axis=1) for z in tiles])
        sums = [lengths @ lengths.T, *(lengths @ z.astype(cupy.float64, copy=False) for z in tiles)]
        for own, more in zip([fourth, *third], self.to_host(sums), strict=True):
            own += more

    def clear(self, array: Any) -> None:
        """Set an array there to 0."""
        array.fill(0.0)

    @contextmanager
    def _on(self, stream: Any) -> Iterator[None]:
        with on_gpu(self._device), stream:
            yield
