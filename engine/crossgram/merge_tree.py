"""Merging the moments, or other sums, of segments in a fixed binary tree."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["MergeTree", "Place", "merge_folds"]


class _Absorbing(Protocol):
    def absorb(self, other: Any) -> None:
        """Merge with the same of the rows that follow."""


_Sums = TypeVar("_Sums", bound=_Absorbing)
_Node = TypeVar("_Node")

Place = tuple[int, int]
"""Level and index of a node."""


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
    keep : callable, optional
        Called with the level, the index and what stands for a node that is to wait for its
        neighbour, and with the places of those that were merged into it since they waited.
    """

    def __init__(
        self,
        leaves: int,
        merge: Callable[[_Node, _Node], _Node],
        keep: Callable[[int, int, _Node, Sequence[Place]], None] | None = None,
    ) -> None:
        self._leaves = leaves
        self._merge = merge
        self._keep = keep
        self._waiting: dict[Place, _Node] = {}
        self._lock = threading.Lock()

    def add(self, index: int, leaf: _Node, level: int = 0, *, is_kept: bool = False) -> None:
        """Add what stands for a segment, or for a subtree; it belongs to the tree from now.

        Parameters
        ----------
        index : int
            Of the segment, or of the subtree among those of its level.
        leaf : object
            What stands for it.
        level : int
            Of the subtree, of 2^level segments or as many as there are.
        is_kept : bool
            Whether it is kept already.
        """
        node, absorbed = leaf, list[Place]()
        while True:
            waits, neighbour = self._neighbour(level, index)
            if waits and self._keep is not None and not is_kept:
                # before others may change it
                self._keep(level, index, node, absorbed)
                is_kept, absorbed = True, []
            with self._lock:
                other = None if neighbour is None else self._waiting.pop(neighbour, None)
                if other is None and waits:
                    self._waiting[level, index] = node
                    return
            if other is not None and neighbour is not None:
                if is_kept:
                    absorbed.append((level, index))
                absorbed.append(neighbour)
                left = neighbour[1] < index
                node = self._merge(other, node) if left else self._merge(node, other)
                is_kept = False
            elif is_kept:
                absorbed.append((level, index))
                is_kept = False
            level, index = level + 1, index // 2

    def result(self) -> _Node:
        """Return what stands for all segments."""
        ((_, root),) = self._waiting.items()
        return root

    def _neighbour(self, level: int, index: int) -> tuple[bool, Place | None]:
        """Tell whether a node has to wait here, as things are, and for which one."""
        count = -(-self._leaves // (1 << level))
        sibling = index ^ 1
        if count == 1:
            return True, None
        if sibling >= count:
            return False, None
        with self._lock:
            return (level, sibling) not in self._waiting, (level, sibling)
