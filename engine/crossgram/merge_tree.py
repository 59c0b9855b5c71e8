"""Merging the moments of segments in a fixed binary tree."""

from __future__ import annotations

import threading

from crossgram.moments import Moments

__all__ = ["MergeTree"]


class MergeTree:
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
        self._waiting: dict[tuple[int, int], list[Moments]] = {}
        self._lock = threading.Lock()

    def add(self, index: int, leaf: list[Moments]) -> None:
        """Add the moments of segment `index`, one per fold; they belong to the tree from now."""
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

    def result(self) -> list[Moments]:
        """Return the moments of all segments, one per fold."""
        ((_, root),) = self._waiting.items()
        return root
