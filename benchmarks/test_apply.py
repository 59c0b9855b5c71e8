"""A map on rows in memory, and on a whole store."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beside import Ceiling, gemm, measure
from data import read_into_cache
from forms import FORM
from machine import timed

import crossgram as cg

pytestmark = pytest.mark.benchmark(group="apply")

DIM = next(iter(FORM.pass_rows))
ROWS = FORM.pass_rows[DIM]
WRITE_ROWS = 4096


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("apply") / "pair"
    cg.synth(out, rows=ROWS, source_dim=DIM, target_dim=DIM)
    read_into_cache(out)
    return out


@pytest.fixture
def rows(pair: Path) -> np.ndarray:
    read = np.empty((ROWS, DIM), np.float32)
    cg.EmbeddingStore.open(pair / "a.zarr").read(0, read)
    return read


def test_rows_in_memory(benchmark: Any, pair: Path, rows: np.ndarray) -> None:
    linear_map = cg.LinearMap.load(pair / "truth.safetensors")
    amounts = {"flops": 2 * ROWS * DIM**2, "rows": ROWS, "bytes": rows.nbytes}
    measure(benchmark, partial(linear_map.apply, rows), amounts, gemm(np.float32))


def test_whole_store(benchmark: Any, pair: Path, rows: np.ndarray, tmp_path: Path) -> None:
    """Read, mapped and written, beside writing as many rows."""
    linear_map = cg.LinearMap.load(pair / "truth.safetensors")
    mapped = linear_map.apply(rows)

    def run() -> None:
        cg.apply(linear_map, pair / "a.zarr", tmp_path / "out.zarr", overwrite=True)

    def write() -> None:
        with cg.EmbeddingStore.create(tmp_path / "rows.zarr", DIM, overwrite=True) as writer:
            for start in range(0, ROWS, WRITE_ROWS):
                writer.append(mapped[start : start + WRITE_ROWS])

    amounts = {"bytes": mapped.nbytes, "rows": ROWS}
    ceiling = Ceiling("writing the mapped rows", partial(timed, write), mapped.nbytes)
    measure(benchmark, run, amounts, ceiling)
