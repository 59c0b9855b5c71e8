"""A pass over two stores, end to end, from the page cache."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beside import Ceiling, measure
from data import read_into_cache
from forms import FORM
from machine import products, timed

import crossgram as cg

pytestmark = pytest.mark.benchmark(group="accumulate")

BLOCK_ROWS = 4096
PRODUCTS = {"exact": np.float64, "fast": np.float32}


@pytest.fixture(scope="module", params=["float32", "float16"])
def stored(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=FORM.pass_rows)
def dim(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def stores(dim: int, stored: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("pass") / "pair"
    rows = FORM.pass_rows[dim]
    cg.synth(out, rows=rows, source_dim=dim, target_dim=dim, condition=100, dtype=stored)
    pair = [out / "a.zarr", out / "b.zarr"]
    read_into_cache(*pair)
    return pair


@pytest.mark.parametrize("precision", PRODUCTS)
def test_accumulate(benchmark: Any, stores: list[Path], dim: int, precision: str) -> None:
    rows, kind = FORM.pass_rows[dim], PRODUCTS[precision]
    block = min(rows, BLOCK_ROWS)
    name = "dsyrk + dgemm" if precision == "exact" else "ssyrk + sgemm"
    seconds = partial(timed, products(block, dim, dim, kind))

    def run() -> None:
        cg.accumulate(
            stores, names=["a", "b"], maps=[("a", "b")], precision=precision, remember=False
        )

    amounts = {
        "flops": 3 * rows * dim**2,
        "rows": rows,
        "bytes": sum(cg.EmbeddingStore.open(own).embeddings.nbytes for own in stores),
    }
    measure(benchmark, run, amounts, Ceiling(name, seconds, 3 * block * dim**2))
