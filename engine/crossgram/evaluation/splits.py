"""What a fit and an evaluation share: images, people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError
from crossgram.fingerprint import id_hashes
from crossgram.source import Source, SourceLike, open_source
from crossgram.store import Column

__all__ = ["Overlap", "checked_overlap", "split_notes"]

_ROWS = 1 << 16


@dataclass(frozen=True)
class Overlap:
    """What is in the evaluation and was fitted on.

    Attributes
    ----------
    fitted_on : tuple of str
        What the map was fitted on.
    images : int
        Images, by their ids.
    people : int or None
        People, by their labels; None where one side has none.
    """

    fitted_on: tuple[str, ...]
    images: int
    people: int | None


def split_notes(shared: Overlap | None) -> Iterator[str]:
    """Say what follows for the figures of a map."""
    if shared is None:
        yield (
            "whether the map was fitted on these images or people is not known; say what it was "
            "fitted on (--fitted-on)"
        )
        return
    where = ", ".join(shared.fitted_on)
    if shared.images or shared.people:
        yield (
            f"{shared.images:,} of the images and {shared.people or 0:,} of the people are among "
            f"those that the map was fitted on ({where}): the figures flatter it"
        )
    elif shared.people is None:
        yield f"no image is among those of {where}; of people, that cannot be told"
    else:
        yield f"no image and no person is among those of {where}"


def checked_overlap(
    evaluated: Sequence[Source],
    rows: NDArray[np.int64],
    fitted_on: Sequence[SourceLike],
    allowed: bool,
    *,
    people_count: bool = True,
) -> Overlap | None:
    """Refuse to evaluate images or people that a map was fitted on, unless that is allowed.

    Parameters
    ----------
    evaluated : sequence of Source
        The same images in several spaces.
    rows : ndarray of int
        Which of them are evaluated.
    fitted_on : sequence of source-like
        What the map was fitted on.
    allowed : bool
        Whether they may be evaluated all the same.
    people_count : bool
        Whether labels are people; those of classes may be in both.

    Returns
    -------
    Overlap or None
        None if it was not said what was fitted on.

    Raises
    ------
    InputError
        If there are any, or a side has no ids, so that nothing can be told.
    """
    if not fitted_on:
        return None
    shared = _overlap(evaluated, rows, [open_source(one, "fitted_on") for one in fitted_on])
    if not people_count:
        shared = replace(shared, people=None)
    if not allowed and (shared.images or shared.people):
        raise InputError(
            f"{evaluated[0].label}: {shared.images} of its images, and {shared.people or 0} of its "
            "people, are among those that the map was fitted on, which flatters it; evaluate "
            "others, or allow it (--allow-overlap)"
        )
    return shared


def _overlap(
    evaluated: Sequence[Source], rows: NDArray[np.int64], fitted_on: Sequence[Source]
) -> Overlap:
    images = set()
    people: set[int] | None = set()
    for source in fitted_on:
        if source.ids is None:
            raise InputError(f"{source.label}: has no ids, so that its images are not known")
        images |= _hashes(source.ids)
        if people is not None:
            people = None if source.labels is None else people | _hashes(source.labels)
    ids = next((one.ids for one in evaluated if one.ids is not None), None)
    if ids is None:
        raise InputError(f"{evaluated[0].label}: has no ids, so that its images are not known")
    labels = next((one.labels for one in evaluated if one.labels is not None), None)
    return Overlap(
        tuple(source.label for source in fitted_on),
        len(images & _hashes(ids, rows)),
        None if people is None or labels is None else len(people & _hashes(labels, rows)),
    )


def _hashes(column: Column, rows: NDArray[np.int64] | None = None) -> set[int]:
    found: set[int] = set()
    wanted = None if rows is None else np.bincount(rows, minlength=len(column)) > 0
    for start in range(0, len(column), _ROWS):
        values = column.read(start, min(start + _ROWS, len(column)))
        if wanted is not None:
            values = values[wanted[start : start + len(values)]]
        found.update(id_hashes(np.unique(values)).tolist())
    return found
