"""Moments that are kept apart by fold."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from crossgram.errors import CorruptDataError, InputError
from crossgram.history import History, from_facts, subtracted
from crossgram.moments import Moments
from crossgram.seen import UNSEEN, Seen
from crossgram.tensor_file import kind_of, read_tensors, write_tensors

__all__ = ["FOLD_BY", "FoldedMoments", "load_moments", "with_history"]

FOLD_BY = ("rows", "ids", "labels")
"""Contiguous runs of rows; by hash of the id; by hash of the label, so that all images of a
person are in one fold."""

_KIND = "folded moments"


@dataclass(frozen=True)
class FoldedMoments:
    """Moments of disjoint sets of rows, of which each may be held out.

    Attributes
    ----------
    folds : tuple of Moments
        One per fold, of the same spaces and blocks; of few ids or labels, none may have fallen
        into some.
    by : {"rows", "ids", "labels"}
        How rows were assigned.
    history : tuple of Operation
        What the rows of all folds were read from, as far as it was recorded.
    seen : Seen
        Which images and people the rows of all folds are of, as far as it is remembered.
    """

    folds: tuple[Moments, ...]
    by: str
    history: History = ()
    seen: Seen = UNSEEN

    @property
    def with_rows(self) -> list[int]:
        """Positions of the folds that hold rows of any weight."""
        return [k for k, fold in enumerate(self.folds) if fold.weight > 0]

    def total(self) -> Moments:
        """Return the moments of all rows."""
        whole = reduce(Moments.merge, self.folds)
        whole.history, whole.seen = self.history, self.seen
        return whole

    def merge(self, other: FoldedMoments) -> FoldedMoments:
        """Return the moments of both sets of rows, fold by fold.

        Raises
        ------
        InputError
            If the folds are not as many, or rows were assigned to them in another way.
        """
        self._check_same(other, "merge")
        folds = tuple(a.merge(b) for a, b in zip(self.folds, other.folds, strict=True))
        seen = self.seen.plus(other.seen)
        return replace(self, folds=folds, history=self.history + other.history, seen=seen)

    def subtract(self, other: FoldedMoments) -> FoldedMoments:
        """Return the moments of the rows that are not in `other`, fold by fold.

        Raises
        ------
        InputError
            If `other` has other folds, or rows that cannot have been in these.
        """
        self._check_same(other, "subtract")
        folds = tuple(a.subtract(b) for a, b in zip(self.folds, other.folds, strict=True))
        rows = sum(fold.rows + fold.skipped for fold in other.folds)
        history = subtracted(self.history, other.history, rows)
        return replace(self, folds=folds, history=history, seen=self.seen.minus(other.seen))

    def _check_same(self, other: FoldedMoments, verb: str) -> None:
        mine, theirs = (f"{len(each.folds)} folds by {each.by}" for each in (self, other))
        if mine != theirs:
            raise InputError(
                f"{verb}: moments in {mine} and in {theirs}; accumulate both with the same "
                "--folds and --group-by"
            )

    def without(self, index: int) -> Moments:
        """Return the moments of all rows but those of one fold, merged anew, not subtracted."""
        rest = [fold for k, fold in enumerate(self.folds) if k != index]
        return reduce(Moments.merge, rest)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a safetensors file; it appears at `path` whole."""
        tensors: dict[str, NDArray[Any]] = {}
        facts = []
        for k, fold in enumerate(self.folds):
            fold_tensors, fold_facts = fold.to_parts()
            tensors |= {f"fold.{k}.{name}": tensor for name, tensor in fold_tensors.items()}
            facts.append(fold_facts)
        history = [operation.to_dict() for operation in self.history]
        document: dict[str, Any] = {"by": self.by, "folds": facts, "history": history}
        if self.seen.is_known:
            document["seen"] = self.seen.to_facts()
        write_tensors(path, _KIND, tensors, document, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> FoldedMoments:
        """Read a file that `save` wrote.

        Raises
        ------
        InputError
            If it is not one.
        CorruptDataError
            If it is truncated or its parts contradict each other.
        """
        tensors, facts = read_tensors(path, _KIND)
        parts, by = facts.get("folds"), facts.get("by")
        if not isinstance(parts, list) or len(parts) < 2 or by not in FOLD_BY:
            raise CorruptDataError(
                f"{path}: does not tell its folds and how rows were assigned to them; "
                "accumulate again"
            )
        folds = []
        for k, fold_facts in enumerate(parts):
            prefix = f"fold.{k}."
            own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            folds.append(Moments.from_parts(own, fold_facts, str(path)))
        signed = [tuple((space, space.signature) for space in fold.spaces) for fold in folds]
        if len({*signed}) > 1 or len({(f.pairs, f.norms is None) for f in folds}) > 1:
            raise CorruptDataError(f"{path}: its folds are of different spaces; accumulate again")
        try:
            history, seen = from_facts(facts), Seen.from_facts(facts.get("seen"))
        except (TypeError, ValueError, AttributeError) as error:
            raise CorruptDataError(
                f"{path}: its history or memory cannot be read ({error}); accumulate again"
            ) from error
        return cls(tuple(folds), by, history, seen)


def load_moments(path: str | Path) -> Moments | FoldedMoments:
    """Read moments from a file, with folds or without.

    Raises
    ------
    InputError
        If it is no such file.
    """
    kind = FoldedMoments if kind_of(path) == _KIND else Moments
    return kind.load(path)


def with_history(
    moments: Moments | FoldedMoments, history: History, seen: Seen | None = None
) -> Moments | FoldedMoments:
    """Return the same moments of another history, and of other rows seen; they share arrays."""
    seen = moments.seen if seen is None else seen
    if isinstance(moments, FoldedMoments):
        return replace(moments, history=history, seen=seen)
    other = copy.copy(moments)
    other.history, other.seen = history, seen
    return other
