"""What a pass does per block: bytes read, copies, flops, BLAS calls, memory. None may grow.

Counted and not timed, so that what would make a pass slower is seen on any machine.
"""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossgram as cg
from crossgram.kernels import numpy as kernels
from crossgram.kernels import tile_rows_of

ROWS, P, Q = 50_000, 256, 128
TILE_ROWS = tile_rows_of("cpu")
TILES = sum(math.ceil(min(16_384, ROWS - start) / TILE_ROWS) for start in range(0, ROWS, 16_384))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("work") / "pair"
    cg.synth(out, rows=ROWS, source_dim=P, target_dim=Q)
    return [out / "a.zarr", out / "b.zarr"]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the kernels were asked for, by kind."""
    counts: Counter[str] = Counter()

    def watch(name: str, count: Callable[..., dict[str, int]]) -> None:
        own = getattr(kernels, name)

        def counted(*given: Any, **more: Any) -> Any:
            counts.update(count(*given))
            return own(*given, **more)

        monkeypatch.setattr(kernels, name, counted)

    watch("syrk", lambda z, _: {"blas calls": 1, "flops": len(z) * z.shape[1] ** 2})
    watch("gemm", lambda x, y, _: {"blas calls": 1, "flops": 2 * x.size * y.shape[1]})
    watch("centre", lambda _, __, out: {"casts": 1, "cast bytes": out.nbytes})
    watch("allocate", lambda shape, kind: {"bytes": math.prod(shape) * np.dtype(kind).itemsize})
    return counts


def bytes_read() -> int:
    """Return what this process has read so far, from disk or page cache."""
    lines = Path("/proc/self/io").read_text("ascii").splitlines()
    return next(int(line.partition(": ")[2]) for line in lines if line.startswith("rchar"))


def test_products_and_casts_of_a_map(stores: list[Path], done: Counter[str]) -> None:
    cg.accumulate(stores, maps=[("a", "b")], threads=1)
    assert done["blas calls"] == 2 * TILES
    assert done["flops"] == ROWS * P * (P + 2 * Q)
    # each row of each space once, from what was read to what is multiplied
    assert done["casts"] == 2 * TILES
    assert done["cast bytes"] == ROWS * (P + Q) * 8


def test_products_of_all_pairs(stores: list[Path], done: Counter[str]) -> None:
    cg.accumulate(stores, threads=1)
    assert done["blas calls"] == 3 * TILES
    assert done["flops"] == ROWS * (P**2 + Q**2 + 2 * P * Q)


def test_folds_cost_one_pass(stores: list[Path], done: Counter[str]) -> None:
    cg.accumulate(stores, maps=[("a", "b")], folds=4, group_by="rows", threads=1)
    assert done["flops"] == ROWS * P * (P + 2 * Q)
    assert done["cast bytes"] == ROWS * (P + Q) * 8


def test_every_stored_byte_is_read_once(stores: list[Path]) -> None:
    files = [file for path in stores for file in path.rglob("*/c/**/*") if file.is_file()]
    sizes = [file.stat().st_size for file in files]
    cg.accumulate(stores, remember=False, threads=1)
    before = bytes_read()
    cg.accumulate(stores, remember=False, threads=1)
    # besides the first and the last row of each, which tell the stores, and their metadata
    assert bytes_read() - before < sum(sizes) + 4 * max(sizes) + 300_000


def test_memory_of_a_pass(stores: list[Path], done: Counter[str]) -> None:
    held = cg.plan_fit(*stores, threads=1).memory
    cg.accumulate(stores, maps=[("a", "b")], remember=False, threads=1)
    done.clear()
    tracemalloc.start()
    cg.accumulate(stores, maps=[("a", "b")], remember=False, threads=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # in memory maps, once for the whole pass
    assert done["bytes"] <= held["ring"] + held["tiles"] + held["accumulators"]
    # from NumPy's own allocator: moments that merge, and decoders' buffers
    assert peak <= held["decoding"] + held["accumulators"] + held["merging"] + TILE_ROWS * P * 8
