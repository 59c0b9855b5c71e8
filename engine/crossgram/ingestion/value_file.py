"""Ids or labels in a file of their own: text with one value per line, or a .npy array."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError
from crossgram.ingestion.table import Values, reading
from crossgram.source import check_npy_size, raw_reader, read_npy_header

__all__ = ["SUFFIXES", "open_values"]

SUFFIXES = (".txt", ".npy")

_PIECE_ROWS = 65_536
_SCAN_BYTES = 1 << 20


def open_values(path: Path) -> Values:
    """Open a file of values."""
    with reading(path):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return _open_npy(path) if path.suffix == ".npy" else _open_text(path)


def _open_npy(path: Path) -> Values:
    shape, dtype, _, offset = read_npy_header(path)
    if len(shape) != 1 or dtype.kind not in "iuU":
        raise InputError(
            f"{path}: has shape {shape} and dtype {dtype}; expected one text or integer per row"
        )
    check_npy_size(path, shape, dtype, offset)
    rows = shape[0]
    read = raw_reader(path, offset, dtype.itemsize)

    def pieces() -> Iterator[NDArray[Any]]:
        for start in range(0, rows, _PIECE_ROWS):
            piece = np.empty(min(_PIECE_ROWS, rows - start), dtype)
            read(start, piece)
            yield piece

    return Values(str(path), rows, pieces)


def _open_text(path: Path) -> Values:
    def pieces() -> Iterator[NDArray[Any]]:
        with reading(path), path.open(encoding="utf-8-sig", newline="\n") as file:
            while lines := [line.rstrip("\r\n") for line in islice(file, _PIECE_ROWS)]:
                yield np.array(lines, dtype=object)

    return Values(str(path), _count_lines(path), pieces)


def _count_lines(path: Path) -> int:
    lines, last = 0, b"\n"
    with reading(path), path.open("rb") as file:
        while chunk := file.read(_SCAN_BYTES):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines + (last != b"\n")
