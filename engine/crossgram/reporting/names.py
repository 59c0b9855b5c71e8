"""What networks are called where there is little room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Names"]

_LONGEST, _MOST_TOGETHER = 20, 120
_LEAST = 6
"""Of a column, whose figures take as much."""

_CUT = 16


@dataclass(frozen=True)
class Names:
    """Names of networks, which are numbered if they are too long for the heads of a table.

    Attributes
    ----------
    all : sequence of str
        In order.
    """

    all: Sequence[str]

    @property
    def are_numbered(self) -> bool:
        """Whether numbers stand for the names, which then need a list of them."""
        lengths = [len(name) for name in self.all]
        together = sum(max(_LEAST, length) for length in lengths)
        return max(lengths) > _LONGEST or together > _MOST_TOGETHER

    def short(self, name: str) -> str:
        """Return a name, or its number."""
        return str(self.all.index(name) + 1) if self.are_numbered else name

    def numbered(self, name: str) -> str:
        """Return a name, with its number before if it has one."""
        return f"{self.short(name)}\N{NO-BREAK SPACE}{name}" if self.are_numbered else name

    def cut(self, name: str) -> str:
        """Return a name, or its number and its beginning."""
        if not self.are_numbered or len(name) <= _CUT:
            return self.numbered(name)
        return f"{self.short(name)} {name[: _CUT - 1]}…"
