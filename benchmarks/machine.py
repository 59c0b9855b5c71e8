"""The machine a figure was measured on, and the ceilings that it is measured against."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import DTypeLike

from crossgram.blas_threads import blas_in_words
from crossgram.kernels.blas import gemm, syrk

__all__ = ["blas_seconds", "facts", "gflops", "products", "timed"]

_RESIDENT_ROWS = 8192


def facts() -> dict[str, str | int]:
    """Return date, processor, memory and versions."""
    import zarr

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory GiB": round(memory),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "zarr": zarr.__version__,
        "BLAS": blas_in_words(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def products(rows: int, p: int, q: int, dtype: DTypeLike = np.float64) -> Callable[[], None]:
    """Return what adds XᵀX and XᵀY of a resident block of rows, on all BLAS threads."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((rows, dim)).astype(dtype) for dim in (p, q))
    gram, cross = np.zeros((p, p), dtype), np.zeros((p, q), dtype)

    def run() -> None:
        syrk(x, gram)
        gemm(x, y, cross)

    return run


def blas_seconds(rows: int, p: int, q: int, repeats: int = 3) -> float:
    """Return the seconds of dsyrk + dgemm for `rows` rows, on resident blocks, all BLAS threads.

    The time of a few resident blocks, scaled to the rows: what no streaming engine can beat.
    """
    block = products(_RESIDENT_ROWS, p, q)

    def blocks() -> None:
        for _ in range(4):
            block()

    blocks()
    return median(timed(blocks) for _ in range(repeats)) * rows / (4 * _RESIDENT_ROWS)


def gflops(rows: int, p: int, q: int, seconds: float) -> float:
    """Return the rate of dsyrk + dgemm in Gflop/s, counting p(p + 2q) flops a row."""
    return rows * p * (p + 2 * q) / seconds / 1e9
