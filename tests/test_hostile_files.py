"""Files of strangers are read or refused: nothing they say is believed before it is seen."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from google_crc32c import value as checksum
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import crossgram as cg
from crossgram.decoded_sizes import COMPRESSIONS, check_decoded_size
from crossgram.documents import parsed
from crossgram.errors import CorruptDataError, InputError
from crossgram.extraction.partial import _recorded
from crossgram.inspection import describe, validate
from crossgram.resources import PeakMemory
from crossgram.source import open_source, read_npy, read_npy_header
from crossgram.store import EmbeddingStore
from crossgram.stored_chunks import Held

ROWS, DIM, CHUNK = 60, 4, 16
MANY = 10**9
BOMB = 1 << 28
"""Bytes that a bomb would decode to."""

SMALL = 48 << 20
"""By which memory may grow where one is refused."""


def rows() -> Any:
    return np.random.default_rng(0).normal(size=(ROWS, DIM)).astype("float32")


def write(path: Path, **layout: Any) -> Path:
    with EmbeddingStore.create(path, DIM, chunk_rows=CHUNK, **layout) as writer:
        writer.append(rows(), ids=[f"i{row}" for row in range(ROWS)], labels=np.arange(ROWS))
    return path


def edit(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def held(content: bytes) -> Held:
    return Held(memoryview(content))


def compressed(kind: str, content: bytes) -> bytes:
    encoders: dict[str, Callable[[bytes], Any]] = {
        "blosc": numcodecs.Blosc("lz4").encode,
        "zstd": numcodecs.Zstd(1).encode,
        "lz4": numcodecs.LZ4().encode,
        "gzip": gzip.compress,
        "zlib": zlib.compress,
        "bz2": bz2.compress,
        "lzma": lzma.compress,
    }
    return bytes(encoders[kind](content))


class TestDecodedSizes:
    """What compressed data would take is known before it is taken."""

    @pytest.mark.parametrize("kind", sorted(COMPRESSIONS))
    @given(content=st.binary(min_size=1, max_size=3000), times=st.sampled_from([1, 50, 400]))
    def test_are_told(self, kind: str, content: bytes, times: int) -> None:
        data = content * times
        stored = held(compressed(kind, data))
        check_decoded_size(kind, stored, len(data))
        with pytest.raises(ValueError, match="would decode to"):
            check_decoded_size(kind, stored, len(data) - 1)

    @pytest.mark.parametrize("kind", ["zstd", "gzip", "bz2", "lzma"])
    def test_of_several_members_count_together(self, kind: str) -> None:
        stored = held(compressed(kind, bytes(10**6)) * 3)
        check_decoded_size(kind, stored, 3 * 10**6)
        with pytest.raises(ValueError, match="would decode to"):
            check_decoded_size(kind, stored, 2 * 10**6)

    @pytest.mark.parametrize("kind", sorted(COMPRESSIONS))
    @given(content=st.binary(max_size=200))
    def test_of_anything_are_told_or_refused(self, kind: str, content: bytes) -> None:
        for data in (content, compressed(kind, bytes(3000))[:20] + content):
            with suppress(ValueError):
                check_decoded_size(kind, held(data), 1000)

    def test_of_zstd_without_a_size_are_bounded_by_its_blocks(self) -> None:
        # magic; no size in the head, a window; one block of 2^21 - 1 times the same byte
        head = bytes.fromhex("28b52ffd0070")
        blocks = (((1 << 21) - 1) << 3 | 1 << 1).to_bytes(3, "little") + b"x"
        last = (1 << 3 | 1).to_bytes(3, "little") + b"y"
        with pytest.raises(ValueError, match="would decode to"):
            check_decoded_size("zstd", held(head + blocks * 9 + last), 10 << 20)
        check_decoded_size("zstd", held(head + blocks * 4 + last), 10 << 20)

    def test_need_no_endless_walk(self) -> None:
        head = bytes.fromhex("28b52ffd0070")
        with pytest.raises(ValueError, match="more blocks than its size needs"):
            check_decoded_size("zstd", held(head + bytes(3) * 5000), 1000)
        with pytest.raises(ValueError, match="frames"):
            check_decoded_size("zstd", held(bytes.fromhex("502a4d1800000000") * 5000), 1000)


def put(file: Path, content: bytes) -> None:
    file.write_bytes(content + struct.pack("<I", checksum(content)))


class TestBombs:
    """A small chunk that would take much memory is refused before it does."""

    @pytest.mark.parametrize("count", [1 << 28, 17, 0])
    def test_of_texts_that_are_not_there(self, tmp_path: Path, count: int) -> None:
        path = write(tmp_path / "a.zarr")
        part = path / "ids" / "c" / "0"
        texts = numcodecs.Zstd(1).decode(part.read_bytes()[:-4])
        put(part, compressed("zstd", struct.pack("<I", count) + texts[4:]))
        memory = PeakMemory()
        with pytest.raises(CorruptDataError, match=f"declares {count} texts, expected 4,096"):
            EmbeddingStore.open(path).ids.read(0, ROWS)
        assert memory.bytes() < SMALL

    def test_of_texts_in_version_2(self, tmp_path: Path) -> None:
        path = tmp_path / "a.zarr"
        group = zarr.create_group(path, zarr_format=2)
        for name, values in (("embeddings", rows()), ("ids", np.array(["x"] * ROWS, object))):
            kind = str if name == "ids" else values.dtype
            layout = {"chunks": values.shape, "compressors": numcodecs.Zstd(1)}
            array = group.create_array(name, shape=values.shape, dtype=kind, **layout)
            array[:] = values
        group.attrs["crossgram"] = {"format": 1}
        assert EmbeddingStore.open(path).ids.read(0, 2).tolist() == ["x", "x"]
        part = path / "ids" / "0"
        texts = numcodecs.Zstd(1).decode(part.read_bytes())
        part.write_bytes(compressed("zstd", struct.pack("<I", 1 << 28) + texts[4:]))
        with pytest.raises(CorruptDataError, match=r"declares 268435456 texts, expected 60"):
            EmbeddingStore.open(path).ids.read(0, 2)

    @pytest.mark.parametrize("part", ["embeddings/c/0/0", "ids/c/0"])
    @pytest.mark.parametrize("codec", ["lz4", "zstd"])
    def test_are_not_decoded(self, tmp_path: Path, codec: str, part: str) -> None:
        path = write(tmp_path / "a.zarr", codec=codec)
        kind = "zstd" if codec == "zstd" or part.startswith("ids") else "blosc"
        put(path / part, compressed(kind, bytes(BOMB)))
        store = EmbeddingStore.open(path)
        memory = PeakMemory()
        with pytest.raises(CorruptDataError, match="would decode to"):
            if part.startswith("ids"):
                assert store.ids is not None
                store.ids.read(3, 9)
            else:
                store.read(3, np.empty((9, DIM), "float32"))
        assert memory.bytes() < SMALL

    def test_are_not_decoded_inside_a_shard_or_elsewhere(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.zarr", codec="zstd", shard_rows=2 * CHUNK)
        bomb = compressed("zstd", bytes(BOMB))
        bomb += struct.pack("<I", checksum(bomb))
        index = struct.pack("<QQQQ", 0, len(bomb), 0, len(bomb))
        put(path / "embeddings/c/0/0", bomb + index)
        shard = path / "embeddings/c/0/0"
        shard.write_bytes(bomb + index + struct.pack("<I", checksum(index)))
        stored = {
            str(file.relative_to(path)): zarr.core.buffer.cpu.Buffer.from_bytes(file.read_bytes())
            for file in path.rglob("*")
            if file.is_file()
        }
        elsewhere = zarr.open_group(zarr.storage.MemoryStore(stored), mode="r")["embeddings"]
        for given_ in (path, elsewhere):
            for count in (9, 2 * CHUNK):
                out = np.empty((count, DIM), "float32")
                memory = PeakMemory()
                with pytest.raises(CorruptDataError, match="c/0/0"):
                    open_source(given_).read(0, out)
                assert memory.bytes() < SMALL

    def test_are_not_taken_for_the_index_of_a_shard(self, tmp_path: Path) -> None:
        codec = zarr.codecs.ShardingCodec(chunk_shape=(CHUNK, DIM), index_location="start")
        array = zarr.create_array(
            tmp_path / "x",
            data=rows(),
            chunks=(2 * CHUNK, DIM),
            serializer=codec,
            compressors=None,
        )
        out = np.empty((ROWS, DIM), "float32")
        for start, stop in ((0, ROWS), (3, 9)):
            open_source(array).read(start, out[start:stop])
            np.testing.assert_array_equal(out[start:stop], rows()[start:stop])
        shard = tmp_path / "x/c/0/0"
        index = struct.pack("<QQQQ", 0, 36, 0, 36)
        shard.write_bytes(index + struct.pack("<I", checksum(index)) + bytes(512))
        there = zarr.storage.ObjectStore(obstore.store.LocalStore(tmp_path / "x"), read_only=True)
        for given_ in (tmp_path / "x", zarr.open_array(there, mode="r")):
            for count in (3, 2 * CHUNK):
                with pytest.raises(CorruptDataError, match="lies in its index"):
                    open_source(given_).read(0, np.empty((count, DIM), "float32"))

    def test_of_gzip_in_old_arrays_are_not_decoded(self, tmp_path: Path) -> None:
        array = zarr.create_array(
            tmp_path / "x",
            shape=(ROWS, DIM),
            chunks=(CHUNK, DIM),
            dtype="f4",
            zarr_format=2,
            compressors=numcodecs.GZip(1),
        )
        array[:] = rows()
        (tmp_path / "x" / "0.0").write_bytes(gzip.compress(bytes(BOMB), 1))
        memory = PeakMemory()
        with pytest.raises(CorruptDataError, match="would decode to"):
            open_source(tmp_path / "x").read(0, np.empty((CHUNK, DIM), "float32"))
        assert memory.bytes() < SMALL

    def test_by_their_length_alone_are_not_read(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.zarr", codec="none")
        with (path / "embeddings/c/0/0").open("ab") as file:
            file.truncate(1 << 33)
        with pytest.raises(CorruptDataError, match="has 8,589,934,592 bytes"):
            EmbeddingStore.open(path).read(0, np.empty((CHUNK, DIM), "float32"))


def lists(widths: list[int]) -> pa.Array:
    return pa.ListArray.from_arrays(np.cumsum([0, *widths]), np.zeros(sum(widths), "f4"))


SHORT = [f"{row:04d}" for row in range(1000)]
FEW = lists([4] * 4000)
PARQUET_BOMBS: dict[str, tuple[str, Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "zeros": (
        "bytes of vector.list.element would decode to 67,108,864",
        lambda: {"vector": lists([1024] * (1 << 14))},
        {"use_dictionary": False},
    ),
    "equal numbers": (
        "bytes of vector.list.element would decode to 67,108,864",
        lambda: {"vector": lists([1024] * (1 << 14))},
        {},
    ),
    "uneven rows": (
        "bytes of vector.list.element would decode to 67,125,248",
        lambda: {"vector": lists([1 << 16] * 256 + [1] * 4096)},
        {},
    ),
    "a wide row": ("16,777,216 values in 1 rows", lambda: {"vector": lists([1 << 24])}, {}),
    "long texts": (
        "rows 0 to 3999 of the column 'key' have 196,612,000 bytes of text",
        lambda: {"vector": FEW, "key": SHORT + ["x" * (1 << 16)] * 3000},
        {"dictionary_pagesize_limit": 1 << 20},
    ),
    "texts that are one text": (
        "a page of key has 65,540 bytes in 1 values",
        lambda: {"vector": FEW, "key": ["x" * (1 << 16)] * 4000},
        {},
    ),
    "texts that begin alike": (
        "key is stored as DELTA_BYTE_ARRAY",
        lambda: {"vector": FEW, "key": ["x" * (1 << 14) + text for text in SHORT * 4]},
        {"use_dictionary": False, "column_encoding": {"key": "DELTA_BYTE_ARRAY"}},
    ),
}
"""What is said of each, its columns, and how they are written."""


def varint(number: int) -> bytes:
    """Return a number as Thrift's compact protocol has it."""
    rest = number << 1 if number >= 0 else (-number << 1) - 1
    groups = []
    while True:
        groups.append(rest & 127)
        rest >>= 7
        if not rest:
            return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


class TestParquet:
    """What of a damaged file would end the process, or be read from beside memory, is refused."""

    @staticmethod
    def damaged(path: Path, old: str, new: str) -> Path:
        keys = pa.array(["a", "b", "c"] * 2)
        vectors = pa.array([[1.0, 2.0]] * 6, pa.list_(pa.float32()))
        table = pa.table({"vector": vectors, "key": keys})
        pq.write_table(table, path, use_dictionary=["key"], compression="none")
        content = path.read_bytes()
        assert content.count(bytes.fromhex(old)) == 1
        path.write_bytes(content.replace(bytes.fromhex(old), bytes.fromhex(new)))
        return path

    def test_statistics_that_contradict_the_schema(self, tmp_path: Path) -> None:
        # the histograms of two levels of repetition and four of definition, exchanged
        path = self.damaged(tmp_path / "x.parquet", "29260c0c194600000018", "29460c0c000019260018")
        with pytest.raises(CorruptDataError, match=r"x\.parquet: cannot be read"):
            cg.ingest(path, tmp_path / "out.zarr")

    @pytest.mark.parametrize("column", ["ids", "labels"])
    def test_entries_that_a_dictionary_does_not_have(self, tmp_path: Path, column: str) -> None:
        # six numbers of two bits: 0, 1, 2, 0, 1, 2, and all of them 3
        path = self.damaged(tmp_path / "x.parquet", "02032409", "0203ffff")
        columns: dict[str, Any] = {column: "key"}
        with pytest.raises(CorruptDataError, match="a dictionary that does not have them"):
            cg.ingest(path, tmp_path / "out.zarr", **columns)


class TestParquetBombs:
    """Pages say what they decode to, and what they say is held against them."""

    @pytest.mark.parametrize("name", sorted(PARQUET_BOMBS))
    def test_are_not_decoded(self, tmp_path: Path, name: str) -> None:
        message, columns, layout = PARQUET_BOMBS[name]
        path = tmp_path / "x.parquet"
        table = pa.table(columns())
        pq.write_table(table, path, compression="zstd", row_group_size=1 << 26, **layout)
        ids = "key" if "key" in table.column_names else None
        del table
        pa.default_memory_pool().release_unused()
        assert path.stat().st_size < 1 << 18
        memory = PeakMemory()
        with pytest.raises(InputError, match=message):
            cg.ingest(path, tmp_path / "out.zarr", ids=ids)
        assert memory.bytes() < SMALL
        assert not (tmp_path / "out.zarr").exists()

    @pytest.mark.parametrize(
        ("place", "new", "message"),
        [
            # type, decoded bytes, stored bytes, each as a number of Thrift behind its kind, 0x15
            (1, 1 << 30, "a page would decode to 1,073,741,824 bytes"),
            (2, 1 << 20, "its pages hold more than it declares"),
            (2, -1, "the head of a page is damaged"),
            (2, 1 << 40, "the head of a page is damaged"),
            # the values of the page, in a struct of its own
            (3, 1 << 20, "its pages hold more than it declares"),
        ],
    )
    def test_of_pages_that_lie_are_not_decoded(
        self, tmp_path: Path, place: int, new: int, message: str
    ) -> None:
        path = tmp_path / "x.parquet"
        layout: dict[str, Any] = {"use_dictionary": False, "write_page_checksum": False}
        pq.write_table(pa.table({"vector": FEW}), path, compression="zstd", **layout)
        content = path.read_bytes()
        at = pq.read_metadata(path).row_group(0).column(0).data_page_offset
        numbers = [at + 1]
        while len(numbers) < 4:
            end = numbers[-1]
            while content[end] & 128:
                end += 1
            numbers.append(content.index(b"\x15", end + 1) + 1)
        start = end = numbers[place]
        while content[end] & 128:
            end += 1
        path.write_bytes(content[:start] + varint(new) + content[end + 1 :])
        memory = PeakMemory()
        with pytest.raises(CorruptDataError, match=message):
            cg.ingest(path, tmp_path / "out.zarr")
        assert memory.bytes() < SMALL

    @pytest.mark.parametrize(
        "field",
        [
            # decoded bytes once more, of 64 bits, which Thrift skips; by a number of 17 bits
            bytes([0x06, *varint(2), *varint(9)]),
            bytes([0x05, *varint((1 << 16) + 2), *varint(9)]),
        ],
    )
    def test_of_heads_that_say_two_things_are_not_decoded(
        self, tmp_path: Path, field: bytes
    ) -> None:
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"vector": FEW}), path, use_dictionary=False)
        content = path.read_bytes()
        at = pq.read_metadata(path).row_group(0).column(0).data_page_offset
        # behind type and decoded bytes; the next field then says its number
        end = content.index(b"\x15", at + 3)
        path.write_bytes(content[:end] + field + bytes([0x05, *varint(3)]) + content[end + 1 :])
        with pytest.raises(CorruptDataError, match="the head of a page is damaged"):
            cg.ingest(path, tmp_path / "out.zarr")

    def test_leave_what_is_no_bomb(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        vectors = pa.FixedSizeListArray.from_arrays(np.repeat(rows()[0], 1 << 20), DIM << 10)
        key = ["y" * 4000 + str(row) for row in range(len(vectors))]
        label = [7] * len(vectors)
        columns = {"vector": vectors, "key": key, "label": label}
        for layout in ({}, {"use_dictionary": False}, {"data_page_version": "2.0"}):
            pq.write_table(pa.table(columns), path, compression="zstd", **layout)
            store = cg.ingest(path, tmp_path / "s.zarr", ids="key", labels="label", overwrite=True)
            assert store.ids is not None
            assert list(store.ids.read(0, len(key))) == key
            np.testing.assert_array_equal(store.embeddings[:], np.stack(vectors.to_numpy(False)))


class TestDeclaredShapes:
    """What is declared only is not believed."""

    @pytest.mark.parametrize("count", [MANY, 10**15])
    def test_of_stores(self, tmp_path: Path, count: int) -> None:
        path = write(tmp_path / "a.zarr")
        for name in ("embeddings", "ids", "labels"):
            edit(
                path / name / "zarr.json",
                lambda facts: facts["shape"].__setitem__(0, count),
            )
        memory = PeakMemory()
        for use in (open_source, validate, describe, _fitted):
            with pytest.raises(CorruptDataError, match="missing|declares the shape"):
                use(path)
        check = cg.check_store(path)
        assert not check.is_sound
        assert memory.bytes() < SMALL

    @pytest.mark.parametrize(
        "changes",
        [
            {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1 << 30, DIM]}}},
            {"shape": [ROWS, 1 << 39]},
        ],
    )
    def test_of_chunks_and_columns(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        path = write(tmp_path / "a.zarr")
        edit(path / "embeddings" / "zarr.json", lambda facts: facts.update(changes))
        with pytest.raises(InputError):
            open_source(path)
        validate_refused(path)

    def test_of_shards_of_very_many_chunks(self, tmp_path: Path) -> None:
        zarr.create_array(
            tmp_path / "x", shape=(1 << 22, 1), chunks=(1, 1), shards=(1 << 21, 1), dtype="f4"
        )
        with pytest.raises(InputError, match="declares shards of 2,097,152 chunks"):
            open_source(tmp_path / "x")

    def test_of_npy_files(self, tmp_path: Path) -> None:
        path = tmp_path / "w.npy"
        np.save(path, np.ones(ROWS))
        content = path.read_bytes()
        path.write_bytes(content.replace(b"(60,)", f"({10**16},)".encode()))
        with pytest.raises(CorruptDataError, match="truncated"):
            cg.accumulate([rows(), rows()], weights=path)
        path.write_bytes(content.replace(b"(60,)", b"(-4,)"))
        with pytest.raises(CorruptDataError, match="declares the shape"):
            read_npy_header(path)
        np.save(path, np.array(["a"]))
        with pytest.raises(InputError, match="expected numbers"):
            read_npy(path)

    def test_of_hdf5_files(self, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        (tmp_path / "secret").write_bytes(bytes(ROWS * DIM * 4))
        cases: dict[str, dict[str, Any]] = {
            "declares .* not in the file": {"shape": (MANY, DIM), "chunks": (CHUNK, DIM)},
            "lie in other files": {
                "shape": (ROWS, DIM),
                "external": [(str(tmp_path / "secret"), 0, ROWS * DIM * 4)],
            },
        }
        for message, options in cases.items():
            with h5py.File(path, "w") as file:
                file.create_dataset("embeddings", dtype="f4", **options)
            with pytest.raises(InputError, match=message):
                cg.ingest(path, tmp_path / "out.zarr")

    def test_of_texts_in_hdf5_files(self, tmp_path: Path) -> None:
        path, at = hdf5_of_texts(tmp_path / "a.h5")
        content = bytearray(path.read_bytes())
        struct.pack_into("<I", content, at, 1 << 30)
        path.write_bytes(content)
        message, memory = ingested_elsewhere(path)
        assert message.startswith(f"CorruptDataError {path}/ids: cannot be read (")
        assert memory < HDF5_MEMORY

    def test_of_a_list_by_its_first_line(self, tmp_path: Path) -> None:
        from crossgram.evaluation.templates import _pair_lines

        (tmp_path / "p.txt").write_text("\n" + "1 " * 2000 + "\n" + "1 2 1\n")
        with pytest.raises(InputError, match="begins with '1 1"):
            _pair_lines(tmp_path / "p.txt")


class TestHdf5:
    """libhdf5 may do what it likes: it does it elsewhere."""

    def test_in_which_libhdf5_goes_in_circles_is_refused(self, tmp_path: Path) -> None:
        path, _ = hdf5_of_texts(tmp_path / "a.h5")
        content = bytearray(path.read_bytes())
        heap = content.index(b"GCOL")
        end = heap + int.from_bytes(content[heap + 8 : heap + 16], "little")
        # an object without a length, after which comes the same one again
        one = content.index(b"i30", heap) + 8
        content[one:end] = bytes(end - one)
        path.write_bytes(content)
        message, _ = ingested_elsewhere(path)
        assert message == (
            f"CorruptDataError {path}/ids: cannot be read (the process that reads it ended: CPU "
            "time limit exceeded); it may be damaged or cut short, copy it again"
        )

    def test_texts_above_the_limit_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file["embeddings"] = rows()
            file["ids"] = ["x" * 4096] * ROWS
            file["labels"] = ["x" * 4097] * ROWS
        store = cg.ingest(path, tmp_path / "out.zarr", ids="ids")
        assert store.ids.read(ROWS - 1, ROWS)[0] == "x" * 4096
        with pytest.raises(CorruptDataError, match="a.h5/labels: .* at most 246,240 are read"):
            cg.ingest(path, tmp_path / "other.zarr", labels="labels")

    def test_of_any_bytes_of_texts_is_refused_by_name(self, tmp_path: Path) -> None:
        path, _ = hdf5_of_texts(tmp_path / "a.h5")
        path.write_bytes(path.read_bytes().replace(b"i7\0", b"i\xff\0"))
        with pytest.raises(CorruptDataError, match=r"a.h5/ids: cannot be read as UTF-8 text"):
            cg.ingest(path, tmp_path / "out.zarr", ids="ids")


HDF5_MEMORY = 400 << 20
"""Of the process that reads: its modules, and 256 MiB."""


def hdf5_of_texts(path: Path) -> tuple[Path, int]:
    """Write embeddings and ids, and tell where in the file the ids are said to be."""
    with h5py.File(path, "w") as file:
        file["embeddings"] = rows()
        file["ids"] = [f"i{row}" for row in range(ROWS)]
        return path, file["ids"].id.get_offset()


def ingested_elsewhere(path: Path) -> tuple[str, int]:
    """Ingest as a script does, and tell how it failed, and the memory of any of its processes."""
    script = (
        "import sys, resource, crossgram as cg\n"
        "from crossgram.resources import PeakMemory\n"
        "own = PeakMemory()\n"
        "try: cg.ingest(sys.argv[1], sys.argv[1] + '.zarr', embeddings='embeddings', ids='ids')\n"
        "except cg.CrossgramError as error: print(type(error).__name__, error)\n"
        "print(max(own.bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(cg.__file__).parents[1])},
        timeout=300,
    )
    assert not done.stderr
    message, memory = done.stdout.splitlines()
    return message, int(memory)


def _fitted(path: Path) -> None:
    cg.fit(path, rows())


def _went_on(folder: Path) -> None:
    cg.accumulate([rows(), rows()], checkpoint=folder)


def validate_refused(path: Path) -> None:
    with pytest.raises(InputError):
        validate(path)


class TestCodecs:
    """Only codecs that make numbers and texts, and whose sizes can be told, are read."""

    @pytest.mark.parametrize(
        ("filters", "kind"),
        [([{"id": name}], "string") for name in ("pickle", "json2", "msgpack2", "vlen-bytes")]
        + [([{"id": "categorize", "labels": ["a"], "dtype": "|O"}], "string")],
    )
    def test_that_make_objects_are_refused(
        self, tmp_path: Path, filters: list[dict[str, Any]], kind: str
    ) -> None:
        group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
        group.create_array("embeddings", data=rows(), chunks=(CHUNK, DIM))
        ids = group.create_array("ids", shape=(ROWS,), dtype=kind, chunks=(ROWS,))
        ids[:] = np.array([f"i{row}" for row in range(ROWS)], np.dtypes.StringDType())
        group.attrs["crossgram"] = {"format": 1}
        EmbeddingStore.open(tmp_path / "a.zarr").validate()
        edit(tmp_path / "a.zarr/ids/.zarray", lambda facts: facts.update(filters=filters))
        with pytest.raises(InputError, match=r"could run code|cannot be read"):
            EmbeddingStore.open(tmp_path / "a.zarr").validate()

    @pytest.mark.parametrize("kind", sorted({"zlib", "gzip", "bz2", "lzma", "lz4", "zstd"}))
    def test_of_old_arrays_are_read(self, tmp_path: Path, kind: str) -> None:
        codec = numcodecs.get_codec({"id": kind})
        array = zarr.create_array(
            tmp_path / "x",
            data=rows(),
            chunks=(CHUNK, DIM),
            zarr_format=2,
            compressors=codec,
            filters=[numcodecs.Delta("<f4")],
        )
        assert array.shape == (ROWS, DIM)
        out = np.empty((ROWS, DIM), "float32")
        open_source(tmp_path / "x").read(0, out)
        np.testing.assert_allclose(out, rows(), atol=1e-5)

    def test_one_after_the_other_are_refused(self, tmp_path: Path) -> None:
        layout = [zarr.codecs.GzipCodec(), zarr.codecs.ZstdCodec()]
        zarr.create_array(tmp_path / "x", data=rows(), compressors=layout)
        with pytest.raises(InputError, match="zstd after gzip"):
            open_source(tmp_path / "x")


class TestPaths:
    """Nothing in a store leads out of it."""

    @pytest.mark.parametrize(
        "part", ["embeddings/c/0/0", "embeddings/c/0", "embeddings", "ids/zarr.json", "zarr.json"]
    )
    def test_links_are_refused(self, tmp_path: Path, part: str) -> None:
        path = write(tmp_path / "a.zarr")
        (path / part).rename(tmp_path / "elsewhere")
        (path / part).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(CorruptDataError, match="is a link, or lies behind one"):
            EmbeddingStore.open(path).validate()
        check = cg.check_store(path)
        assert not check.is_sound

    def test_a_store_may_be_behind_a_link_as_a_whole(self, tmp_path: Path) -> None:
        write(tmp_path / "a.zarr")
        (tmp_path / "b.zarr").symlink_to(tmp_path / "a.zarr")
        validate(tmp_path / "b.zarr")

    def test_what_a_group_says_of_its_arrays_is_not_followed(self, tmp_path: Path) -> None:
        secret = write(tmp_path / "secret.zarr")
        group = zarr.create_group(tmp_path / "a.zarr")
        group.create_array("embeddings", data=rows())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(tmp_path / "a.zarr")
        described = json.loads((secret / "embeddings/zarr.json").read_text())

        def point(facts: Any) -> None:
            members = facts["consolidated_metadata"]["metadata"]
            members["../secret.zarr/embeddings"] = described

        edit(tmp_path / "a.zarr/zarr.json", point)
        store = cg.ingest(tmp_path / "a.zarr", tmp_path / "out.zarr")
        np.testing.assert_array_equal(store.embeddings[:], rows())

    def test_pipes_and_folders_are_no_chunks(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.zarr")
        (path / "embeddings/c/0/0").unlink()
        os.mkfifo(path / "embeddings/c/0/0")
        with pytest.raises(CorruptDataError, match="c/0/0 .* is missing"):
            EmbeddingStore.open(path).read(0, np.empty((3, DIM), "float32"))


class TestDocuments:
    """JSON is bounded, and says one thing."""

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ('{"a": 1, "b": {"c": 2, "c": 2}}', "holds 'c' twice"),
            ("[" * 80 + "]" * 80, "nested deeper than 64"),
            ("[" * 100_000, "nested deeper than 64"),
            ('{"a":' * 100_000, "nested deeper than 64"),
            ("[NaN]", "holds NaN"),
            ("[-Infinity]", "holds -Infinity"),
            ("[1e999]", "too large"),
            ("[" + "1" * 5000 + "]", "limit"),
            ("{", "Expecting"),
            (b"\xff", "decode"),
            ("[" + "[]," * (1 << 21) + "[]]", "holds more than 2,097,152 values"),
        ],
    )
    def test_of_strangers_are_refused(self, text: str | bytes, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            parsed(text)

    def test_are_of_bounded_length(self) -> None:
        with pytest.raises(ValueError, match="longer than 10 bytes"):
            parsed("[1, 2, 3, 4]", 10)
        assert parsed('{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}

    @pytest.mark.parametrize(
        "facts", ["[" * 5000, '{"kind": "map", "kind": "moments"}', '{"kind": NaN}']
    )
    def test_in_tensor_files_are_refused(self, tmp_path: Path, facts: str) -> None:
        path = tmp_path / "m.safetensors"
        save_file({"weight": rows()}, path, metadata={"crossgram": facts})
        for load in (cg.LinearMap.load, cg.load_moments, cg.ClassifierHead.load, describe):
            with pytest.raises(CorruptDataError, match="its description is not JSON"):
                load(path)

    def test_of_extractions_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text("[" * 5000)
        with pytest.raises(CorruptDataError, match="cannot be read .*--restart"):
            _recorded(tmp_path)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("[" * 100_000, "nested deeper than 64"),
            ('{"rows": ' + "[" * 80 + "]" * 80 + "}", "nested deeper than 64"),
            ('{"rows": 3, "rows": 3}', "holds 'rows' twice"),
            ('{"rows": NaN}', "holds NaN"),
            (None, "longer than"),
        ],
    )
    @pytest.mark.parametrize("kind", ["checkpoint", "atlas"])
    def test_of_folders_are_refused(
        self, tmp_path: Path, kind: str, text: str | None, reason: str
    ) -> None:
        if kind == "atlas":
            path, use = tmp_path / "atlas.json", cg.load_atlas
        else:
            path, use = tmp_path / "pass-0/run.json", _went_on
            path.parent.mkdir()
            (path.parent / "0-0.safetensors").touch()
        path.write_text(text or "")
        if text is None:
            os.truncate(path, 1 << 33)
        memory = PeakMemory()
        with pytest.raises(CorruptDataError, match=f"{path}: is no JSON .*{reason}"):
            use(tmp_path)
        assert memory.bytes() < SMALL

    @pytest.mark.parametrize("text", ["[]", "7", "null", '"rows"'])
    def test_of_a_run_are_objects(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "pass-0").mkdir()
        (tmp_path / "pass-0/0-0.safetensors").touch()
        (tmp_path / "pass-0/run.json").write_text(text)
        with pytest.raises(CorruptDataError, match="run.json: holds .* expected a JSON object"):
            _went_on(tmp_path)

    def test_of_stores_are_of_bounded_length(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.zarr")
        for name in ("ids/zarr.json", "zarr.json"):
            with (path / name).open("ab") as file:
                file.truncate(1 << 25)
            with pytest.raises(CorruptDataError, match="at most 16,777,216 of metadata are read"):
                EmbeddingStore.open(path)

    @pytest.mark.parametrize("columns", [7, None, {"ids": 1}, [["ids"]], "x"])
    def test_of_stores_may_name_anything(self, tmp_path: Path, columns: Any) -> None:
        path = write(tmp_path / "a.zarr")
        edit(
            path / "zarr.json",
            lambda facts: facts["attributes"]["crossgram"].update(columns=columns),
        )
        with pytest.raises(CorruptDataError, match="is missing"):
            EmbeddingStore.open(path)


class TestLists:
    """Names in lists may be anything."""

    def test_names_too_long_for_a_file_are_of_none(self, tmp_path: Path) -> None:
        from crossgram.images.opening import open_collection

        name = "x" * 5000
        (tmp_path / "pairs.txt").write_text(f"1\t1\n{name}\t1\t2\n{name}\t1\tb\t2\n")
        numbers = " ".join("1" * 11)
        (tmp_path / "score.txt").write_text(f"{name[:3000]} {numbers}\n")
        for path, message in (("pairs.txt", "of which 0 images"), ("score.txt", "neither beside")):
            with pytest.raises(InputError, match=message):
                list(open_collection(tmp_path / path).entries())

    def test_numbers_of_any_length_are_none(self, tmp_path: Path) -> None:
        from crossgram.images.pairs import paired_images

        long = "9" * 5000
        for text in (f"{long}\na\t1\t2\n", f"1\na\t{long}\t2\n"):
            (tmp_path / "pairs.txt").write_text(text)
            with pytest.raises(InputError, match="expected"):
                paired_images(tmp_path / "pairs.txt")

    def test_pickles_that_declare_more_behind_their_end_take_no_memory(
        self, tmp_path: Path
    ) -> None:
        from crossgram.images.plain_pickle import plain_pickle

        path = tmp_path / "a.bin"
        path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40))
        memory = PeakMemory()
        with pytest.raises(InputError, match="at byte 2"):
            plain_pickle(path)
        assert memory.bytes() < SMALL

    def test_weights_of_a_network_lie_beside_it(self, tmp_path: Path) -> None:
        from crossgram.networks.onnx import onnx_digest

        (tmp_path / "secret").write_bytes(b"x")
        (tmp_path / "net").mkdir()
        name = b"../secret"
        path = tmp_path / "net" / "a.onnx"
        path.write_bytes(b"\x0a\x08location\x12" + bytes([len(name)]) + name)
        with pytest.raises(InputError, match="lies in another folder"):
            onnx_digest(path)


def test_provenance_of_any_depth_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr")
    text = (path / "zarr.json").read_text().replace('"provenance":', '"x":')
    deep = '"provenance": {"a": ' + "[" * 900 + "]" * 900 + '}, "x":'
    (path / "zarr.json").write_text(text.replace('"x":', deep))
    with pytest.raises(CorruptDataError, match="provenance cannot be read, it is nested deeper"):
        EmbeddingStore.open(path)


@pytest.mark.parametrize(("name", "value"), [("rows", 10**400), ("rows", -1), ("r2", 10**400)])
def test_numbers_of_a_certificate_are_of_their_ranges(
    tmp_path: Path, name: str, value: int
) -> None:
    fitted = cg.fit(rows(), rows())
    assert fitted.certificate is not None
    with pytest.raises(InputError, match=f"{name} is out of range"):
        cg.Certificate.from_dict({**fitted.certificate.to_dict(), name: value})
