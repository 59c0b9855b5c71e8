"""Hashes of texts are SipHash-2-4, made of texts in memory and of texts as they are stored."""

from __future__ import annotations

import struct
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from strategies import moderate
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from crossgram import hashing, zarr_io
from crossgram.errors import CorruptDataError
from crossgram.hashing import stored_text_hashes, text_hashes
from crossgram.store import Column
from crossgram.zarr_io import open_node, stored_hashes

MASK = (1 << 64) - 1
TEXT = np.dtypes.StringDType()
NAMES = [f"person {k % 7}/{k * k}" for k in range(100)] + ["", "ü" * 40, "x" * 8, "x" * 15 + "\0"]

texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=40))


def siphash(text: bytes, key: bytes = bytes(range(16))) -> int:
    """SipHash-2-4 as its paper has it, one word after another."""
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D]
    v += [k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotated(a: int, bits: int) -> int:
        return (a << bits | a >> (64 - bits)) & MASK

    def mix() -> None:
        v[0] = (v[0] + v[1]) & MASK
        v[2] = (v[2] + v[3]) & MASK
        v[1], v[3] = rotated(v[1], 13) ^ v[0], rotated(v[3], 16) ^ v[2]
        v[0] = rotated(v[0], 32)
        v[2] = (v[2] + v[1]) & MASK
        v[0] = (v[0] + v[3]) & MASK
        v[1], v[3] = rotated(v[1], 17) ^ v[2], rotated(v[3], 21) ^ v[0]
        v[2] = rotated(v[2], 32)

    whole = len(text) // 8 * 8
    last = text[whole:].ljust(7, b"\0") + bytes([len(text) % 256])
    for word in [*struct.unpack(f"<{whole // 8}Q", text[:whole]), *struct.unpack("<Q", last)]:
        v[3] ^= word
        mix(), mix()
        v[0] ^= word
    v[2] ^= 0xFF
    mix(), mix(), mix(), mix()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def expected_hash(text: str) -> int:
    encoded = text.encode()
    if len(encoded) <= 1024:
        return siphash(encoded)
    return int.from_bytes(blake2b(encoded, digest_size=8).digest(), "little")


def stored(values: list[str]) -> Any:
    encoded = [own.encode() for own in values]
    parts = [struct.pack("<I", len(own)) + own for own in encoded]
    return np.frombuffer(struct.pack("<I", len(values)) + b"".join(parts), np.uint8)


def test_the_reference_is_that_of_the_paper() -> None:
    # appendix A: the key 00 01 ... 0f and the message 00 01 ... 0e
    assert siphash(bytes(range(15))) == 0xA129CA6149BE45E5


@given(texts)
@moderate
def test_each_text_has_the_hash_of_its_bytes(values: list[str]) -> None:
    expected = [siphash(own.encode()) for own in values]
    assert text_hashes(np.array(values, TEXT)).tolist() == expected
    assert stored_text_hashes(stored(values), len(values)).tolist() == expected


def test_of_more_than_are_hashed_at_a_time() -> None:
    count = 2 * hashing._AT_A_TIME + 3
    values = [f"{k:07}" if k % 1000 < 900 else f"{k}" for k in range(count)]
    expected = [siphash(own.encode()) for own in values]
    assert text_hashes(np.array(values, TEXT)).tolist() == expected
    assert stored_text_hashes(stored(values), count).tolist() == expected


def test_of_long_texts() -> None:
    values = ["x" * size for size in (1023, 1024, 1025, 5_000_000, 3)] * 2
    expected = [expected_hash(own) for own in values]
    assert text_hashes(np.array(values, TEXT)).tolist() == expected
    assert stored_text_hashes(stored(values), len(values)).tolist() == expected


def test_numbers_have_the_hash_of_their_text() -> None:
    numbers = np.array([0, 7, -12, 1 << 40])
    assert (text_hashes(numbers) == text_hashes(numbers.astype(TEXT))).all()
    assert len(text_hashes(numbers[:0])) == 0


@pytest.mark.parametrize("cut", range(1, 20))
def test_texts_that_are_cut_are_refused(cut: int) -> None:
    whole = stored(["abc", "de", "fghij"])
    with pytest.raises(ValueError, match="beyond the end"):
        stored_text_hashes(whole[:-cut], 3)


@pytest.mark.parametrize("size", [4, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("row", [0, 5, 99])
def test_a_size_that_leads_beyond_the_end_is_refused(size: int, row: int) -> None:
    whole = stored(["abc"] * 100).copy()
    whole[4 + 7 * row : 8 + 7 * row] = np.frombuffer(struct.pack("<I", size), np.uint8)
    with pytest.raises(ValueError, match="beyond the end"):
        stored_text_hashes(whole, 100)


SIMPLE: dict[str, dict[str, Any]] = {
    "zstd": {"compressors": [ZstdCodec(level=1), Crc32cCodec()]},
    "gzip": {"compressors": [GzipCodec()]},
    "blosc": {"compressors": [BloscCodec(typesize=1), Crc32cCodec()]},
    "plain": {"compressors": None},
}
OTHER: dict[str, dict[str, Any]] = {
    "shards": {"shards": (64,)},
    "version 2": {"zarr_format": 2},
    "numbers": {"dtype": "i4"},
}


def column(path: Path, **options: Any) -> Column:
    values = np.arange(len(NAMES)) if "dtype" in options else np.array(NAMES, TEXT)
    made = zarr.create_array(
        path, **{"shape": values.shape, "dtype": values.dtype, "chunks": (32,)} | options
    )
    made[:] = values
    opened = open_node(path)
    assert isinstance(opened, zarr.Array)
    return Column(opened, "ids")


@pytest.mark.parametrize("kind", [*SIMPLE, *OTHER])
def test_a_column_has_the_hashes_of_what_is_read_of_it(tmp_path: Path, kind: str) -> None:
    own = column(tmp_path / "ids", **(SIMPLE | OTHER)[kind])
    found = stored_hashes(own.array, 0, 3, "ids")
    assert (found is None) == (kind in OTHER)
    for start, stop in [(0, len(NAMES)), (0, 32), (5, 70), (33, 40), (100, 104), (7, 7)]:
        expected = text_hashes(own.read(start, stop)).tolist()
        assert own.hashes(start, stop).tolist() == expected


def test_a_column_in_memory_has_the_same() -> None:
    own = Column(np.array(NAMES, TEXT), "ids")
    assert own.hashes(3, 90).tolist() == [siphash(name.encode()) for name in NAMES[3:90]]


@pytest.mark.parametrize("kind", SIMPLE)
def test_a_damaged_chunk_is_named(tmp_path: Path, kind: str) -> None:
    own = column(tmp_path / "ids", **SIMPLE[kind])
    chunk = tmp_path / "ids" / "c" / "1"
    content = bytearray(chunk.read_bytes())
    chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptDataError, match=r"ids: chunk c/1 \(rows 32 to 63\)"):
        own.hashes(0, 64)
    with pytest.raises(CorruptDataError, match=r"ids: chunk c/1 \(rows 32 to 63\)"):
        own.read(0, 64)
    chunk.unlink()
    with pytest.raises(CorruptDataError, match=r"ids: chunk c/1 \(rows 32 to 63\) is missing"):
        own.hashes(40, 64)
    assert len(own.hashes(0, 32)) == 32


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    own = column(tmp_path / "ids", compressors=[Crc32cCodec()])
    chunk = tmp_path / "ids" / "c" / "0"
    content = bytearray(chunk.read_bytes())
    content[20] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(CorruptDataError, match="checksum"):
        own.hashes(0, 32)


def test_ids_are_hashed_without_a_text_made_of_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = column(tmp_path / "ids", **SIMPLE["zstd"])

    def refused(*_: Any) -> None:
        raise AssertionError("texts were read")

    monkeypatch.setattr(zarr_io, "_decode", refused)
    assert len(own.hashes(0, len(NAMES))) == len(NAMES)
