"""MXNet RecordIO: a .rec file of images and its .idx, as insightface distributes face sets."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from crossgram.errors import InputError
from crossgram.images.decoding import UnusableImageError
from crossgram.images.entry import ImageEntry, read_bytes

__all__ = ["RecordFile"]

_MAGIC = 0xCED7230A
_HEAD = struct.Struct("<II")
_IMAGE_HEAD = struct.Struct("<IfQQ")
_LENGTH_BITS = 29
_LENGTH = (1 << _LENGTH_BITS) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


@dataclass(frozen=True)
class RecordFile:
    """Images in the order of the index, whose keys are their ids.

    Records with several labels and no image are left out: insightface has one before the images,
    which counts them, and one behind them for each identity.

    Attributes
    ----------
    root : Path
        The .rec file; the .idx lies beside it.

    Notes
    -----
    A record is a magic number, 3 bits that say which part of a record this is, 29 bits of its
    length, and the data, padded to 4 bytes; parts are joined by the magic number (dmlc-core,
    recordio.h). The data begin with flag, label, and two ids, then come `flag` more labels of 4
    bytes, then the image (MXNet, recordio.py, IRHeader).
    """

    root: Path

    @property
    def shares_files(self) -> bool:
        """True: a file holds many images."""
        return True

    def files(self) -> Iterator[Path]:
        """Name the file of the records."""
        return iter([self.root])

    def entries(self) -> Iterator[ImageEntry]:
        """List the images."""
        size = self.root.stat().st_size
        with self.root.open("rb") as file:
            for key, offset in self._index():
                flag, label, word = self._head(file, key, offset, size)
                # a record that is whole has zeros before its length
                if not flag or word != _IMAGE_HEAD.size + 4 * flag:
                    name = str(int(label)) if label.is_integer() else str(label)
                    yield ImageEntry(str(key), name, place=(offset, word & _LENGTH))

    def read(self, entry: ImageEntry) -> bytes:
        """Return the image of a record."""
        data = self._record(entry.place[0])
        if len(data) < _IMAGE_HEAD.size:
            raise UnusableImageError("its record is too short for an image")
        flag = _IMAGE_HEAD.unpack_from(data)[0]
        return data[_IMAGE_HEAD.size + 4 * flag :]

    def _index(self) -> Iterator[tuple[int, int]]:
        path, number = self.root.with_suffix(".idx"), 0
        if not path.is_file():
            raise InputError(f"{self.root}: its index {path} is missing; expected it beside it")
        with path.open(encoding="ascii", errors="replace") as file:
            for number, line in enumerate(file, 1):
                match line.split():
                    case [key, offset] if key.isdecimal() and offset.isdecimal():
                        yield int(key), int(offset)
                    case _:
                        raise InputError(
                            f"{path}: line {number} is {line[:80]!r}, expected a key and an offset"
                        )
        if not number:
            raise InputError(f"{path}: names no records")

    def _head(self, file: BinaryIO, key: int, offset: int, size: int) -> tuple[int, float, int]:
        """Return flag and label of a record, and its length under the bits of its part."""
        wanted = _HEAD.size + _IMAGE_HEAD.size + 4
        file.seek(min(offset, size))
        data = file.read(wanted)
        if len(data) < _HEAD.size + _IMAGE_HEAD.size:
            raise InputError(f"{self.root}: ends before record {key}; copy it again")
        magic, word = _HEAD.unpack_from(data)
        if magic != _MAGIC or offset + _HEAD.size + (word & _LENGTH) > size:
            raise InputError(
                f"{self.root}: no whole record {key} at byte {offset}; copy it and its .idx again"
            )
        flag, label, _, _ = _IMAGE_HEAD.unpack_from(data, _HEAD.size)
        if flag and len(data) == wanted:
            (label,) = struct.unpack_from("<f", data, _HEAD.size + _IMAGE_HEAD.size)
        return flag, label, word

    def _record(self, offset: int) -> bytes:
        parts: list[bytes] = []
        while True:
            magic, word = _HEAD.unpack(read_bytes(self.root, offset, _HEAD.size))
            length, part = word & _LENGTH, word >> _LENGTH_BITS
            if magic != _MAGIC or (part in (_WHOLE, _FIRST)) == bool(parts):
                raise UnusableImageError("its record is damaged")
            parts.append(read_bytes(self.root, offset + _HEAD.size, length))
            if part in (_WHOLE, _LAST):
                return struct.pack("<I", _MAGIC).join(parts)
            offset += _HEAD.size + -(-length // 4) * 4
