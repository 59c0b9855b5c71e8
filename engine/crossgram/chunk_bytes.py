"""What is stored of a chunk, read whole from its file, with its checksum compared."""

from __future__ import annotations

import os
import struct
import threading
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray

from crossgram.stored_chunks import InFile

__all__ = [
    "CHECKSUM",
    "codec_names",
    "read_into",
    "split_checksum",
    "stored_bytes_of",
    "without_checksum",
]

CHECKSUM = struct.Struct("<I")
"""A CRC-32C of what it follows."""

_memory = threading.local()


def split_checksum(names: list[str]) -> tuple[list[str], bool]:
    """Return the codecs of a chunk without the checksum that comes last, and whether it does."""
    has_checksum = names[-1:] == ["crc32c"]
    return names[: len(names) - has_checksum], has_checksum


def codec_names(array: zarr.Array[Any]) -> list[str]:
    """Return the names of the codecs of an array of Zarr v3, in their order."""
    metadata: Any = array.metadata
    return [str(codec.to_dict()["name"]) for codec in metadata.codecs]


def stored_bytes_of(content: InFile, *, has_checksum: bool) -> NDArray[np.uint8]:
    """Return what is stored before the checksum, in memory that this thread's next call uses again.

    Parameters
    ----------
    content : InFile
        The chunk, whose size is that of what it may hold.
    has_checksum : bool
        Whether a CRC-32C follows.

    Raises
    ------
    ValueError
        If it is cut, or its checksum is another.
    """
    stored = _read(content)
    return without_checksum(stored) if has_checksum else stored


def read_into(place: NDArray[np.uint8], content: InFile, *, has_checksum: bool) -> None:
    """Read what is stored before the checksum to where it belongs.

    Parameters
    ----------
    place : ndarray of uint8, shape (bytes,)
        As long as that.
    content, has_checksum
        As for `stored_bytes_of`.

    Raises
    ------
    ValueError
        If it is shorter or longer, or its checksum is another.
    """
    after = np.empty(CHECKSUM.size if has_checksum else 0, np.uint8)
    size = content.size - len(after)
    if size != len(place):
        raise ValueError(f"it would decode to {size:,} bytes, expected {len(place):,}")
    _fill(place, content, 0)
    _fill(after, content, size)
    if has_checksum:
        _compare(place, after)


def without_checksum(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what a CRC-32C at its end is of.

    Raises
    ------
    ValueError
        If it is of something else.
    """
    end = len(stored) - CHECKSUM.size
    if end < 0:
        raise ValueError("it is shorter than its checksum")
    _compare(stored[:end], stored[end:])
    return stored[:end]


def _compare(stored: NDArray[np.uint8], checksum: NDArray[np.uint8]) -> None:
    if google_crc32c.value(stored) != CHECKSUM.unpack(checksum.data)[0]:
        raise ValueError("its checksum is that of other data")


def _read(content: InFile) -> NDArray[np.uint8]:
    buffer = getattr(_memory, "buffer", None)
    if buffer is None or len(buffer) < content.size:
        buffer = _memory.buffer = np.empty(content.size, np.uint8)
    stored: NDArray[np.uint8] = buffer[: content.size]
    _fill(stored, content, 0)
    return stored


def _fill(place: NDArray[np.uint8], content: InFile, start: int) -> None:
    """Read bytes of a chunk from `start` on until there is no place for more."""
    count = 0
    while count < len(place):
        taken = os.preadv(content.descriptor, [place[count:].data], start + count)
        if not taken:
            raise ValueError(f"it was cut to {start + count:,} bytes while it was read")
        count += taken
