"""What every format is opened as: embeddings with their columns, read in pieces."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import CorruptDataError, CrossgramError, InputError
from crossgram.locations import Location

__all__ = [
    "BLOCK_BYTES",
    "Cursor",
    "Matrix",
    "Names",
    "Table",
    "Values",
    "block_rows",
    "choose",
    "in_order",
    "optional_module",
    "reading",
]

BLOCK_BYTES = 16 << 20
"""About how many bytes of embeddings a piece holds."""

_ITEMS_SHOWN = 10

Pieces = Callable[[], Iterator[NDArray[Any]]]
"""Starts reading from the first row; pieces have any number of rows."""


@dataclass(frozen=True)
class Names:
    """What the arrays or columns are called in the source; None where nothing was said."""

    embeddings: str | None = None
    ids: str | None = None
    labels: str | None = None


@dataclass(frozen=True)
class Matrix:
    """Embeddings, `rows` x `dim`."""

    label: str
    rows: int
    dim: int
    dtype: np.dtype[Any]
    pieces: Pieces


@dataclass(frozen=True)
class Values:
    """Ids, labels or mask, one value per row."""

    label: str
    rows: int
    pieces: Pieces


@dataclass(frozen=True)
class Table:
    """Everything that is taken over from a source."""

    format: str
    embeddings: Matrix
    ids: Values | None = None
    labels: Values | None = None
    masked: Values | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


class Cursor:
    """Takes values from pieces, any number at a time."""

    def __init__(self, values: Values) -> None:
        self._label = values.label
        self._pieces = values.pieces()
        self._rest: NDArray[Any] | None = None

    def take(self, rows: int) -> NDArray[Any]:
        """Return the next `rows` values; at least one."""
        taken = []
        while rows:
            if self._rest is None or not len(self._rest):
                self._rest = next(self._pieces, None)
            if self._rest is None:
                raise CorruptDataError(f"{self._label}: ended early, it changed while being read")
            taken.append(self._rest[:rows])
            self._rest = self._rest[len(taken[-1]) :]
            rows -= len(taken[-1])
        return np.concatenate(taken)


def block_rows(row_bytes: int, unit: int) -> int:
    """Return how many rows to read at once: whole units (chunks) unless those are too large."""
    rows = max(1, BLOCK_BYTES // row_bytes)
    return rows // unit * unit if unit <= rows else min(rows, unit)


def in_order(folder: Path, suffix: str) -> list[Path]:
    """Return the files with a suffix, by the numbers in their names: shard 10 after shard 9."""
    files = [
        path
        for path in folder.iterdir()
        if path.suffix == suffix and path.is_file() and not path.name.startswith(".")
    ]
    return sorted(files, key=lambda path: _natural(path.name))


def _natural(name: str) -> list[Any]:
    parts = re.split(r"(\d+)", name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)] + [name]


def choose(
    label: str,
    name: str | None,
    candidates: Collection[str],
    kinds: Mapping[str, str],
    wanted: str = "rows x columns of floats",
) -> str:
    """Return the name of the embeddings: the one given, else the only candidate.

    Parameters
    ----------
    label : str
        How messages call the source.
    name : str or None
        The name that was given.
    candidates : collection of str
        What could be meant where no name was given.
    kinds : mapping
        Name of everything in the source, to what it is.
    wanted : str
        What candidates are.

    Raises
    ------
    InputError
        If the name is not there, or not exactly one could be meant; lists what is there.
    """
    names = [repr(known) for known in kinds]
    if name is not None:
        if name not in kinds:
            only = f", only {_listed(names)}" if names else ""
            raise InputError(f"{label}: there is no {name!r} in it{only}")
        return name
    if len(candidates) > 1:
        could = _listed([repr(candidate) for candidate in candidates])
        raise InputError(f"{label}: {could} could all be the embeddings; name one (--embeddings)")
    if not candidates:
        found = _listed([f"{known!r} ({kind})" for known, kind in kinds.items()])
        raise InputError(f"{label}: nothing in it is {wanted}; it has {found}")
    return next(iter(candidates))


def _listed(items: Sequence[str]) -> str:
    shown = [*items[:_ITEMS_SHOWN]]
    more = [f"{len(items) - len(shown)} more"] if len(items) > len(shown) else []
    return ", ".join(shown + more) or "nothing"


def optional_module(name: str, path: Path) -> Any:
    """Import a module of the `ingest` extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise InputError(
            f"{path}: reading it needs {package}: pip install 'crossgram[ingest]'"
        ) from error


@contextmanager
def reading(label: str | Location, *errors: type[Exception]) -> Iterator[None]:
    """Turn what reading a source raises into errors of this library, naming the source."""
    known: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except (CrossgramError, MemoryError):
        raise
    except PermissionError as error:
        named = error.filename or label
        raise InputError(f"{named}: cannot be read (permission denied)") from error
    except UnicodeDecodeError as error:
        raise CorruptDataError(
            f"{label}: cannot be read as UTF-8 text ({error.reason}); convert it"
        ) from error
    except known as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CorruptDataError(
            f"{label}: cannot be read ({reason}); it may be damaged or cut short, copy it again"
        ) from error
