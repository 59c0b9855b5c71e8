"""Columns of a Parquet file, or of a folder of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.apart import apart
from crossgram.documents import parsed
from crossgram.errors import CorruptDataError, InputError, WidthMismatchError
from crossgram.ingestion.parquet_pages import TEXT_BYTES, Part, check_values, check_vectors
from crossgram.ingestion.table import (
    Matrix,
    Names,
    Table,
    Values,
    choose,
    in_order,
    optional_module,
    reading,
)
from crossgram.parquet_columns import MOST_BYTES

__all__ = ["open_table", "open_values", "row_counts"]

_READER = "crossgram.parquet_columns"
_FILES_AT_ONCE = 256

_COLUMN_ROWS = 65_536
_READ_BYTES = 1 << 20
_BATCH_BYTES = 4 << 20  # Arrow takes about five times as much to decode them


def open_table(path: Path, names: Names) -> Table:
    """Open a Parquet file or a folder of them."""
    files = [path] if path.is_file() else in_order(path, ".parquet")
    return Table(
        "parquet",
        _open_matrix(files, names.embeddings),
        ids=None if names.ids is None else open_values(files, names.ids),
        labels=None if names.labels is None else open_values(files, names.labels),
    )


def row_counts(files: Sequence[Path]) -> list[int]:
    """Return how many rows each file has."""
    counts = []
    for file in files:
        with _opened(file) as parquet:
            counts.append(parquet.metadata.num_rows)
    return counts


def open_values(files: Sequence[Path], name: str) -> Values:
    """Open a column of text or integers, which every file has."""
    for file in files:
        with _opened(file) as parquet:
            _check_kind(file, name, parquet.schema_arrow)
    for file, part in _parts(files, name, is_list=False):
        check_values(file, part)

    def pieces() -> Iterator[NDArray[Any]]:
        for file in files:
            # a dictionary, so that a long text that many rows share is held once
            for start, column in _batches(file, name, _COLUMN_ROWS, dictionary=True):
                _refuse_null(file, name, start, column)
                _refuse_wrong_entries(file, name, start, column)
                yield _numpy(file, column)

    return Values(f"{files[0]} column {name!r}", sum(row_counts(files)), pieces)


def _check_kind(file: Path, name: str, schema: Any) -> None:
    pyarrow = optional_module("pyarrow", file)
    kind = _field(file, schema, choose(str(file), name, (), _kinds(schema))).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    text = pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()
    if not (pyarrow.types.is_integer(kind) or kind in text):
        raise InputError(f"{file}: the column {name!r} is {kind}, expected text or integers")


def _open_matrix(files: Sequence[Path], name: str | None) -> Matrix:
    kinds = []
    for file in files:
        with _opened(file) as parquet:
            name = _vector_column(file, name, parquet.schema_arrow)
            kinds.append(parquet.schema_arrow.field(name).type.value_type)
    assert name is not None
    chosen: str = name
    widest = max(kind.bit_width // 8 for kind in kinds)
    for file, part in _parts(files, chosen, is_list=True):
        check_vectors(file, part, widest)
    for file, kind in zip(files, kinds, strict=True):
        if kind != kinds[0]:
            raise InputError(
                f"{file}: the column {chosen!r} holds {kind}, in {files[0]} {kinds[0]}; expected "
                "one dtype"
            )
    rows = sum(row_counts(files))
    dim = _first_width(files, chosen)
    dtype = np.dtype(kinds[0].to_pandas_dtype())
    step = max(1, _BATCH_BYTES // (dim * dtype.itemsize))

    def pieces() -> Iterator[NDArray[Any]]:
        for file in files:
            for start, column in _batches(file, chosen, step):
                yield _block(file, chosen, start, column, dim)

    return Matrix(f"{files[0]} column {chosen!r}", rows, dim, dtype, pieces)


def _vector_column(file: Path, name: str | None, schema: Any) -> str:
    types = optional_module("pyarrow", file).types

    lists = types.is_list, types.is_large_list, types.is_fixed_size_list
    vectors = [
        field.name
        for field in schema
        if any(is_kind(field.type) for is_kind in lists)
        and types.is_floating(field.type.value_type)
    ]
    chosen = choose(str(file), name, vectors, _kinds(schema), "lists of floats")
    kind = _field(file, schema, chosen).type
    if chosen not in vectors:
        raise InputError(f"{file}: the column {chosen!r} is {kind}, expected lists of floats")
    return chosen


def _kinds(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def _field(file: Path, schema: Any, name: str) -> Any:
    if schema.names.count(name) > 1:
        raise InputError(f"{file}: has several columns {name!r}; write it again with one of them")
    return schema.field(name)


def _first_width(files: Sequence[Path], name: str) -> int:
    for file in files:
        for _, column in _batches(file, name, 1):
            _refuse_null(file, name, 0, column)
            width = len(column[0])
            if width:
                return width
            raise InputError(f"{file}: row 0 of the column {name!r} is an empty list")
    raise InputError(f"{files[0]}: no rows; a store has at least one")


def _block(file: Path, name: str, start: int, column: Any, dim: int) -> NDArray[Any]:
    """Return lists of floats as an array, (rows, dim)."""
    _refuse_null(file, name, start, column)
    widths = column.value_lengths().to_numpy(zero_copy_only=False)
    if (widths != dim).any():
        row = int(np.argmax(widths != dim))
        raise WidthMismatchError(
            f"{file}: row {start + row} of the column {name!r} has {widths[row]} values, the first "
            f"row has {dim}; rows of one network are equally wide"
        )
    values = column.flatten()
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))) // dim
        raise InputError(f"{file}: row {start + row} of the column {name!r} has a null value")
    return _numpy(file, values).reshape(-1, dim)


def _numpy(file: Path, column: Any) -> NDArray[Any]:
    with reading(file, optional_module("pyarrow", file).ArrowException):
        values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _refuse_null(file: Path, name: str, start: int, column: Any) -> None:
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(
            f"{file}: row {start + row} of the column {name!r} is null; expected a value in every "
            "row"
        )


def _refuse_wrong_entries(file: Path, name: str, start: int, column: Any) -> None:
    """Refuse values that a dictionary does not have, and long texts that many rows share."""
    pyarrow = optional_module("pyarrow", file)
    if not pyarrow.types.is_dictionary(column.type):
        return
    places = column.indices.to_numpy()
    if len(places) and not 0 <= places.min() <= places.max() < len(column.dictionary):
        raise CorruptDataError(
            f"{file}: rows {start} to {start + len(column) - 1} of the column {name!r} are of a "
            "dictionary that does not have them; the file is damaged, copy it again"
        )
    if pyarrow.types.is_integer(column.type.value_type):
        return
    compute = optional_module("pyarrow.compute", file)
    lengths = compute.binary_length(column.dictionary).to_numpy(zero_copy_only=False)
    total = int(lengths[places].sum(dtype=np.int64))
    if total > len(column) * TEXT_BYTES:
        raise InputError(
            f"{file}: rows {start} to {start + len(column) - 1} of the column {name!r} have "
            f"{total:,} bytes of text; at most {TEXT_BYTES:,} a row are read"
        )


def _parts(files: Sequence[Path], name: str, *, is_list: bool) -> Iterator[tuple[Path, Part]]:
    """Yield what the metadata of files say of each row group's part of a column."""
    kind = "lists" if is_list else "values"
    for start in range(0, len(files), _FILES_AT_ONCE):
        some = files[start : start + _FILES_AT_ONCE]
        with apart(_READER, kind, name, *map(str, some)) as take:
            for file in some:
                with reading(file, ValueError):
                    found = parsed(take(MOST_BYTES).tobytes(), MOST_BYTES)
                for facts in found:
                    yield file, Part(**facts)


def _batches(
    file: Path, name: str, rows: int, *, dictionary: bool = False
) -> Iterator[tuple[int, Any]]:
    """Yield the column in runs of at most `rows`, each with its first row's number."""
    start = 0
    with _opened(file, [name] if dictionary else None) as parquet:
        for batch in parquet.iter_batches(rows, columns=[name]):
            column = batch.column(name)
            yield start, column
            start += len(column)


@contextmanager
def _opened(file: Path, dictionaries: list[str] | None = None) -> Iterator[Any]:
    pyarrow = optional_module("pyarrow", file)
    parquet = optional_module("pyarrow.parquet", file)
    with (
        reading(file, pyarrow.ArrowException),
        parquet.ParquetFile(
            file, buffer_size=_READ_BYTES, pre_buffer=False, read_dictionary=dictionaries
        ) as opened,
    ):
        yield opened
