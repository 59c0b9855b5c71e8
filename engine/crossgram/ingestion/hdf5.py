"""Datasets of an HDF5 file, which libhdf5 reads in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.apart import apart
from crossgram.documents import parsed
from crossgram.errors import CorruptDataError, InputError
from crossgram.hdf5_datasets import TEXT
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

_READER = "crossgram.hdf5_datasets"
_MOST_LIST = 64 << 20
_COLUMN_ROWS = 16_384
_TEXT_BYTES = 4096
"""Of a text, on the average of those that are read at once."""


@dataclass(frozen=True)
class _Dataset:
    """What a file says of a dataset."""

    shape: tuple[int, ...]
    described: str
    kind: str
    chunks: tuple[int, ...] | None
    chunk_bytes: int
    is_elsewhere: bool
    is_part_missing: bool


def open_table(path: Path, names: Names) -> Table:
    """Open an HDF5 file."""
    optional_module("h5py", path)
    datasets = _datasets(path)
    return Table(
        "hdf5",
        _matrix(path, datasets, names.embeddings),
        ids=_values(path, datasets, names.ids),
        labels=_values(path, datasets, names.labels),
    )


def _datasets(path: Path) -> dict[str, _Dataset]:
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: cannot be read (permission denied)")
    with reading(str(path), ValueError), apart(_READER, "list", str(path)) as take:
        found = parsed(take(_MOST_LIST).tobytes(), _MOST_LIST)
    return {
        name: _Dataset(**{**facts, "shape": tuple(facts["shape"])}) for name, facts in found.items()
    }


def _kinds(datasets: Mapping[str, _Dataset]) -> dict[str, str]:
    return {name: data.described for name, data in datasets.items()}


def _matrix(path: Path, datasets: Mapping[str, _Dataset], name: str | None) -> Matrix:
    candidates = [
        key for key, data in datasets.items() if len(data.shape) == 2 and data.kind[1:2] == "f"
    ]
    chosen = choose(str(path), name and name.strip("/"), candidates, _kinds(datasets))
    dataset = datasets[chosen]
    label = f"{path}/{chosen}"
    if dataset.kind in ("", TEXT):
        raise InputError(f"{label}: is {dataset.described}; expected rows x columns of floats")
    dtype = np.dtype(dataset.kind)
    check_matrix(dataset.shape, dtype, label)
    _check_chunks(dataset, label)
    rows, dim = dataset.shape
    step = block_rows(dim * dtype.itemsize, dataset.chunks[0] if dataset.chunks else 1)

    def pieces() -> Iterator[NDArray[Any]]:
        with (
            reading(label, ValueError),
            apart(_READER, "read", str(path), chosen, str(step)) as take,
        ):
            for start in range(0, rows, step):
                shape = min(step, rows - start), dim
                yield _numbers(take(dtype.itemsize * shape[0] * dim), dtype, shape)

    return Matrix(label, rows, dim, dtype, pieces)


def _values(path: Path, datasets: Mapping[str, _Dataset], name: str | None) -> Values | None:
    if name is None:
        return None
    chosen = choose(str(path), name.strip("/"), (), _kinds(datasets))
    dataset = datasets[chosen]
    label = f"{path}/{chosen}"
    is_text = dataset.kind == TEXT
    if len(dataset.shape) != 1 or not (is_text or dataset.kind[1:2] in ("i", "u")):
        raise InputError(f"{label}: is {dataset.described}; expected one text or integer per row")
    _check_chunks(dataset, label)
    rows = dataset.shape[0]

    def pieces() -> Iterator[NDArray[Any]]:
        step = str(_COLUMN_ROWS)
        with reading(label, ValueError), apart(_READER, "read", str(path), chosen, step) as take:
            for start in range(0, rows, _COLUMN_ROWS):
                count = min(_COLUMN_ROWS, rows - start)
                if is_text:
                    yield _texts(take(count * (8 + _TEXT_BYTES)), count)
                else:
                    dtype = np.dtype(dataset.kind)
                    yield _numbers(take(count * dtype.itemsize), dtype, (count,))

    return Values(label, rows, pieces)


def _numbers(
    content: NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    return content.view(dtype).reshape(shape)


def _texts(content: NDArray[np.uint8], count: int) -> NDArray[Any]:
    ends = np.cumsum(content[: 8 * count].view(np.int64)).tolist()
    texts = content[8 * count :].data
    out = np.empty(count, object)
    out[:] = [str(texts[start:end], "utf-8") for start, end in zip([0, *ends], ends, strict=False)]
    return out


def _check_chunks(dataset: _Dataset, label: str) -> None:
    """Refuse chunks too large to hold, and rows that are declared and not there."""
    if dataset.chunk_bytes > MAX_CHUNK_BYTES:
        raise InputError(
            f"{label}: declares chunks of {dataset.chunk_bytes:,} bytes each, at most "
            f"{MAX_CHUNK_BYTES:,} are read; write it again with smaller chunks"
        )
    if dataset.is_elsewhere:
        raise InputError(
            f"{label}: its values lie in other files that it names, which are not read; write it "
            "again with the values in it"
        )
    if dataset.is_part_missing:
        raise CorruptDataError(
            f"{label}: declares {dataset.described} values, of which some are not in the file; "
            "HDF5 would read them as zeros: copy it again, or write them all"
        )
