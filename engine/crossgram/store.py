"""EmbeddingStore: the embeddings of one network, one row per image, on Zarr v3."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import ArrayLike, DTypeLike, NDArray

from crossgram.codecs import compressors
from crossgram.errors import CorruptDataError, InputError, NonFiniteError, WidthMismatchError
from crossgram.output import uninterrupted, whole_directory
from crossgram.zarr_io import (
    MAX_CHUNK_BYTES,
    check_array,
    chunk_rows,
    open_member,
    open_node,
    read_rows,
    stored_alike,
)

__all__ = ["Column", "EmbeddingStore", "StoreWriter"]

_FORMAT = 1
_CHUNK_BYTES = 2 << 20
_MOST_CHUNK_ROWS = 16_384
"""A narrow store's chunks would span many of a wide one's, and be held until those are read."""
_COLUMN_CHUNK_ROWS = 4096
_COLUMN_WRITE_ROWS = 65_536
_WRITE_BYTES = 16 << 20


@dataclass(frozen=True)
class Column:
    """Ids or labels of a store: one value per row, read by range."""

    array: Any
    label: str
    all_stored: bool = False

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.array.shape[0])

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the values of rows `start` to `stop`, shape (stop - start,)."""
        if not isinstance(self.array, zarr.Array):
            return np.asarray(self.array[start:stop])
        out = np.empty(stop - start, self.array.dtype)
        read_rows(self.array, start, out, self.label, all_stored=self.all_stored)
        return out

    def stored_alike(self, other: Column, start: int, stop: int) -> bool:
        """Tell whether rows `start` to `stop` are stored with the same bytes in both columns."""
        arrays = self.array, other.array
        return all(isinstance(array, zarr.Array) for array in arrays) and stored_alike(
            *arrays, start, stop
        )


@dataclass(frozen=True)
class EmbeddingStore:
    """n x d embeddings of one network, with optional ids and labels, and what made them.

    On disk: a Zarr v3 group with the arrays `embeddings` (n, d), `ids` (n,) and `labels` (n,),
    and the attribute `crossgram` with the format version and the provenance.

    Attributes
    ----------
    path : Path
        Where it is.
    embeddings : zarr.Array, shape (n, d), a floating dtype
        The rows.
    ids, labels : Column or None
        One value per row, text or integers.
    provenance : mapping
        What made the embeddings, as given to `create`.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "a.zarr"
    >>> with EmbeddingStore.create(path, dim=3, provenance={"model": "net-a"}) as writer:
    ...     writer.append(np.eye(3, dtype="float32"), ids=["p/1.jpg", "p/2.jpg", "q/1.jpg"])
    >>> store = EmbeddingStore.open(path)
    >>> store.rows, store.dim, store.provenance["model"]
    (3, 3, 'net-a')
    """

    path: Path
    embeddings: Any
    ids: Column | None = None
    labels: Column | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of images, n."""
        return int(self.embeddings.shape[0])

    @property
    def dim(self) -> int:
        """Width of an embedding, d."""
        return int(self.embeddings.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored dtype of the embeddings."""
        dtype: np.dtype[Any] = self.embeddings.dtype
        return dtype

    @property
    def chunk_rows(self) -> int:
        """Rows of one stored object (shard or chunk)."""
        return chunk_rows(self.embeddings)

    def read(self, start: int, out: NDArray[Any]) -> None:
        """Decode rows `start` to `start + len(out)` into `out` (rows, d), the store's dtype."""
        read_rows(self.embeddings, start, out, str(self.path), all_stored=True)

    @classmethod
    def open(cls, path: str | Path) -> EmbeddingStore:
        """Open and check a store.

        Raises
        ------
        InputError
            If there is no store at `path`.
        CorruptDataError
            If its parts contradict each other.
        """
        node = open_node(path)
        attributes = node.attrs.asdict().get("crossgram")
        if not isinstance(node, zarr.Group) or not isinstance(attributes, dict):
            raise InputError(
                f"{path}: not an embedding store (no crossgram attributes); "
                "make one with `crossgram ingest`"
            )
        if attributes.get("format") != _FORMAT:
            raise InputError(
                f"{path}: store format {attributes.get('format')!r}, this version reads "
                f"{_FORMAT}; use the version of crossgram that wrote it"
            )
        store = cls(
            path=Path(path),
            embeddings=_member(node, "embeddings", path),
            ids=_column(node, "ids", path),
            labels=_column(node, "labels", path),
            provenance=attributes.get("provenance", {}),
        )
        store._check_structure()
        for name in attributes.get("columns", ()):
            if getattr(store, str(name), None) is None:
                raise CorruptDataError(
                    f"{path}: its {name} are missing; restore them from a copy or make the store "
                    "again"
                )
        return store

    @classmethod
    @contextmanager
    def create(
        cls,
        path: str | Path,
        dim: int,
        *,
        dtype: DTypeLike = "float32",
        codec: str = "lz4",
        chunk_rows: int | None = None,
        shard_rows: int | None = None,
        provenance: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Iterator[StoreWriter]:
        """Write a new store; it appears at `path` when the block ends without an error.

        Parameters
        ----------
        path : path
            Where the store will be.
        dim : int
            Width of an embedding.
        dtype : dtype, default float32
            float16, float32 or float64.
        codec : {"lz4", "lz4-bitshuffle", "zstd", "none"}
            Compression; the default reads fastest of what compresses (benchmarks/RESULTS.md).
        chunk_rows : int, optional
            Rows of a chunk; by default about 2 MiB of them, a power of two.
        shard_rows : int, optional
            Rows of a shard file, a multiple of `chunk_rows`; by default one file per chunk.
        provenance : mapping, optional
            What made the embeddings; must be JSON.
        overwrite : bool
            Replace what stands at `path`.

        Yields
        ------
        StoreWriter

        Raises
        ------
        OutputExistsError
            If `path` exists and `overwrite` is false.
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
        if not _is_json(provenance or {}):
            raise InputError("provenance: holds something that is not JSON; give text and numbers")
        if shard_rows is not None and (shard_rows < rows or shard_rows % rows):
            raise InputError(f"shard_rows: {shard_rows} is not a multiple of chunk_rows ({rows})")
        chosen = compressors(codec)
        with whole_directory(Path(path), overwrite=overwrite) as temporary:
            group = uninterrupted(
                lambda: zarr.create_group(temporary, zarr_format=3, overwrite=True)
            )
            embeddings = _create_array(
                group,
                "embeddings",
                shape=(0, dim),
                chunks=(rows, dim),
                shards=None if shard_rows is None else (shard_rows, dim),
                dtype=kind,
                compressors=chosen,
            )
            writer = StoreWriter(group, embeddings)
            yield writer
            writer.finish()
            if writer.rows == 0:
                raise InputError(f"{path}: no rows were written; a store has at least one")
            group.attrs["crossgram"] = {
                "format": _FORMAT,
                "columns": writer.columns,
                "provenance": dict(provenance or {}),
            }

    def validate(self) -> None:
        """Read and check every chunk, and that no id occurs twice.

        Raises
        ------
        CorruptDataError
            Naming the first chunk that is missing or damaged.
        InputError
            Naming the first id that occurs twice.
        """
        for start in range(0, self.rows, self.chunk_rows):
            stop = min(start + self.chunk_rows, self.rows)
            self.read(start, np.empty((stop - start, self.dim), self.dtype))
        if self.labels is not None:
            self.labels.read(0, self.rows)
        if self.ids is not None:
            ids = self.ids.read(0, self.rows)
            unique, first, counts = np.unique(ids, return_index=True, return_counts=True)
            if len(unique) < len(ids):
                repeated = counts > 1
                where = np.argmin(np.where(repeated, first, self.rows))
                raise InputError(
                    f"{self.path}: the id {unique[where]!r} occurs {counts[where]} times, first "
                    f"in row {first[where]}; ids name one image each"
                )

    def _check_structure(self) -> None:
        if not isinstance(self.provenance, Mapping) or not _is_json(self.provenance):
            raise CorruptDataError(f"{self.path}: its provenance is not a JSON object of values")
        array = self.embeddings
        if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
            raise CorruptDataError(
                f"{self.path}: embeddings has shape {array.shape} and dtype {array.dtype}; "
                "expected rows x columns of floats, at least one of each"
            )
        check_array(array, str(self.path))
        for column in (self.ids, self.labels):
            if column is None:
                continue
            check_array(column.array, column.label)
            if column.array.ndim != 1 or len(column) != self.rows:
                raise CorruptDataError(
                    f"{column.label} has shape {column.array.shape}, embeddings has "
                    f"{self.rows} rows; expected one value per row"
                )


class StoreWriter:
    """Appends rows in order to a store that is being created."""

    def __init__(self, group: zarr.Group, embeddings: zarr.Array[Any]) -> None:
        self._group = group
        self._embeddings = _Appender(embeddings, _write_rows(embeddings))
        self._columns: dict[str, _Appender | None] = {}

    @property
    def rows(self) -> int:
        """Rows appended so far."""
        return self._embeddings.rows

    @property
    def columns(self) -> list[str]:
        """Which of ids and labels the rows have."""
        return [name for name, column in self._columns.items() if column is not None]

    def append(
        self, block: ArrayLike, *, ids: ArrayLike | None = None, labels: ArrayLike | None = None
    ) -> None:
        """Append rows, with their ids and labels where the store has them.

        Parameters
        ----------
        block : array, shape (rows, d)
            Embeddings; cast to the store's dtype.
        ids, labels : array, shape (rows,), optional
            Text or integers. Either all appends of a store give them or none does.
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
        columns = {
            name: self._checked_column(name, given, len(values))
            for name, given in (("ids", ids), ("labels", labels))
        }
        for name, column in columns.items():
            if name not in self._columns:
                self._columns[name] = None if column is None else self._new_column(name, column)
            appender = self._columns[name]
            if appender is not None and column is not None:
                appender.append(column)
        self._embeddings.append(values)

    def _checked_column(self, name: str, given: ArrayLike | None, rows: int) -> NDArray[Any] | None:
        earlier = self._columns.get(name)
        if name in self._columns and (earlier is None) != (given is None):
            raise InputError(f"append: {name} given for some rows only; give all or none")
        if given is None:
            return None
        values = _column_values(name, given)
        if values.shape != (rows,):
            raise InputError(f"append: {name} has shape {values.shape}, the block has {rows} rows")
        if earlier is not None and values.dtype.kind != earlier.array.dtype.kind:
            raise InputError(f"append: {name} of dtype {values.dtype} after {earlier.array.dtype}")
        return values

    def _new_column(self, name: str, values: NDArray[Any]) -> _Appender:
        array = _create_array(
            self._group,
            name,
            shape=(0,),
            chunks=(_COLUMN_CHUNK_ROWS,),
            dtype=values.dtype,
            compressors=compressors("zstd"),
        )
        return _Appender(array, _COLUMN_WRITE_ROWS)

    def finish(self) -> None:
        """Write what is still buffered."""
        self._embeddings.flush()
        for column in self._columns.values():
            if column is not None:
                column.flush()


class _Appender:
    """Gathers rows into whole chunks (shards), so that each is written once."""

    def __init__(self, array: zarr.Array[Any], unit: int) -> None:
        self.array = array
        self.rows = 0
        self._buffer: NDArray[Any] = np.empty((unit, *array.shape[1:]), array.dtype)
        self._filled = 0

    def append(self, values: NDArray[Any]) -> None:
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
        if self._filled:
            uninterrupted(self._write)
            self._filled = 0

    def _write(self) -> None:
        self.array.resize((self.rows, *self.array.shape[1:]))
        self.array[self.rows - self._filled : self.rows] = self._buffer[: self._filled]


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


def _is_json(values: Mapping[str, Any]) -> bool:
    try:
        json.dumps(dict(values), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _write_rows(array: zarr.Array[Any]) -> int:
    unit = chunk_rows(array)
    row_bytes = array.shape[1] * array.dtype.itemsize
    return unit * max(1, _WRITE_BYTES // (unit * row_bytes))


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


def _member(group: zarr.Group, name: str, path: str | Path) -> zarr.Array[Any]:
    member = open_member(group, name)
    if not isinstance(member, zarr.Array):
        raise CorruptDataError(f"{path}: the array {name!r} is missing")
    return member


def _column(group: zarr.Group, name: str, path: str | Path) -> Column | None:
    if open_member(group, name) is None:
        return None
    return Column(_member(group, name, path), f"{path}/{name}", all_stored=True)
