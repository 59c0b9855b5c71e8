"""What it costs to know that rows are those that were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import zarr
from data import FOLDER, P, read_into_cache
from machine import timed
from results import table, write

import crossgram as cg
from crossgram.codecs import CODECS, compressors
from crossgram.source import Source, open_source
from crossgram.zarr_io import check_chunks

_ROWS = 98_304
_CHUNK_ROWS = 1024
_READ_ROWS = 4096


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--repeats", default=25, show_default=True)
def main(folder: Path, repeats: int) -> None:
    """Measure and write to RESULTS.md."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.random.default_rng(0).normal(size=(_ROWS, P)).astype(np.float32)
    lines = []
    for codec in CODECS:
        with_sums = _written(folder / "sums.zarr", rows, compressors(codec))
        without = _written(folder / "no-sums.zarr", rows, compressors(codec)[:-1])
        read_into_cache(folder / "sums.zarr", folder / "no-sums.zarr")
        # in turns, so that what else the machine does is the same for all
        seconds = _in_turns(
            [
                lambda: _read(with_sums),  # noqa: B023
                lambda: _read(without),  # noqa: B023
                lambda: check_chunks(_array(folder), 0, _ROWS, "x"),
                lambda: cg.check_store(folder / "sums.zarr"),
            ],
            repeats,
        )
        reading, bare, looking, verifying = seconds
        lines.append(
            [
                codec,
                f"{rows.nbytes / reading / 1e9:.2f}",
                f"{rows.nbytes / bare / 1e9:.2f}",
                f"{100 * (reading / bare - 1):+.0f} %",
                f"{looking / (_ROWS // _CHUNK_ROWS) * 1e6:.0f}",
                f"{100 * looking / reading:.1f} %",
                f"{rows.nbytes / verifying / 1e9:.2f}",
            ]
        )
    header = ["codec", "read GB/s", "without checksums", "cost", "looking at a chunk, µs"]
    write(
        "checksums",
        f"## Checksums, {_ROWS:,} rows of {P}, float32, in chunks of 2 MiB\n\n"
        f"Reading is from the page cache into existing memory, {_READ_ROWS:,} rows at a time. "
        "Every chunk that is written has a crc32c checksum, which is verified whenever it is read. "
        "Before a chunk is decoded it is looked at: that it is there, no link, and would decode to "
        "what the array declares. `crossgram verify` reads everything and looks for NaN and "
        f"infinity. The best of {repeats} turns, other work shared the cores.\n\n"
        + table([*header, "share of reading", "verify GB/s"], lines),
    )


def _array(folder: Path) -> zarr.Array:
    return zarr.open_array(folder / "sums.zarr", mode="r")


def _written(path: Path, rows: np.ndarray, codecs: tuple) -> Source:
    zarr.create_array(path, data=rows, chunks=(_CHUNK_ROWS, P), compressors=codecs, overwrite=True)
    return open_source(path)


def _read(source: Source) -> None:
    buffer = np.empty((_READ_ROWS, P), np.float32)
    for start in range(0, _ROWS, _READ_ROWS):
        source.read(start, buffer)


def _in_turns(tasks: list[Callable[[], object]], repeats: int) -> list[float]:
    turns = [[timed(task) for task in tasks] for _ in range(repeats)]
    return [min(column) for column in zip(*turns, strict=True)]


if __name__ == "__main__":
    main()
