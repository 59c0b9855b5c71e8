"""A .npy file, or a folder of .npy shards with their columns in Parquet files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError, WidthMismatchError
from crossgram.ingestion import parquet
from crossgram.ingestion.table import (
    Matrix,
    Names,
    Table,
    Values,
    block_rows,
    choose,
    in_order,
    reading,
)
from crossgram.source import Source, open_source

__all__ = ["open_table", "shard_folders", "source_pieces"]

_METADATA = "metadata"


def open_table(path: Path, names: Names) -> Table:
    """Open a .npy file or a folder of shards."""
    if path.is_file():
        if names != Names():
            raise InputError(
                f"{path}: a .npy file has no named parts; ids and labels can come from .txt or "
                ".npy files"
            )
        return Table("npy", _matrix(str(path), [open_source(path)]))
    folder = _shard_folder(path, names.embeddings)
    files = in_order(folder, ".npy")
    sources = [open_source(file) for file in files]
    return Table(
        "npy-shards",
        _matrix(str(folder), sources),
        ids=_column(folder, sources, names.ids),
        labels=_column(folder, sources, names.labels),
    )


def shard_folders(path: Path) -> list[str]:
    """Return the names of the subfolders that hold .npy files."""
    return sorted(
        child.name for child in path.iterdir() if child.is_dir() and in_order(child, ".npy")
    )


def source_pieces(source: Source) -> Iterator[NDArray[Any]]:
    """Read a source from its first row to its last."""
    rows = block_rows(source.dim * source.dtype.itemsize, source.chunk_rows)
    with reading(source.label):
        for start in range(0, source.rows, rows):
            piece = np.empty((min(rows, source.rows - start), source.dim), source.dtype)
            source.read(start, piece)
            yield piece


def _shard_folder(path: Path, name: str | None) -> Path:
    if name is None and in_order(path, ".npy"):
        return path
    folders = shard_folders(path)
    return path / choose(str(path), name, folders, dict.fromkeys(folders, "folder"))


def _matrix(label: str, sources: Sequence[Source]) -> Matrix:
    first = sources[0]
    for source in sources:
        if source.dim != first.dim:
            raise WidthMismatchError(
                f"{source.label} has {source.dim} columns, {first.label} has {first.dim}; shards "
                "of one network are equally wide"
            )
        if source.dtype != first.dtype:
            raise InputError(
                f"{source.label} has dtype {source.dtype}, {first.label} has {first.dtype}; "
                "shards of one network have one dtype"
            )

    def pieces() -> Iterator[NDArray[Any]]:
        for source in sources:
            yield from source_pieces(source)

    return Matrix(label, sum(s.rows for s in sources), first.dim, first.dtype, pieces)


def _column(folder: Path, sources: Sequence[Source], name: str | None) -> Values | None:
    if name is None:
        return None
    files = _metadata_files(folder, [Path(source.label) for source in sources], name)
    values = parquet.open_values(files, name)
    for source, rows in zip(sources, parquet.row_counts(files), strict=True):
        if source.rows != rows:
            raise InputError(
                f"{source.label} has {source.rows} rows, its metadata file has {rows}; expected "
                "the same number"
            )
    return values


def _metadata_files(folder: Path, shards: Sequence[Path], name: str) -> list[Path]:
    """Return the Parquet file of each shard: the one whose name ends in the same number."""
    metadata = folder.resolve().parent / _METADATA
    if not metadata.is_dir():
        raise InputError(
            f"{folder}: no folder {metadata} to take the column {name!r} from; a file of values "
            "ends in .txt or .npy"
        )
    by_number = {_number(path): path for path in in_order(metadata, ".parquet")}
    for shard in shards:
        if _number(shard) not in by_number:
            raise InputError(
                f"{shard}: no Parquet file of that number in {metadata}, to take {name!r} from"
            )
    lost = by_number.keys() - {_number(shard) for shard in shards}
    if lost:
        path = by_number[min(lost, key=lambda number: (number is None, number))]
        raise InputError(f"{path}: there is no shard of that number in {folder}; restore it")
    return [by_number[_number(shard)] for shard in shards]


def _number(path: Path) -> int | None:
    match = re.search(r"(\d+)$", path.stem)
    return int(match[1]) if match else None
