"""What moments and maps remember of the rows that they were made of: images and people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossgram.errors import InputError
from crossgram.sketch import Sketch

__all__ = ["UNSEEN", "Seen"]


@dataclass(frozen=True)
class Seen:
    """Which images and people rows are of, by sketches of the hashes of ids and labels.

    Attributes
    ----------
    ids : Sketch or None
        Of ids; None where those of some rows are not known.
    labels : Sketch or None
        Of labels, each as often as it has rows; None where those of some rows are not known.
    """

    ids: Sketch | None = None
    labels: Sketch | None = None

    @classmethod
    def nothing(cls) -> Seen:
        """Return what no rows are remembered by: the identity of `plus`."""
        empty = Sketch.of(np.empty(0, np.uint64))
        return cls(empty, empty)

    @property
    def is_known(self) -> bool:
        """Whether anything is remembered."""
        return self.ids is not None or self.labels is not None

    def is_same(self, other: Seen) -> bool:
        """Whether both remember the same."""
        pairs = ((self.ids, other.ids), (self.labels, other.labels))
        return all(a is b or (a is not None and b is not None and a.is_same(b)) for a, b in pairs)

    def plus(self, other: Seen) -> Seen:
        """Return what is remembered of both sets of rows; known only where it is of both."""
        return Seen(_sum(self.ids, other.ids), _sum(self.labels, other.labels))

    def minus(self, other: Seen) -> Seen:
        """Return what is remembered of the rows that are left without others.

        A person is forgotten with the last of their rows. Where it is not known of the others,
        nothing is forgotten.
        """
        return Seen(_difference(self.ids, other.ids), _difference(self.labels, other.labels))

    def once(self) -> Seen:
        """Return the same without how many rows each label has."""
        return Seen(*(None if own is None else own.once() for own in (self.ids, self.labels)))

    def to_facts(self) -> dict[str, Any]:
        """Return it as JSON values; empty where nothing is known."""
        named = {"ids": self.ids, "labels": self.labels}
        return {name: own.to_facts() for name, own in named.items() if own is not None}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any] | None) -> Seen:
        """Make it of what `to_facts` returned; of None, as in files of earlier versions, nothing.

        Raises
        ------
        InputError
            If it cannot have been.
        """
        if facts is None:
            return cls()
        if not isinstance(facts, Mapping) or not set(facts) <= {"ids", "labels"}:
            raise InputError("what was seen is not described by ids and labels")
        return cls(**{name: Sketch.from_facts(own) for name, own in facts.items()})


UNSEEN = Seen()
"""Nothing is known."""


def _sum(one: Sketch | None, other: Sketch | None) -> Sketch | None:
    return None if one is None or other is None else one.plus(other)


def _difference(one: Sketch | None, other: Sketch | None) -> Sketch | None:
    return one if one is None or other is None else one.minus(other)
