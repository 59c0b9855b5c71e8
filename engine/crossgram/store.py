"""EmbeddingStore: the embeddings of one network, one row per image, on Zarr v3."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray

from crossgram.documents import parsed
from crossgram.errors import CorruptDataError, InputError
from crossgram.hashing import text_hashes
from crossgram.locations import Location, locate
from crossgram.output import uninterrupted
from crossgram.spaces import signature_of
from crossgram.store_writer import FORMAT, Layout, StoreWriter, is_json, seal
from crossgram.whole_store import whole_store
from crossgram.zarr_io import (
    MAX_CHUNK_BYTES,
    MAX_COLUMNS,
    check_array,
    check_chunks,
    chunk_rows,
    open_member,
    open_node,
    read_rows,
    stored_alike,
    stored_hashes,
)

__all__ = ["Column", "EmbeddingStore"]

_TEXTS = 4096


@dataclass(frozen=True)
class Column:
    """Ids, labels or mask of a store: one value per row, read by range."""

    array: Any
    label: str

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.array.shape[0])

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the values of rows `start` to `stop`, shape (stop - start,)."""
        if not isinstance(self.array, zarr.Array):
            return np.asarray(self.array[start:stop])
        # before memory is taken for rows that may be declared only
        check_chunks(self.array, start, stop, self.label)
        out = np.empty(stop - start, self.array.dtype)
        read_rows(self.array, start, out, self.label)
        return out

    def hashes(self, start: int, stop: int) -> NDArray[np.uint64]:
        """Return the hashes of the texts of rows `start` to `stop`, of which few are held."""
        if isinstance(self.array, zarr.Array):
            found = stored_hashes(self.array, start, stop, self.label)
            if found is not None:
                return found
        parts = range(start, stop, _TEXTS)
        return np.concatenate(
            [
                np.empty(0, np.uint64),
                *(text_hashes(self.read(k, min(k + _TEXTS, stop))) for k in parts),
            ]
        )

    def stored_alike(self, other: Column, start: int, stop: int) -> bool:
        """Tell whether rows `start` to `stop` are stored with the same bytes in both columns."""
        arrays = self.array, other.array
        return all(isinstance(array, zarr.Array) for array in arrays) and stored_alike(
            *arrays, start, stop
        )


@dataclass(frozen=True)
class EmbeddingStore:
    """n x d embeddings of one network, with optional ids, labels and mask, and what made them.

    On disk: a Zarr v3 group with the arrays `embeddings` (n, d), `ids` (n,), `labels` (n,) and
    `masked` (n,), and the attribute `crossgram` with the format version and the provenance.

    Attributes
    ----------
    path : Path or ObjectPath
        Where it is.
    embeddings : zarr.Array, shape (n, d), a floating dtype
        The rows.
    ids, labels : Column or None
        One value per row, text or integers.
    masked : Column or None
        Which rows hold no embedding, as their image could not be used; their values are NaN. So
        every network's store of the same images has the same rows.
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

    path: Location
    embeddings: Any
    ids: Column | None = None
    labels: Column | None = None
    masked: Column | None = None
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
    def signature(self) -> str | None:
        """What tells its space from that of any other network or recipe, if that is known."""
        return signature_of(self.provenance)

    @property
    def chunk_rows(self) -> int:
        """Rows of one stored object (shard or chunk)."""
        return chunk_rows(self.embeddings)

    def read(self, start: int, out: NDArray[Any]) -> None:
        """Decode rows `start` to `start + len(out)` into `out` (rows, d), the store's dtype."""
        read_rows(self.embeddings, start, out, str(self.path))

    @classmethod
    def open(cls, path: str | Location) -> EmbeddingStore:
        """Open and check a store.

        Raises
        ------
        InputError
            If there is no store at `path`, or it is a URL that cannot be reached by what the
            environment says.
        RunError
            If a service of objects fails.
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
        if attributes.get("format") != FORMAT:
            raise InputError(
                f"{path}: store format {attributes.get('format')!r}, this version reads "
                f"{FORMAT}; use the version of crossgram that wrote it"
            )
        store = cls(
            path=locate(path),
            embeddings=_member(node, "embeddings", path),
            ids=_column(node, "ids", path),
            labels=_column(node, "labels", path),
            masked=_column(node, "masked", path),
            provenance=attributes.get("provenance", {}),
        )
        store._check_structure()
        columns = attributes.get("columns", [])
        for name in columns if isinstance(columns, list) else [columns]:
            if getattr(store, str(name), None) is None:
                raise CorruptDataError(
                    f"{path}: its array {str(name)!r} is missing; restore it from a copy or make "
                    "the store again"
                )
        return store

    @classmethod
    @contextmanager
    def create(
        cls,
        path: str | Location,
        dim: int,
        *,
        dtype: DTypeLike = "float32",
        codec: str = "lz4",
        chunk_rows: int | None = None,
        shard_rows: int | None = None,
        provenance: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        rows: int = 0,
    ) -> Iterator[StoreWriter]:
        """Write a new store; it appears at `path` when the block ends without an error.

        Parameters
        ----------
        path : path or URL
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
        rows : int
            Rows that `StoreWriter.array` has from the beginning, to be written in any order.

        Yields
        ------
        StoreWriter

        Raises
        ------
        OutputExistsError
            If `path` exists and `overwrite` is false.
        """
        arrangement = Layout.of(
            dim, dtype=dtype, codec=codec, chunk_rows=chunk_rows, shard_rows=shard_rows
        )
        if not is_json(provenance or {}):
            raise InputError("provenance: holds something that is not JSON; give text and numbers")
        with whole_store(locate(path), overwrite=overwrite) as storage:
            group = uninterrupted(lambda: zarr.create_group(storage, zarr_format=3, overwrite=True))
            writer = StoreWriter(group, arrangement.create(group, rows))
            yield writer
            writer.finish()
            if writer.rows == rows == 0:
                raise InputError(f"{path}: no rows were written; a store has at least one")
            seal(group, writer.columns, provenance or {})

    def validate(self) -> None:
        """Read and check every chunk, that masked rows hold NaN, and that no id occurs twice.

        Raises
        ------
        CorruptDataError
            Naming the first chunk that is missing or damaged, or masked row that holds values.
        InputError
            Naming the first id that occurs twice.
        """
        masked = None if self.masked is None else self.masked.read(0, self.rows)
        row_bytes = self.dim * self.dtype.itemsize
        step = min(self.chunk_rows, max(1, MAX_CHUNK_BYTES // row_bytes))
        for start in range(0, self.rows, step):
            stop = min(start + step, self.rows)
            rows = np.empty((stop - start, self.dim), self.dtype)
            self.read(start, rows)
            if masked is not None:
                self._check_masked(rows, np.flatnonzero(masked[start:stop]), start)
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

    def _check_masked(self, rows: NDArray[Any], masked: NDArray[np.int64], start: int) -> None:
        hidden = masked[~np.isnan(rows[masked]).all(axis=1)]
        if len(hidden):
            raise CorruptDataError(
                f"{self.path}: row {start + hidden[0]} is masked but holds values, expected NaN "
                "only; restore the store from a copy or make it again"
            )

    def _check_structure(self) -> None:
        _check_provenance(self.provenance, self.path)
        array = self.embeddings
        if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
            raise CorruptDataError(
                f"{self.path}: embeddings has shape {array.shape} and dtype {array.dtype}; "
                "expected rows x columns of floats, at least one of each"
            )
        if self.dim > MAX_COLUMNS:
            raise CorruptDataError(
                f"{self.path}: declares {self.dim:,} columns, of at most {MAX_COLUMNS:,} moments "
                "are kept"
            )
        check_array(array, str(self.path))
        for column in (self.ids, self.labels, self.masked):
            if column is None:
                continue
            check_array(column.array, column.label)
            if column.array.dtype.kind not in "biuUTO":
                raise CorruptDataError(
                    f"{column.label} has dtype {column.array.dtype}, expected text or integers"
                )
            if column.array.ndim != 1 or len(column) != self.rows:
                raise CorruptDataError(
                    f"{column.label} has shape {column.array.shape}, embeddings has "
                    f"{self.rows} rows; expected one value per row"
                )
        if self.masked is not None and self.masked.array.dtype != np.bool_:
            raise CorruptDataError(
                f"{self.masked.label} has dtype {self.masked.array.dtype}, expected bool; restore "
                "the store from a copy or make it again"
            )


def _check_provenance(provenance: Any, path: Location) -> None:
    if not isinstance(provenance, Mapping) or not is_json(provenance):
        raise CorruptDataError(f"{path}: its provenance is not a JSON object of values")
    try:
        parsed(json.dumps(dict(provenance)))
    except ValueError as error:
        raise CorruptDataError(f"{path}: its provenance cannot be read, {error}") from error


def _member(group: zarr.Group, name: str, path: str | Location) -> zarr.Array[Any]:
    member = open_member(group, name)
    if not isinstance(member, zarr.Array):
        raise CorruptDataError(f"{path}: the array {name!r} is missing")
    return member


def _column(group: zarr.Group, name: str, path: str | Location) -> Column | None:
    if open_member(group, name) is None:
        return None
    return Column(_member(group, name, path), f"{path}/{name}")
