"""What a source is known by, wherever it lies: a digest of its shape, its ids and its ends."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.history import Input
from crossgram.source import Source, masked_rows
from crossgram.store import Column

__all__ = ["fingerprint", "id_hashes", "id_sum"]

_COLUMN_ROWS = 65_536


def id_sum(ids: Column | None) -> str | None:
    """Return the sum of 64-bit hashes of all ids, modulo 2^64, in hexadecimal.

    It does not depend on the order of the rows; the sums of disjoint sets add up to the sum of
    their union. Memory is bounded.
    """
    if ids is None:
        return None
    total = 0
    for start in range(0, len(ids), _COLUMN_ROWS):
        values = ids.read(start, min(start + _COLUMN_ROWS, len(ids)))
        total += int(id_hashes(values).sum(dtype=np.uint64))
    return f"{total % (1 << 64):016x}"


def id_hashes(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each id, the same on every machine."""
    hashes = b"".join(
        hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in values.tolist()
    )
    return np.frombuffer(hashes, "<u8")


def fingerprint(source: Source, ids: str | None) -> Input:
    """Describe a source by its shape, dtype, first and last row, mask, and `id_sum` of its ids.

    Not by where it lies nor how it is compressed: a copy is the same. Rows between the ends are
    not read, and tell by their ids alone.
    """
    ends = np.empty((2, source.dim), source.dtype)
    source.read(0, ends[:1])
    source.read(source.rows - 1, ends[1:])
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{source.rows} x {source.dim} {source.dtype.name} {ids}".encode())
    digest.update(ends.astype(source.dtype.newbyteorder("<"), copy=False).tobytes())
    for start in range(0, source.rows, _COLUMN_ROWS):
        masked = masked_rows([source], start, min(start + _COLUMN_ROWS, source.rows))
        if masked is not None:
            digest.update((start + np.flatnonzero(masked)).astype("<i8").tobytes())
    return Input(source.label, source.rows, digest.hexdigest())
