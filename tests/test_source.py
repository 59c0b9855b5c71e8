"""Whatever holds rows of floats can be streamed from; anything else is refused."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

import crossgram as cg
from crossgram.errors import CorruptDataError, InputError
from crossgram.source import Source, open_source

ROWS, DIM = 50, 4


def embeddings(dtype: Any = "float32") -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(dtype)


def read(source: Source, start: int, stop: int) -> NDArray[Any]:
    out = np.empty((stop - start, source.dim), source.dtype)
    source.read(start, out)
    return out


def assert_reads(source: Source, expected: NDArray[Any]) -> None:
    assert (source.rows, source.dim) == expected.shape
    assert source.dtype == expected.dtype
    for start, stop in [(0, ROWS), (0, 1), (13, 37), (ROWS - 1, ROWS), (7, 7)]:
        np.testing.assert_array_equal(read(source, start, stop), expected[start:stop])


def write_npy(path: Path, array: NDArray[Any], version: tuple[int, int] | None = None) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    return path


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_files_of_every_version(tmp_path: Path, version: tuple[int, int], dtype: str) -> None:
    path = write_npy(tmp_path / "x.npy", embeddings(dtype), version)
    assert_reads(open_source(path), embeddings(dtype))
    assert_reads(open_source(str(path)), embeddings(dtype))


def test_npy_files_in_fortran_order(tmp_path: Path) -> None:
    path = write_npy(tmp_path / "x.npy", np.asfortranarray(embeddings()))
    assert_reads(open_source(path), embeddings())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numpy_arrays_of_any_layout(dtype: str) -> None:
    rows = embeddings(dtype)
    assert_reads(open_source(rows), rows)
    assert_reads(open_source(np.asfortranarray(rows)), rows)
    assert_reads(open_source(np.repeat(rows, 2, axis=1)[:, ::2]), rows)
    assert_reads(open_source(rows.astype("float64").tolist()), rows.astype("float64"))


@pytest.mark.parametrize(
    "chunks", [(50, 4), (7, 4), ((20, 1, 29), (3, 1)), ((0, 50), (4,)), (1, 1)]
)
def test_dask_arrays_of_even_and_uneven_chunks(chunks: Any) -> None:
    assert_reads(open_source(dask.array.from_array(embeddings(), chunks=chunks)), embeddings())


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunks", [(16, 4), (50, 4), (16, 3), (7, 1)])
@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_plain_zarr_arrays(
    tmp_path: Path, zarr_format: Any, chunks: tuple[int, int], dtype: str
) -> None:
    array = zarr.create_array(
        tmp_path / "x.zarr", shape=(ROWS, DIM), chunks=chunks, dtype=dtype, zarr_format=zarr_format
    )
    array[:] = embeddings(dtype)
    for given in (tmp_path / "x.zarr", array):
        source = open_source(given)
        np.testing.assert_array_equal(read(source, 3, 40), embeddings(dtype)[3:40])
        assert source.chunk_rows == chunks[0]


def test_a_chunk_that_a_plain_zarr_array_does_not_store_is_lost(tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "x.zarr", shape=(ROWS, DIM), chunks=(10, DIM), dtype="f4", fill_value=2.5
    )
    array[:10] = 1
    with pytest.raises(cg.CorruptDataError, match=r"chunk c/4/0 \(rows 40 to 49\) is missing"):
        open_source(tmp_path / "x.zarr")
    array[40:] = 1
    with pytest.raises(cg.CorruptDataError, match=r"chunk c/1/0 \(rows 10 to 19\) is missing"):
        read(open_source(tmp_path / "x.zarr"), 0, ROWS)


def test_a_store_is_read_with_its_ids_labels_and_mask(tmp_path: Path) -> None:
    with cg.EmbeddingStore.create(tmp_path / "s.zarr", DIM, chunk_rows=16) as writer:
        writer.append(
            embeddings(),
            ids=[f"i{row}" for row in range(ROWS)],
            labels=range(ROWS),
            masked=np.zeros(ROWS, bool),
        )
    for given in (tmp_path / "s.zarr", cg.EmbeddingStore.open(tmp_path / "s.zarr")):
        source = open_source(given)
        assert_reads(source, embeddings())
        assert source.chunk_rows == 16
        assert source.ids is not None
        assert source.labels is not None
        assert source.ids.read(3, 5).tolist() == ["i3", "i4"]
        assert source.labels.read(3, 5).tolist() == [3, 4]
        assert source.masked is not None
        assert source.masked.read(3, 5).tolist() == [False, False]


def test_a_npy_file_with_a_damaged_header_is_refused_or_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", embeddings())
    whole = (tmp_path / "x.npy").read_bytes()
    for position in range(10, 70):
        for damage in (b"(", b"\0"):
            (tmp_path / "x.npy").write_bytes(whole[:position] + damage + whole[position + 1 :])
            with suppress(cg.InputError):
                assert open_source(tmp_path / "x.npy").dim == DIM


def test_masked_values_are_not_read_through_their_mask() -> None:
    rows = np.ma.masked_greater(embeddings("float64"), 0.5)
    with pytest.raises(cg.InputError, match="rows: has masked values"):
        open_source(rows, "rows")


def test_a_source_is_itself() -> None:
    source = open_source(embeddings())
    assert open_source(source) is source


WRONG: list[tuple[Any, str]] = [
    (np.zeros(3), r"shape \(3,\), expected rows x columns"),
    (np.float64(1), r"shape \(\), expected rows x columns"),
    (np.zeros((2, 3, 4)), "expected rows x columns"),
    (np.zeros((3, 2), int), "dtype int64, expected float16, float32 or float64"),
    (np.zeros((3, 2), bool), "dtype bool"),
    (np.zeros((3, 2), complex), "dtype complex128"),
    (np.full((3, 2), "x"), "dtype <U1"),
    (np.zeros((0, 2)), r"shape \(0, 2\); expected at least one row"),
    (np.zeros((3, 0)), r"shape \(3, 0\); expected at least one row"),
]


@pytest.mark.parametrize(("array", "message"), WRONG)
def test_what_is_not_rows_of_floats_is_refused(
    tmp_path: Path, array: NDArray[Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"^mine: has .*{message}"):
        open_source(array, "mine")
    path = write_npy(tmp_path / "x.npy", np.asarray(array))
    with pytest.raises(InputError, match=f"x.npy: has .*{message}"):
        open_source(path)


def test_object_arrays_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Dangerous:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    array = np.empty((2, 2), object)
    array[:] = 1.0
    with pytest.raises(InputError, match="dtype object"):
        open_source(array)
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": (2, 2)}
        )
        file.write(pickle.dumps(Dangerous()))
    with pytest.raises(InputError, match="dtype object"):
        open_source(tmp_path / "x.npy")
    assert not marker.exists()


def test_a_truncated_npy_file_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = write_npy(tmp_path / "x.npy", embeddings())
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    found, declared = len(content) - 1, len(content)
    with pytest.raises(CorruptDataError, match=f"truncated, {found} bytes .* declares {declared};"):
        open_source(path)


def test_a_header_that_declares_too_much_costs_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (10**14, 10**4)}
        )
    with pytest.raises(CorruptDataError, match=r"declares 4,000,000,000,000,000,\d{3}"):
        open_source(tmp_path / "x.npy")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not numpy at all", b"\x93NUMPY\x01\x00"])
def test_what_is_no_npy_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"x.npy: not a .npy file"):
        open_source(tmp_path / "x.npy")


def test_a_file_that_is_cut_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = write_npy(tmp_path / "x.npy", embeddings())
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:-1])
    read(source, 0, ROWS - 1)
    with pytest.raises(CorruptDataError, match="ended early"):
        read(source, 0, ROWS)


def test_dask_arrays_of_unknown_length_are_refused() -> None:
    array = dask.array.from_array(embeddings(), chunks=(10, 4))
    with pytest.raises(InputError, match="compute_chunk_sizes"):
        open_source(array[array[:, 0] > 0], "mine")


def test_paths_that_are_no_source_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1 2 3")
    cg.accumulate([embeddings(), embeddings()]).save(tmp_path / "m.safetensors")
    for name, message in {
        "absent": "no such file",
        "x.txt": "not a Zarr store",
        "m.safetensors": "as maps and moments are, expected rows of embeddings",
    }.items():
        with pytest.raises(InputError, match=message):
            open_source(tmp_path / name)


def test_a_flipped_bit_is_found_whichever_rows_are_read(tmp_path: Path) -> None:
    rows = 40
    with cg.EmbeddingStore.create(tmp_path / "s.zarr", DIM, chunk_rows=rows, codec="none") as w:
        w.append(embeddings())
    for index in (0, 1):
        path = tmp_path / f"s.zarr/embeddings/c/{index}/0"
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    source = open_source(tmp_path / "s.zarr")
    for start, stop in [(0, rows), (0, 5), (30, 35), (rows, ROWS), (45, 46), (0, ROWS)]:
        with pytest.raises(CorruptDataError, match="cannot be decoded"):
            read(source, start, stop)


def test_large_chunks_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "x.zarr", shape=(ROWS, DIM), chunks=(10, DIM), dtype="f4", zarr_format=2
    )
    metadata = tmp_path / "x.zarr" / ".zarray"
    document = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**document, "shape": [10**9, 4], "chunks": [10**9, 4]}))
    with pytest.raises(InputError, match="chunks of 16,000,000,000 bytes each"):
        open_source(tmp_path / "x.zarr")


def test_rows_of_long_double_keep_their_bits() -> None:
    rows = np.full((3, 2), 1, np.longdouble) / 3
    source = open_source(rows)
    assert source.dtype == rows.dtype
    out = np.empty_like(rows)
    source.read(0, out)
    np.testing.assert_array_equal(out, rows)
