"""crossgram apply."""

from __future__ import annotations

import time
from typing import Any

import click

from crossgram_cli.cluster import cluster, cluster_options
from crossgram_cli.options import device_option, layout_options
from crossgram_cli.shared import computes, emit, overwrite_option, progress_bar

__all__ = ["command"]


@click.command("apply")
@click.argument("map_file", metavar="MAP", type=click.Path())
@click.argument("x", type=click.Path())
@click.argument("out", type=click.Path())
@layout_options
@device_option
@cluster_options
@overwrite_option
@computes
def command(
    map_file: str,
    x: str,
    out: str,
    device: str,
    workers: int | None,
    scheduler: str | None,
    overwrite: bool,
    as_json: bool,
    **layout: Any,
) -> None:
    """Map every row of X with MAP into the new store OUT; ids, labels and mask come along.

    \b
    Example:  crossgram apply a-to-b.safetensors a.zarr a-in-b.zarr
    """
    import crossgram as cg

    started = time.perf_counter()
    with cluster(workers, scheduler, device) as client, progress_bar() as progress:
        store = cg.apply(
            map_file,
            x,
            out,
            overwrite=overwrite,
            device=device,
            client=client,
            progress=progress,
            **layout,
        )
    seconds = time.perf_counter() - started
    result = {
        "store": out,
        "rows": store.rows,
        "dim": store.dim,
        "dtype": str(store.dtype),
        "seconds": seconds,
        "rows_per_second": store.rows / seconds,
    }
    emit(
        result,
        as_json,
        f"{out}: {store.rows:,} rows of {store.dim}, {store.dtype}, in {seconds:.2f} s "
        f"({store.rows / seconds:,.0f} rows/s)",
    )
