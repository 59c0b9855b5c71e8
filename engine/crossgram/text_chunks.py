"""Chunks of texts, as the columns of stores are written: hashed without a text made of any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from crossgram.chunk_bytes import codec_names, split_checksum, stored_bytes_of
from crossgram.decoded_sizes import COMPRESSIONS, decompressed
from crossgram.hashing import stored_text_hashes
from crossgram.stored_chunks import InFile

__all__ = ["TextChunks", "text_chunks_of"]


@dataclass(frozen=True)
class TextChunks:
    """How the chunks of a column of texts are stored.

    Attributes
    ----------
    rows : int
        Of a chunk.
    compression : str or None
        Of one text after another, each with its size before it.
    has_checksum : bool
        Whether a CRC-32C of what is stored follows it.
    """

    rows: int
    compression: str | None
    has_checksum: bool

    def hashes(self, content: InFile) -> NDArray[np.uint64]:
        """Return the hash of each text of a chunk, shape (rows,).

        Parameters
        ----------
        content : InFile
            The chunk as it is stored, of which it is known what it would decode to.

        Raises
        ------
        ValueError, RuntimeError
            Saying what is wrong with it.
        """
        stored = stored_bytes_of(content, has_checksum=self.has_checksum)
        if self.compression is not None:
            stored = np.frombuffer(decompressed(self.compression, stored), np.uint8)
        return stored_text_hashes(stored, self.rows)


def text_chunks_of(array: zarr.Array[Any]) -> TextChunks | None:
    """Return how an array's chunks are stored, None if they are not of texts or not simple."""
    if array.metadata.zarr_format == 2 or array.shards is not None or array.ndim != 1:
        return None
    names, has_checksum = split_checksum(codec_names(array))
    if names[:1] != ["vlen-utf8"] or names[2:] or set(names[1:]) - COMPRESSIONS:
        return None
    return TextChunks(array.chunks[0], names[1] if names[1:] else None, has_checksum)
