"""Rows that cannot be accumulated: leaving them out, finding them, and saying which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError, NonFiniteError
from crossgram.spaces import Space

__all__ = ["finite_rows", "unmasked_tiles"]


def unmasked_tiles(
    rows: int, masked: NDArray[np.bool_] | None, tile_rows: int
) -> Iterator[slice | NDArray[np.int64]]:
    """Yield which rows to take, so many at a time: slices, unless some rows are masked.

    Parameters
    ----------
    rows : int
        Of the block.
    masked : ndarray of bool, shape (rows,), or None
        Which are to be left out.
    tile_rows : int
        Rows of a tile; the last may have fewer.
    """
    if masked is None or not masked.any():
        yield from (slice(start, start + tile_rows) for start in range(0, rows, tile_rows))
        return
    kept = np.flatnonzero(~masked)
    yield from (kept[start : start + tile_rows] for start in range(0, len(kept), tile_rows))


def finite_rows(
    blocks: Sequence[NDArray[Any]],
    spaces: Sequence[Space],
    labels: Sequence[str],
    numbers: Sequence[NDArray[np.int64]],
    *,
    skip: bool,
) -> NDArray[np.bool_]:
    """Return which rows are finite in every space, where some are known not to be.

    Parameters
    ----------
    blocks : sequence of ndarray, shape (rows, dim)
        The same images in every space.
    spaces, labels : sequences
        What they are and what messages call them.
    numbers : sequence of ndarray, shape (rows,)
        What messages call the rows of each space.
    skip : bool
        Whether such rows are to be left out instead of refused.

    Returns
    -------
    ndarray of bool, shape (rows,)

    Raises
    ------
    NonFiniteError
        At the first row that holds NaN or infinity, or of unit rows only zeros, unless `skip`.
    InputError
        If every row is finite, so that it was their squares that overflowed.
    """
    keep = np.ones(len(blocks[0]), bool)
    for k, (space, block) in enumerate(zip(spaces, blocks, strict=True)):
        finite = np.isfinite(block).all(axis=1)
        if space.normalized:
            finite &= block.any(axis=1)
        if not skip and not finite.all():
            row = int(np.argmin(finite))
            _refuse(labels[k], block[row], int(numbers[k][row]))
        keep &= finite
    if keep.all():
        raise InputError(
            f"{' and '.join(labels)}: sums of squares overflow near row {numbers[0][0]}; every "
            "value is finite but too large for float64 moments, divide the rows by a constant first"
        )
    return keep


def _refuse(label: str, row: NDArray[Any], number: int) -> None:
    bad = np.flatnonzero(~np.isfinite(row))
    what = (
        f"holds {row[bad[0]]} in column {bad[0]}"
        if len(bad)
        else "is all zeros and has no direction, though unit rows were asked for"
    )
    raise NonFiniteError(
        f"{label}: row {number} {what}; mend the store, or leave such rows out of every space with "
        "--on-nonfinite skip"
    )
