"""Slices of float64 values on a GPU, their products by its integer units, and whether they pay."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import cupy
import cupy.cublas
import numpy as np
from cupy_backends.cuda.api import runtime
from cupy_backends.cuda.libs import cublas

from crossgram.kernels.slices import SLICES, Sliced, add_cross, add_gram

__all__ = ["add_cross_by_slices", "add_gram_by_slices", "slices_are_faster"]

_FACTOR = 1.5
"""That slices must be faster by, so that a measurement gives the same answer every time."""

_ROWS, _DIM, _REPEATS = 8192, 1024, 3

_CUDA_R_32I = 10  # of CUDA's library_types.h; CuPy has no name for it

# cuBLAS has integer products where leading dimensions and rows are multiples of 4
_MULTIPLE = 4

_CUT = cupy.ElementwiseKernel(
    "float64 z, int32 exponent, int32 slices, int64 dim, int64 stride, int64 plane",
    "raw int8 digits",
    """
    double rest = ldexp(z, 6 - exponent);
    const long long at = (long long)(i / dim) * stride + i % dim;
    for (int k = 0; k < slices; ++k) {
        const double digit = rint(rest);
        digits[k * plane + at] = (signed char)digit;
        rest = (rest - digit) * 128;
    }
    """,
    "crossgram_cut",
)
_ADD_SCALED = cupy.ElementwiseKernel(
    "int32 sum, int32 row, int32 column, int32 shift",
    "float64 total",
    "total += ldexp((double)sum, row + column + shift)",
    "crossgram_add_scaled",
)


class _IntegerUnits:
    """`Integers` of the GPU and the stream in use; shapes are padded, as `_sliced` has them."""

    def sum_of_products(self, x: Any, y: Any, out: Any, *, add: bool) -> None:
        rows, p = x.shape
        q = y.shape[1]
        one, beta = np.array(1, np.int32), np.array(int(add), np.int32)
        # in the order of Fortran the arrays are their own transposes: outᵀ = yᵀx
        cublas.gemmEx(
            cupy.cuda.device.get_cublas_handle(),
            cublas.CUBLAS_OP_N,
            cublas.CUBLAS_OP_T,
            q,
            p,
            rows,
            one.ctypes.data,
            y.data.ptr,
            runtime.CUDA_R_8I,
            q,
            x.data.ptr,
            runtime.CUDA_R_8I,
            p,
            beta.ctypes.data,
            out.data.ptr,
            _CUDA_R_32I,
            q,
            cublas.CUBLAS_COMPUTE_32I,
            cublas.CUBLAS_GEMM_DEFAULT,
        )

    def add_scaled(self, sums: Any, rows: Any, columns: Any, shift: int, out: Any) -> None:
        p, q = out.shape
        _ADD_SCALED(sums[:p, :q], rows[:p, None], columns[None, :q], shift, out)


_UNITS = _IntegerUnits()


def add_gram_by_slices(z: Any, out: Any) -> None:
    """Add zᵀz to `out` (p, p), as `slices.add_gram` does; z (rows, p) is float64."""
    sliced = _sliced(z)
    dim = sliced.digits.shape[2]
    add_gram(sliced, out, cupy.empty((dim, dim), np.int32), _UNITS)


def add_cross_by_slices(x: Any, y: Any, out: Any) -> None:
    """Add xᵀy to `out` (p, q), as `slices.add_cross` does; x and y are float64."""
    first, second = _sliced(x), _sliced(y)
    shape = first.digits.shape[2], second.digits.shape[2]
    add_cross(first, second, out, cupy.empty(shape, np.int32), _UNITS)


def _sliced(z: Any) -> Sliced:
    """Cut rows into slices, with zeros below and beside them to the next multiple."""
    rows, dim = z.shape
    shape = SLICES, *(-(-size // _MULTIPLE) * _MULTIPLE for size in (rows, dim))
    digits = (cupy.empty if shape[1:] == z.shape else cupy.zeros)(shape, np.int8)
    _, exponents = cupy.frexp(cupy.abs(z).max(axis=0))
    _CUT(z, exponents, SLICES, dim, shape[2], shape[1] * shape[2], digits)
    return Sliced(digits, exponents)


_measuring = threading.Lock()
_measured: dict[int, bool] = {}


def slices_are_faster(number: int) -> bool:
    """Tell whether a GPU multiplies slices faster than float64, measured once per process.

    Parameters
    ----------
    number : int
        Of the GPU in use.
    """
    with _measuring:
        if number not in _measured:
            _measured[number] = _measure()
            # what it took is in no plan
            cupy.get_default_memory_pool().free_all_blocks()
        return _measured[number]


def _measure() -> bool:
    try:
        # numbers of all kinds of digits, without cuRAND
        x = cupy.sin(cupy.arange(_ROWS * _DIM, dtype=np.float64)).reshape(_ROWS, _DIM)
        y = x[::-1].copy()
        out = cupy.zeros((_DIM, _DIM))
        by_slices = _milliseconds(lambda: add_cross_by_slices(x, y, out))
        by_float64 = _milliseconds(lambda: cupy.cublas.gemm("T", "N", x, y, out=out, beta=1.0))
    # a GPU, or a version, without products of integers; or no room to try, let alone for slices
    except (cublas.CUBLASError, cupy.cuda.memory.OutOfMemoryError):
        return False
    return by_float64 > _FACTOR * by_slices


def _milliseconds(work: Callable[[], object]) -> float:
    """Return the shortest of a few times after a first one, on the stream in use."""
    stream = cupy.cuda.get_current_stream()
    times = []
    for _ in range(1 + _REPEATS):
        before, after = cupy.cuda.Event(), cupy.cuda.Event()
        before.record(stream)
        work()
        after.record(stream)
        after.synchronize()
        times.append(cupy.cuda.get_elapsed_time(before, after))
    return float(min(times[1:]))
