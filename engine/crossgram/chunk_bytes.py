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

__all__ = ["CHECKSUM", "codec_names", "split_checksum", "stored_bytes_of", "without_checksum"]

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
    if google_crc32c.value(stored[:end]) != CHECKSUM.unpack_from(stored.data, end)[0]:
        raise ValueError("its checksum is that of other data")
    return stored[:end]


def _read(content: InFile) -> NDArray[np.uint8]:
    buffer = getattr(_memory, "buffer", None)
    if buffer is None or len(buffer) < content.size:
        buffer = _memory.buffer = np.empty(content.size, np.uint8)
    count = 0
    while count < content.size:
        taken = os.preadv(content.descriptor, [buffer[count : content.size].data], count)
        if not taken:
            raise ValueError(f"it was cut to {count:,} bytes while it was read")
        count += taken
    return buffer[:count]
