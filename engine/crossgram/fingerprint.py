"""What sources are known by, wherever they lie: digests, and hashes of their ids and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from crossgram.history import Input
from crossgram.seen import Seen
from crossgram.sketch import SketchBuilder
from crossgram.source import Source, first_column, masked_rows
from crossgram.store import Column

__all__ = ["RECORDING_BYTES", "fingerprint", "id_sum", "known_rows"]

_COLUMN_ROWS = 65_536

RECORDING_BYTES = 32 << 20
"""What reading ids takes, and the allocator keeps of it: some blocks of text as objects."""


def _always() -> bool:
    return True


def id_sum(ids: Column | None, is_wanted: Callable[[], bool] = _always) -> str | None:
    """Return the sum of 64-bit hashes of all ids, modulo 2^64, in hexadecimal.

    It does not depend on the order of the rows; the sums of disjoint sets add up to the sum of
    their union. Memory is bounded. `is_wanted` as in `known_rows`.
    """
    if ids is None:
        return None
    total = 0
    for start in range(0, len(ids), _COLUMN_ROWS):
        if not is_wanted():
            break
        hashes = ids.hashes(start, min(start + _COLUMN_ROWS, len(ids)))
        total += int(hashes.sum(dtype=np.uint64))
    return f"{total % (1 << 64):016x}"


def known_rows(
    sources: Sequence[Source],
    used: Callable[[int, int], NDArray[np.bool_]] | None = None,
    is_wanted: Callable[[], bool] = _always,
) -> tuple[Seen, str | None]:
    """Return which images and people rows are of, and `id_sum` of their ids, from one reading.

    Parameters
    ----------
    sources : sequence of Source
        Paired rows; the first that has ids, and the first that has labels, gives them.
    used : callable, optional
        Tells which of the rows from a start to a stop count. The others, and those that are
        masked, have not been seen.
    is_wanted : callable, optional
        Asked now and then; after no, nothing more is read, and what is returned is of no use.

    Returns
    -------
    Seen, str or None
        The sum is of all rows; None if no source has ids.
    """
    ids = first_column(sources, "ids")
    labels = first_column(sources, "labels")
    images, people, total = SketchBuilder(), SketchBuilder(), 0
    rows = 0 if ids is None and labels is None else sources[0].rows
    for start in range(0, rows, _COLUMN_ROWS):
        if not is_wanted():
            break
        stop = min(start + _COLUMN_ROWS, rows)
        kept = np.ones(stop - start, bool) if used is None else used(start, stop)
        masked = masked_rows(sources, start, stop)
        if masked is not None:
            kept = kept & ~masked
        if ids is not None:
            hashes = ids.hashes(start, stop)
            total += int(hashes.sum(dtype=np.uint64))
            images.add(hashes[kept], np.ones(int(kept.sum()), np.int64))
        if labels is not None:
            people.add(labels.hashes(start, stop)[kept], np.ones(int(kept.sum()), np.int64))
    seen = Seen(
        None if ids is None else images.sketch(), None if labels is None else people.sketch()
    )
    return seen, None if ids is None else f"{total % (1 << 64):016x}"


def fingerprint(source: Source, ids: str | None) -> Input:
    """Describe a source by its shape, dtype, first and last row, mask, and `id_sum` of its ids.

    Not by where it lies nor how it is compressed: a copy is the same. Rows between the ends are
    not read, and tell by their ids alone.
    """
    ends = np.empty((2, source.dim), source.dtype)
    source.read(0, ends[:1])
    source.read(source.rows - 1, ends[1:])
    digest = blake2b(digest_size=16)
    digest.update(f"{source.rows} x {source.dim} {source.dtype.name} {ids}".encode())
    digest.update(ends.astype(source.dtype.newbyteorder("<"), copy=False).tobytes())
    for start in range(0, source.rows, _COLUMN_ROWS):
        masked = masked_rows([source], start, min(start + _COLUMN_ROWS, source.rows))
        if masked is not None:
            digest.update((start + np.flatnonzero(masked)).astype("<i8").tobytes())
    return Input(source.label, source.rows, digest.hexdigest())
