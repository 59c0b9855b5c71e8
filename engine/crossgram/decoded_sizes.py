"""How much compressed data would decode to, told without decoding it into memory.

What is compressed says it in its head (blosc, zstd, lz4), where a stranger may have written
anything; decoders believe it, and take the memory. Of what does not say it (gzip and its like) it
is counted, a piece at a time.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numcodecs

__all__ = ["COMPRESSIONS", "Content", "check_decoded_size", "decompressed"]

_BLOSC_HEAD = struct.Struct("<4xIII")
_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_SKIPPABLE = 0x184D2A50
_ZSTD_HEAD = 18
_ZSTD_BLOCK = 1 << 17
_ZSTD_RLE = 1
_MOST_FRAMES = 1024
_PIECE = 1 << 16
_FAILURES = zlib.error, OSError, EOFError, lzma.LZMAError
_MOST_OF_GZIP = 1032
"""What a byte of gzip decodes to at most."""


class Content(Protocol):
    """Bytes that lie somewhere."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def read(self, offset: int, count: int) -> bytes:
        """Return some of them, fewer where they end."""
        ...


def check_decoded_size(kind: str, content: Content, most: int) -> None:
    """Refuse compressed data that would decode to more than `most` bytes.

    Parameters
    ----------
    kind : str
        One of `COMPRESSIONS`.
    content : Content
        The data.
    most : int
        Bytes.

    Raises
    ------
    ValueError
        Saying what it would be, or that it is cut.

    Examples
    --------
    >>> class Held(bytes):
    ...     size = property(len)
    ...     def read(self, offset, count):
    ...         return self[offset : offset + count]
    >>> check_decoded_size("gzip", Held(zlib.compress(bytes(10**6))), 10**5)
    Traceback (most recent call last):
    ValueError: it would decode to more than 100,000 bytes
    """
    size = _SIZES[kind](content, most)
    if size > most:
        raise ValueError(f"it would decode to {size:,} bytes, at most {most:,} are expected")


def decompressed(kind: str, stored: Any) -> Any:
    """Return what compressed data, of which `check_decoded_size` has the size, decode to.

    Parameters
    ----------
    kind : str
        One of `COMPRESSIONS`.
    stored : buffer
        The data.

    Returns
    -------
    buffer

    Raises
    ------
    ValueError, RuntimeError
        If they cannot be decoded.
    """
    try:
        return numcodecs.get_codec({"id": kind}).decode(stored)
    except _FAILURES as error:
        raise ValueError(f"it cannot be decompressed: {error}") from error


def _of_blosc(content: Content, most: int) -> int:
    head = content.read(0, _BLOSC_HEAD.size)
    if len(head) < _BLOSC_HEAD.size:
        raise ValueError("it is cut in its head")
    decoded, _, stored = _BLOSC_HEAD.unpack(head)
    if stored != content.size:
        raise ValueError(f"it has {content.size:,} bytes, its head says {stored:,}")
    return int(decoded)


def _of_zstd(content: Content, most: int) -> int:
    """Walk over frames and blocks, each of which says how long it is (RFC 8878, 3.1)."""
    total = at = frames = 0
    while at < content.size and total <= most:
        head = content.read(at, _ZSTD_HEAD)
        magic = int.from_bytes(head[:4], "little")
        frames += 1
        if frames > _MOST_FRAMES:
            raise ValueError(f"it has more than {_MOST_FRAMES:,} frames")
        if magic & 0xFFFFFFF0 == _ZSTD_SKIPPABLE:
            at += 8 + int.from_bytes(head[4:8], "little")
        elif magic == _ZSTD_MAGIC and len(head) > 5:
            at, size = _zstd_frame(content, at, head, most - total)
            total += size
        else:
            raise ValueError("it is no zstd data, or cut")
    return total


def _zstd_frame(content: Content, at: int, head: bytes, most: int) -> tuple[int, int]:
    """Return where a frame ends, and what it decodes to at most."""
    flags = head[4]
    is_single, has_checksum = flags >> 5 & 1, flags >> 2 & 1
    width = (is_single, 2, 4, 8)[flags >> 6]
    place = 5 + (not is_single) + (0, 1, 2, 4)[flags & 3]
    declared = int.from_bytes(head[place : place + width], "little") + 256 * (width == 2)
    if declared > most:
        return content.size, declared
    at += place + width
    bound = is_last = blocks = 0
    while not is_last:
        block = int.from_bytes(content.read(at, 3), "little")
        if at + 3 > content.size:
            raise ValueError("it is cut in a zstd frame")
        is_last, kind, length = block & 1, block >> 1 & 3, block >> 3
        bound += length if kind <= _ZSTD_RLE else _ZSTD_BLOCK
        blocks += 1
        at += 3 + (1 if kind == _ZSTD_RLE else length)
        if blocks > _MOST_FRAMES + (most >> 10):
            raise ValueError("it has more blocks than its size needs")
    # zstd itself refuses a frame that is not of its declared size; a last block is seldom full
    size = declared if width else max(0, bound - _ZSTD_BLOCK)
    return at + 4 * has_checksum, size


def _of_lz4(content: Content, most: int) -> int:
    return int.from_bytes(content.read(0, 4), "little")


def _of_gzip(content: Content, most: int) -> int:
    if content.size * _MOST_OF_GZIP <= most:
        return content.size * _MOST_OF_GZIP
    return _counted(lambda: zlib.decompressobj(47), content, most)


def _of_bz2(content: Content, most: int) -> int:
    return _counted(bz2.BZ2Decompressor, content, most)


def _of_lzma(content: Content, most: int) -> int:
    return _counted(lambda: lzma.LZMADecompressor(memlimit=1 << 28), content, most)


def _counted(make: Callable[[], Any], content: Content, most: int) -> int:
    """Decode a piece at a time, and forget it; members may follow each other."""
    total, at, decoder = 0, 0, make()
    rest = b""
    while at < content.size or rest:
        given = rest or content.read(at, _PIECE)
        at += 0 if rest else len(given)
        if not given:
            break
        try:
            out = decoder.decompress(given, _PIECE)
            total += len(out)
            while out and not decoder.eof and total <= most:
                waiting = getattr(decoder, "unconsumed_tail", b"")
                out = decoder.decompress(waiting, _PIECE)
                total += len(out)
        except _FAILURES as error:
            raise ValueError(f"it cannot be decompressed: {error}") from error
        if total > most:
            raise ValueError(f"it would decode to more than {most:,} bytes")
        rest = decoder.unused_data if decoder.eof else b""
        if decoder.eof:
            decoder = make()
    return total


_SIZES: Mapping[str, Callable[[Content, int], int]] = {
    "blosc": _of_blosc,
    "zstd": _of_zstd,
    "lz4": _of_lz4,
    "gzip": _of_gzip,
    "zlib": _of_gzip,
    "bz2": _of_bz2,
    "lzma": _of_lzma,
}

COMPRESSIONS = frozenset(_SIZES)
"""What can be told of."""
