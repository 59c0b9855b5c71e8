"""What a running operation tells its caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Progress", "ProgressCallback", "ignore"]


@dataclass(frozen=True)
class Progress:
    """How far an operation is.

    Attributes
    ----------
    stage : str
        What is being done, for example "accumulate".
    rows, total_rows : int
        Rows finished and rows in all.
    bytes : int
        Bytes of embeddings read so far, as decoded.
    """

    stage: str
    rows: int
    total_rows: int
    bytes: int


ProgressCallback: TypeAlias = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Do nothing with it."""
