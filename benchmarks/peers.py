"""Other ways to the same map, each as its own documentation advises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

__all__ = ["PEERS", "qr_map"]

Map = NDArray[np.float64]
_BLOCK = 8192


def _blocks(x: Path, y: Path) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    arrays = [zarr.open_array(path / "embeddings", mode="r") for path in (x, y)]
    for start in range(0, arrays[0].shape[0], _BLOCK):
        first, second = (array[start : start + _BLOCK] for array in arrays)
        yield first, second


def _solve(gram: NDArray[np.float64], cross: NDArray[np.float64]) -> Map:
    """Solve for M, from products of rows with a column of ones before them."""
    return np.linalg.solve(gram, cross)[1:]


def _with_ones(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.concatenate([np.ones((len(rows), 1), rows.dtype), rows], axis=1)


def numpy_loop(x: Path, y: Path, dtype: type = np.float64) -> Map:
    """Add up XᵀX and XᵀY chunk by chunk."""
    gram: NDArray[np.float64] | float = 0.0
    cross: NDArray[np.float64] | float = 0.0
    for first, second in _blocks(x, y):
        rows = _with_ones(first.astype(dtype))
        gram = gram + rows.T @ rows
        cross = cross + rows.T @ second.astype(dtype)
    assert isinstance(gram, np.ndarray)
    assert isinstance(cross, np.ndarray)
    return _solve(gram, cross)


def numpy_loop_float32(x: Path, y: Path) -> Map:
    """Do the same in float32."""
    return numpy_loop(x, y, np.float32)


def dask_products(x: Path, y: Path) -> Map:
    """Let dask.array compute X.T @ X and X.T @ Y of float64 rows."""
    import dask
    import dask.array as da

    first, second = (
        da.from_zarr(str(path / "embeddings"), chunks=(_BLOCK, -1)).astype(np.float64)
        for path in (x, y)
    )
    rows = da.concatenate([da.ones((first.shape[0], 1), chunks=(_BLOCK, 1)), first], axis=1)
    rows = rows.rechunk((_BLOCK, -1))
    gram, cross = dask.compute(rows.T @ rows, rows.T @ second)
    return _solve(gram, cross)


def intelex_incremental(x: Path, y: Path) -> Map:
    """Give float32 chunks to scikit-learn-intelex's IncrementalLinearRegression."""
    from sklearnex.linear_model import IncrementalLinearRegression

    model = IncrementalLinearRegression()
    for first, second in _blocks(x, y):
        model.partial_fit(first, second)
    return np.asarray(model.coef_, np.float64).T


def intelex_incremental_float64(x: Path, y: Path) -> Map:
    """Give it float64 chunks."""
    from sklearnex.linear_model import IncrementalLinearRegression

    model = IncrementalLinearRegression()
    for first, second in _blocks(x, y):
        model.partial_fit(first.astype(np.float64), second.astype(np.float64))
    return np.asarray(model.coef_, np.float64).T


PEERS: dict[str, Callable[[Path, Path], Map]] = {
    "NumPy loop, float64": numpy_loop,
    "NumPy loop, float32": numpy_loop_float32,
    "dask.array products, float64": dask_products,
    "scikit-learn-intelex IncrementalLinearRegression, float32": intelex_incremental,
    "scikit-learn-intelex IncrementalLinearRegression, float64": intelex_incremental_float64,
}


def qr_map(x: Path, y: Path) -> Map:
    """Solve by QR in float64, block by block: the reference that squares no condition number.

    The triangular factor of [1 X Y] is updated with each block (Golub and Van Loan, Matrix
    Computations, section 5.3); its parts give the least-squares problem R M = Q'Y.
    """
    factor: NDArray[np.float64] | None = None
    p = 0
    for first, second in _blocks(x, y):
        p = first.shape[1]
        block = np.concatenate([_with_ones(first.astype(np.float64)), second], axis=1)
        stacked = block if factor is None else np.concatenate([factor, block])
        factor = np.linalg.qr(stacked, mode="r")
    assert factor is not None
    return np.linalg.solve(factor[: p + 1, : p + 1], factor[: p + 1, p + 1 :])[1:]
