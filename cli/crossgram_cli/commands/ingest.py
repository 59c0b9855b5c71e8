"""crossgram ingest."""

from __future__ import annotations

import time
from typing import Any

import click

from crossgram_cli.options import layout_options
from crossgram_cli.shared import computes, emit, overwrite_option, progress_bar

__all__ = ["command"]


@click.command("ingest")
@click.argument("source", metavar="SRC", type=click.Path())
@click.argument("out", metavar="OUT", type=click.Path())
@click.option(
    "--embeddings",
    metavar="NAME",
    help="Column, dataset, array or subfolder that holds the embeddings; needed where more than "
    "one could.",
)
@click.option(
    "--ids",
    metavar="NAME|FILE",
    help="One id per row: a column of the source, or a file of its own if it ends in .txt (one "
    "value per line) or .npy.",
)
@click.option("--labels", metavar="NAME|FILE", help="One label (identity) per row, as for --ids.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "float64"]),
    help="Store as this; by default as in the source.",
)
@layout_options
@overwrite_option
@computes
def command(
    source: str,
    out: str,
    embeddings: str | None,
    ids: str | None,
    labels: str | None,
    dtype: str | None,
    overwrite: bool,
    as_json: bool,
    **layout: Any,
) -> None:
    """Convert the embeddings in SRC into the embedding store OUT.

    SRC is a .npy file, a folder of .npy shards (also as clip-retrieval and embedding-reader lay
    them out, with their metadata), an HDF5 file, a Parquet file or a folder of them, or a Zarr
    array or group. It is streamed, so it may be larger than memory.

    \b
    Example:  crossgram ingest a.npy a.zarr --ids names.txt
              crossgram ingest laion/ a.zarr --embeddings img_emb --ids image_path
              crossgram ingest faces.h5 a.zarr --embeddings features --ids files --labels people
              crossgram ingest parquet/ a.zarr --ids id --dtype float16
    """
    from crossgram.ingestion import ingest

    started = time.perf_counter()
    with progress_bar() as progress:
        store = ingest(
            source,
            out,
            ids=ids,
            labels=labels,
            embeddings=embeddings,
            dtype=dtype,
            overwrite=overwrite,
            progress=progress,
            **layout,
        )
    result = {
        "store": out,
        "format": store.provenance["format"],
        "rows": store.rows,
        "dim": store.dim,
        "dtype": str(store.dtype),
        "ids": store.ids is not None,
        "labels": store.labels is not None,
        "seconds": time.perf_counter() - started,
    }
    columns = [name for name in ("ids", "labels") if result[name]]
    text = f"{out}: {store.rows:,} rows of {store.dim} {store.dtype}"
    emit(result, as_json, f"{text}, with {' and '.join(columns) or 'no ids'}")
