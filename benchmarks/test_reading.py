"""Rows of a store on disk, from the page cache into memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from beside import Ceiling, measure
from data import read_into_cache
from forms import FORM
from machine import timed

from crossgram.codecs import compressors
from crossgram.source import open_source

pytestmark = pytest.mark.benchmark(group="reading")

ROWS, DIM = FORM.read_rows, FORM.dim
CHUNK_ROWS, READ_ROWS = 1024, 4096
LAYOUTS: dict[str, dict[str, int]] = {
    "chunks of 128 rows": {"chunk_rows": 128},
    "chunks of 4,096 rows": {"chunk_rows": 4096},
    "shards of 4,096 rows": {"shard_rows": 4096},
    "shards of 16,384 rows": {"shard_rows": 16_384},
}
DEFAULT_PIPELINE = "zarr.core.codec_pipeline.BatchedCodecPipeline"


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)


@pytest.mark.parametrize("checksum", ["with checksum", "without checksum"])
@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
def test_codec(benchmark: Any, rows: np.ndarray, tmp_path: Path, codec: str, checksum: str) -> None:
    codecs = compressors(codec)
    _write(tmp_path / "x.zarr", rows, codecs if checksum == "with checksum" else codecs[:-1])
    _measure(benchmark, rows, READ_ROWS, _by_crossgram(tmp_path / "x.zarr"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(benchmark: Any, rows: np.ndarray, tmp_path: Path, layout: str) -> None:
    """Of lz4 with a checksum, which has chunks of 1,024 rows otherwise."""
    given = LAYOUTS[layout]
    _write(tmp_path / "x.zarr", rows, compressors("lz4"), **given)
    step = max(READ_ROWS, *given.values())
    _measure(benchmark, rows, step, _by_crossgram(tmp_path / "x.zarr"))


def test_zarr_pipeline(benchmark: Any, rows: np.ndarray, tmp_path: Path) -> None:
    """The one that zarr has itself, in place of zarrs."""
    _write(tmp_path / "x.zarr", rows, compressors("lz4"))
    with zarr.config.set({"codec_pipeline.path": DEFAULT_PIPELINE}):
        array = zarr.open_array(tmp_path / "x.zarr", mode="r")
    _measure(benchmark, rows, READ_ROWS, lambda start, out: array[start : start + len(out)])


def test_tensorstore(benchmark: Any, rows: np.ndarray, tmp_path: Path) -> None:
    _write(tmp_path / "x.zarr", rows, compressors("lz4"))
    place = {"driver": "file", "path": str(tmp_path / "x.zarr")}
    array = tensorstore.open({"driver": "zarr3", "kvstore": place}, read=True).result()

    def read(start: int, out: np.ndarray) -> None:
        tensorstore.array(out).write(array[start : start + len(out)]).result()

    _measure(benchmark, rows, READ_ROWS, read)


def _write(
    path: Path,
    rows: np.ndarray,
    codecs: tuple[Any, ...],
    chunk_rows: int = CHUNK_ROWS,
    shard_rows: int | None = None,
) -> None:
    shards = None if shard_rows is None else (shard_rows, DIM)
    zarr.create_array(
        path, data=rows, chunks=(chunk_rows, DIM), shards=shards, compressors=codecs, filters=()
    )
    read_into_cache(path)


def _by_crossgram(path: Path) -> Callable[[int, np.ndarray], None]:
    return open_source(path).read


def _measure(
    benchmark: Any, rows: np.ndarray, step: int, read: Callable[[int, np.ndarray], object]
) -> None:
    buffer = np.empty((min(step, ROWS), DIM), np.float32)

    def over(action: Callable[[int, np.ndarray], object]) -> None:
        for start in range(0, ROWS, step):
            action(start, buffer[: ROWS - start])

    def copy(start: int, out: np.ndarray) -> None:
        np.copyto(out, rows[start : start + len(out)])

    amounts = {"bytes": rows.nbytes, "rows": ROWS}
    ceiling = Ceiling("a copy in memory", lambda: timed(lambda: over(copy)), rows.nbytes)
    measure(benchmark, lambda: over(read), amounts, ceiling)
