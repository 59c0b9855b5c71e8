"""Which spaces moments are of, and which blocks of their scatter are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from crossgram.documents import parsed
from crossgram.errors import InputError

__all__ = [
    "Pair",
    "Space",
    "all_pairs",
    "check_signature",
    "elements",
    "map_pairs",
    "signature_of",
    "unique_names",
    "with_signatures",
]

Pair = tuple[int, int]
"""Two positions in the tuple of spaces, the first not the greater."""


_FIELDS = {"name": str, "dim": int, "normalized": bool}
_SIGNED = ("weights_sha256", "layer", "recipe")
_MOST_SIGNATURE = 4096
_SHOWN = 80


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
    signature : str or None
        What tells the space from that of any other network or recipe, as JSON text: weights, layer
        and recipe; None where they are not known. Spaces that differ in it alone compare equal.
    """

    name: str
    dim: int
    normalized: bool = False
    signature: str | None = field(default=None, compare=False)

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
        own = {name: value for name, value in values.items() if name != "signature"}
        if {name: type(value) for name, value in own.items()} != _FIELDS or own["dim"] < 1:
            raise InputError(f"a space is described as {values}; expected {_FIELDS}")
        signature = values.get("signature")
        if signature is not None and not _is_signature(signature):
            raise InputError(f"the space {own['name']} has a signature that is none")
        return cls(**own, signature=signature)


def signature_of(provenance: Mapping[str, Any]) -> str | None:
    """Return the signature of a space by what a store says of its making."""
    facts = {name: provenance[name] for name in _SIGNED if name in provenance}
    text = json.dumps(facts, sort_keys=True)
    return text if _is_signature(text) else None


def check_signature(
    space: Space, signature: str | None, label: str, known_as: str | None = None
) -> None:
    """Refuse embeddings of another network or recipe than those a space is of.

    Raises
    ------
    InputError
        With the first thing that differs; `label` is what messages call the embeddings, and
        `known_as` the space, by default by its name.
    """
    if space.signature is None or signature is None or signature == space.signature:
        return
    expected, found = _facts(space.signature), _facts(signature)
    for what in sorted({*expected, *found}):
        if expected.get(what) != found.get(what):
            known = known_as or space.name
            raise InputError(
                f"{label}: was made with {what} {_short(found.get(what))}, {known} with "
                f"{_short(expected.get(what))}; embeddings share a space only if weights, layer "
                "and recipe are the same: give those of the network and recipe that "
                f"{known} is of"
            )


def with_signatures(spaces: Sequence[Space], others: Sequence[Space]) -> tuple[Space, ...]:
    """Return spaces with the signatures that equal ones know and they do not."""
    return tuple(
        replace(space, signature=space.signature or other.signature)
        for space, other in zip(spaces, others, strict=True)
    )


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


def _is_signature(text: Any) -> bool:
    if not isinstance(text, str) or len(text) > _MOST_SIGNATURE:
        return False
    try:
        facts = parsed(text)
    except ValueError:
        return False
    return (
        isinstance(facts, dict)
        and isinstance(facts.get("weights_sha256"), str)
        and isinstance(facts.get("recipe"), dict)
    )


def _facts(signature: str) -> dict[str, Any]:
    """Return what a signature says, that of the recipe by dotted names."""
    facts: dict[str, Any] = parsed(signature)
    recipe = facts.pop("recipe", {})
    return facts | {f"recipe.{name}": value for name, value in recipe.items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
