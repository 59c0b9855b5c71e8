"""Datasets of an HDF5 file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import CorruptDataError, InputError
from crossgram.ingestion.table import (
    Matrix,
    Names,
    Table,
    Values,
    block_rows,
    choose,
    optional_module,
    reading,
)
from crossgram.source import check_matrix
from crossgram.zarr_io import MAX_CHUNK_BYTES

__all__ = ["open_table"]

_COLUMN_ROWS = 65_536


def open_table(path: Path, names: Names) -> Table:
    """Open an HDF5 file."""
    h5py = optional_module("h5py", path)
    with _opened(path, str(path)) as file:
        datasets = _datasets(file, h5py)
        return Table(
            "hdf5",
            _matrix(path, datasets, names.embeddings),
            ids=_values(path, datasets, names.ids, h5py),
            labels=_values(path, datasets, names.labels, h5py),
        )


@contextmanager
def _opened(path: Path, label: str) -> Iterator[Any]:
    h5py = optional_module("h5py", path)
    # of a damaged file, h5py raises KeyError, RuntimeError, TypeError or what else comes
    with reading(label, Exception), h5py.File(path, "r") as file:
        yield file


def _datasets(file: Any, h5py: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def collect(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found[name] = node

    file.visititems(collect)
    return found


def _kinds(datasets: dict[str, Any]) -> dict[str, str]:
    return {name: f"{data.shape or ()} {data.dtype}" for name, data in datasets.items()}


def _matrix(path: Path, datasets: dict[str, Any], name: str | None) -> Matrix:
    candidates = [
        key for key, data in datasets.items() if data.ndim == 2 and data.dtype.kind == "f"
    ]
    chosen = choose(str(path), name and name.strip("/"), candidates, _kinds(datasets))
    dataset = datasets[chosen]
    label = f"{path}/{chosen}"
    check_matrix(dataset.shape or (), dataset.dtype, label)
    _check_chunks(dataset, label)
    rows, dim = dataset.shape
    dtype = dataset.dtype
    step = block_rows(dim * dtype.itemsize, dataset.chunks[0] if dataset.chunks else 1)

    def pieces() -> Iterator[NDArray[Any]]:
        with _opened(path, label) as file:
            for start in range(0, rows, step):
                piece = np.empty((min(step, rows - start), dim), dtype)
                file[chosen].read_direct(piece, np.s_[start : start + len(piece)])
                yield piece

    return Matrix(label, rows, dim, dtype, pieces)


def _values(path: Path, datasets: dict[str, Any], name: str | None, h5py: Any) -> Values | None:
    if name is None:
        return None
    chosen = choose(str(path), name.strip("/"), (), _kinds(datasets))
    dataset = datasets[chosen]
    label = f"{path}/{chosen}"
    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    if dataset.ndim != 1 or not (is_text or dataset.dtype.kind in "iu"):
        raise InputError(
            f"{label}: has shape {dataset.shape or ()} and dtype {dataset.dtype}; expected one "
            "text or integer per row"
        )
    _check_chunks(dataset, label)
    rows = len(dataset)

    def pieces() -> Iterator[NDArray[Any]]:
        with _opened(path, label) as file:
            column = file[chosen].asstr() if is_text else file[chosen]
            for start in range(0, rows, _COLUMN_ROWS):
                yield column[start : start + _COLUMN_ROWS]

    return Values(label, rows, pieces)


def _check_chunks(dataset: Any, label: str) -> None:
    """Refuse chunks too large to hold, and rows that are declared and not there."""
    size = int(np.prod(dataset.chunks or (), dtype=object)) * dataset.dtype.itemsize
    if size > MAX_CHUNK_BYTES:
        raise InputError(
            f"{label}: declares chunks of {size:,} bytes each, at most {MAX_CHUNK_BYTES:,} are "
            "read; write it again with smaller chunks"
        )
    with reading(label, Exception):
        elsewhere, is_missing = dataset.is_virtual or dataset.external, _is_part_missing(dataset)
    if elsewhere:
        raise InputError(
            f"{label}: its values lie in other files that it names, which are not read; write it "
            "again with the values in it"
        )
    if is_missing:
        raise CorruptDataError(
            f"{label}: declares {dataset.shape} values of {dataset.dtype}, of which some are not "
            "in the file; HDF5 would read them as zeros: copy it again, or write them all"
        )


def _is_part_missing(dataset: Any) -> bool:
    if dataset.chunks is None:
        # of texts, what is stored with the dataset is where they are
        width = 1 if dataset.dtype.hasobject else dataset.dtype.itemsize
        return bool(dataset.id.get_storage_size() < math.prod(dataset.shape) * width)
    chunks = (-(-n // own) for n, own in zip(dataset.shape, dataset.chunks, strict=True))
    return bool(dataset.id.get_num_chunks() < math.prod(chunks))
