"""JSON of strangers: of bounded size and depth, every name once, every number finite."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["parsed", "read_document"]

_MOST_BYTES = 1 << 28
_MOST_DEPTH = 64
_MOST_VALUES = 1 << 21
"""Each takes some hundred bytes of memory, however few it has in the document."""


def parsed(
    document: str | bytes, most_bytes: int = _MOST_BYTES, most_values: int = _MOST_VALUES
) -> Any:
    """Return the values of a JSON document.

    Parameters
    ----------
    document : str or bytes
        UTF-8 where it is bytes.
    most_bytes : int
        How long it may be.
    most_values : int
        How many values, commas in texts counted, too.

    Raises
    ------
    ValueError
        Saying why it cannot be read.

    Examples
    --------
    >>> parsed('{"rows": 3, "rows": 4}')
    Traceback (most recent call last):
    ValueError: it holds 'rows' twice
    """
    _check_length(len(document), most_bytes)
    encoded = document.encode("utf-8", "surrogatepass") if isinstance(document, str) else document
    if sum(map(encoded.count, (b"[", b"{", b","))) > most_values:
        raise ValueError(f"it holds more than {most_values:,} values")
    try:
        values = json.loads(
            document, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once
        )
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    level: Sequence[Any] = [values]
    for _ in range(_MOST_DEPTH + 1):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return values
    raise ValueError(_TOO_DEEP)


def read_document(
    path: Path, most_bytes: int = _MOST_BYTES, most_values: int = _MOST_VALUES
) -> Any:
    """Return the values of a file of JSON, which is not read if it is too long.

    Raises
    ------
    ValueError
        As `parsed` does.
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        _check_length(os.fstat(file.fileno()).st_size, most_bytes)
        return parsed(file.read(most_bytes + 1), most_bytes, most_values)


_TOO_DEEP = f"it is nested deeper than {_MOST_DEPTH} levels"


def _check_length(length: int, most: int) -> None:
    if length > most:
        raise ValueError(f"it is longer than {most:,} bytes")


def _refuse(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("it holds a number too large")
    return number


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it holds {next(n for n in names if names.count(n) > 1)[:40]!r} twice")
    return values
