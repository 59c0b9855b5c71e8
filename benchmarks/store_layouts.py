"""Read rate, write rate and size of store layouts: what the default layout was chosen by."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import click
import numpy as np
import zarr
from data import FOLDER, P, pair, read_into_cache
from machine import timed
from results import table, write

import crossgram as cg

_ROWS = 100_000
_READ_ROWS = 4096
_LAYOUTS: dict[str, dict[str, int | str]] = {
    "lz4 (default)": {},
    "lz4, chunks of 256 kiB": {"chunk_rows": 128},
    "lz4, chunks of 8 MiB": {"chunk_rows": 4096},
    "lz4, shards of 32 MiB": {"shard_rows": 16_384},
    "lz4-bitshuffle": {"codec": "lz4-bitshuffle"},
    "zstd": {"codec": "zstd"},
    "none": {"codec": "none"},
}


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(folder: Path, repeats: int) -> None:
    """Measure and write to RESULTS.md."""
    source = cg.EmbeddingStore.open(pair(folder, 200_000)[0])
    rows = np.empty((_ROWS, P), np.float32)
    source.read(0, rows)
    copy = np.empty_like(rows)
    copying = median(timed(lambda: np.copyto(copy, rows)) for _ in range(repeats))
    rectified = np.maximum(rows, 0)
    lines = []
    for name, layout in _LAYOUTS.items():
        path = folder / "layout.zarr"
        writing = median(timed(lambda: _write(path, rows, layout)) for _ in range(3))  # noqa: B023
        read_into_cache(path)
        store = cg.EmbeddingStore.open(path)
        step = max(_READ_ROWS, store.chunk_rows)
        reading = median(timed(lambda: _read(store, step)) for _ in range(repeats))  # noqa: B023
        size = store.embeddings.nbytes_stored() / rows.nbytes
        _write(path, rectified, layout)
        rectified_size = cg.EmbeddingStore.open(path).embeddings.nbytes_stored() / rows.nbytes
        lines.append(
            [
                name,
                f"{rows.nbytes / reading / 1e9:.2f}",
                f"{rows.nbytes / writing / 1e9:.2f}",
                f"{size:.3f}",
                f"{rectified_size:.3f}",
            ]
        )
    own = _own_pipeline_seconds(folder, rows, repeats)
    write(
        "store layouts",
        f"## Layouts of a store, {_ROWS:,} rows of {P}, float32\n\n"
        f"Reading is from the page cache into existing memory, one reader that decodes on all "
        f"cores, {_READ_ROWS:,} rows (at least a shard) at a time. Every layout has a checksum "
        f"per chunk. Sizes are on disk over in memory, of these dense rows and of the same rows "
        f"after a ReLU, half of them zeros. The ceiling is a copy in memory: "
        f"{rows.nbytes / copying / 1e9:.1f} GB/s. "
        f"zarr's own codec pipeline, in place of zarrs, reads the default layout at "
        f"{rows.nbytes / own / 1e9:.2f} GB/s.\n\n"
        + table(["layout", "read GB/s", "write GB/s", "size", "size, rectified"], lines),
    )


def _own_pipeline_seconds(folder: Path, rows: np.ndarray, repeats: int) -> float:
    path = folder / "layout.zarr"
    _write(path, rows, {})
    array = zarr.open_array(path / "embeddings", mode="r")

    def read() -> None:
        for start in range(0, _ROWS, _READ_ROWS):
            array[start : start + _READ_ROWS]

    return median(timed(read) for _ in range(repeats))


def _write(path: Path, rows: np.ndarray, layout: dict[str, int | str]) -> None:
    with cg.EmbeddingStore.create(path, P, overwrite=True, **layout) as writer:  # type: ignore[arg-type]
        for start in range(0, _ROWS, _READ_ROWS):
            writer.append(rows[start : start + _READ_ROWS])


def _read(store: cg.EmbeddingStore, step: int) -> None:
    buffer = np.empty((step, P), np.float32)
    for start in range(0, _ROWS - step + 1, step):
        store.read(start, buffer)


if __name__ == "__main__":
    main()
