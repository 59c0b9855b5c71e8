"""Merging the moments, or other sums, of segments in a fixed binary tree."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["MergeTree", "merge_folds"]


class _Absorbing(Protocol):
    def absorb(self, other: Any) -> None:
        """Merge with the same of the rows that follow."""


_Sums = TypeVar("_Sums", bound=_Absorbing)
_Node = TypeVar("_Node")


def merge_folds(left: list[_Sums], right: list[_Sums]) -> list[_Sums]:
    """Return the sums of two runs of rows, one per fold, in the memory of the first's."""
    for first, second in zip(left, right, strict=True):
        first.absorb(second)
    return left


class MergeTree(Generic[_Node]):
    """Merges neighbours as they arrive, in any order, always in the same tree.

    Leaves 0 and 1, 2 and 3, ... merge first, then their parents; a node without a right
    neighbour rises as it is. The result therefore depends neither on which thread computed a
    leaf nor on when, to the last bit.

    Parameters
    ----------
    leaves : int
        How many segments there are.
    merge : callable
        Gives of two neighbours, the left one first, what stands for both; they belong to it.
    """

    def __init__(self, leaves: int, merge: Callable[[_Node, _Node], _Node]) -> None:
        self._leaves = leaves
        self._merge = merge
        self._waiting: dict[tuple[int, int], _Node] = {}
        self._lock = threading.Lock()

    def add(self, index: int, leaf: _Node) -> None:
        """Add what stands for segment `index`; it belongs to the tree from now."""
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
                node = self._merge(*((other, node) if sibling < index else (node, other)))
            level, index = level + 1, index // 2

    def result(self) -> _Node:
        """Return what stands for all segments."""
        ((_, root),) = self._waiting.items()
        return root
