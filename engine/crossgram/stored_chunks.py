"""What chunks of a Zarr array must be before they are decoded: whole, and of their declared size.

A decoder takes the memory that the head of a chunk asks for. So every chunk is looked at first:
that it is there, that it would decode to what the array declares, and, of a shard, that the same
is true of every chunk inside. It costs a read of a few bytes.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from crossgram.decoded_sizes import COMPRESSIONS, Content, check_decoded_size, decompressed
from crossgram.errors import InputError

__all__ = [
    "MAX_CHUNK_BYTES",
    "Held",
    "InFile",
    "StoredForm",
    "check_parts_are_own",
    "opened_chunk",
    "stored_form",
]

MAX_CHUNK_BYTES = 1 << 30
"""No chunk or shard may decode to more; checked before memory is taken."""

_MOST_INNER_CHUNKS = 1 << 20
_TEXT_BYTES = 4096
"""What a text may have, on the average of a chunk."""

_HARMLESS = 1 << 20
_FILTER_GROWTH = 8
_ENTRY = 16
_COUNT = struct.Struct("<I")
_MISSING = (1 << 64) - 1

_CHECKSUMS = frozenset({"crc32c"})
_BEFORE = frozenset({"transpose", "bytes", "vlen-utf8"})
_FILTERS = frozenset(
    {"vlen-utf8", "delta", "shuffle", "fixedscaleoffset", "quantize", "bitround", "astype"}
    | {"packbits", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"}
)
"""Of Zarr v2; none of them makes objects, or runs what it finds."""


@dataclass(frozen=True)
class Held:
    """Bytes in memory."""

    data: memoryview

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.data)

    def read(self, offset: int, count: int) -> bytes:
        """Return some of them."""
        return bytes(self.data[offset : offset + count])


@dataclass(frozen=True)
class InFile:
    """Bytes of an open file.

    Attributes
    ----------
    descriptor, size : int
        Of the file.
    """

    descriptor: int
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Return some of them."""
        return os.pread(self.descriptor, count, offset)


@dataclass(frozen=True)
class _Part:
    """Some bytes of others."""

    whole: Content
    start: int
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Return some of them."""
        return self.whole.read(self.start + offset, max(0, min(count, self.size - offset)))


@dataclass(frozen=True)
class _Encoding:
    """How a chunk becomes bytes: at most so many, compressed in one way or not, checksums last.

    A chunk of texts begins with their number, for which a decoder takes memory.
    """

    most: int
    compression: str | None
    checksum_bytes: int
    texts: int | None = None

    def check(self, content: Content) -> None:
        most = self.most
        if content.size > most + most // 8 + _HARMLESS:
            raise ValueError(f"it has {content.size:,} bytes, and would decode to {most:,}")
        inner = _Part(content, 0, max(0, content.size - self.checksum_bytes))
        if self.compression is not None:
            check_decoded_size(self.compression, inner, max(most, _HARMLESS))
        if self.texts is not None:
            stored = inner.read(0, inner.size)
            if self.compression is not None:
                stored = decompressed(self.compression, stored)
            _check_texts(memoryview(stored), self.texts)


def _check_texts(stored: memoryview, count: int) -> None:
    width = _COUNT.size
    if len(stored) < width or (found := _COUNT.unpack_from(stored)[0]) != count:
        said = found if len(stored) >= width else "no number of"
        raise ValueError(f"it declares {said} texts, expected {count:,}")
    if len(stored) < width * (1 + count):
        raise ValueError(f"{len(stored):,} bytes cannot hold {count:,} texts")


@dataclass(frozen=True)
class StoredForm:
    """How the chunks of an array are stored.

    Attributes
    ----------
    encoding : _Encoding
        Of a chunk; with shards, of each of those in it.
    inner : tuple of int, or None
        With shards, the numbers of chunks in one, by dimension.
    index_at_end : bool
        Where a shard says what lies where.
    index_bytes : int
        How long that is.
    """

    encoding: _Encoding
    inner: tuple[int, ...] | None = None
    index_at_end: bool = True
    index_bytes: int = 0

    def check(self, content: Content, within: tuple[int, ...] | None = None) -> None:
        """Refuse a stored chunk that is not what the array declares.

        Parameters
        ----------
        content : Content
            The chunk, or shard.
        within : tuple of int, optional
            How many of the chunks in a shard lie in the array, by dimension; by default all.

        Raises
        ------
        ValueError
            Saying what is wrong with it.
        """
        if self.inner is None:
            self.encoding.check(content)
            return
        most = self.encoding.most * int(np.prod(self.inner, dtype=object))
        if content.size > most + most // 8 + self.index_bytes + _HARMLESS:
            raise ValueError(f"it has {content.size:,} bytes, and would decode to {most:,}")
        start = max(0, content.size - self.index_bytes) if self.index_at_end else 0
        index = self.index(content.read(start, self.index_bytes), within)
        ends = index.astype(object).sum(axis=1) if len(index) else np.empty(0)
        for (offset, size), end in zip(index.tolist(), ends, strict=True):
            if end > content.size:
                raise ValueError("a chunk of the shard lies beyond its end")
            self.encoding.check(_Part(content, offset, size))

    def index(self, content: bytes, within: tuple[int, ...] | None = None) -> NDArray[np.uint64]:
        """Return offset and bytes of the chunks of a shard, refused if any is missing."""
        assert self.inner is not None
        count = int(np.prod(self.inner))
        if len(content) < self.index_bytes:
            raise ValueError("it is cut: a shard is longer than its index")
        entries = np.frombuffer(content, "<u8", 2 * count).reshape(*self.inner, 2)
        if within is not None:
            entries = entries[tuple(slice(own) for own in within)]
        entries = entries.reshape(-1, 2)
        missing = (entries == _MISSING).all(axis=1)
        if missing.any():
            raise ValueError(
                f"{int(missing.sum())} of the {len(entries)} chunks of the shard are missing"
            )
        if not self.index_at_end and (entries[:, 0] < self.index_bytes).any():
            raise ValueError("a chunk of the shard lies in its index")
        return entries


def stored_form(array: zarr.Array[Any], label: str) -> StoredForm:
    """Return how an array is stored.

    Raises
    ------
    InputError
        If a codec is none of those whose sizes can be told before memory is taken, or makes
        objects, which could run code.
    """
    is_text = array.dtype.kind in "OT"
    values = int(np.prod(array.chunks, dtype=object))
    texts = values if is_text else None
    bound = values * (4 + _TEXT_BYTES) + 4 if is_text else values * array.dtype.itemsize
    most = min(bound, MAX_CHUNK_BYTES) + 64
    if array.metadata.zarr_format == 2:
        return _of_v2(array, most, texts, label)
    codecs: list[Any] = [codec.to_dict() for codec in array.metadata.codecs]
    if [codec["name"] for codec in codecs] == ["sharding_indexed"]:
        return _of_shards(array, codecs[0]["configuration"], most, texts, label)
    return StoredForm(_encoding(codecs, most, texts, label))


def _of_v2(array: zarr.Array[Any], most: int, texts: int | None, label: str) -> StoredForm:
    metadata: Any = array.metadata
    filters = [codec.codec_id for codec in metadata.filters or ()]
    compressor = metadata.compressor
    allowed = _FILTERS if texts is None else {"vlen-utf8"}
    strange = next((name for name in filters if name not in allowed), None)
    kind = None if compressor is None else str(compressor.codec_id)
    if strange is not None or kind not in {None, *COMPRESSIONS}:
        raise _unknown(strange or str(kind), label)
    factor = _FILTER_GROWTH if set(filters) - {"vlen-utf8"} else 1
    return StoredForm(_Encoding(min(most * factor, MAX_CHUNK_BYTES + 64), kind, 0, texts))


def _of_shards(
    array: zarr.Array[Any],
    configuration: Mapping[str, Any],
    most: int,
    texts: int | None,
    label: str,
) -> StoredForm:
    assert array.shards is not None
    inner = tuple(shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True))
    count = int(np.prod(inner, dtype=object))
    if count > _MOST_INNER_CHUNKS:
        raise InputError(
            f"{label}: declares shards of {count:,} chunks, at most {_MOST_INNER_CHUNKS:,} are "
            "read; write it again with larger chunks"
        )
    index = [_named(codec) for codec in configuration["index_codecs"]]
    if index[:1] != ["bytes"] or set(index[1:]) - _CHECKSUMS or _is_big_endian(configuration):
        raise _unknown(f"an index of shards by {', '.join(index)}", label)
    return StoredForm(
        _encoding(configuration["codecs"], most, texts, label),
        inner,
        _text_of(configuration.get("index_location", "end")) == "end",
        _ENTRY * count + 4 * (len(index) - 1),
    )


def _is_big_endian(configuration: Mapping[str, Any]) -> bool:
    own = dict(configuration["index_codecs"][0]).get("configuration") or {}
    return _text_of(own.get("endian", "little")) != "little"


def _encoding(codecs: Any, most: int, texts: int | None, label: str) -> _Encoding:
    names = [_named(codec) for codec in codecs]
    after = [name for name in names if name not in _BEFORE]
    kinds = [name for name in after if name not in _CHECKSUMS]
    if len(kinds) > 1 or set(kinds) - COMPRESSIONS:
        raise _unknown(" after ".join(reversed(kinds)), label)
    outer = len(after) - 1 - after.index(kinds[0]) if kinds else len(after)
    return _Encoding(most, kinds[0] if kinds else None, 4 * outer, texts)


def _named(codec: Any) -> str:
    name = codec["name"] if isinstance(codec, Mapping) else codec.to_dict()["name"]
    return str(name).removeprefix("numcodecs.")


def _text_of(value: Any) -> str:
    return str(getattr(value, "value", value))


def _unknown(what: str, label: str) -> InputError:
    return InputError(
        f"{label}: stored with {what}, which is not read from files of others: it could run code, "
        f"or take more memory than is there; write it again with one of "
        f"{', '.join(sorted(COMPRESSIONS))}, or without compression"
    )


@contextmanager
def opened_chunk(path: Path, root: Path) -> Iterator[InFile]:
    """Open a stored chunk.

    Raises
    ------
    FileNotFoundError
        If it is none, or no file.
    ValueError
        If it, or a folder on its way from `root`, is a link.
    """
    check_parts_are_own(path.parent, root)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(path) from error
    except OSError as error:
        if path.is_symlink():
            raise ValueError(_A_LINK) from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        yield InFile(descriptor, status.st_size)
    finally:
        os.close(descriptor)


_A_LINK = "it is a link, or lies behind one, which could lead anywhere; put a copy in its place"


@lru_cache(maxsize=1 << 14)
def check_parts_are_own(path: Path, root: Path) -> None:
    """Refuse a path that leads out of a store by a link inside it.

    Raises
    ------
    ValueError
        If `path`, or a folder between `root` and it, is a link.
    """
    while path != root and path != path.parent:
        if path.is_symlink():
            raise ValueError(_A_LINK)
        path = path.parent
