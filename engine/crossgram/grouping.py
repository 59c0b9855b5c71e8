"""Which fold each row belongs to."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError
from crossgram.folds import FOLD_BY
from crossgram.source import Source, first_column, masked_rows
from crossgram.store import Column

__all__ = ["Assign", "assigner", "assigner_to", "balanced_weights", "group_count", "stable_hashes"]

_LABEL_ROWS = 65_536

Assign = Callable[[int, int], NDArray[np.int64]]
"""Returns the fold of each of the rows from start to stop."""


def assigner(sources: Sequence[Source], folds: int, by: str) -> Assign:
    """Return the function that tells the fold of each row.

    Parameters
    ----------
    sources : sequence of Source
        Paired rows; the first that has ids or labels gives them.
    folds : int
        At least 2.
    by : {"rows", "ids", "labels"}
        Contiguous runs, by hash of the id, or by hash of the label.

    Raises
    ------
    InputError
        If `by` is unknown, there are more folds than rows or than different ids or labels, or no
        source has them.
    """
    rows = sources[0].rows
    if by not in FOLD_BY:
        raise InputError(f"group-by: {by!r} given, expected one of {', '.join(FOLD_BY)}")
    if not 2 <= folds <= rows:
        raise InputError(f"folds: {folds} given, expected from 2 to the number of rows ({rows})")
    assign = assigner_to(sources, folds, by)
    groups = folds if by == "rows" else group_count(_column(sources, by, f"group-by {by}"), folds)
    if groups < folds:
        raise InputError(
            f"folds: {folds} given for {groups} different {by}, of which each is in one fold; give "
            f"{f'from 2 to {groups}' if groups > 1 else 'rows of more'}, or group by something else"
        )
    return assign


def group_count(column: Column, most: int) -> int:
    """Return how many different ids or labels there are, `most` if there are more."""
    found: set[int] = set()
    for start in range(0, len(column), _LABEL_ROWS):
        stop = min(start + _LABEL_ROWS, len(column))
        found.update(np.unique(stable_hashes(column.read(start, stop))).tolist())
        if len(found) >= most:
            break
    return min(len(found), most)


def assigner_to(
    sources: Sequence[Source],
    folds: int,
    by: str,
    *,
    positions: tuple[NDArray[np.int64], int] | None = None,
) -> Assign:
    """Return what `assigner` does for folds that exist: there may be fewer rows than folds.

    Parameters
    ----------
    sources, folds, by
        As for `assigner`.
    positions : (ndarray of int, int), optional
        Of sources that are some of the rows of others: which, and of how many.

    Raises
    ------
    InputError
        If no source has the ids or labels asked for.
    """
    if by == "rows" and positions is not None:
        picked, total = positions
        return lambda start, stop: picked[start:stop] * folds // total
    if by == "rows":
        rows = sources[0].rows
        return lambda start, stop: np.arange(start, stop) * folds // rows
    column = _column(sources, by, f"group-by {by}")
    return lambda start, stop: stable_hashes(column.read(start, stop)) % folds


def balanced_weights(sources: Sequence[Source]) -> NDArray[np.float64]:
    """Return one over the number of rows of each row's label, (rows,); 0 for masked rows.

    Parameters
    ----------
    sources : sequence of Source
        Paired rows; the first that has labels gives them.

    Raises
    ------
    InputError
        If none has labels.
    """
    column = _column(sources, "labels", "balance")
    hashes = np.empty(len(column), np.uint64)
    counted = np.ones(len(column), bool)
    for start in range(0, len(hashes), _LABEL_ROWS):
        stop = min(start + _LABEL_ROWS, len(hashes))
        hashes[start:stop] = column.hashes(start, stop)
        masked = masked_rows(sources, start, stop)
        if masked is not None:
            counted[start:stop] = ~masked
    _, codes = np.unique(hashes, return_inverse=True)
    counts = np.bincount(codes, weights=counted)
    return np.asarray(counted / np.maximum(counts, 1)[codes])


def _column(sources: Sequence[Source], name: str, wanted_by: str) -> Column:
    column = first_column(sources, name)
    if column is None:
        labels = " or ".join(source.label for source in sources)
        raise InputError(f"{wanted_by}: no {name} in {labels}; add them with ingest")
    return column


def stable_hashes(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return a hash of each id or label, from 0 to 2^32 - 1."""
    # stable between runs and machines, as Python's hash is not
    return np.fromiter((zlib.crc32(str(value).encode()) for value in values), np.int64, len(values))
