"""Which spaces moments are of, and which blocks of their scatter are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from crossgram.errors import InputError

__all__ = ["Pair", "Space", "all_pairs", "elements", "map_pairs", "unique_names"]

Pair = tuple[int, int]
"""Two positions in the tuple of spaces, the first not the greater."""


_FIELDS = {"name": str, "dim": int, "normalized": bool}


@dataclass(frozen=True)
class Space:
    """One network's embedding space.

    Attributes
    ----------
    name : str
        Its name in moments, maps and messages.
    dim : int
        Number of columns.
    normalized : bool
        Whether rows were divided by their Euclidean lengths first.
    """

    name: str
    dim: int
    normalized: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"space: name {self.name!r} given, expected text")
        if not isinstance(self.dim, int | np.integer) or self.dim < 1:
            raise InputError(f"space {self.name}: {self.dim!r} columns given, at least 1 expected")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Space:
        """Make a space of its fields as a file has them.

        Raises
        ------
        InputError
            If a field is missing, unknown or not of its type.
        """
        if {name: type(value) for name, value in values.items()} != _FIELDS or values["dim"] < 1:
            raise InputError(f"a space is described as {values}; expected {_FIELDS}")
        return cls(**values)


def all_pairs(count: int) -> frozenset[Pair]:
    """Return every pair of `count` spaces, each with itself too."""
    return frozenset(combinations_with_replacement(range(count), 2))


def map_pairs(spaces: Sequence[Space], maps: Iterable[tuple[str, str]]) -> frozenset[Pair]:
    """Return the blocks that maps from source to target need: source Gram and cross.

    Raises
    ------
    InputError
        If a name is not among the spaces.
    """
    names = [space.name for space in spaces]
    pairs: set[Pair] = set()
    for source, target in maps:
        for name in (source, target):
            if name not in names:
                raise InputError(f"map {source}:{target}: no space {name!r}; there are {names}")
        i, j = names.index(source), names.index(target)
        pairs |= {(i, i), (min(i, j), max(i, j))}
    return frozenset(pairs)


def elements(dims: Sequence[int], pairs: Iterable[Pair]) -> int:
    """Return how many float64 numbers the blocks of `pairs` hold."""
    return sum(dims[i] * dims[j] for i, j in pairs)


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, those that repeat an earlier one with a number behind them."""
    taken: list[str] = []
    for name in names:
        number, candidate = 2, name
        while candidate in taken:
            candidate, number = f"{name}-{number}", number + 1
        taken.append(candidate)
    return tuple(taken)
