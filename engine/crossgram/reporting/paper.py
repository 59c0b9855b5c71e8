"""Tables, and how they fit a sheet of paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Table"]

_SHEET = 150
"""Letters across: A4 upright, in the page's small print and a wide typeface."""

_BRIEF = 20
_BETWEEN = 1.5
_NAME = 32
"""Letters of the first column at most, which breaks its lines."""


@dataclass(frozen=True)
class Table:
    """Head and rows as text; the first column names the row.

    What follows a space in a cell - an interval, a loss - may be printed below the rest.

    Attributes
    ----------
    title : str
        Its caption.
    head : sequence of str
        Of the columns.
    rows : sequence of sequence of str
        The cells.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def is_brief(self) -> bool:
        """Whether it should stay on one page."""
        return len(self.rows) <= _BRIEF

    @property
    def is_stacked(self) -> bool:
        """Whether cells take two lines on paper, where one would be too wide."""
        return self._room < sum(self._widths(stacked=False))

    @property
    def sheets(self) -> list[Table]:
        """The tables that it is on paper: itself, or some of its columns each."""
        parts: list[list[int]] = [[]]
        used = 0.0
        for k, width in enumerate(self._widths(stacked=self.is_stacked), start=1):
            if parts[-1] and used + width > self._room:
                parts.append([])
                used = 0.0
            parts[-1].append(k)
            used += width
        return [
            Table(
                self.title,
                [self.head[0], *(self.head[k] for k in part)],
                [[row[0], *(row[k] for k in part)] for row in self.rows],
            )
            for part in parts
        ]

    @property
    def _room(self) -> float:
        return _SHEET - min(_NAME, max(len(row[0]) for row in (self.head, *self.rows)))

    def _widths(self, *, stacked: bool) -> list[float]:
        widths = []
        for k, head in enumerate(self.head[1:], start=1):
            cells = [row[k].split(" ", 1) if stacked else [row[k]] for row in self.rows]
            widths.append(_BETWEEN + max(map(_longest, [head.split(), *cells])))
        return widths


def _longest(words: Sequence[str]) -> int:
    return max((len(word) for word in words), default=0)
