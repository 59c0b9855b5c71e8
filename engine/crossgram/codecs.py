"""The compression that stores offer, by name."""

from __future__ import annotations

from typing import Any

from crossgram.errors import InputError

__all__ = ["CODECS", "compressors"]

CODECS = ("lz4", "lz4-bitshuffle", "zstd", "none")
"""Codecs that `EmbeddingStore.create` offers; each is followed by a crc32c checksum."""


def compressors(codec: str) -> tuple[Any, ...]:
    """Return the Zarr codecs of a name.

    Raises
    ------
    InputError
        If there is no such name.
    """
    from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

    match codec:
        case "lz4":
            return BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()
        case "lz4-bitshuffle":
            return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()
        case "zstd":
            return ZstdCodec(level=1), Crc32cCodec()
        case "none":
            return (Crc32cCodec(),)
    raise InputError(f"codec: {codec!r} is not known; one of {', '.join(CODECS)}")
