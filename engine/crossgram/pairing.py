"""Row i of every source must be the same image: checking that, and joining rows by id."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import PairingError
from crossgram.output import run_errors
from crossgram.row_file import RowFile
from crossgram.source import Source, masked_rows, raw_reader
from crossgram.store import Column

__all__ = [
    "at_rows",
    "check_counts",
    "check_ids",
    "check_labels",
    "joined",
    "joining_bytes",
    "matched",
]

_COLUMN_ROWS = 65_536
_LEAST_SPAN = 256
_BLOCK_BYTES = 16 << 20
_PARTITION_ROWS = 262_144
_MOST_PARTITIONS = 256
_RECORD = np.dtype([("digest", "S16"), ("row", np.int64)])
_RECORD_BYTES = 4 * _RECORD.itemsize
"""Of memory that matching takes for each record of a partition: sorted, and cut to the common."""


def check_counts(sources: Sequence[Source]) -> None:
    """Refuse sources with different numbers of rows, with the counts of ids where there are any.

    Raises
    ------
    PairingError
        Nothing is ever cut to the shorter one.
    """
    first = sources[0]
    for other in sources[1:]:
        if other.rows == first.rows:
            continue
        counts = f"{first.label} has {first.rows} rows, {other.label} has {other.rows}"
        if first.ids is None or other.ids is None:
            raise PairingError(
                f"{counts}; row i must be the same image in both. They have no ids to be joined "
                "by: make stores with ids, or give the same rows"
            )
        raise PairingError(f"{counts}; {_common(first, other)}")


def check_ids(sources: Sequence[Source], start: int, stop: int) -> None:
    """Compare the ids of rows `start` to `stop` of all sources that have ids.

    Raises
    ------
    PairingError
        Names the first row that differs and both ids, and counts the ids in common.
    """
    named = [(source, source.ids) for source in sources if source.ids is not None]
    if len(named) < 2:
        return
    first, first_ids = named[0]
    for other, other_ids in named[1:]:
        if first_ids.stored_alike(other_ids, start, stop):
            continue
        expected, found = first_ids.read(start, stop), other_ids.read(start, stop)
        _check_same_kind(first, other)
        different = expected != found
        if different.any():
            row = int(np.argmax(different))
            raise PairingError(
                f"row {start + row} is {str(expected[row])!r} in {first.label} and "
                f"{str(found[row])!r} in {other.label}; {_common(first, other)}"
            )


def check_labels(sources: Sequence[Source]) -> None:
    """Compare the labels of all rows of all sources that have labels; 7 and "7" are the same.

    Rows that are masked in one of the two are left out.

    Raises
    ------
    PairingError
        Names the first row that differs and both labels, or the ids, if these differ.
    """
    named = [(source, source.labels) for source in sources if source.labels is not None]
    for other, other_labels in named[1:]:
        first, first_labels = named[0]
        for start in range(0, first.rows, _COLUMN_ROWS):
            stop = min(start + _COLUMN_ROWS, first.rows)
            if first_labels.stored_alike(other_labels, start, stop):
                continue
            expected, found = first_labels.read(start, stop), other_labels.read(start, stop)
            different = _as_text(expected, found) != _as_text(found, expected)
            masked = masked_rows([first, other], start, stop)
            if masked is not None:
                different &= ~masked
            if different.any():
                # rows in another order differ in both, and the ids say what to do about it
                check_ids([first, other], 0, first.rows)
                row = int(np.argmax(different))
                raise PairingError(
                    f"{_row_in_words(first, start + row)} is labelled {str(expected[row])!r} in "
                    f"{first.label} and {str(found[row])!r} in {other.label}; rows that are paired "
                    "must be of one image: give such rows, or mend the labels"
                )


def _as_text(labels: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Return labels as they are beside others of their kind, else as text."""
    alike = labels.dtype.kind == others.dtype.kind
    return labels if alike else labels.astype(np.dtypes.StringDType())


def _row_in_words(source: Source, row: int) -> str:
    number = int(source.row_numbers(row, row + 1)[0])
    return f"row {number}" + ("" if source.ids is None else f" ({_ids(source, row, row + 1)[0]})")


def _check_same_kind(first: Source, other: Source) -> None:
    assert first.ids is not None
    assert other.ids is not None
    kinds = [ids.array.dtype.kind for ids in (first.ids, other.ids)]
    if kinds[0] != kinds[1]:
        names = ["integers" if kind == "i" else "text" for kind in kinds]
        raise PairingError(
            f"the ids of {first.label} are {names[0]}, those of {other.label} {names[1]}; make "
            "both text or both integers"
        )


def _ids(source: Source, start: int, stop: int) -> NDArray[Any]:
    assert source.ids is not None
    return source.ids.read(start, stop)


def _common(first: Source, other: Source) -> str:
    try:
        with tempfile.TemporaryDirectory(prefix="crossgram-ids-") as directory:
            common = _match([first, other], Path(directory)).rows
    except PairingError as error:
        return str(error)
    except OSError as error:
        return f"the ids in common could not be counted ({error.strerror})"
    same = common == first.rows == other.rows
    only = f", {first.rows - common} only in the first, {other.rows - common} only in the second"
    return f"{common} ids are in both{'' if same else only}. To pair the rows by id: --join ids"


@contextmanager
def joined(
    sources: Sequence[Source], directory: str | Path | None = None
) -> Iterator[list[Source]]:
    """Pair the rows of sources by id: those that all have, in the order of the first.

    Memory is that of `joining_bytes`: ids are matched by digest, partition by partition, in
    temporary files, and a source in another order is rewritten once, in the joined order, to a
    temporary file.

    Parameters
    ----------
    sources : sequence of Source
        All with ids, each id once.
    directory : path, optional
        Where temporary files go; by default the system's temporary directory.

    Raises
    ------
    PairingError
        If a source has no ids, an id occurs twice in one, or no id is in all.
    RunError
        If the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="crossgram-join-", dir=directory) as name:
        with run_errors(Path(name).parent):
            match = _joinable(sources, Path(name))
            aligned = [
                _in_order(source, position, match.rows, Path(name) / f"rows-{k}")
                for k, (source, position) in enumerate(zip(sources, match.positions, strict=True))
            ]
        # joined rows have the same ids, and those of the first are in the order of its store
        yield [replace(source, ids=aligned[0].ids) for source in aligned]


def matched(sources: Sequence[Source]) -> list[Source]:
    """Return what `joined` would give, with the same errors, of which no row can be read."""
    with tempfile.TemporaryDirectory(prefix="crossgram-ids-") as name, run_errors(Path(name)):
        match = _joinable(sources, Path(name))
        return [
            source
            if _stays(source, position, match.rows)
            else replace(source, rows=match.rows, chunk_rows=1)
            for source, position in zip(sources, match.positions, strict=True)
        ]


def joining_bytes(sources: Sequence[Source]) -> int:
    """Return the memory that joining takes at most, before any row is accumulated."""
    largest = max(source.rows for source in sources)
    matching = len(sources) * -(-largest // _partitions(largest)) * _RECORD_BYTES
    rewriting = max(
        _BLOCK_BYTES + _COLUMN_ROWS * _RECORD_BYTES + source.chunk_rows * source.dim * 8
        for source in sources
    )
    return max(matching, rewriting)


def _joinable(sources: Sequence[Source], directory: Path) -> _Match:
    for source in sources:
        if source.ids is None:
            raise PairingError(f"join: {source.label} has no ids; add them with ingest")
        _check_same_kind(sources[0], source)
    match = _match(sources, directory)
    if match.rows == 0:
        raise PairingError(
            f"join: no id is in all of {', '.join(source.label for source in sources)}"
        )
    return match


def at_rows(source: Source, rows: NDArray[np.int64]) -> Source:
    """Return the source with some of its rows only; whole chunks without any are not read.

    Parameters
    ----------
    source : Source
        All rows.
    rows : ndarray of int, shape (m,)
        Their positions, rising.
    """
    span = source.chunk_rows * -(-_LEAST_SPAN // source.chunk_rows)

    def read(start: int, out: NDArray[Any]) -> None:
        wanted = rows[start : start + len(out)]
        pieces = wanted // span
        for piece in np.unique(pieces):
            where = np.flatnonzero(pieces == piece)
            first, last = wanted[where[0]], wanted[where[-1]]
            buffer = np.empty((last - first + 1, source.dim), source.dtype)
            source.read(int(first), buffer)
            out[where] = buffer[wanted[where] - first]

    return Source(
        label=source.label,
        rows=len(rows),
        dim=source.dim,
        dtype=source.dtype,
        chunk_rows=1,
        read=read,
        ids=_gathered(source.ids, rows),
        labels=_gathered(source.labels, rows),
        masked=_gathered(source.masked, rows),
        origin=rows if source.origin is None else source.origin[rows],
        signature=source.signature,
        fetched=source.fetched,
    )


@dataclass(frozen=True)
class _Match:
    """One more than where each row of each source goes in the joined order, 0 for nowhere."""

    rows: int
    positions: list[RowFile]


def _match(sources: Sequence[Source], directory: Path) -> _Match:
    partitions = _partitions(max(source.rows for source in sources))
    files = [
        _partition_ids(source, partitions, directory / f"ids-{k}")
        for k, source in enumerate(sources)
    ]
    counterparts = [
        RowFile(directory / f"counterpart-{k}", (source.rows,)) for k, source in enumerate(sources)
    ]
    for part in range(partitions):
        records = [np.fromfile(paths[part], _RECORD) for paths in files]
        rows = _intersect(records, sources)
        for counterpart, own_rows in zip(counterparts, rows, strict=True):
            counterpart[own_rows] = rows[0] + 1
    return _number(counterparts, directory)


def _partitions(rows: int) -> int:
    return min(-(-rows // _PARTITION_ROWS), _MOST_PARTITIONS)


def _partition_ids(source: Source, partitions: int, stem: Path) -> list[Path]:
    """Write (digest, row) records of all ids to files by digest, and return the files."""
    paths = [stem.with_name(f"{stem.name}.{part}") for part in range(partitions)]
    handles = [path.open("wb") for path in paths]
    try:
        for start in range(0, source.rows, _COLUMN_ROWS):
            stop = min(start + _COLUMN_ROWS, source.rows)
            records = np.empty(stop - start, _RECORD)
            records["row"] = np.arange(start, stop)
            digests = [
                hashlib.blake2b(str(value).encode(), digest_size=16).digest()
                for value in _ids(source, start, stop)
            ]
            records["digest"] = np.array(digests, dtype="S16")
            part = np.array([digest[0] for digest in digests]) * partitions // _MOST_PARTITIONS
            for number, handle in enumerate(handles):
                handle.write(records[part == number].tobytes())
    finally:
        for handle in handles:
            handle.close()
    return paths


def _intersect(records: list[NDArray[Any]], sources: Sequence[Source]) -> list[NDArray[np.int64]]:
    """Return, per source, the rows whose digests all sources have, in the same order."""
    digests, rows = [], []
    for source, part in zip(sources, records, strict=True):
        order = np.argsort(part["digest"], kind="stable")
        digests.append(part["digest"][order])
        rows.append(part["row"][order])
        repeated = np.flatnonzero(digests[-1][1:] == digests[-1][:-1])
        if len(repeated):
            earlier, row = rows[-1][repeated[0] : repeated[0] + 2].tolist()
            raise PairingError(
                f"{source.label}: rows {earlier} and {row} have the same id "
                f"{str(_ids(source, row, row + 1)[0])!r}; ids name one image each"
            )
    common = reduce(partial(np.intersect1d, assume_unique=True), digests)
    return [own[np.searchsorted(each, common)] for own, each in zip(rows, digests, strict=True)]


def _number(counterparts: list[RowFile], directory: Path) -> _Match:
    """Turn rows of the first source into positions among those that all sources have."""
    position = RowFile(directory / "position", counterparts[0].shape)
    count = 0
    for rows in _runs(len(position)):
        common = rows[counterparts[0][rows] > 0]
        position[common] = np.arange(count, count + len(common)) + 1
        count += len(common)
    for counterpart in counterparts:
        for rows in _runs(len(counterpart)):
            firsts = counterpart[rows]
            common = rows[firsts > 0]
            counterpart[common] = position[firsts[firsts > 0] - 1]
    return _Match(count, counterparts)


def _runs(rows: int) -> Iterator[NDArray[np.int64]]:
    return (
        np.arange(start, min(start + _COLUMN_ROWS, rows)) for start in range(0, rows, _COLUMN_ROWS)
    )


def _in_order(source: Source, position: RowFile, rows: int, path: Path) -> Source:
    """Return the source with its rows in joined order, rewritten unless they are so already."""
    if _stays(source, position, rows):
        return source
    row_bytes = source.dim * source.dtype.itemsize
    target = RowFile(path, (rows, source.dim), source.dtype)
    origin = RowFile(path.with_suffix(".origin"), (rows,))
    block_rows = min(max(1, _BLOCK_BYTES // row_bytes), _COLUMN_ROWS)
    buffer = np.empty((block_rows, source.dim), source.dtype)
    for start in range(0, source.rows, len(buffer)):
        stop = min(start + len(buffer), source.rows)
        source.read(start, buffer[: stop - start])
        where = position[start:stop]
        kept = np.flatnonzero(where)
        target[where[kept] - 1] = buffer[kept]
        origin[where[kept] - 1] = start + kept
    return Source(
        label=source.label,
        rows=rows,
        dim=source.dim,
        dtype=source.dtype,
        chunk_rows=1,
        read=raw_reader(path, 0, row_bytes),
        ids=_gathered(source.ids, origin),
        labels=_gathered(source.labels, origin),
        masked=_gathered(source.masked, origin),
        origin=origin,
        signature=source.signature,
    )


def _stays(source: Source, position: RowFile, rows: int) -> bool:
    return rows == source.rows and all(
        np.array_equal(position[run], run + 1) for run in _runs(len(position))
    )


_Rows: TypeAlias = RowFile | NDArray[np.int64]


class _Gathered:
    """Values of a column at given rows, read piece by piece so that memory is bounded."""

    def __init__(self, column: Column, rows: _Rows) -> None:
        self.shape = rows.shape
        self.dtype = column.array.dtype
        self._column = column
        self._rows = rows

    def __getitem__(self, selection: slice) -> NDArray[Any]:
        rows = self._rows[selection]
        values = np.empty(len(rows), self.dtype)
        pieces = rows // _COLUMN_ROWS
        for piece in np.unique(pieces).tolist():
            start, inside = piece * _COLUMN_ROWS, pieces == piece
            stop = min(start + _COLUMN_ROWS, len(self._column))
            values[inside] = self._column.read(start, stop)[rows[inside] - start]
        return values


def _gathered(column: Column | None, origin: _Rows) -> Column | None:
    return None if column is None else Column(_Gathered(column, origin), column.label)
