"""crossgram bench."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from crossgram_cli.shared import computes, emit, progress_bar

if TYPE_CHECKING:
    from crossgram.ceilings import Bench

__all__ = ["command"]


@click.command("bench")
@click.argument("x", required=False, type=click.Path())
@click.argument("y", required=False, type=click.Path())
@click.option(
    "--rows", type=click.IntRange(1), default=100_000, show_default=True, help="Of made-up stores."
)
@click.option(
    "--dim", type=click.IntRange(1), default=512, show_default=True, help="Of made-up stores."
)
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where made-up stores lie for the while, on the disk in question; by default where "
    "temporary files do.",
)
@click.option(
    "--precision",
    type=click.Choice(["exact", "fast"]),
    default="exact",
    show_default=True,
    help="Of the products.",
)
@click.option("--threads", type=click.IntRange(1), help="By default all processors.")
@computes
def command(
    x: str | None,
    y: str | None,
    rows: int,
    dim: int,
    folder: Path | None,
    precision: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure what this machine does at best, and how near a fit comes to it.

    Of the stores X and Y, or of made-up ones: the rates of the disk, of decoding, of copies and of
    products, each by itself, and of a pass, from page cache. Takes about a minute; works best when
    nothing else runs.

    \b
    Example:  crossgram bench
              crossgram bench a.zarr b.zarr
    """
    import crossgram as cg

    if (x is None) != (y is None):
        raise click.UsageError("give two stores, or none")
    with _stores(x, y, rows, dim, folder) as (source, target), progress_bar() as progress:
        found = cg.bench(source, target, precision=precision, threads=threads, progress=progress)
    emit(found.to_dict(), as_json, _text(found))


@contextmanager
def _stores(
    x: str | None, y: str | None, rows: int, dim: int, folder: Path | None
) -> Iterator[tuple[str, str]]:
    import crossgram as cg

    if x is not None and y is not None:
        yield x, y
        return
    with TemporaryDirectory(prefix="crossgram-bench-", dir=folder) as place:
        pair = Path(place) / "pair"
        cg.synth(pair, rows=rows, source_dim=dim, target_dim=dim)
        yield str(pair / "a.zarr"), str(pair / "b.zarr")


def _text(found: Bench) -> str:
    from crossgram_cli.text import aligned, columns, size

    rates = {
        "disk": found.disk and f"{size(found.disk)}/s as stored",
        "page cache": found.cache and f"{size(found.cache)}/s as stored",
        "decoding": f"{size(found.decode)}/s of rows",
        "products": f"{found.flops / 1e9:.1f} Gflop/s, {found.precision}",
        "decoding and products": "one after the other",
    }
    table = [["at best", "", "rows/s", "a pass comes to"]]
    for name, rows in found.ceilings.items():
        share = f"{found.rows_per_second / rows:.0%}"
        table.append([name, rates[name] or "", f"{rows:,.0f}", share])
    table.append(["a pass", "from page cache", f"{found.rows_per_second:,.0f}", ""])
    return "\n\n".join(
        [
            columns(table, text=2),
            aligned(
                [
                    ("rows", f"{found.rows:,}, on {found.threads} threads"),
                    ("BLAS", found.blas),
                    ("copies", f"{size(found.copy)}/s from memory to memory"),
                    ("held back by", f"{found.bottleneck}: {found.share:.0%} of it are reached"),
                ]
            ),
        ]
    )
