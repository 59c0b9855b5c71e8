"""A fit from stores, end to end, and its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossgram as cg

ROWS, DIM = 50_000, 512


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("bench") / "pair"
    cg.synth(out, rows=ROWS, source_dim=DIM, target_dim=DIM, condition=3000, seed=0)
    return out / "a.zarr", out / "b.zarr"


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_fit(benchmark: Any, stores: tuple[Path, Path], precision: str) -> None:
    benchmark.pedantic(cg.fit, stores, {"precision": precision}, rounds=5, warmup_rounds=1)


def test_read(benchmark: Any, stores: tuple[Path, Path]) -> None:
    store = cg.EmbeddingStore.open(stores[0])
    buffer = np.empty((4096, DIM), np.float32)

    def read() -> None:
        for start in range(0, ROWS - 4096, 4096):
            store.read(start, buffer)

    benchmark(read)


def test_solve(benchmark: Any, stores: tuple[Path, Path]) -> None:
    moments = cg.accumulate(stores, names=["a", "b"], maps=[("a", "b")])
    benchmark(cg.solve, moments, "a", "b")


def test_apply(benchmark: Any, stores: tuple[Path, Path], tmp_path: Path) -> None:
    fitted = cg.fit(*stores)
    benchmark.pedantic(
        cg.apply, (fitted, stores[0], tmp_path / "out.zarr"), {"overwrite": True}, rounds=3
    )
