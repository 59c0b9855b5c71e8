"""Other ways to the same map, each as its own documentation advises.

As a program it runs one of them, in a process of its own, and says what that took.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from threadpoolctl import threadpool_limits

import crossgram as cg
from crossgram.resources import PeakMemory

__all__ = ["OURS", "PEERS", "blocks", "design"]

Map = NDArray[np.float64]
Rows = NDArray[Any]
_BLOCK = 8192
_ALPHA = 1e-12
"""Of ridges, whose documentation advises against 0: it moves M in the 11th digit at most."""


def blocks(x: Path, y: Path) -> Iterator[tuple[Rows, Rows]]:
    """Yield rows of both stores, block by block."""
    arrays = [_array(path) for path in (x, y)]
    for start in range(0, arrays[0].shape[0], _BLOCK):
        first, second = (array[start : start + _BLOCK] for array in arrays)
        yield first, second


def _array(path: Path) -> Any:
    return zarr.open_array(path / "embeddings", mode="r")


def design(rows: Rows, dtype: DTypeLike) -> Rows:
    """Return rows with a column of ones before them."""
    out = np.empty((len(rows), rows.shape[1] + 1), dtype)
    out[:, 0] = 1
    out[:, 1:] = rows
    return out


def _whole(path: Path, dtype: DTypeLike, ones: int = 0) -> Rows:
    """Return all rows, with as many columns of ones before them, held once."""
    array = _array(path)
    rows, dim = array.shape
    out = np.empty((rows, ones + dim), dtype)
    out[:, :ones] = 1
    for start in range(0, rows, _BLOCK):
        out[start : start + _BLOCK, ones:] = array[start : start + _BLOCK]
    return out


def _crossgram(x: Path, y: Path, **options: Any) -> Map:
    return cg.fit(x, y, **options).weight.T


def _numpy_loop(x: Path, y: Path, dtype: type) -> Map:
    gram: Any = 0
    cross: Any = 0
    for first, second in blocks(x, y):
        rows = design(first, dtype)
        gram += rows.T @ rows
        cross += rows.T @ second.astype(dtype)
    return np.linalg.solve(gram, cross)[1:]


def _numpy_lstsq(x: Path, y: Path) -> Map:
    return np.linalg.lstsq(_whole(x, np.float64, ones=1), _whole(y, np.float64))[0][1:]


def _scikit_learn(x: Path, y: Path) -> Map:
    from sklearn.linear_model import LinearRegression

    return _fitted(LinearRegression(copy_X=False), x, y, np.float64)


def _scikit_learn_ridge(x: Path, y: Path, dtype: type) -> Map:
    from sklearn.linear_model import Ridge

    return _fitted(Ridge(alpha=_ALPHA, copy_X=False), x, y, dtype)


def _intelex(x: Path, y: Path, dtype: type) -> Map:
    from sklearnex.linear_model import LinearRegression

    return _fitted(LinearRegression(copy_X=False), x, y, dtype)


def _fitted(model: Any, x: Path, y: Path, dtype: type) -> Map:
    return np.asarray(model.fit(_whole(x, dtype), _whole(y, dtype)).coef_.T)


def _intelex_incremental(x: Path, y: Path, dtype: type) -> Map:
    from sklearnex.linear_model import IncrementalLinearRegression

    model = IncrementalLinearRegression(copy_X=False)
    for first, second in blocks(x, y):
        model.partial_fit(first.astype(dtype), second.astype(dtype))
    return np.asarray(model.coef_.T)


def _dask_rows(x: Path, y: Path) -> tuple[Any, Any]:
    import dask.array as da

    first, second = (
        da.from_zarr(_array(path), chunks=(_BLOCK, -1)).astype(np.float64) for path in (x, y)
    )
    return first.map_blocks(
        design, np.float64, dtype=np.float64, chunks=(first.chunks[0], (first.shape[1] + 1,))
    ), second


def _dask_products(x: Path, y: Path) -> Map:
    import dask

    rows, second = _dask_rows(x, y)
    # its documentation advises one BLAS thread for each of its own
    with threadpool_limits(1, "blas"):
        gram, cross = dask.compute(rows.T @ rows, rows.T @ second)
    return np.linalg.solve(gram, cross)[1:]


def _dask_tsqr(x: Path, y: Path) -> Map:
    import dask.array as da

    with threadpool_limits(1, "blas"):
        return np.asarray(da.linalg.lstsq(*_dask_rows(x, y))[0].compute()[1:])


def _torch_loop(x: Path, y: Path, dtype: type) -> Map:
    import torch

    parts = [_array(path).shape[1] for path in (x, y)]
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    gram = torch.zeros((parts[0] + 1, parts[0] + 1), dtype=kind)
    cross = torch.zeros((parts[0] + 1, parts[1]), dtype=kind)
    for first, second in blocks(x, y):
        rows = torch.from_numpy(design(first, dtype))
        gram.addmm_(rows.T, rows)
        cross.addmm_(rows.T, torch.from_numpy(second).to(kind))
    return torch.linalg.solve(gram, cross)[1:].numpy()


def _torch_lstsq(x: Path, y: Path, driver: str) -> Map:
    import torch

    rows = torch.from_numpy(_whole(x, np.float64, ones=1))
    targets = torch.from_numpy(_whole(y, np.float64))
    return torch.linalg.lstsq(rows, targets, driver=driver).solution[1:].numpy()


def _himalaya(x: Path, y: Path) -> Map:
    from himalaya.ridge import Ridge

    model = Ridge(alpha=_ALPHA, fit_intercept=True)
    return np.asarray(model.fit(_whole(x, np.float64), _whole(y, np.float64)).coef_)


OURS = ("crossgram, exact", "crossgram, fast")

PEERS: dict[str, Callable[[Path, Path], Map]] = {
    OURS[0]: _crossgram,
    OURS[1]: partial(_crossgram, precision="fast"),
    "NumPy loop, float64": partial(_numpy_loop, dtype=np.float64),
    "NumPy loop, float32": partial(_numpy_loop, dtype=np.float32),
    "numpy.linalg.lstsq": _numpy_lstsq,
    "scikit-learn LinearRegression": _scikit_learn,
    "scikit-learn Ridge, float64": partial(_scikit_learn_ridge, dtype=np.float64),
    "scikit-learn Ridge, float32": partial(_scikit_learn_ridge, dtype=np.float32),
    "scikit-learn-intelex IncrementalLinearRegression, float64": partial(
        _intelex_incremental, dtype=np.float64
    ),
    "scikit-learn-intelex IncrementalLinearRegression, float32": partial(
        _intelex_incremental, dtype=np.float32
    ),
    "scikit-learn-intelex LinearRegression, float64": partial(_intelex, dtype=np.float64),
    "scikit-learn-intelex LinearRegression, float32": partial(_intelex, dtype=np.float32),
    "dask.array products": _dask_products,
    "dask.array.linalg.lstsq (TSQR)": _dask_tsqr,
    "PyTorch loop, float64": partial(_torch_loop, dtype=np.float64),
    "PyTorch loop, float32": partial(_torch_loop, dtype=np.float32),
    "torch.linalg.lstsq, gelsy": partial(_torch_lstsq, driver="gelsy"),
    "torch.linalg.lstsq, gelsd": partial(_torch_lstsq, driver="gelsd"),
    "himalaya Ridge": _himalaya,
}
"""Of float64 rows where nothing else is said."""


def main() -> None:
    """Run the peer that is named and print seconds and peak memory as JSON.

    A small pair is mapped first: imports and first calls do not count.
    """
    name, memory, small, pair, out = sys.argv[1:]
    warnings.simplefilter("ignore")
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    # should the machine run out of memory nevertheless, this process is the one to end
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    peer = PEERS[name]
    peer(Path(small) / "a.zarr", Path(small) / "b.zarr")
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (mapped * os.sysconf("SC_PAGE_SIZE") + int(memory),) * 2)
    peak = PeakMemory()
    started = time.perf_counter()
    found = peer(Path(pair) / "a.zarr", Path(pair) / "b.zarr")
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_bytes": peak.bytes()}))
    np.save(out, found)


if __name__ == "__main__":
    main()
