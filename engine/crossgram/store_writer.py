"""Writing embedding stores: rows gathered into whole chunks, their columns beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import ArrayLike, DTypeLike, NDArray

from crossgram.codecs import compressors
from crossgram.errors import InputError, NonFiniteError, WidthMismatchError
from crossgram.output import uninterrupted
from crossgram.zarr_io import MAX_CHUNK_BYTES, chunk_rows, copy_chunks, write_rows

if TYPE_CHECKING:
    from crossgram.store import Column

__all__ = [
    "FORMAT",
    "Appender",
    "Layout",
    "StoreWriter",
    "create_column",
    "is_json",
    "seal",
]

FORMAT = 1
_CHUNK_BYTES = 2 << 20
_MOST_CHUNK_ROWS = 16_384
"""A narrow store's chunks would span many of a wide one's, and be held until those are read."""
_COLUMN_CHUNK_ROWS = 4096
_COLUMN_WRITE_ROWS = 65_536
_WRITE_BYTES = 16 << 20


@dataclass(frozen=True)
class Layout:
    """How embeddings lie on disk.

    Attributes
    ----------
    dim : int
        Width of an embedding.
    dtype : numpy.dtype
        float16, float32 or float64.
    codec : str
        A name of `crossgram.codecs.CODECS`.
    chunk_rows : int
        Rows of a chunk.
    shard_rows : int or None
        Rows of a shard file, where there are shards.
    """

    dim: int
    dtype: np.dtype[Any]
    codec: str
    chunk_rows: int
    shard_rows: int | None

    @property
    def unit_rows(self) -> int:
        """Rows of one stored object, which is written as a whole."""
        return self.shard_rows or self.chunk_rows

    @classmethod
    def of(
        cls,
        dim: int,
        *,
        dtype: DTypeLike = "float32",
        codec: str = "lz4",
        chunk_rows: int | None = None,
        shard_rows: int | None = None,
    ) -> Layout:
        """Check what a caller asked for, and fill in what was left open.

        Raises
        ------
        InputError
            If the parts do not fit together, or chunks would be too large.
        """
        kind = _float_dtype(dtype)
        if not isinstance(dim, int | np.integer) or dim < 1:
            raise InputError(f"dim: {dim!r} given, an embedding has at least one column")
        if chunk_rows is not None and chunk_rows < 1:
            raise InputError(f"chunk_rows: {chunk_rows} given, a chunk has at least one row")
        rows = chunk_rows or _default_chunk_rows(dim * kind.itemsize)
        if (shard_rows or rows) * dim * kind.itemsize > MAX_CHUNK_BYTES:
            raise InputError(
                f"chunks or shards of {shard_rows or rows:,} rows of {dim} {kind} are larger than "
                f"{MAX_CHUNK_BYTES:,} bytes; choose fewer rows"
            )
        if shard_rows is not None and (shard_rows < rows or shard_rows % rows):
            raise InputError(f"shard_rows: {shard_rows} is not a multiple of chunk_rows ({rows})")
        compressors(codec)
        return cls(int(dim), kind, codec, rows, shard_rows)

    def create(self, group: zarr.Group, rows: int = 0) -> zarr.Array[Any]:
        """Create the array `embeddings` of so many rows in a group."""
        return _create_array(
            group,
            "embeddings",
            shape=(rows, self.dim),
            chunks=(self.chunk_rows, self.dim),
            shards=None if self.shard_rows is None else (self.shard_rows, self.dim),
            dtype=self.dtype,
            compressors=compressors(self.codec),
        )


def seal(group: zarr.Group, columns: Sequence[str], provenance: Mapping[str, Any]) -> None:
    """Write the attributes that make a group with its arrays an embedding store."""
    group.attrs["crossgram"] = {
        "format": FORMAT,
        "columns": list(columns),
        "provenance": dict(provenance),
    }


def create_column(
    group: zarr.Group, name: str, dtype: Any, shape: tuple[int, ...] = ()
) -> zarr.Array[Any]:
    """Create an empty array in a group, whose rows are of some shape: single values, as it is."""
    return _create_array(
        group,
        name,
        shape=(0, *shape),
        chunks=(_COLUMN_CHUNK_ROWS, *shape),
        dtype=dtype,
        compressors=compressors("zstd"),
    )


class StoreWriter:
    """Appends rows in order to a store that is being created.

    Attributes
    ----------
    array : zarr.Array, shape (n, d)
        The embeddings. If there are rows from the beginning, whole chunks (shards) of it may be
        written in any order, also by other processes; then only the columns are copied.
    """

    def __init__(self, group: zarr.Group, embeddings: zarr.Array[Any]) -> None:
        self._group = group
        self.array = embeddings
        self._embeddings = Appender(embeddings, _write_rows(embeddings))
        self._columns: dict[str, Appender | None] = {}

    @property
    def rows(self) -> int:
        """Rows appended so far."""
        return self._embeddings.rows

    @property
    def columns(self) -> list[str]:
        """Which of ids, labels and mask the rows have."""
        return [name for name, column in self._columns.items() if column is not None]

    def append(
        self,
        block: ArrayLike,
        *,
        ids: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        masked: ArrayLike | None = None,
    ) -> None:
        """Append rows, with their ids, labels and mask where the store has them.

        Parameters
        ----------
        block : array, shape (rows, d)
            Embeddings; cast to the store's dtype.
        ids, labels : array, shape (rows,), optional
            Text or integers. Either all appends of a store give them or none does.
        masked : array of bool, shape (rows,), optional
            Which rows hold no embedding; their values must be NaN. All appends or none, as well.
        """
        values = np.asarray(block)
        dim = self._embeddings.array.shape[1]
        if values.ndim != 2 or values.shape[1] != dim:
            raise WidthMismatchError(
                f"append: a block of shape {values.shape} given, the store holds rows of {dim}"
            )
        if values.dtype.kind not in "fiu":
            raise InputError(f"append: a block of dtype {values.dtype} given, expected floats")
        if not len(values):
            return
        if masked is not None:
            _check_masked_rows(values, self._checked_column("masked", masked, len(values)))
        self._append_columns(len(values), {"ids": ids, "labels": labels, "masked": masked})
        self._embeddings.append(values)

    def _append_columns(self, rows: int, given: Mapping[str, ArrayLike | None]) -> None:
        columns = {name: self._checked_column(name, own, rows) for name, own in given.items()}
        for name, column in columns.items():
            if name not in self._columns:
                self._columns[name] = None if column is None else self._new_column(name, column)
            appender = self._columns[name]
            if appender is not None and column is not None:
                appender.append(column)

    def copy_columns(
        self, ids: Column | None, labels: Column | None, masked: Column | None
    ) -> None:
        """Give all rows, once, the ids, labels and mask of those of another store.

        Where they are stored alike, their chunks are copied.

        Raises
        ------
        CorruptDataError
            Names a chunk that cannot be copied.
        """
        for name, column in (("ids", ids), ("labels", labels), ("masked", masked)):
            self._columns[name] = None
            if column is None:
                continue
            appender = self._new_column(name, _typed(name, column.read(0, 1)))
            self._columns[name] = appender
            own = column.array
            if isinstance(own, zarr.Array) and copy_chunks(own, appender.array, column.label):
                continue
            for start in range(0, len(column), _COLUMN_WRITE_ROWS):
                stop = min(start + _COLUMN_WRITE_ROWS, len(column))
                appender.append(_typed(name, column.read(start, stop)))

    def _checked_column(self, name: str, given: ArrayLike | None, rows: int) -> NDArray[Any] | None:
        earlier = self._columns.get(name)
        if name in self._columns and (earlier is None) != (given is None):
            raise InputError(f"append: {name} given for some rows only; give all or none")
        if given is None:
            return None
        values = _typed(name, given)
        if values.shape != (rows,):
            raise InputError(f"append: {name} has shape {values.shape}, the block has {rows} rows")
        if earlier is not None and values.dtype.kind != earlier.array.dtype.kind:
            raise InputError(f"append: {name} of dtype {values.dtype} after {earlier.array.dtype}")
        return values

    def _new_column(self, name: str, values: NDArray[Any]) -> Appender:
        return Appender(create_column(self._group, name, values.dtype))

    def finish(self) -> None:
        """Write what is still buffered."""
        self._embeddings.flush()
        for column in self._columns.values():
            if column is not None:
                column.flush()


class Appender:
    """Gathers rows into whole chunks (shards), so that each is written once.

    Parameters
    ----------
    array : zarr.Array
        Grows by its first dimension.
    unit : int
        Rows to write at a time, whole chunks of them.
    """

    def __init__(self, array: zarr.Array[Any], unit: int = _COLUMN_WRITE_ROWS) -> None:
        self.array = array
        self.rows = 0
        self._buffer: NDArray[Any] = np.empty((unit, *array.shape[1:]), array.dtype)
        self._filled = 0

    def append(self, values: NDArray[Any]) -> None:
        """Add rows after those before."""
        done = 0
        while done < len(values):
            count = min(len(values) - done, len(self._buffer) - self._filled)
            self._fill(values[done : done + count])
            self._filled += count
            self.rows += count
            done += count
            if self._filled == len(self._buffer):
                self.flush()

    def _fill(self, values: NDArray[Any]) -> None:
        try:
            with np.errstate(over="raise"):
                self._buffer[self._filled : self._filled + len(values)] = values
        except FloatingPointError as error:
            raise NonFiniteError(
                f"append: a value is too large for {self.array.dtype}; choose a wider dtype"
            ) from error

    def flush(self) -> None:
        """Write what is still buffered."""
        if self._filled:
            uninterrupted(self._write)
            self._filled = 0

    def _write(self) -> None:
        self.array.resize((self.rows, *self.array.shape[1:]))
        write_rows(self.array, self.rows - self._filled, self._buffer[: self._filled])


def _create_array(group: zarr.Group, name: str, **layout: Any) -> zarr.Array[Any]:
    return uninterrupted(
        lambda: group.create_array(name, **layout, config={"write_empty_chunks": True})
    )


def _default_chunk_rows(row_bytes: int) -> int:
    fitting = max(1, _CHUNK_BYTES // row_bytes)
    return max(64, min(1 << (fitting.bit_length() - 1), _MOST_CHUNK_ROWS))


def _float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise InputError(f"dtype: {dtype!r} given, expected float16, float32 or float64") from error
    if kind.kind != "f" or kind.itemsize > 8:
        raise InputError(f"dtype: {kind} given, embeddings are float16, float32 or float64")
    return kind


def is_json(values: Mapping[str, Any]) -> bool:
    """Tell whether a mapping can be written as JSON."""
    try:
        json.dumps(dict(values), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _write_rows(array: zarr.Array[Any]) -> int:
    unit = chunk_rows(array)
    row_bytes = array.shape[1] * array.dtype.itemsize
    return unit * max(1, _WRITE_BYTES // (unit * row_bytes))


def _check_masked_rows(values: NDArray[Any], masked: NDArray[np.bool_] | None) -> None:
    """Refuse to mask a row that holds values, so that none is given up unseen."""
    if masked is None or not masked.any():
        return
    hidden = masked & ~np.isnan(values).all(axis=1)
    if hidden.any():
        row = int(np.argmax(hidden))
        raise InputError(
            f"append: row {row} of the block is masked but holds values, first "
            f"{values[row][~np.isnan(values[row])][0]}; fill masked rows with NaN"
        )


def _typed(name: str, given: ArrayLike) -> NDArray[Any]:
    return _mask_values(given) if name == "masked" else _column_values(name, given)


def _mask_values(given: ArrayLike) -> NDArray[np.bool_]:
    values = np.asarray(given)
    if values.dtype.kind != "b":
        raise InputError(f"append: masked of dtype {values.dtype} given, expected booleans")
    return values


def _column_values(name: str, given: ArrayLike) -> NDArray[Any]:
    values = np.asarray(given)
    if values.dtype.kind in "iu":
        if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
            raise InputError(
                f"append: {name} holds {values.max()}, integers are stored as int64; give text"
            )
        return values.astype(np.int64, copy=False)
    if values.dtype.kind in "UT" or (
        values.dtype.kind == "O" and all(isinstance(value, str) for value in values.flat)
    ):
        try:
            return values.astype(np.dtypes.StringDType())
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(f"append: {name} hold text that is not Unicode ({error})") from error
    raise InputError(f"append: {name} of dtype {values.dtype} given, expected text or integers")
