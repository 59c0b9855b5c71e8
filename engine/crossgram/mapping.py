"""Mapping a whole store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import crossgram
from crossgram.errors import NonFiniteError, WidthMismatchError
from crossgram.linear_map import LinearMap
from crossgram.locations import Location, ObjectPath, locate
from crossgram.output import refuse_overlap
from crossgram.plan import Segment
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.source import SourceLike, open_source
from crossgram.spaces import check_signature
from crossgram.store import Column, EmbeddingStore
from crossgram.stream import StreamFailure, make_ring, read_blocks

__all__ = ["apply"]

_BLOCK_BYTES = 16 << 20
_RING_BLOCKS = 3


def apply(
    linear_map: LinearMap | str | Path,
    source: SourceLike,
    out: str | Location,
    *,
    overwrite: bool = False,
    progress: ProgressCallback = ignore,
    **layout: Any,
) -> EmbeddingStore:
    """Map every row of a store into a new store; ids, labels and mask come along.

    Parameters
    ----------
    linear_map : LinearMap or path
        The map.
    source : source-like, shape (n, p)
        Rows of the map's source space.
    out : path or URL
        The new store; it appears when it is complete.
    overwrite : bool
        Replace what stands at `out`.
    progress : callable
        Called with a `Progress` after each block.
    **layout
        `codec`, `chunk_rows` and `shard_rows` of the new store.

    Returns
    -------
    EmbeddingStore
        float64 if the source is, else float32.

    Raises
    ------
    WidthMismatchError
        If the rows are not as wide as the map takes.
    InputError
        If they were made by another network or recipe than the map was fitted for.
    NonFiniteError
        If a row that is not masked holds NaN or infinity, and so cannot be mapped; `out` is not
        written.
    OutputExistsError
        If `out` exists and `overwrite` is false.
    """
    paths = [
        given for given in (linear_map, source) if isinstance(given, str | os.PathLike | ObjectPath)
    ]
    refuse_overlap(locate(out), *paths)
    mapping = linear_map if isinstance(linear_map, LinearMap) else LinearMap.load(linear_map)
    rows = open_source(source, "rows")
    if rows.dim != mapping.source.dim:
        raise WidthMismatchError(
            f"{rows.label} has {rows.dim} columns, the map from {mapping.source.name} to "
            f"{mapping.target.name} takes {mapping.source.dim}; use the network it was fitted for"
        )
    check_signature(mapping.source, rows.signature, rows.label)
    unit = rows.chunk_rows
    block_rows = unit * max(1, _BLOCK_BYTES // (unit * rows.dim * rows.dtype.itemsize))
    piece = max(1, _BLOCK_BYTES // (8 * max(rows.dim, mapping.target.dim)))
    blocks = read_blocks(
        [rows],
        [Segment(0, 0, rows.rows)],
        block_rows=block_rows,
        ring=make_ring([rows], block_rows, _RING_BLOCKS),
    )
    created = EmbeddingStore.create(
        out,
        mapping.target.dim,
        dtype="float64" if rows.dtype.itemsize >= 8 else "float32",
        provenance=_provenance(mapping, rows.label),
        overwrite=overwrite,
        **layout,
    )
    row_bytes = rows.dim * rows.dtype.itemsize
    try:
        with created as writer:
            for block in blocks:
                for start in range(block.start, block.stop, piece):
                    stop = min(start + piece, block.stop)
                    own = slice(start - block.start, stop - block.start)
                    part = block.rows[0][own]
                    masked = None if block.masked is None else block.masked[own]
                    with np.errstate(over="ignore", invalid="ignore"):
                        mapped = mapping.apply(part)
                        _refuse_nonfinite(mapped, part, masked, rows.label, start)
                    if masked is not None:
                        mapped[masked] = np.nan
                    writer.append(
                        mapped,
                        ids=_values(rows.ids, start, stop),
                        labels=_values(rows.labels, start, stop),
                        masked=masked,
                    )
                progress(Progress("apply", block.stop, rows.rows, block.stop * row_bytes))
    except StreamFailure as failure:
        raise failure.cause from None
    finally:
        blocks.close()
    return EmbeddingStore.open(out)


def _values(column: Column | None, start: int, stop: int) -> NDArray[Any] | None:
    return None if column is None else column.read(start, stop)


def _refuse_nonfinite(
    mapped: NDArray[Any],
    rows: NDArray[Any],
    masked: NDArray[np.bool_] | None,
    label: str,
    start: int,
) -> None:
    if np.isfinite(mapped.sum()):
        return
    finite = np.isfinite(mapped).all(axis=1)
    if masked is not None:
        finite |= masked
    if not finite.all():
        row = int(np.argmin(finite))
        if not np.isfinite(rows[row]).all():
            why = "it holds NaN or infinity"
        elif not rows[row].any():
            why = "it holds only zeros, and the map takes rows of length 1"
        else:
            why = "it holds values too large"
        raise NonFiniteError(
            f"{label}: row {start + row} cannot be mapped, {why}; make the store again without it"
        )


def _provenance(mapping: LinearMap, label: str) -> dict[str, Any]:
    return {
        "made_by": f"crossgram {crossgram.__version__} apply",
        "mapped_from": label,
        "source": mapping.source.name,
        "target": mapping.target.name,
    }
