"""Whatever rows can be streamed from, behind one small interface.

An `EmbeddingStore` or a plain two-dimensional Zarr array, on this machine or in a bucket, a .npy
file, a NumPy or a Dask array: `open_source` makes a `Source` of each.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray

from crossgram.errors import CorruptDataError, InputError
from crossgram.locations import Location, ObjectPath, local, locate
from crossgram.row_file import RowFile
from crossgram.store import Column, EmbeddingStore
from crossgram.zarr_io import (
    MAX_COLUMNS,
    check_array,
    check_chunks,
    chunk_rows,
    is_fetched,
    open_node,
    read_rows,
)

__all__ = [
    "MAX_COLUMNS",
    "Source",
    "SourceLike",
    "address_of",
    "check_matrix",
    "check_npy_size",
    "computed_by",
    "first_column",
    "masked_rows",
    "open_source",
    "raw_reader",
    "read_npy",
    "read_npy_header",
    "source_of_array",
    "usable_rows",
]

_MASKED = "has masked values; fill them with NaN, or leave the rows out"

SourceLike: TypeAlias = Any
"""A path or URL (text or Path), EmbeddingStore, zarr.Array, NumPy array, Dask array or Source."""


@dataclass(frozen=True)
class Source:
    """Rows that can be read by range, any number of times and from several threads.

    Attributes
    ----------
    label : str
        How messages name it.
    rows, dim : int
        Shape.
    dtype : numpy.dtype
        What `read` delivers.
    chunk_rows : int
        Reads that start and stop at multiples of it decode nothing twice.
    read : callable
        `read(start, out)` fills `out` (any number of rows, dim) with the rows from `start`.
    ids, labels : Column or None
        One value per row.
    masked : Column or None
        Which rows hold no embedding.
    origin : RowFile or ndarray of int, shape (rows,), or None
        Which row of what `label` names each row is, where rows were joined in another order.
    signature : str or None
        What made the embeddings, as `Space` has it.
    address : str or None
        What another process opens it by; None of what is in this one only.
    blocks : dask.array.Array or None
        The rows, where they are a Dask array.
    fetched : bool
        Whether rows come over the network, which `read` holds besides, as stored and decoded.
    """

    label: str
    rows: int
    dim: int
    dtype: np.dtype[Any]
    chunk_rows: int
    read: Callable[[int, NDArray[Any]], None]
    ids: Column | None = None
    labels: Column | None = None
    masked: Column | None = None
    origin: RowFile | NDArray[np.int64] | None = None
    signature: str | None = None
    address: str | None = None
    blocks: Any = None
    fetched: bool = False

    def row_numbers(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return what messages call the rows `start` to `stop`."""
        return np.arange(start, stop) if self.origin is None else self.origin[start:stop]


def address_of(source: Source) -> str:
    """Return what a worker of a cluster opens a source by.

    Raises
    ------
    InputError
        If it is in this process only.
    """
    if source.address is not None:
        return source.address
    where = "lies in this process"
    if source.origin is not None:
        where = "is in another order, and was joined in temporary files of this machine"
    raise InputError(
        f"{source.label}: {where}, where no worker sees it; write it to a store that they see, or "
        "give a Dask array where rows are summed up"
    )


def open_source(given: SourceLike, name: str = "array") -> Source:
    """Make a `Source` of what a caller passed.

    Parameters
    ----------
    given : path or URL, EmbeddingStore, zarr.Array, ndarray, dask.array.Array or Source
        Rows x columns of floats.
    name : str
        How messages call an array, which has no path.

    Raises
    ------
    InputError
        If it is nothing of that kind, has no rows, is not two-dimensional or not floating.
    CorruptDataError
        If a file's parts contradict each other.
    """
    if isinstance(given, str | os.PathLike | ObjectPath):
        return _open_path(locate(given))
    if isinstance(given, EmbeddingStore):
        return _from_store(given)
    if isinstance(given, zarr.Array):
        return _from_zarr(given, str(given.store_path))
    if hasattr(given, "__dask_graph__") and hasattr(given, "chunks"):
        return _from_dask(given, name)
    if isinstance(given, Source):
        return given
    if np.ma.is_masked(given):
        raise InputError(f"{name}: {_MASKED}")
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: cannot be read as an array of rows ({error}); give rows x columns of floats"
        ) from error
    return _from_array(array, name)


def first_column(sources: Sequence[Source], name: str) -> Column | None:
    """Return the column "ids" or "labels" of the first of paired sources that has it, or None."""
    columns = (getattr(source, name) for source in sources)
    found: Column | None = next((column for column in columns if column is not None), None)
    return found


def masked_rows(sources: Sequence[Source], start: int, stop: int) -> NDArray[np.bool_] | None:
    """Tell which of the rows `start` to `stop` hold no embedding in some of paired sources.

    Returns
    -------
    ndarray of bool, shape (stop - start,), or None
        None where no source has a mask.
    """
    masks = [source.masked.read(start, stop) for source in sources if source.masked is not None]
    return np.logical_or.reduce(masks) if masks else None


def usable_rows(sources: Sequence[Source]) -> NDArray[np.bool_]:
    """Tell which rows hold an embedding in all of paired sources."""
    rows = sources[0].rows
    masked = masked_rows(sources, 0, rows)
    return np.ones(rows, bool) if masked is None else ~masked


def _open_path(path: Location) -> Source:
    if path.is_file() and path.suffix == ".npy":
        return _from_npy(local(path))
    if path.is_file() and path.suffix == ".safetensors":
        raise InputError(
            f"{path}: a safetensors file, as maps and moments are, expected rows of embeddings: a "
            "Zarr store or array, or a .npy file"
        )
    node = open_node(path)
    if isinstance(node, zarr.Array):
        return _from_zarr(node, str(path), str(path.absolute()))
    return _from_store(EmbeddingStore.open(path))


def _from_store(store: EmbeddingStore) -> Source:
    # the last rows are there: nothing is planned for rows that are declared only
    check_chunks(store.embeddings, store.rows - 1, store.rows, str(store.path))
    return Source(
        label=str(store.path),
        rows=store.rows,
        dim=store.dim,
        dtype=store.dtype,
        chunk_rows=store.chunk_rows,
        read=store.read,
        ids=store.ids,
        labels=store.labels,
        masked=store.masked,
        signature=store.signature,
        address=str(store.path.absolute()),
        fetched=is_fetched(store.embeddings),
    )


def _from_zarr(array: zarr.Array[Any], label: str, address: str | None = None) -> Source:
    source = source_of_array(array, label, address)
    check_chunks(array, source.rows - 1, source.rows, label)
    return source


def source_of_array(array: zarr.Array[Any], label: str, address: str | None = None) -> Source:
    """Return the rows of a Zarr array, of which some may be declared only."""
    check_matrix(array.shape, array.dtype, label)
    check_array(array, label)
    return Source(
        label=label,
        rows=array.shape[0],
        dim=array.shape[1],
        dtype=array.dtype,
        chunk_rows=chunk_rows(array),
        read=lambda start, out: read_rows(array, start, out, label),
        address=address,
        fetched=is_fetched(array),
    )


def _from_array(array: NDArray[Any], name: str) -> Source:
    check_matrix(array.shape, array.dtype, name)

    def read(start: int, out: NDArray[Any]) -> None:
        out[:] = array[start : start + len(out)]

    return Source(name, array.shape[0], array.shape[1], array.dtype, 1, read)


def _from_dask(array: Any, name: str) -> Source:
    check_matrix(array.shape, array.dtype, name)
    if np.isnan(array.shape).any():
        raise InputError(
            f"{name}: Dask does not know its shape; call its compute_chunk_sizes() first"
        )

    if isinstance(getattr(array, "_meta", None), np.ma.MaskedArray):
        raise InputError(f"{name}: {_MASKED}")

    def compute(rows: Any) -> NDArray[Any]:
        found: NDArray[Any] = rows.compute(scheduler="synchronous")
        return found

    rows, dim = array.shape
    read = _dask_reader(array, name, compute)
    return Source(name, rows, dim, array.dtype, max(array.chunks[0]), read, blocks=array)


def computed_by(source: Source, compute: Callable[[Any], NDArray[Any]]) -> Source:
    """Return a source that is a Dask array with its rows computed in another way.

    Parameters
    ----------
    source : Source
        Any; one that is no Dask array is returned as it is.
    compute : callable
        Gives the rows of a part of the array.
    """
    if source.blocks is None:
        return source
    return replace(source, read=_dask_reader(source.blocks, source.label, compute))


def _dask_reader(
    array: Any, name: str, compute: Callable[[Any], NDArray[Any]]
) -> Callable[[int, NDArray[Any]], None]:
    def read(start: int, out: NDArray[Any]) -> None:
        rows = compute(array[start : start + len(out)])
        if np.shape(rows) != out.shape:
            raise CorruptDataError(
                f"{name}: Dask computed rows of shape {np.shape(rows)} where its array declares "
                f"{out.shape}; mend the graph that makes it"
            )
        out[:] = rows

    return read


def _from_npy(path: Path) -> Source:
    shape, dtype, fortran_order, offset = read_npy_header(path)
    check_matrix(shape, dtype, str(path))
    check_npy_size(path, shape, dtype, offset)
    rows, dim = shape
    if fortran_order:
        read = _column_reader(path, offset, rows)
    else:
        read = raw_reader(path, offset, dim * dtype.itemsize)
    return Source(str(path), rows, dim, dtype, 1, read, address=str(path.absolute()))


def read_npy_header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Return shape, dtype, whether the order is Fortran's, and where the values begin.

    Raises
    ------
    CorruptDataError
        If it is not a .npy file.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                header = np.lib.format.read_array_header_1_0(file)
            else:
                header = np.lib.format.read_array_header_2_0(file)
            offset = file.tell()
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read (permission denied)") from error
    except Exception as error:
        raise CorruptDataError(f"{path}: not a .npy file: {error}") from error
    shape, fortran_order, dtype = header
    if min(shape, default=0) < 0:
        raise CorruptDataError(f"{path}: declares the shape {shape}")
    return tuple(map(int, shape)), dtype, fortran_order, offset


def read_npy(path: Path) -> NDArray[Any]:
    """Return the numbers of a .npy file.

    Raises
    ------
    CorruptDataError
        If it is not a .npy file, or shorter than its header declares: no memory is taken then.
    InputError
        If it cannot be read, or does not hold numbers.
    """
    shape, dtype, fortran_order, offset = read_npy_header(path)
    if dtype.kind not in "biuf":
        raise InputError(f"{path}: has dtype {dtype}, expected numbers")
    check_npy_size(path, shape, dtype, offset)
    values = np.fromfile(path, dtype, math.prod(shape), offset=offset)
    return values.reshape(shape, order="F" if fortran_order else "C")


def check_npy_size(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> None:
    """Refuse a .npy file that is shorter than its header declares."""
    declared = offset + math.prod(shape) * dtype.itemsize
    found = path.stat().st_size
    if found < declared:
        raise CorruptDataError(
            f"{path}: truncated, {found:,} bytes found, its header declares {declared:,}; copy "
            "it again"
        )


def raw_reader(path: Path, offset: int, row_bytes: int) -> Callable[[int, NDArray[Any]], None]:
    """Return a `read` for rows that lie one after the other in a file, from `offset` on.

    By position instead of by memory map: mapped pages would count as this process's memory.
    """

    def read(start: int, out: NDArray[Any]) -> None:
        with path.open("rb", buffering=0) as file:
            _fill(out, file, offset + start * row_bytes)

    return read


def _column_reader(path: Path, offset: int, rows: int) -> Callable[[int, NDArray[Any]], None]:
    """Return a `read` for rows whose columns lie one after the other in a file."""

    def read(start: int, out: NDArray[Any]) -> None:
        column = np.empty(len(out), out.dtype)
        with path.open("rb", buffering=0) as file:
            for k in range(out.shape[1]):
                _fill(column, file, offset + (k * rows + start) * out.dtype.itemsize)
                out[:, k] = column

    return read


def _fill(out: NDArray[Any], file: FileIO, position: int) -> None:
    file.seek(position)
    view = out.reshape(-1).view(np.uint8).data
    while view.nbytes:
        count = file.readinto(view)
        if not count:
            raise CorruptDataError(f"{file.name}: ended early, it was cut while being read")
        view = view[count:]


def check_matrix(shape: tuple[int, ...], dtype: np.dtype[Any], label: str) -> None:
    """Refuse what is not rows x columns of floats, at least one of each."""
    if len(shape) != 2:
        raise InputError(f"{label}: has shape {tuple(shape)}, expected rows x columns")
    if dtype.kind != "f":
        raise InputError(
            f"{label}: has dtype {dtype}, expected float16, float32 or float64; convert it"
        )
    if min(shape) < 1:
        raise InputError(
            f"{label}: has shape {tuple(shape)}; expected at least one row and one column"
        )
    if shape[1] > MAX_COLUMNS:
        raise InputError(
            f"{label}: has {shape[1]:,} columns, moments of at most {MAX_COLUMNS:,} are kept"
        )
