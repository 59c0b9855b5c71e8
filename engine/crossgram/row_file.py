"""Arrays with one entry per row, in temporary files instead of memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["RowFile"]

_MAPPED_BYTES = 32 << 20
_PAGE_BYTES = 4096


class RowFile:
    """A new array on disk, read and written by row; zeros at first.

    The file is mapped anew for each access, of a large file for a few thousand rows at a time, so
    that its pages, which count as this process's memory while they are mapped, are given back.

    Parameters
    ----------
    path : path
        The file.
    shape : tuple of int
        Rows first.
    dtype : dtype
        Of the values.

    Raises
    ------
    OSError
        If the disk has no room for all of it.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike = np.int64) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        size = int(np.prod(shape)) * self.dtype.itemsize
        with path.open("wb") as file:
            # a mapped page that the disk has no room for would kill the process
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        if isinstance(rows, slice):
            return np.array(self._mapped()[rows])
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for piece in self._pieces(len(rows)):
            values[piece] = self._mapped()[rows[piece]]
        return values

    def __setitem__(self, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        for piece in self._pieces(len(rows)):
            self._mapped()[rows[piece]] = values[piece]

    def _mapped(self) -> NDArray[Any]:
        return np.memmap(self.path, self.dtype, "r+", shape=self.shape)

    def _pieces(self, count: int) -> Iterator[slice]:
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        # far apart, each row touches the pages that it lies on and no other does
        touched = _PAGE_BYTES + size // max(1, len(self))
        step = count if size <= _MAPPED_BYTES else max(1, _MAPPED_BYTES // touched)
        return (slice(start, start + step) for start in range(0, count, max(1, step)))
