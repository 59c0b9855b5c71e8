"""A pass over raw stores that are not in the page cache, beside reading their files in order."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import click
from data import FOLDER
from page_cache import forget
from results import table, write

import crossgram as cg

_READ_BYTES = 1 << 20
_REPEATS = 5


def read_in_order(files: list[Path]) -> None:
    """Read every byte, 1 MiB at a time, by one thread."""
    buffer = bytearray(_READ_BYTES)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


@click.command()
@click.option("--rows", default=4_000_000, show_default=True)
@click.option("--dim", default=64, show_default=True, help="Few, so that reading takes longest.")
def main(rows: int, dim: int) -> None:
    """Measure in turn, and write to RESULTS.md."""
    out = FOLDER / f"raw-{rows}-{dim}"
    if not out.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        cg.synth(out, rows=rows, source_dim=dim, target_dim=dim, codec="none")
    stores = [out / "a.zarr", out / "b.zarr"]
    files = [
        file
        for store in stores
        for file in sorted((store / "embeddings").rglob("*"))
        if file.is_file()
    ]
    size = sum(file.stat().st_size for file in files)
    seconds: dict[str, list[float]] = {"files in order": [], "accumulate": [], "from cache": []}
    for _ in range(_REPEATS):
        for name, is_cold in (
            ("files in order", True),
            ("accumulate", True),
            ("from cache", False),
        ):
            if is_cold:
                forget(files)
            began = time.perf_counter()
            if name == "files in order":
                read_in_order(files)
            else:
                cg.accumulate(stores, maps=[("a", "b")], remember=False)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: median(own) for name, own in seconds.items()}
    write(
        "cold",
        f"## From a cold disk, {rows:,} rows of {dim} to {dim}, float32, not compressed\n\n"
        f"{size / 1e9:.1f} GB in {len(files):,} files, taken out of the page cache before each "
        f"turn; medians of {_REPEATS}. The ceiling is one thread that reads the files in order, "
        "1 MiB at a time.\n\n"
        + table(
            ["", "seconds", "GB/s", "of the ceiling"],
            [
                [
                    name,
                    f"{own:.2f}",
                    f"{size / own / 1e9:.2f}",
                    f"{medians['files in order'] / own:.0%}",
                ]
                for name, own in medians.items()
            ],
        ),
    )


if __name__ == "__main__":
    main()
