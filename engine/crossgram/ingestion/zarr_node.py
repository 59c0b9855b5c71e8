"""A Zarr array, or arrays of a group; an embedding store is such a group."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import zarr
from numpy.typing import NDArray

from crossgram.errors import InputError
from crossgram.ingestion.npy import source_pieces
from crossgram.ingestion.table import Matrix, Names, Table, Values, choose, reading
from crossgram.locations import Location
from crossgram.source import Source, open_source
from crossgram.store import Column, EmbeddingStore
from crossgram.zarr_io import check_array, open_node

__all__ = ["open_table"]

_COLUMN_ROWS = 65_536


def open_table(path: Location, names: Names) -> Table:
    """Open a Zarr array or group."""
    node = open_node(path)
    if isinstance(node, zarr.Array):
        if names != Names():
            raise InputError(
                f"{path}: a single array has no named parts; ids and labels can come from .txt or "
                ".npy files"
            )
        return Table("zarr", _matrix(open_source(path)))
    arrays = _arrays(path, node)
    if "crossgram" in node.attrs and names.embeddings in (None, "embeddings"):
        return _open_store(EmbeddingStore.open(path), arrays, names)
    candidates = [key for key, a in arrays.items() if a.ndim == 2 and a.dtype.kind == "f"]
    chosen = choose(str(path), names.embeddings, candidates, _kinds(arrays))
    return Table(
        "zarr",
        _matrix(open_source(path / chosen)),
        ids=_named(path, arrays, names.ids),
        labels=_named(path, arrays, names.labels),
    )


def _open_store(store: EmbeddingStore, arrays: dict[str, zarr.Array[Any]], names: Names) -> Table:
    return Table(
        "crossgram",
        _matrix(open_source(store)),
        ids=_named(store.path, arrays, names.ids) or _values(store.ids),
        labels=_named(store.path, arrays, names.labels) or _values(store.labels),
        masked=_values(store.masked),
        provenance=store.provenance,
    )


def _arrays(path: Location, group: zarr.Group) -> dict[str, zarr.Array[Any]]:
    with reading(path, Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        members = sorted(group.members(max_depth=None), key=lambda member: member[0])
    return {name: member for name, member in members if isinstance(member, zarr.Array)}


def _kinds(arrays: dict[str, zarr.Array[Any]]) -> dict[str, str]:
    return {name: f"{array.shape} {array.dtype}" for name, array in arrays.items()}


def _matrix(source: Source) -> Matrix:
    return Matrix(
        source.label, source.rows, source.dim, source.dtype, lambda: source_pieces(source)
    )


def _named(path: Location, arrays: dict[str, zarr.Array[Any]], name: str | None) -> Values | None:
    if name is None:
        return None
    chosen = choose(str(path), name, (), _kinds(arrays))
    array = open_node(path / chosen)
    assert isinstance(array, zarr.Array)
    label = f"{path}/{chosen}"
    if array.ndim != 1 or array.dtype.kind not in "iuUT":
        raise InputError(
            f"{label}: has shape {array.shape} and dtype {array.dtype}; expected one text or "
            "integer per row"
        )
    check_array(array, label)
    return _values(Column(array, label))


def _values(column: Column | None) -> Values | None:
    if column is None:
        return None

    def pieces() -> Iterator[NDArray[Any]]:
        for start in range(0, len(column), _COLUMN_ROWS):
            yield column.read(start, min(start + _COLUMN_ROWS, len(column)))

    return Values(column.label, len(column), pieces)
