"""check_store: everything of a store read, and what of it is lost, told row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from crossgram.errors import CorruptDataError, InputError
from crossgram.locations import Location, locate
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.repeats import Span, repeated_ids
from crossgram.source import Source, open_source, source_of_array
from crossgram.store import Column, EmbeddingStore
from crossgram.zarr_io import MAX_CHUNK_BYTES, bad_chunks, chunk_rows, open_node

__all__ = ["Fault", "StoreCheck", "check_store"]

_BLOCK_BYTES = 16 << 20
_COLUMN_ROWS = 65_536
_MOST_FAULTS = 10_000
_NAMED = 10


@dataclass(frozen=True)
class Fault:
    """A part of a store that is lost.

    Attributes
    ----------
    array : str
        "embeddings", "ids", "labels" or "masked"; "store" where nothing can be read.
    start, stop : int or None
        The first of its rows, and the row behind the last.
    reason : str
        What is wrong, with the names of file and chunk.
    """

    array: str
    start: int | None
    stop: int | None
    reason: str


@dataclass(frozen=True)
class StoreCheck:
    """What was found in a store, all of which was read.

    Attributes
    ----------
    path : str
        Where it is.
    rows, dim : int
        Its shape; 0 where it cannot be opened.
    bytes : int
        Embeddings read, as decoded.
    faults : tuple of Fault
        What is lost, by array and row.
    is_complete : bool
        Whether all was read: after 10,000 faults the rest is left.
    masked : int
        Rows that are masked.
    masked_with_values : tuple of int
        The first of those that hold values, where only NaN should be.
    nonfinite : int
        Rows that are not masked and hold NaN or infinity, which every command stops at or skips.
    first_nonfinite : int or None
        The first of them.
    repeated_ids : tuple of (str, int)
        Ids that occur more than once, with how often; the first ones.
    repeated : int
        How many such ids there are, of those found.
    """

    path: str
    rows: int
    dim: int
    bytes: int = 0
    faults: tuple[Fault, ...] = ()
    is_complete: bool = True
    masked: int = 0
    masked_with_values: tuple[int, ...] = ()
    nonfinite: int = 0
    first_nonfinite: int | None = None
    repeated_ids: tuple[tuple[str, int], ...] = ()
    repeated: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether nothing is lost, no masked row holds values, and no id occurs twice."""
        return not (self.faults or self.masked_with_values or self.repeated)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, with `sound`."""
        return {"sound": self.is_sound, **asdict(self)}


@dataclass
class _Found:
    """What was found so far."""

    faults: list[Fault] = field(default_factory=list)
    masked: int = 0
    hidden: list[int] = field(default_factory=list)
    nonfinite: int = 0
    first_nonfinite: int | None = None
    bytes: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.faults) >= _MOST_FAULTS


def check_store(path: str | Location, progress: ProgressCallback = ignore) -> StoreCheck:
    """Read everything of a store, and tell what is lost; a bad chunk does not end it.

    Parameters
    ----------
    path : path or URL
        An embedding store, a plain Zarr array of rows, or a .npy file.
    progress : callable
        Called with a `Progress` after each block.

    Returns
    -------
    StoreCheck
        `is_sound`, and what is not.

    Raises
    ------
    InputError
        If nothing of the kind is there, or it may not be read.
    RunError
        If a service of objects fails.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "a.zarr"
    >>> with EmbeddingStore.create(path, dim=3, chunk_rows=2) as writer:
    ...     writer.append(np.ones((5, 3)))
    >>> (path / "embeddings" / "c" / "1" / "0").write_bytes(b"cut")
    3
    >>> check = check_store(path)
    >>> check.is_sound, [(fault.start, fault.stop) for fault in check.faults]
    (False, [(2, 4)])
    """
    found = _Found()
    try:
        source, array, columns = _opened(path)
    except CorruptDataError as error:
        return StoreCheck(str(path), 0, 0, faults=(Fault("store", None, None, str(error)),))
    masks = _Masks(columns.get("masked"))
    _check_rows(source, array, masks, found, progress)
    spans = {
        name: list(_check_column(name, column, found, progress))
        for name, column in columns.items()
        if not found.is_full
    }
    repeated = repeated_ids(columns["ids"], spans["ids"]) if spans.get("ids") else {}
    return StoreCheck(
        path=str(path),
        rows=source.rows,
        dim=source.dim,
        bytes=found.bytes,
        faults=tuple(sorted(found.faults, key=_place)),
        is_complete=not found.is_full,
        masked=found.masked,
        masked_with_values=tuple(found.hidden[:_NAMED]),
        nonfinite=found.nonfinite,
        first_nonfinite=found.first_nonfinite,
        repeated_ids=tuple(sorted(repeated.items(), key=lambda own: -own[1])[:_NAMED]),
        repeated=len(repeated),
    )


def _place(fault: Fault) -> tuple[str, int]:
    return fault.array, fault.start or 0


def _opened(path: str | Location) -> tuple[Source | EmbeddingStore, Any, dict[str, Column]]:
    location = locate(path)
    if not location.is_dir():
        if location.suffix != ".npy":
            raise InputError(
                f"{path}: not a store; expected a Zarr store or array, or a .npy file"
                if location.exists()
                else f"{path}: no such file or directory"
            )
        return open_source(location), None, {}
    node = open_node(location)
    if isinstance(node, zarr.Array):
        return source_of_array(node, str(location)), node, {}
    store = EmbeddingStore.open(location)
    columns = {
        name: column
        for name in ("masked", "ids", "labels")
        if (column := getattr(store, name)) is not None
    }
    return store, store.embeddings, columns


class _Masks:
    """Which rows are masked, as far as that can be read."""

    def __init__(self, column: Column | None) -> None:
        self._column = column

    def of(self, start: int, stop: int) -> NDArray[np.bool_] | None:
        """Return the mask of rows, None where there is none or it is lost, which is told later."""
        if self._column is None:
            return np.zeros(stop - start, bool)
        try:
            return self._column.read(start, stop)
        except CorruptDataError:
            return None


def _check_rows(
    source: Source | EmbeddingStore,
    array: Any,
    masks: _Masks,
    found: _Found,
    progress: ProgressCallback,
) -> None:
    row_bytes = source.dim * source.dtype.itemsize
    unit = min(source.chunk_rows, max(1, MAX_CHUNK_BYTES // row_bytes))
    step = unit * max(1, _BLOCK_BYTES // (unit * row_bytes))

    def read(start: int, stop: int) -> None:
        rows = np.empty((stop - start, source.dim), source.dtype)
        source.read(start, rows)
        _look_at(rows, masks.of(start, stop), start, found)
        found.bytes += rows.nbytes

    for start, stop in _steps(0, source.rows, step):
        try:
            read(start, stop)
        except CorruptDataError:
            # the sound ones beside what is lost
            for first, last in _steps(start, stop, unit):
                _read_or_note("embeddings", array, (first, last), read, found)
                if found.is_full:
                    return
        progress(Progress("verify", stop, source.rows, found.bytes))


def _read_or_note(
    name: str,
    array: Any,
    span: Span,
    read: Callable[[int, int], None],
    found: _Found,
) -> None:
    """Read the rows of a chunk, or note which of its parts are lost."""
    try:
        read(*span)
    except CorruptDataError as error:
        parts = () if array is None else bad_chunks(array, *span, _label(error))
        faults = [
            Fault(name, start, stop, str(own))
            for start, stop, own in islice(parts, _MOST_FAULTS - len(found.faults))
        ]
        found.faults += faults or [Fault(name, *span, str(error))]


def _label(error: CorruptDataError) -> str:
    return str(error).partition(": ")[0]


def _look_at(
    rows: NDArray[Any], masked: NDArray[np.bool_] | None, start: int, found: _Found
) -> None:
    """Count rows that are masked, that hold values though they are, and that are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = rows.sum(axis=1, dtype=np.float64)
    suspect = np.flatnonzero(~np.isfinite(sums))
    strange = suspect[~np.isfinite(rows[suspect]).all(axis=1)]
    if masked is None:
        return
    own = np.flatnonzero(masked)
    found.masked += len(own)
    empty = np.isnan(rows[own]).all(axis=1)
    found.hidden += (start + own[~empty]).tolist()[: _NAMED - len(found.hidden)]
    strange = strange[~masked[strange]]
    found.nonfinite += len(strange)
    if len(strange) and found.first_nonfinite is None:
        found.first_nonfinite = start + int(strange[0])


def _check_column(
    name: str, column: Column, found: _Found, progress: ProgressCallback
) -> Iterator[Span]:
    """Read a column, note what is lost, and yield the rows that are there."""
    unit = chunk_rows(column.array)
    step = unit * max(1, _COLUMN_ROWS // unit)
    for start, stop in _steps(0, len(column), step):
        before = len(found.faults)
        try:
            column.read(start, stop)
            yield start, stop
        except CorruptDataError:
            for first, last in _steps(start, stop, unit):
                _read_or_note(name, column.array, (first, last), _only_read(column), found)
                if found.is_full:
                    return
                if len(found.faults) == before:
                    yield first, last
                before = len(found.faults)
        progress(Progress(f"verify {name}", stop, len(column), found.bytes))


def _only_read(column: Column) -> Callable[[int, int], None]:
    def read(start: int, stop: int) -> None:
        column.read(start, stop)

    return read


def _steps(start: int, stop: int, step: int) -> Iterator[Span]:
    for first in range(start, stop, step):
        yield first, min(first + step, stop)
