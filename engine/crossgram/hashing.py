"""64-bit hashes of texts, thousands at a time, the same on every machine."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["stored_text_hashes", "text_hashes"]

_AT_A_TIME = 4096
_WORD = 8
_SIZE = struct.Struct("<I")
_LONG = 1024
_SHORT_RUN, _STRETCH = 8, 256
_KEY = 0x0706050403020100, 0x0F0E0D0C0B0A0908
_STATE = 0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573
_KEPT_BITS = np.array([(1 << 8 * kept) - 1 for kept in range(_WORD)], np.uint64)


def text_hashes(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the hash of each value's text, in UTF-8.

    SipHash-2-4 with the key of its test vectors: Aumasson and Bernstein, "SipHash: a fast
    short-input PRF" (INDOCRYPT 2012). With a key that is known it tells texts apart, and hides
    none that can be guessed. Of more than 1,024 bytes, BLAKE2b, which is fast where they are long.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Texts or integers; 7 has the hash of "7".

    Returns
    -------
    ndarray, shape (n,), uint64

    Examples
    --------
    >>> [f"{own:016x}" for own in text_hashes(np.array(["", "7"])).tolist()]
    ['726fdb47dd0e0e31', '18733d77b7f7e614']
    """
    hashes = np.empty(len(values), np.uint64)
    for start in range(0, len(values), _AT_A_TIME):
        texts = [str(own).encode() for own in values[start : start + _AT_A_TIME].tolist()]
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        starts = np.cumsum(sizes) - sizes
        hashes[start : start + len(texts)] = _hashes(_padded(texts), starts, sizes)
    return hashes


def stored_text_hashes(stored: NDArray[np.uint8], count: int) -> NDArray[np.uint64]:
    """Return what `text_hashes` gives for texts that are stored one after another.

    Parameters
    ----------
    stored : ndarray of uint8
        Their number, then of each its size and its bytes, as the codec vlen-utf8 has them; numbers
        are little-endian, of four bytes.
    count : int
        Of the texts.

    Returns
    -------
    ndarray, shape (count,), uint64

    Raises
    ------
    ValueError
        If a text lies beyond the end.
    """
    starts, sizes = _places(stored, count)
    padded = _padded([stored.data])
    parts = [slice(k, k + _AT_A_TIME) for k in range(0, count, _AT_A_TIME)]
    found = [_hashes(padded, starts[part], sizes[part]) for part in parts]
    return np.concatenate([np.empty(0, np.uint64), *found])


def _places(stored: NDArray[np.uint8], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each text begins, and its size."""
    starts, sizes = np.empty(count, np.int64), np.empty(count, np.int64)
    place, done, end = _SIZE.size, 0, len(stored)
    while done < count:
        # of one size, as most numbered names are, all are found at once
        size, most = _size_at(stored, place), min(count - done, _AT_A_TIME)
        step = _SIZE.size + size
        heads = np.ndarray(min(most, (end - place) // step), "<u4", stored.data, place, (step,))
        differs = np.flatnonzero(heads != size)
        run = int(differs[0]) if len(differs) else len(heads)
        starts[done : done + run] = place + _SIZE.size + step * np.arange(run)
        sizes[done : done + run] = size
        place, done = place + run * step, done + run
        if run < _SHORT_RUN:
            for own in range(done, min(done + _STRETCH, count)):
                size = _size_at(stored, place)
                starts[own], sizes[own] = place + _SIZE.size, size
                place, done = place + _SIZE.size + size, own + 1
    return starts, sizes


def _size_at(stored: NDArray[np.uint8], place: int) -> int:
    """Return the size of the text that begins with it, refused if it is not all there."""
    end = place + _SIZE.size
    size = int(_SIZE.unpack_from(stored.data, place)[0]) if end <= len(stored) else 0
    if end + size > len(stored):
        raise ValueError(f"a text lies beyond the end, of {len(stored):,} bytes")
    return size


def _padded(parts: Sequence[bytes | memoryview]) -> bytes:
    """Return texts with so much behind them that a word can begin at every byte."""
    return b"".join([*parts, bytes(_WORD)])


def _hashes(
    padded: bytes, starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return the hashes of texts by where they lie."""
    hashes = np.empty(len(starts), np.uint64)
    for k in np.flatnonzero(sizes > _LONG).tolist():
        text = padded[starts[k] : starts[k] + sizes[k]]
        hashes[k] = int.from_bytes(blake2b(text, digest_size=_WORD).digest(), "little")
    words = np.ndarray(len(padded) - _WORD + 1, "<u8", padded, 0, (1,))
    counts = np.where(sizes > _LONG, -1, sizes // _WORD)
    for count in np.unique(counts[counts >= 0]).tolist():
        which = np.flatnonzero(counts == count)
        first, size = starts[which], sizes[which]
        last = words[first + _WORD * count] & _KEPT_BITS[size % _WORD]
        last |= (size.astype(np.uint64) & np.uint64(0xFF)) << np.uint64(56)
        whole = (words[first + _WORD * k] for k in range(count))
        hashes[which] = _siphash(itertools.chain(whole, [last]), len(which))
    return hashes


def _siphash(words: Iterable[NDArray[np.uint64]], count: int) -> NDArray[np.uint64]:
    v = [np.full(count, own ^ _KEY[k % 2], np.uint64) for k, own in enumerate(_STATE)]
    scratch = np.empty(count, np.uint64)
    for word in words:
        v[3] ^= word
        _rounds(v, 2, scratch)
        v[0] ^= word
    v[2] ^= np.uint64(0xFF)
    _rounds(v, 4, scratch)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _rounds(v: list[NDArray[np.uint64]], count: int, scratch: NDArray[np.uint64]) -> None:
    """Mix the state in place, as often as said."""
    for _ in range(count):
        _add_rotate_xor(v[0], v[1], 13, scratch)
        _rotate(v[0], 32, scratch)
        _add_rotate_xor(v[2], v[3], 16, scratch)
        _add_rotate_xor(v[0], v[3], 21, scratch)
        _add_rotate_xor(v[2], v[1], 17, scratch)
        _rotate(v[2], 32, scratch)


def _add_rotate_xor(
    a: NDArray[np.uint64], b: NDArray[np.uint64], bits: int, scratch: NDArray[np.uint64]
) -> None:
    a += b
    _rotate(b, bits, scratch)
    b ^= a


def _rotate(a: NDArray[np.uint64], bits: int, scratch: NDArray[np.uint64]) -> None:
    np.right_shift(a, np.uint64(64 - bits), out=scratch)
    np.left_shift(a, np.uint64(bits), out=a)
    a |= scratch
