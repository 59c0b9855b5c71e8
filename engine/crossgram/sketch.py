"""A sample of a set of 64-bit hashes, of bounded size, that adds and subtracts like the set."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError

__all__ = ["SKETCH_SIZE", "Shared", "Sketch", "SketchBuilder"]

SKETCH_SIZE = 65_536
_RANGE = 1 << 64
_MOST_ROWS = 1 << 48
_MOST_TEXT = 4 * -(-8 * SKETCH_SIZE // 3)


@dataclass(frozen=True)
class Shared:
    """How many of some hashes a sketch has.

    Attributes
    ----------
    asked : int
        Different hashes that were asked about.
    told : int
        Those of them that the sketch can tell: all, unless it is a sample.
    found : int
        Those of them that it has.
    """

    asked: int
    told: int
    found: int

    @property
    def is_counted(self) -> bool:
        """Whether every hash could be told."""
        return self.told == self.asked

    @property
    def estimate(self) -> int:
        """How many are shared: of those told, a share that is unbiased for all; at least those."""
        return self.found if self.is_counted else round(self.asked * self.found / max(1, self.told))


@dataclass(frozen=True, eq=False)
class Sketch:
    """The hashes of a multiset that are below a bound, at most 65,536, with their numbers.

    Attributes
    ----------
    hashes : ndarray, shape (k,), uint64
        Rising, each once; those of the set that are below `below`.
    counts : ndarray, shape (k,), int64
        How often each is in the multiset.
    below : int
        2^64 if the sketch is complete; where there were more, the least that was left out.

    Notes
    -----
    The k smallest hashes, a uniform sample of the different values: Cohen, "Size-estimation
    framework with applications to transitive closure and reachability" (J. Computer and System
    Sciences 55, 1997). With numbers beside them, sums and differences of multisets: Beyer, Haas,
    Reinwald, Sismanis and Gemulla, "On synopses for distinct-value estimation under multiset
    operations" (SIGMOD 2007).

    Examples
    --------
    >>> import numpy as np
    >>> day = Sketch.of(np.array([3, 1, 3], np.uint64))
    >>> rest = day.plus(day).minus(Sketch.of(np.array([1, 1, 3], np.uint64)))
    >>> rest.hashes.tolist(), rest.counts.tolist()
    ([3], [3])
    """

    hashes: NDArray[np.uint64]
    counts: NDArray[np.int64]
    below: int = _RANGE

    @classmethod
    def of(cls, hashes: NDArray[np.uint64], counts: NDArray[np.int64] | None = None) -> Sketch:
        """Return the sketch of hashes, each as often as it is given, or as `counts` says."""
        return _cut(hashes, np.ones(len(hashes), np.int64) if counts is None else counts, _RANGE)

    @property
    def is_complete(self) -> bool:
        """Whether it has every hash of the set."""
        return self.below == _RANGE

    def is_same(self, other: Sketch) -> bool:
        """Whether another has the same hashes as often, of the same range."""
        return (
            self.below == other.below
            and np.array_equal(self.hashes, other.hashes)
            and np.array_equal(self.counts, other.counts)
        )

    @property
    def distinct(self) -> int:
        """How many different hashes are in the set; an estimate, unless it is complete."""
        return round(len(self.hashes) * _RANGE / self.below)

    def plus(self, other: Sketch) -> Sketch:
        """Return the sketch of both multisets together."""
        return self._with(other, other.counts)

    def minus(self, other: Sketch) -> Sketch:
        """Return the sketch of what is left of the multiset without another.

        What is not in it is not missed; what is in it more often stays.
        """
        return self._with(other, -other.counts)

    def once(self) -> Sketch:
        """Return the sketch of the set: every hash once."""
        return replace(self, counts=np.ones_like(self.counts))

    def shared(self, hashes: NDArray[np.uint64]) -> Shared:
        """Count which of some different hashes are in the set, as far as that can be told.

        Of a sample, those below the bound are told, which are a uniform sample of the hashes asked
        about; to find one is proof, to find none is not.
        """
        told = _below(hashes, self.below)
        return Shared(len(hashes), len(told), int(np.isin(told, self.hashes).sum()))

    def _with(self, other: Sketch, counts: NDArray[np.int64]) -> Sketch:
        return _cut(
            np.concatenate([self.hashes, other.hashes]),
            np.concatenate([self.counts, counts]),
            min(self.below, other.below),
        )

    def to_facts(self) -> dict[str, Any]:
        """Return the sketch as JSON values: little-endian integers of 64 bits in base64."""
        facts = {"hashes": _text(self.hashes), "below": f"{self.below:x}"}
        if (self.counts > 1).any():
            facts["counts"] = _text(self.counts)
        return facts

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Sketch:
        """Make a sketch of what `to_facts` returned.

        Raises
        ------
        InputError
            If it is none: too large, out of order, or beyond its bound.
        """
        if not isinstance(facts, Mapping) or set(facts) - {"counts"} != {"hashes", "below"}:
            raise InputError("a sketch of hashes is not described by its hashes and their bound")
        bound = facts["below"]
        if not isinstance(bound, str) or not 0 < len(bound) <= 17:
            raise InputError(f"a sketch of hashes has the bound {str(bound)[:20]!r}")
        try:
            below = int(bound, 16)
        except ValueError as error:
            raise InputError(f"a sketch of hashes has the bound {bound!r}") from error
        hashes = _array(facts["hashes"], "<u8").astype(np.uint64)
        counts = np.ones(len(hashes), np.int64)
        if "counts" in facts:
            counts = _array(facts["counts"], "<i8").astype(np.int64)
        if not 0 < below <= _RANGE or (below < _RANGE and len(hashes) > len(_below(hashes, below))):
            raise InputError("a sketch of hashes has a bound that its hashes are not below")
        if (hashes[1:] <= hashes[:-1]).any():
            raise InputError("a sketch of hashes is not in rising order")
        if counts.shape != hashes.shape or not ((counts > 0) & (counts < _MOST_ROWS)).all():
            raise InputError("a sketch of hashes has numbers that are not of its hashes")
        return cls(hashes, counts, below)


class SketchBuilder:
    """A sketch of hashes that come in blocks, in memory of a few times its size."""

    def __init__(self) -> None:
        self._sketch = Sketch.of(np.empty(0, np.uint64))
        self._waiting: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._count = 0

    def add(self, hashes: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
        """Add hashes, each as often as `counts` says."""
        low = np.ones(len(hashes), bool)
        if not self._sketch.is_complete:
            low = hashes < np.uint64(self._sketch.below)
        self._waiting.append((hashes[low], counts[low]))
        self._count += int(low.sum())
        if self._count >= SKETCH_SIZE:
            self.sketch()

    def sketch(self) -> Sketch:
        """Return the sketch of all that was added."""
        if self._waiting:
            hashes, counts = (np.concatenate(part) for part in zip(*self._waiting, strict=True))
            self._sketch = self._sketch.plus(Sketch.of(hashes, counts))
            self._waiting, self._count = [], 0
        return self._sketch


def _cut(hashes: NDArray[np.uint64], counts: NDArray[np.int64], below: int) -> Sketch:
    if below < _RANGE:
        low = hashes < np.uint64(below)
        hashes, counts = hashes[low], counts[low]
    different, which = np.unique(hashes, return_inverse=True)
    sums = np.zeros(len(different), np.int64)
    np.add.at(sums, which, counts)
    different, sums = different[sums > 0], sums[sums > 0]
    if len(different) > SKETCH_SIZE:
        below = int(different[SKETCH_SIZE])
        different, sums = different[:SKETCH_SIZE], sums[:SKETCH_SIZE]
    return Sketch(different, sums, below)


def _below(hashes: NDArray[np.uint64], below: int) -> NDArray[np.uint64]:
    return hashes if below == _RANGE else hashes[hashes < np.uint64(below)]


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def _array(text: Any, dtype: str) -> NDArray[Any]:
    if not isinstance(text, str) or len(text) > _MOST_TEXT:
        raise InputError(f"a sketch of hashes is no text, or of more than {SKETCH_SIZE:,} hashes")
    try:
        values: NDArray[Any] = np.frombuffer(base64.b64decode(text, validate=True), dtype)
    except (ValueError, binascii.Error) as error:
        raise InputError(f"a sketch of hashes cannot be read ({error})") from error
    if len(values) > SKETCH_SIZE:
        raise InputError(f"a sketch of {len(values):,} hashes, of at most {SKETCH_SIZE:,} expected")
    return values
