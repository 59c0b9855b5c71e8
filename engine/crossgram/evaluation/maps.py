"""Maps that an evaluation is given."""

from __future__ import annotations

from pathlib import Path

from crossgram.errors import WidthMismatchError
from crossgram.linear_map import LinearMap
from crossgram.source import Source
from crossgram.spaces import check_signature

__all__ = ["loaded_map"]


def loaded_map(
    given: LinearMap | str | Path, source: Source, target: Source, name: str
) -> LinearMap:
    """Return a map, loaded if need be, that is between the spaces of two sources.

    Raises
    ------
    WidthMismatchError
        If it is between spaces of other widths.
    InputError
        If it is of other networks or recipes.
    """
    loaded = given if isinstance(given, LinearMap) else LinearMap.load(given)
    if (loaded.source.dim, loaded.target.dim) != (source.dim, target.dim):
        raise WidthMismatchError(
            f"map {name}: the one given is from {loaded.source.dim} to {loaded.target.dim} "
            f"columns, {source.label} has {source.dim} and {target.label} {target.dim}; give the "
            "one that was fitted on them in this order"
        )
    check_signature(loaded.source, source.signature, source.label)
    check_signature(loaded.target, target.signature, target.label)
    return loaded
