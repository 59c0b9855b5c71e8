"""ingest: one pass over a source of any format, into a new embedding store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import crossgram
from crossgram.errors import InputError, NonFiniteError
from crossgram.ingestion import hdf5, npy, parquet, value_file, zarr_node
from crossgram.ingestion.table import Cursor, Names, Table, Values, in_order, reading
from crossgram.locations import Location, ObjectPath, locate
from crossgram.output import refuse_overlap
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.store import EmbeddingStore

__all__ = ["ingest"]

_FILES: dict[str, ModuleType] = {
    ".npy": npy,
    ".h5": hdf5,
    ".hdf5": hdf5,
    ".hdf": hdf5,
    ".parquet": parquet,
    ".pq": parquet,
}
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")


def ingest(
    src: str | Location,
    out: str | Location,
    *,
    ids: str | Path | None = None,
    labels: str | Path | None = None,
    embeddings: str | None = None,
    dtype: DTypeLike | None = None,
    codec: str = "lz4",
    chunk_rows: int | None = None,
    shard_rows: int | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = ignore,
) -> EmbeddingStore:
    """Convert embeddings that another tool wrote into an embedding store.

    The source is streamed: memory does not grow with the number of rows.

    Parameters
    ----------
    src : path or URL
        One of

        - a .npy file, or a folder of .npy shards, read in the order of the numbers in their
          names; also as clip-retrieval and embedding-reader lay them out, the shards in a
          subfolder (`img_emb/img_emb_0.npy`), their columns in `metadata/metadata_0.parquet`
        - an HDF5 file (.h5, .hdf5, .hdf); filters of plug-ins are found through HDF5_PLUGIN_PATH
        - a Parquet file (.parquet, .pq) or a folder of them, with a column of lists of floats
        - a Zarr array or group, v2 or v3; an embedding store keeps its ids, labels and mask; only
          these from a URL
    out : path or URL
        The new store; it appears when it is complete.
    ids, labels : str or path, optional
        Where they are. What ends in .txt or .npy is a file: UTF-8 text with one value per line, or
        an array of text or integers. Anything else is the name of a column, dataset or array of
        the source.
    embeddings : str, optional
        Name of the column, dataset, array or subfolder that holds the embeddings; needed where
        more than one could.
    dtype : {"float16", "float32", "float64"}, optional
        By default as in the source.
    codec, chunk_rows, shard_rows, overwrite
        As for `EmbeddingStore.create`.
    progress : callable
        Called with a `Progress` after each block.

    Returns
    -------
    EmbeddingStore
        Its provenance has the source's path, format and, if it was a store, provenance.

    Raises
    ------
    InputError
        If the source is of no such format, its embeddings are not floats, it is not clear which
        they are, ids or labels are not one per row, or a needed package is not installed.
    CorruptDataError
        If the source is damaged or cut short.
    NonFiniteError
        If a value is too large for `dtype`.
    OutputExistsError
        If `out` exists and `overwrite` is false.

    Notes
    -----
    That no id occurs twice is not checked here, for it takes memory that grows with the rows:
    `EmbeddingStore.validate` checks it.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "a.npy", np.eye(3, dtype="float32"))
    >>> np.save(folder / "names.npy", ["p/1.jpg", "p/2.jpg", "q/1.jpg"])
    >>> store = ingest(folder / "a.npy", folder / "a.zarr", ids=folder / "names.npy")
    >>> store.rows, store.ids.read(1, 2)[0]
    (3, 'p/2.jpg')
    """
    source, target = locate(src), locate(out)
    files = [Path(values) for values in (ids, labels) if values and _is_file(values)]
    refuse_overlap(target, source, *files)
    table = _open(source, embeddings, ids, labels)
    kind = _native(np.dtype(dtype) if dtype is not None else table.embeddings.dtype)
    with EmbeddingStore.create(
        target,
        table.embeddings.dim,
        dtype=kind,
        codec=codec,
        chunk_rows=chunk_rows,
        shard_rows=shard_rows,
        provenance=_provenance(source, table),
        overwrite=overwrite,
    ) as writer:
        columns = {
            name: Cursor(values)
            for name, values in (
                ("ids", table.ids),
                ("labels", table.labels),
                ("masked", table.masked),
            )
            if values is not None
        }
        row_bytes = table.embeddings.dim * table.embeddings.dtype.itemsize
        for piece in table.embeddings.pieces():
            block = _converted(piece, kind, table.embeddings.label, writer.rows)
            taken = {name: cursor.take(len(block)) for name, cursor in columns.items()}
            writer.append(block, **taken)
            progress(
                Progress("ingest", writer.rows, table.embeddings.rows, writer.rows * row_bytes)
            )
    return EmbeddingStore.open(target)


def _open(
    source: Location, embeddings: str | None, ids: str | Path | None, labels: str | Path | None
) -> Table:
    names = Names(embeddings, _name(ids), _name(labels))
    with reading(source):
        table: Table = _format_of(source).open_table(source, names)
    table = replace(
        table,
        ids=_values_of_file(ids) or table.ids,
        labels=_values_of_file(labels) or table.labels,
    )
    for name, values in (("ids", table.ids), ("labels", table.labels)):
        if values is not None and values.rows != table.embeddings.rows:
            raise InputError(
                f"{name}: {values.label} has {values.rows} values, {table.embeddings.label} has "
                f"{table.embeddings.rows} rows; expected one value per row"
            )
    return table


def _is_file(value: str | Path) -> bool:
    return Path(value).suffix in value_file.SUFFIXES


def _name(value: str | Path | None) -> str | None:
    return None if value is None or _is_file(value) else str(value)


def _values_of_file(value: str | Path | None) -> Values | None:
    return value_file.open_values(Path(value)) if value and _is_file(value) else None


def _format_of(source: Location) -> ModuleType:
    if isinstance(source, ObjectPath):
        return zarr_node
    if not source.exists():
        raise InputError(f"{source}: no such file or directory")
    if source.is_dir():
        return _format_of_folder(source)
    if source.suffix not in _FILES:
        raise InputError(
            f"{source}: a file of an unknown format; expected one of {', '.join(_FILES)}, or a "
            "folder"
        )
    return _FILES[source.suffix]


def _format_of_folder(folder: Path) -> ModuleType:
    if any((folder / name).is_file() for name in _ZARR_FILES):
        return zarr_node
    has_npy, has_parquet = in_order(folder, ".npy"), in_order(folder, ".parquet")
    if has_npy and has_parquet:
        raise InputError(
            f"{folder}: has both .npy and .parquet files; put the parquet files of .npy shards "
            "into a folder `metadata` beside the folder of shards"
        )
    if has_parquet:
        return parquet
    if has_npy or npy.shard_folders(folder):
        return npy
    raise InputError(f"{folder}: no Zarr array or group, and no .npy or .parquet files in it")


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")


def _converted(piece: NDArray[Any], dtype: np.dtype[Any], label: str, start: int) -> NDArray[Any]:
    if piece.dtype == dtype:
        return piece
    with np.errstate(over="ignore"):
        converted = piece.astype(dtype)
    overflow = (np.isinf(converted) & np.isfinite(piece)).any(axis=1)
    if overflow.any():
        raise NonFiniteError(
            f"{label}: row {start + int(np.argmax(overflow))} holds a value too large for "
            f"{dtype}; choose a wider dtype"
        )
    return converted


def _provenance(source: Location, table: Table) -> dict[str, Any]:
    facts = {
        "made_by": f"crossgram {crossgram.__version__} ingest",
        "ingested_from": str(source.resolve()),
        "format": table.format,
    }
    return {**table.provenance, **facts}
