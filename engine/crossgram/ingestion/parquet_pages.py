"""What the pages of a Parquet file would decode to, told from their heads before they are decoded.

The metadata at the end of a file says what its columns hold, and the head of each page says it
again for the page; Arrow believes the heads, and takes the memory. A head is a struct of Thrift's
compact protocol.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossgram.errors import CorruptDataError, InputError
from crossgram.zarr_io import MAX_COLUMNS

__all__ = ["TEXT_BYTES", "Part", "check_values", "check_vectors"]

_MOST_PAGE_BYTES = 1 << 27
"""No page may decode to more."""

TEXT_BYTES = 4096
"""What a text may have, on the average of a page."""

_HARMLESS = 1 << 24
_MOST_GROWTH = 1024
"""What a stored byte of embeddings may become, about as much as gzip at its best."""

_HEAD_BYTES = 1 << 15
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_PREFIXES = 7  # DELTA_BYTE_ARRAY: texts that begin like the one before, of which the rest is stored


@dataclass(frozen=True)
class Part:
    """What the metadata say of a row group's part of a column.

    Attributes
    ----------
    name : str
        Of the column.
    rows, values : int
        Of the row group, and in it.
    stored : int
        Bytes in the file.
    data_at, dictionary_at : int
        Where the pages begin; 0 if there is no dictionary.
    """

    name: str
    rows: int
    values: int
    stored: int
    data_at: int
    dictionary_at: int


@dataclass(frozen=True)
class _Page:
    """What the head of a page says."""

    is_data: bool
    values: int
    encoding: int
    stored: int
    decoded: int


def check_vectors(file: Path, column: Part, value_bytes: int) -> None:
    """Refuse lists of floats that would take much more memory than they have bytes.

    Parameters
    ----------
    file : Path
        The Parquet file.
    column : Part
        Of a row group.
    value_bytes : int
        Of one number.

    Raises
    ------
    CorruptDataError
        If the pages are not what the metadata say, or a page is too large.
    InputError
        If the rows are too wide, or few bytes would become very many.
    """
    name, values = column.name, column.values
    if values > column.rows * MAX_COLUMNS:
        raise InputError(
            f"{file}: {values:,} values in {column.rows:,} rows of {name}; a store has at most "
            f"{MAX_COLUMNS:,} columns"
        )
    stored = sum(page.stored for page in _pages(file, column))
    if values * value_bytes > _HARMLESS + _MOST_GROWTH * stored:
        raise InputError(
            f"{file}: {stored:,} bytes of {name} would decode to {values * value_bytes:,}, which "
            "embeddings do not; write it again without a dictionary and compression"
        )


def check_values(file: Path, column: Part) -> None:
    """Refuse texts and integers that would take much more memory than ids and labels do.

    Raises
    ------
    CorruptDataError
        If the pages are not what the metadata say, or a page is too large.
    InputError
        If the texts are too long, or stored as what they share with the one before.
    """
    name = column.name
    for page in _pages(file, column):
        if page.is_data and page.encoding == _PREFIXES:
            raise InputError(
                f"{file}: {name} is stored as DELTA_BYTE_ARRAY, whose size cannot be told before "
                "it is decoded; write it again with another encoding"
            )
        if page.decoded > (page.values + 1) * TEXT_BYTES:
            raise InputError(
                f"{file}: a page of {name} has {page.decoded:,} bytes in {page.values:,} values; "
                f"at most {TEXT_BYTES:,} a row are read"
            )


def _pages(file: Path, column: Part) -> Iterator[_Page]:
    """Yield the pages of a column of a row group, which must be what is declared."""
    at = column.data_at
    if 0 < column.dictionary_at < at:
        at = column.dictionary_at
    left, values = column.stored, column.values
    try:
        with file.open("rb") as content:
            if at < 0 or left < 0 or at + left > os.fstat(content.fileno()).st_size:
                raise ValueError("it does not lie in the file")  # noqa: TRY301
            while values > 0:
                content.seek(at)
                head = _Head(content.read(min(left, _HEAD_BYTES)))
                page = _page(head.struct())
                at, left = at + head.at + page.stored, left - head.at - page.stored
                values -= page.values if page.is_data else 0
                if left < 0 or values < 0:
                    raise ValueError("its pages hold more than it declares")  # noqa: TRY301
                yield page
    except ValueError as error:
        raise CorruptDataError(
            f"{file}: cannot be read ({column.name}: {error}); it may be damaged or cut "
            "short, copy it again"
        ) from error


def _page(fields: dict[int, Any]) -> _Page:
    kind, decoded, stored = (_number(fields, key) for key in (1, 2, 3))
    own = fields.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, 0), {1: 0, 2: 0, 4: 0})
    if not isinstance(own, dict):
        raise ValueError("the head of a page is damaged")  # noqa: TRY004
    if decoded > _MOST_PAGE_BYTES:
        raise ValueError(
            f"a page would decode to {decoded:,} bytes, at most {_MOST_PAGE_BYTES:,} are read: "
            "write smaller pages"
        )
    values, encoding = _number(own, 1), _number(own, 4 if kind == _DATA_V2 else 2)
    return _Page(kind in (_DATA, _DATA_V2), values, encoding, stored, decoded)


def _number(fields: dict[int, Any], key: int) -> int:
    found = fields.get(key)
    if type(found) is not int or not 0 <= found < 1 << 31:
        raise ValueError("the head of a page is damaged")
    return found


class _Head:
    """Reads a struct of Thrift's compact protocol."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields by their numbers; those that are no 32-bit numbers or structs as None.

        Thrift skips a field of another kind than it should be, and cuts numbers to their bits:
        neither may say something else here than there.
        """
        if depth > 4:
            raise ValueError("the head of a page is nested")
        fields: dict[int, Any] = {}
        key = 0
        while byte := self._byte():
            step, kind = byte >> 4, byte & 15
            key = key + step if step else self._signed()
            if not 0 < key < 1 << 15:
                raise ValueError("the head of a page is damaged")
            fields[key] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return None
        if kind == 3:
            self.at += 1
            return None
        if kind in (4, 5, 6):
            number = self._signed()
            return number if kind == 5 else None
        if kind == 7:
            self.at += 8
            return None
        if kind == 8:
            length = self._unsigned()
            self.at += length
            return None
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError("the head of a page is damaged")

    def _byte(self) -> int:
        if self.at >= len(self._content):
            raise ValueError("the head of a page is cut")
        self.at += 1
        return self._content[self.at - 1]

    def _unsigned(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("the head of a page is damaged")

    def _signed(self) -> int:
        number = self._unsigned()
        return number >> 1 ^ -(number & 1)
