"""What a fit and an evaluation share: images, people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError
from crossgram.hashing import text_hashes
from crossgram.linear_map import LinearMap
from crossgram.source import Source, SourceLike, first_column, open_source
from crossgram.store import Column

__all__ = ["Overlap", "checked_overlaps", "split_notes"]

_ROWS = 1 << 16
_MOST_NAMED = 2


@dataclass(frozen=True)
class Overlap:
    """What is in the evaluation and was fitted on, as stores or a map tell.

    Attributes
    ----------
    known_from : {"stores", "map"}
        Stores that are said to have been fitted on, or what a map remembers itself.
    fitted_on : tuple of str
        These stores; or the maps that remember the same.
    evaluated, told : int
        Images that are evaluated, and those of them that can be told: all, or where the map
        remembers a sample, a sample.
    images : int
        Images, by their ids: counted if all can be told, else estimated. At least 1 is certain.
    people : int or None
        People, by their labels; None where a side has none, or labels are not people.
    named : int or None
        Those of them whose labels are not numbers: numbers are alike by chance.
    """

    known_from: str
    fitted_on: tuple[str, ...]
    evaluated: int
    told: int
    images: int
    people: int | None
    named: int | None

    @property
    def is_certain(self) -> bool:
        """Whether the map was fitted on some of the images or people.

        Where stores are said, people with the same labels are the same; where the map remembers,
        they are if the labels are no numbers.
        """
        return bool(self.images or (self.people if self.known_from == "stores" else self.named))

    @property
    def amount(self) -> str:
        """How many images, in words."""
        sampled = self.images and self.told < self.evaluated
        return f"about {self.images:,}" if sampled else f"{self.images:,}"


def split_notes(overlaps: Sequence[Overlap], maps: Sequence[LinearMap]) -> Iterator[str]:
    """Say what follows for the figures of maps."""
    said = any(own.known_from == "stores" for own in overlaps)
    if not said and not all(one.fitted_on.is_known for one in maps):
        yield (
            "whether the map was fitted on these images or people is not known; say what it was "
            "fitted on (--fitted-on)"
        )
    yield from map(_note, overlaps)


def _note(own: Overlap) -> str:
    by_map = own.known_from == "map"
    where = _maps(own) if by_map else ", ".join(own.fitted_on)
    one = len(own.fitted_on) == 1
    if own.is_certain:
        known = (
            f"{_were(own)} fitted on, as {'it remembers' if one else 'they remember'}"
            if by_map
            else f"the map was fitted on ({where})"
        )
        return (
            f"{own.amount} of the images and {own.people or 0:,} of the people are among those "
            f"that {known}: the figures flatter it"
        )
    those = f"those that {where} remember{'s' if one else ''}" if by_map else f"those of {where}"
    images = "no image"
    if not own.told:
        images = "of images that cannot be told without ids; no person"
        if not own.people:
            return f"{images} is among {those}"
    if own.told < own.evaluated:
        images = f"none of the {own.told:,} images that can be told by a sample"
    if own.people is None:
        return f"{images} is among {those}; of people, that cannot be told"
    if own.people:
        return (
            f"{images} is among {those}, but {own.people:,} labels are, which are "
            "numbers: if they are the same people, the figures flatter it; say what it was fitted "
            "on (--fitted-on)"
        )
    return f"{images} and no person is among {those}"


def _were(own: Overlap) -> str:
    return f"{_maps(own)} {'was' if len(own.fitted_on) == 1 else 'were'}"


def _maps(own: Overlap) -> str:
    """Name the maps that remember the same."""
    if len(own.fitted_on) > _MOST_NAMED:
        return f"the {len(own.fitted_on)} maps"
    return f"the map{'' if len(own.fitted_on) == 1 else 's'} {' and '.join(own.fitted_on)}"


def checked_overlaps(
    evaluated: Sequence[Source],
    rows: NDArray[np.int64],
    fitted_on: Sequence[SourceLike],
    maps: Sequence[LinearMap],
    allowed: bool,
    *,
    people_count: bool = True,
) -> tuple[Overlap, ...]:
    """Refuse to evaluate images or people that a map was fitted on, unless that is allowed.

    Parameters
    ----------
    evaluated : sequence of Source
        The same images in several spaces.
    rows : ndarray of int
        Which of them are evaluated.
    fitted_on : sequence of source-like
        What the maps were fitted on.
    maps : sequence of LinearMap
        What is evaluated, and may remember what it was fitted on.
    allowed : bool
        Whether they may be evaluated all the same.
    people_count : bool
        Whether labels are people; those of classes may be in both.

    Returns
    -------
    tuple of Overlap
        With the stores, if there are any; and with every map that remembers.

    Raises
    ------
    InputError
        If there are any, or a side of stores has neither ids nor labels that tell.
    """
    stores = [open_source(one, "fitted_on") for one in fitted_on]
    remembering = _by_memory(maps)
    if not stores and not remembering:
        return ()
    here = _Rows.of(evaluated, rows, people_count)
    overlaps = [_with_maps(here, alike) for alike in remembering]
    if stores:
        overlaps.insert(0, _with_stores(here, evaluated[0].label, stores))
    for own in overlaps:
        if own.is_certain and not allowed:
            who = "the map was" if own.known_from == "stores" else _were(own)
            raise InputError(
                f"{evaluated[0].label}: {own.amount} of its images, and {own.people or 0:,} of its "
                f"people, are among those that {who} fitted on, which flatters it; evaluate "
                "others, or allow it (--allow-overlap)"
            )
    return tuple(overlaps)


def _by_memory(maps: Sequence[LinearMap]) -> list[list[LinearMap]]:
    """Return the maps that remember, those together that remember the same."""
    groups: list[list[LinearMap]] = []
    for one in maps:
        if one.fitted_on.is_known:
            for alike in groups:
                if alike[0].fitted_on.is_same(one.fitted_on):
                    alike.append(one)
                    break
            else:
                groups.append([one])
    return groups


@dataclass(frozen=True)
class _Rows:
    """Hashes of the ids, and of the labels that are names and that are numbers, each once."""

    images: NDArray[np.uint64] | None
    names: NDArray[np.uint64] | None
    numbers: NDArray[np.uint64] | None
    rows: int

    @classmethod
    def of(cls, sources: Sequence[Source], rows: NDArray[np.int64], people_count: bool) -> _Rows:
        ids = first_column(sources, "ids")
        labels = first_column(sources, "labels")
        images = None if ids is None else _hashes(ids, rows)
        if labels is None or not people_count:
            return cls(images, None, None, len(rows))
        numbers = _hashes(labels, rows, _is_number)
        names = np.setdiff1d(_hashes(labels, rows), numbers, assume_unique=True)
        return cls(images, names, numbers, len(rows))


def _with_maps(here: _Rows, alike: Sequence[LinearMap]) -> Overlap:
    seen, count = alike[0].fitted_on, here.rows
    told = images = 0
    if seen.ids is not None and here.images is not None:
        shared = seen.ids.shared(here.images)
        count, told, images = shared.asked, shared.told, shared.estimate
    named = people = None
    if seen.labels is not None and here.names is not None and here.numbers is not None:
        named = seen.labels.shared(here.names).estimate
        people = named + seen.labels.shared(here.numbers).estimate
    names = tuple(f"{one.source.name} to {one.target.name}" for one in alike)
    return Overlap("map", names, count, told, images, people, named)


def _with_stores(here: _Rows, label: str, stores: Sequence[Source]) -> Overlap:
    ids = _of_all([store.ids for store in stores])
    labels = _of_all([store.labels for store in stores])
    named = people = None
    if labels is not None and here.names is not None and here.numbers is not None:
        named = len(np.intersect1d(here.names, labels))
        people = named + len(np.intersect1d(here.numbers, labels))
    where = tuple(store.label for store in stores)
    if here.images is not None and ids is not None:
        count = len(here.images)
        images = len(np.intersect1d(here.images, ids))
        return Overlap("stores", where, count, count, images, people, named)
    if people is None:
        without = label if here.images is None else next(s.label for s in stores if s.ids is None)
        raise InputError(
            f"{without}: has no ids, so that its images are not known, and labels that tell people "
            "are missing, too"
        )
    return Overlap("stores", where, here.rows, 0, 0, people, named)


def _of_all(columns: Sequence[Column | None]) -> NDArray[np.uint64] | None:
    hashes = [_hashes(column) for column in columns if column is not None]
    return np.unique(np.concatenate(hashes)) if len(hashes) == len(columns) else None


def _is_number(value: Any) -> bool:
    return str(value).removeprefix("-").isdecimal()


def _hashes(
    column: Column,
    rows: NDArray[np.int64] | None = None,
    wanted: Callable[[Any], bool] | None = None,
) -> NDArray[np.uint64]:
    """Return the hashes of the different values of a column, of some rows, rising."""
    found = [np.empty(0, np.uint64)]
    used = None if rows is None else np.bincount(rows, minlength=len(column)) > 0
    for start in range(0, len(column), _ROWS):
        values = column.read(start, min(start + _ROWS, len(column)))
        if used is not None:
            values = values[used[start : start + len(values)]]
        values = np.unique(values)
        if wanted is not None:
            values = values[np.array([wanted(value) for value in values.tolist()], bool)]
        found.append(text_hashes(values))
    return np.unique(np.concatenate(found))
