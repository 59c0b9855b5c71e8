"""Ids that occur more than once, found by hashes in a file: memory does not grow with rows."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.hashing import text_hashes
from crossgram.row_file import RowFile
from crossgram.store import Column

__all__ = ["Span", "repeated_ids"]

_PARTITION_ROWS = 1 << 23
_BATCH = 1 << 16
_MOST_NAMED = 1 << 16

Span = tuple[int, int]
"""A first row, and the row behind the last."""


def repeated_ids(ids: Column, spans: Iterable[Span] | None = None) -> Counter[str]:
    """Return the ids that occur more than once, with how often; of very many, the first found.

    Parameters
    ----------
    ids : Column
        One per row.
    spans : iterable of Span, optional
        Rows to look at, rising; by default all.
    """
    kept = list(_batches([(0, len(ids))] if spans is None else spans))
    rows = sum(stop - start for start, stop in kept)
    if not rows:
        return Counter()
    repeated: list[NDArray[np.uint64]] = []
    with tempfile.TemporaryDirectory() as folder:
        hashes = RowFile(Path(folder) / "hashes", (rows,), np.uint64)
        done = 0
        for start, stop in kept:
            hashes[np.arange(done, done + stop - start)] = ids.hashes(start, stop)
            done += stop - start
        partitions = -(-rows // _PARTITION_ROWS)
        for own in range(partitions):
            starts = range(0, rows, _PARTITION_ROWS)
            parts = (hashes[start : start + _PARTITION_ROWS] for start in starts)
            values = np.concatenate([part[part % partitions == own] for part in parts])
            unique, counts = np.unique(values, return_counts=True)
            repeated.append(unique[counts > 1])
    return _counted(ids, kept, np.concatenate(repeated))


def _batches(spans: Iterable[Span]) -> Iterator[Span]:
    for start, stop in spans:
        for first in range(start, stop, _BATCH):
            yield first, min(first + _BATCH, stop)


def _counted(ids: Column, kept: list[Span], hashes: NDArray[np.uint64]) -> Counter[str]:
    """Count ids of some hashes; of very many, different ones have the same hash by chance."""
    counts: Counter[str] = Counter()
    if not len(hashes):
        return counts
    for start, stop in kept:
        values: NDArray[Any] = ids.read(start, stop)
        counts.update(map(str, values[np.isin(text_hashes(values), hashes)]))
        if len(counts) > _MOST_NAMED:
            break
    return Counter({name: count for name, count in counts.items() if count > 1})
