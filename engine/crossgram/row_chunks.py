"""Chunks that are runs of whole rows, compressed by Blosc or not at all.

That is how embedding stores are written unless something else is asked for. On one core it is
several times as fast as a pipeline that decodes any chunk into any place: a chunk is read into
memory that is used again, its checksum taken, and decoded to where its rows belong.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray

from crossgram.chunk_bytes import (
    CHECKSUM,
    codec_names,
    read_into,
    split_checksum,
    stored_bytes_of,
)
from crossgram.stored_chunks import InFile

__all__ = ["RowChunks", "row_chunks_of"]

_UINT32 = struct.Struct("<I")
_BLOSC_HEAD, _BLOSC_SIZE_AT = 16, 4
_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")


class Compression(NamedTuple):
    """What Blosc is told, of values as wide as the array's; `shuffle` by its number."""

    name: str
    level: int
    shuffle: int


@dataclass(frozen=True)
class RowChunks:
    """How the chunks of an array of rows are stored.

    Attributes
    ----------
    rows : int
        Of a chunk.
    compression : Compression or None
        By Blosc; None if they are not compressed.
    has_checksum : bool
        Whether a CRC-32C of what is stored follows it.
    """

    rows: int
    compression: Compression | None
    has_checksum: bool

    def decode(self, content: InFile, out: NDArray[Any]) -> None:
        """Decode a chunk into its rows.

        Parameters
        ----------
        content : InFile
            The chunk as it is stored, whose size is that of what it may hold.
        out : ndarray, shape (rows, ...), C-contiguous
            Receives the rows.

        Raises
        ------
        ValueError, RuntimeError
            Saying what is wrong with it.
        """
        place = out.reshape(-1).view(np.uint8)
        if self.compression is None:
            read_into(place, content, has_checksum=self.has_checksum)
            return
        stored = stored_bytes_of(content, has_checksum=self.has_checksum)
        size = len(stored)
        if size >= _BLOSC_HEAD:
            size = _UINT32.unpack_from(stored.data, _BLOSC_SIZE_AT)[0]
        if size != len(place):
            raise ValueError(f"it would decode to {size:,} bytes, expected {len(place):,}")
        blosc.decompress(stored, place)

    def encode(self, values: NDArray[Any]) -> list[bytes]:
        """Return what is to be stored of the rows of a chunk, in parts that follow each other.

        Parameters
        ----------
        values : ndarray, shape (rows, ...), C-contiguous
        """
        if self.compression is None:
            stored = values.tobytes()
        else:
            name, level, shuffle = self.compression
            stored = blosc.compress(values, name.encode(), level, shuffle)
        if not self.has_checksum:
            return [stored]
        return [stored, CHECKSUM.pack(google_crc32c.value(stored))]


def row_chunks_of(array: zarr.Array[Any]) -> RowChunks | None:
    """Return how an array's chunks are stored, None if they are not runs of whole rows or simple.

    Parameters
    ----------
    array : zarr.Array
        Of any dimensions, the first one that of rows.
    """
    if array.metadata.zarr_format == 2 or array.shards is not None:
        return None
    if array.chunks[1:] != array.shape[1:] or array.dtype.kind not in "iuf":
        return None
    codecs: list[Any] = [codec.to_dict() for codec in array.metadata.codecs]
    before, has_checksum = split_checksum(codec_names(array))
    if before not in (["bytes"], ["bytes", "blosc"]):
        return None
    compression = _compression(codecs[1]["configuration"]) if before[1:] else None
    endian = (codecs[0].get("configuration") or {}).get("endian")
    if str(getattr(endian, "value", endian)) not in ("None", sys.byteorder):
        return None
    return RowChunks(array.chunks[0], compression, has_checksum)


def _compression(facts: dict[str, Any]) -> Compression:
    name, shuffle = (str(getattr(facts[key], "value", facts[key])) for key in ("cname", "shuffle"))
    return Compression(name, int(facts["clevel"]), _SHUFFLES.index(shuffle))
