"""Finding rows by lists of ids or labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError
from crossgram.source import Source
from crossgram.store import Column

__all__ = ["listed_rows", "read_list"]

_COLUMN_ROWS = 65_536


def read_list(path: str | Path) -> list[str]:
    """Return the lines of a text file, one id or label each; empty lines are passed over.

    Raises
    ------
    InputError
        If there is no such file, it is not UTF-8 text, or nothing is in it.
    """
    try:
        lines = Path(path).read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(
            f"{path}: cannot be read as a list ({reason}); expected a text file, one per line"
        ) from error
    values = [line.removesuffix("\r") for line in lines if line.strip()]
    if not values:
        raise InputError(f"{path}: an empty list, expected one id or label per line")
    return values


def listed_rows(
    sources: Sequence[Source],
    *,
    ids: Collection[str] | None = None,
    labels: Collection[str] | None = None,
) -> NDArray[np.int64]:
    """Return the rows whose id or label is listed, rising.

    Parameters
    ----------
    sources : sequence of Source
        Paired rows; the first that has ids or labels gives them.
    ids, labels : collection of str, optional
        At least one of the two.

    Raises
    ------
    InputError
        If no source has the column, or something listed is in no row.
    """
    found = [
        _rows_of(_column(sources, name), name, values)
        for name, values in (("ids", ids), ("labels", labels))
        if values is not None
    ]
    return np.unique(np.concatenate(found))


def _column(sources: Sequence[Source], name: str) -> Column:
    column: Column | None = next((c for s in sources if (c := getattr(s, name)) is not None), None)
    if column is None:
        labels = " nor ".join(source.label for source in sources)
        raise InputError(f"{name}: neither {labels} has {name}; add them with ingest")
    return column


def _rows_of(column: Column, name: str, values: Collection[str]) -> NDArray[np.int64]:
    """Return the rows whose value is one of those given; each of them must be in some row."""
    wanted = dict.fromkeys(values, False)
    if not wanted:
        raise InputError(f"{name}: none given, expected at least one")
    rows = []
    for start in range(0, len(column), _COLUMN_ROWS):
        piece = column.read(start, min(start + _COLUMN_ROWS, len(column))).tolist()
        for row, value in enumerate(map(str, piece), start):
            if value in wanted:
                wanted[value] = True
                rows.append(row)
    missing = [value for value, seen in wanted.items() if not seen]
    if missing:
        raise InputError(
            f"{name}: {len(missing)} of {len(wanted)} are not in {column.label}, first "
            f"{missing[0]!r}; nothing was removed"
        )
    return np.array(rows, np.int64)
