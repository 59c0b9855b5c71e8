"""BLAS products that add into an existing array, with the interpreter lock released.

NumPy's `matmul` cannot accumulate (beta = 1), and SciPy's wrappers hold the lock, so the routines
that SciPy exports for Cython are called through ctypes. They are Fortran routines; a C-ordered
(rows, p) array is their (p, rows) matrix, which is why no transposition is ever made.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas

__all__ = ["gemm", "gemv", "product", "syrk", "trsm"]

_Routine = Callable[..., None]


def _routine(name: str, arguments: int) -> _Routine:
    capsule = cython_blas.__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    prototype = ctypes.CFUNCTYPE(None, *(ctypes.c_void_p,) * arguments)
    return prototype(get_pointer(capsule, get_name(capsule)))


_SYRK = {np.dtype(np.float32): _routine("ssyrk", 10), np.dtype(np.float64): _routine("dsyrk", 10)}
_GEMM = {np.dtype(np.float32): _routine("sgemm", 13), np.dtype(np.float64): _routine("dgemm", 13)}
_GEMV = {np.dtype(np.float32): _routine("sgemv", 11), np.dtype(np.float64): _routine("dgemv", 11)}
_DTRSM = _routine("dtrsm", 11)
_SCALAR: dict[np.dtype[Any], Any] = {
    np.dtype(np.float32): ctypes.c_float,
    np.dtype(np.float64): ctypes.c_double,
}


def syrk(z: NDArray[Any], out: NDArray[Any], *, beta: float = 1.0) -> None:
    """Compute the upper triangle of out = beta * out + zᵀ z.

    Parameters
    ----------
    z : ndarray, shape (rows, p), float32 or float64, C-contiguous
    out : ndarray, shape (p, p), the dtype of `z`, C-contiguous
        Its strictly lower triangle is left as it is.
    beta : float
        1 adds, 0 replaces.
    """
    _check(z, out)
    rows, p = z.shape
    scalar = _SCALAR[z.dtype]
    _SYRK[z.dtype](
        ctypes.c_char_p(b"L"),
        ctypes.c_char_p(b"N"),
        _integer(p),
        _integer(rows),
        ctypes.byref(scalar(1.0)),
        z.ctypes.data,
        _integer(p),
        ctypes.byref(scalar(beta)),
        out.ctypes.data,
        _integer(p),
    )


def gemm(x: NDArray[Any], y: NDArray[Any], out: NDArray[Any], *, beta: float = 1.0) -> None:
    """Compute out = beta * out + xᵀ y.

    Parameters
    ----------
    x : ndarray, shape (rows, p), float32 or float64, C-contiguous
    y : ndarray, shape (rows, q), the dtype of `x`, C-contiguous
    out : ndarray, shape (p, q), the dtype of `x`, C-contiguous
    beta : float
        1 adds, 0 replaces.
    """
    _check(x, y, out)
    _multiply((x, b"T"), (y, b"N"), len(x), out, beta)


def gemv(weights: NDArray[Any], z: NDArray[Any]) -> NDArray[Any]:
    """Return weightsᵀ z, shape (p,).

    Parameters
    ----------
    weights : ndarray, shape (rows,), float32 or float64, C-contiguous
    z : ndarray, shape (rows, p), the dtype of `weights`, C-contiguous
    """
    _check(weights, z)
    rows, p = z.shape
    scalar = _SCALAR[z.dtype]
    out = np.zeros(p, z.dtype)
    _GEMV[z.dtype](
        ctypes.c_char_p(b"N"),
        _integer(p),
        _integer(rows),
        ctypes.byref(scalar(1.0)),
        z.ctypes.data,
        _integer(p),
        weights.ctypes.data,
        _integer(1),
        ctypes.byref(scalar(0.0)),
        out.ctypes.data,
        _integer(1),
    )
    return out


def product(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Return left @ right, computed by the threads that SciPy's routines have.

    Parameters
    ----------
    left, right : ndarray, shapes (m, k) and (k, n), float64

    Returns
    -------
    ndarray, shape (m, n), C-contiguous
    """
    if left.shape[1] != right.shape[0]:
        raise ValueError(f"shapes {left.shape} and {right.shape} do not multiply")
    (m, k), n = left.shape, right.shape[1]
    first, second = _stored(left), _stored(right)
    out = np.zeros((m, n))
    if not (out.size and k):
        return out
    _multiply(first, second, k, out, 0.0)
    return out


_Stored = tuple[NDArray[Any], bytes]
"""Rows one after the other, of a matrix itself, b"N", or of its transpose, b"T"."""


def _multiply(left: _Stored, right: _Stored, inner: int, out: NDArray[Any], beta: float) -> None:
    """Compute out = beta * out + left right, `inner` being the length of what is summed over."""
    # of the column-major matrices that these are, outᵀ = rightᵀ leftᵀ
    (first, first_turned), (second, second_turned) = left, right
    scalar = _SCALAR[out.dtype]
    m, n = out.shape
    _GEMM[out.dtype](
        ctypes.c_char_p(second_turned),
        ctypes.c_char_p(first_turned),
        _integer(n),
        _integer(m),
        _integer(inner),
        ctypes.byref(scalar(1.0)),
        second.ctypes.data,
        _integer(second.shape[1]),
        first.ctypes.data,
        _integer(first.shape[1]),
        ctypes.byref(scalar(beta)),
        out.ctypes.data,
        _integer(n),
    )


def _stored(matrix: NDArray[Any]) -> _Stored:
    if matrix.dtype != np.float64:
        raise ValueError(f"dtype {matrix.dtype} given, expected float64")
    if matrix.flags.f_contiguous and not matrix.flags.c_contiguous:
        return matrix.T, b"T"
    return np.ascontiguousarray(matrix), b"N"


def trsm(z: NDArray[np.float64], triangle: NDArray[np.float64]) -> None:
    """Replace the rows of z by those of z R⁻¹.

    Parameters
    ----------
    z : ndarray, shape (rows, p), float64, C-contiguous
    triangle : ndarray, shape (p, p), float64, C-contiguous
        R, of which the upper triangle is used.
    """
    _check(z, triangle)
    rows, p = z.shape
    _DTRSM(
        ctypes.c_char_p(b"L"),
        ctypes.c_char_p(b"L"),
        ctypes.c_char_p(b"N"),
        ctypes.c_char_p(b"N"),
        _integer(p),
        _integer(rows),
        ctypes.byref(ctypes.c_double(1.0)),
        triangle.ctypes.data,
        _integer(p),
        z.ctypes.data,
        _integer(p),
    )


def _integer(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


def _check(*arrays: NDArray[Any]) -> None:
    # a pointer carries no shape: what BLAS would misread must not reach it
    for array in arrays:
        if not array.flags.c_contiguous or array.dtype != arrays[0].dtype:
            raise ValueError("BLAS operands must be C-contiguous and of one dtype")
