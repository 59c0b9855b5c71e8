"""Merging the moments, or other sums, of segments in a fixed binary tree."""

from __future__ import annotations

import threading
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["MergeTree"]


class _Absorbing(Protocol):
    def absorb(self, other: Any) -> None:
        """Merge with the same of the rows that follow."""


_Sums = TypeVar("_Sums", bound=_Absorbing)


class MergeTree(Generic[_Sums]):
    """Merges neighbours as they arrive, in any order, always in the same tree.

    Leaves 0 and 1, 2 and 3, ... merge first, then their parents; a node without a right
    neighbour rises as it is. The result therefore depends neither on which thread computed a
    leaf nor on when, to the last bit.

    Parameters
    ----------
    leaves : int
        How many segments there are.
    """

    def __init__(self, leaves: int) -> None:
        self._leaves = leaves
        self._waiting: dict[tuple[int, int], list[_Sums]] = {}
        self._lock = threading.Lock()

    def add(self, index: int, leaf: list[_Sums]) -> None:
        """Add the sums of segment `index`, one per fold; they belong to the tree from now."""
        level, node = 0, leaf
        while True:
            with self._lock:
                count = -(-self._leaves // (1 << level))
                sibling = index ^ 1
                if count == 1 or (sibling < count and (level, sibling) not in self._waiting):
                    self._waiting[level, index] = node
                    return
                other = self._waiting.pop((level, sibling), None)
            if other is not None:
                left, right = (other, node) if sibling < index else (node, other)
                for first, second in zip(left, right, strict=True):
                    first.absorb(second)
                node = left
            level, index = level + 1, index // 2

    def result(self) -> list[_Sums]:
        """Return the sums of all segments, one per fold."""
        ((_, root),) = self._waiting.items()
        return root
