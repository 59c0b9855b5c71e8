"""Each step of the accumulation, on resident rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from beside import Ceiling, gemm, measure
from forms import FORM
from machine import products, timed

import crossgram as cg
from crossgram.accumulator import Accumulator
from crossgram.kernels import numpy as kernels
from crossgram.kernels import tile_rows_of
from crossgram.spaces import Space, map_pairs

pytestmark = pytest.mark.benchmark(group="kernels")

ROWS, DIM = FORM.block_rows, FORM.dim
TILE_ROWS = tile_rows_of("cpu")
TILES = [slice(start, start + TILE_ROWS) for start in range(0, ROWS, TILE_ROWS)]
DTYPES = {"float32": np.float32, "float64": np.float64}


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)


@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
def test_centre_and_cast(benchmark: Any, rows: np.ndarray, stored: str) -> None:
    """To float64, tile by tile, as they are read."""
    block, tile = rows.astype(stored), np.empty((TILE_ROWS, DIM))
    shift = rows.mean(axis=0, dtype=np.float64)

    def centre() -> None:
        for own in TILES:
            kernels.centre(block[own], shift, tile)

    def copy() -> None:
        for own in TILES:
            np.copyto(tile, block[own])

    amounts = {"bytes": block.nbytes + 8 * ROWS * DIM, "rows": ROWS}
    ceiling = Ceiling("a copy to float64", partial(timed, copy), amounts["bytes"])
    measure(benchmark, centre, amounts, ceiling)


@pytest.mark.parametrize("dtype", DTYPES)
def test_syrk(benchmark: Any, rows: np.ndarray, dtype: str) -> None:
    kind = DTYPES[dtype]
    z, out = rows.astype(kind), np.zeros((DIM, DIM))
    scratch = None if kind is np.float64 else np.zeros_like(out, kind)

    def run() -> None:
        for own in TILES:
            kernels.add_gram(z[own], out, scratch)

    measure(benchmark, run, {"flops": ROWS * DIM * (DIM + 1), "rows": ROWS}, gemm(kind))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm(benchmark: Any, rows: np.ndarray, dtype: str) -> None:
    kind = DTYPES[dtype]
    z, out = rows.astype(kind), np.zeros((DIM, DIM))
    scratch = None if kind is np.float64 else np.zeros_like(out, kind)

    def run() -> None:
        for own in TILES:
            kernels.add_cross(z[own], z[own], out, scratch)

    measure(benchmark, run, {"flops": 2 * ROWS * DIM**2, "rows": ROWS}, gemm(kind))


def test_accumulator(benchmark: Any, rows: np.ndarray) -> None:
    """All of it: float32 rows of two spaces, tile by tile."""
    spaces = (Space("a", DIM), Space("b", DIM))
    accumulator = Accumulator(spaces, map_pairs(spaces, [("a", "b")]))
    flops = 3 * ROWS * DIM**2
    ceiling = Ceiling("dsyrk + dgemm", partial(timed, products(ROWS, DIM, DIM)), flops)
    amounts = {"flops": flops, "rows": ROWS}
    measure(benchmark, lambda: accumulator.add([rows, rows]), amounts, ceiling)


def test_merge(benchmark: Any, rows: np.ndarray) -> None:
    """Sums of a map, merged into others."""
    moments, other = (
        cg.accumulate([rows, rows], names=["a", "b"], maps=[("a", "b")]) for _ in range(2)
    )
    blocks = [np.zeros((DIM, DIM)) for _ in range(4)]

    def add() -> None:
        for sums, more in (blocks[:2], blocks[2:]):
            np.add(sums, more, out=sums)

    amounts = {"bytes": sum(own.nbytes for own in blocks)}
    ceiling = Ceiling("adding their blocks", partial(timed, add), amounts["bytes"])
    measure(benchmark, lambda: moments.absorb(other), amounts, ceiling)
