"""Chunks that are decoded into place are what zarr makes of them, or refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec

from crossgram.errors import CorruptDataError
from crossgram.row_chunks import row_chunks_of
from crossgram.zarr_io import open_node, read_rows, write_rows

ROWS, DIM, CHUNK = 50, 6, 8
LZ4 = BloscCodec(cname="lz4", shuffle="shuffle", typesize=4)
SIMPLE: dict[str, list[Any]] = {
    "lz4": [LZ4, Crc32cCodec()],
    "no checksum": [LZ4],
    "zstd in blosc": [BloscCodec(cname="zstd", shuffle="bitshuffle", typesize=4), Crc32cCodec()],
    "plain": [Crc32cCodec()],
    "bare": [],
}
OTHER: dict[str, dict[str, Any]] = {
    "zstd": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "checksum within": {"compressors": [Crc32cCodec(), LZ4]},
    "big endian": {"compressors": [LZ4], "serializer": BytesCodec(endian="big")},
    "shards": {"compressors": [LZ4], "shards": (2 * CHUNK, DIM)},
    "cut columns": {"compressors": [LZ4], "chunks": (CHUNK, DIM // 2)},
    "version 2": {"zarr_format": 2},
}


class Pristine(NamedTuple):
    """An array, the file of one of its chunks, and what was written there."""

    array: zarr.Array[Any]
    file: Path
    content: bytes


def write(path: Path, values: Any, **options: Any) -> zarr.Array[Any]:
    array = zarr.create_array(
        path,
        **{"shape": values.shape, "dtype": values.dtype, "chunks": (CHUNK, *values.shape[1:])}
        | options,
    )
    array[:] = values
    opened = open_node(path)
    assert isinstance(opened, zarr.Array)
    return opened


def read(array: zarr.Array[Any], start: int = 0, stop: int = ROWS) -> Any:
    out = np.full((stop - start, *array.shape[1:]), 77, array.dtype)
    read_rows(array, start, out, "a.zarr")
    return out


def values(dtype: str = "f4", columns: tuple[int, ...] = (DIM,)) -> Any:
    return (np.random.default_rng(0).normal(size=(ROWS, *columns)) * 100).astype(dtype)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], zarr.Array[Any]]:
    """Write an array for the first example of a test, which the others only read."""

    @cache
    def array(codecs: str, dtype: str) -> zarr.Array[Any]:
        path = tmp_path_factory.mktemp("row-chunks") / "a"
        return write(path, values(dtype), compressors=SIMPLE[codecs])

    return array


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pristine]:
    """Write arrays for examples that each put a damaged chunk of their own in place of the last."""

    @cache
    def array(codecs: str) -> Pristine:
        path = tmp_path_factory.mktemp("row-chunks") / "a"
        array = write(path, values(), compressors=SIMPLE[codecs])
        file = path / "c" / "2" / "0"
        return Pristine(array, file, file.read_bytes())

    return array


@pytest.mark.parametrize("codecs", SIMPLE)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8", "u1"])
@given(ends=st.tuples(st.integers(0, ROWS), st.integers(0, ROWS)).map(sorted))
def test_rows_are_those_that_were_written(
    written: Callable[[str, str], zarr.Array[Any]], codecs: str, dtype: str, ends: list[int]
) -> None:
    array = written(codecs, dtype)
    assert row_chunks_of(array) is not None
    np.testing.assert_array_equal(read(array, *ends), values(dtype)[slice(*ends)])


def test_columns_of_one_number_a_row(tmp_path: Path) -> None:
    array = write(tmp_path / "a", values("i8", ()), compressors=SIMPLE["lz4"])
    assert row_chunks_of(array) is not None
    np.testing.assert_array_equal(read(array), values("i8", ()))


@pytest.mark.parametrize("layout", OTHER)
def test_what_is_stored_otherwise_is_read_otherwise(tmp_path: Path, layout: str) -> None:
    array = write(tmp_path / "a", values(), **OTHER[layout])
    assert row_chunks_of(array) is None
    np.testing.assert_array_equal(read(array), values())


@pytest.mark.parametrize("codecs", ["lz4", "zstd in blosc", "plain"])
@given(data=st.data())
def test_a_changed_bit_is_found(
    pristine: Callable[[str], Pristine], codecs: str, data: st.DataObject
) -> None:
    array, file, whole = pristine(codecs)
    content = bytearray(whole)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"a\.zarr: chunk c/2/0 \(rows 16 to 23\)"):
        read(array)


@pytest.mark.parametrize("codecs", SIMPLE)
@given(data=st.data())
def test_a_cut_chunk_is_found(
    pristine: Callable[[str], Pristine], codecs: str, data: st.DataObject
) -> None:
    array, file, content = pristine(codecs)
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(CorruptDataError, match=r"a\.zarr: chunk c/2/0 \(rows 16 to 23\)"):
        read(array)


@pytest.mark.parametrize("codecs", ["no checksum", "bare"])
def test_a_chunk_of_fewer_rows_leaves_nothing_unwritten(tmp_path: Path, codecs: str) -> None:
    array = write(tmp_path / "a", values(), compressors=SIMPLE[codecs])
    write(tmp_path / "b", values()[:16], compressors=SIMPLE[codecs], chunks=(4, DIM))
    (tmp_path / "a" / "c" / "2" / "0").write_bytes((tmp_path / "b" / "c" / "0" / "0").read_bytes())
    with pytest.raises(CorruptDataError, match=r"chunk c/2/0"):
        read(array)


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(4000, DIM)).astype("f4")
    array = write(tmp_path / "a", rows, compressors=SIMPLE["lz4"])
    starts = list(range(0, 4000, 80)) * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: read(array, start, start + 80), starts))
    for start, own in zip(starts, found, strict=True):
        np.testing.assert_array_equal(own, rows[start : start + 80])


def made(path: Path, shape: tuple[int, ...], dtype: str, codecs: str) -> zarr.Array[Any]:
    return zarr.create_array(
        path, shape=shape, chunks=(CHUNK, *shape[1:]), dtype=dtype, compressors=SIMPLE[codecs]
    )


@pytest.mark.parametrize("codecs", SIMPLE)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8"])
def test_zarr_reads_what_is_written(tmp_path: Path, codecs: str, dtype: str) -> None:
    rows = values(dtype)
    array = made(tmp_path / "a", rows.shape, dtype, codecs)
    assert row_chunks_of(array) is not None
    write_rows(array, 0, rows[: 3 * CHUNK])
    write_rows(array, 3 * CHUNK, rows[3 * CHUNK :])
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], rows)
    # 50 rows end within a chunk, the rest of which is filled
    whole = zarr.open_array(tmp_path / "a", mode="r+")
    whole.resize((56, DIM))
    np.testing.assert_array_equal(whole[ROWS:], np.zeros((6, DIM), dtype))


def test_chunks_of_other_layouts_are_written_by_zarr(tmp_path: Path) -> None:
    rows = values()
    array = zarr.create_array(
        tmp_path / "a", shape=rows.shape, dtype="f4", chunks=(CHUNK, DIM), **OTHER["zstd"]
    )
    write_rows(array, 0, rows)
    np.testing.assert_array_equal(array[:], rows)


def test_writers_of_one_chunk_leave_it_whole(tmp_path: Path) -> None:
    array = made(tmp_path / "a", (CHUNK, DIM), "f4", "lz4")
    kinds = [np.full((CHUNK, DIM), k, "f4") for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: write_rows(array, 0, kinds[k % 4]), range(100)))
    found = read(array, 0, CHUNK)
    assert (found == found[0, 0]).all()
    assert [file.name for file in (tmp_path / "a" / "c" / "0").iterdir()] == ["0"]


def test_a_write_that_fails_leaves_no_part(tmp_path: Path) -> None:
    array = made(tmp_path / "a", (CHUNK, DIM), "f4", "lz4")
    place = tmp_path / "a" / "c" / "0" / "0"
    place.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_rows(array, 0, values()[:CHUNK])
    assert [file.name for file in place.parent.iterdir()] == ["0"]
