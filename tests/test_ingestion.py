"""What other tools wrote becomes a store with the same rows, or is refused with a reason."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from numpy.typing import NDArray
from strategies import rows_of, values_of, write_store

import crossgram as cg
from crossgram.errors import (
    CorruptDataError,
    InputError,
    NonFiniteError,
    OutputExistsError,
    WidthMismatchError,
)
from crossgram.ingestion import ingest
from crossgram.progress import Progress
from crossgram.resources import PeakMemory

ROWS, DIM = 130, 6


def embeddings(rows: int = ROWS, dtype: str = "float32", seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=(rows, DIM)).astype(dtype)


def names(rows: int = ROWS, start: int = 0) -> list[str]:
    return [f"bücher/{row}.jpg" for row in range(start, start + rows)]


def vectors(rows: NDArray[Any], kind: str = "list") -> pa.Array:
    values = pa.array(rows.ravel())
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(values, rows.shape[1])
    offsets = np.arange(len(rows) + 1) * rows.shape[1]
    if kind == "large":
        return pa.LargeListArray.from_arrays(pa.array(offsets), values)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def write_parquet(path: Path, rows: NDArray[Any], kind: str = "list", **columns: Any) -> Path:
    table = pa.table({"vector": vectors(rows, kind), **columns})
    pq.write_table(table, path, row_group_size=max(50, len(rows) // 3))
    return path


def write_hdf5(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name.replace("__", "/")] = values
    return path


def write_zarr(path: Path, zarr_format: Any = 3, **arrays: Any) -> Path:
    group = zarr.create_group(path, zarr_format=zarr_format)
    for name, values in arrays.items():
        array = group.create_array(name, shape=values.shape, dtype=values.dtype)
        array[...] = values
    return path


def as_npy(path: Path, rows: NDArray[Any]) -> Path:
    np.save(path.with_suffix(".npy"), rows)
    return path.with_suffix(".npy")


def as_hdf5(path: Path, rows: NDArray[Any]) -> Path:
    return write_hdf5(path.with_suffix(".h5"), nested__features=rows)


def as_parquet(path: Path, rows: NDArray[Any]) -> Path:
    return write_parquet(path.with_suffix(".parquet"), rows)


def as_zarr_array(path: Path, rows: NDArray[Any]) -> Path:
    array = zarr.create_array(path, shape=rows.shape, dtype=rows.dtype, chunks=(17, DIM))
    array[:] = rows
    return path


def as_zarr_group(path: Path, rows: NDArray[Any]) -> Path:
    return write_zarr(path, features=rows)


FORMATS = [as_npy, as_hdf5, as_parquet, as_zarr_array, as_zarr_group]
Writer = Callable[[Path, NDArray[Any]], Path]


class TestEveryFormat:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("write", FORMATS)
    def test_keeps_values_and_dtype(self, tmp_path: Path, write: Writer, dtype: str) -> None:
        rows = embeddings(dtype=dtype)
        source = write(tmp_path / "source", rows)
        store = ingest(source, tmp_path / "s.zarr")
        assert rows_of(store).tobytes() == rows.tobytes()
        assert store.dtype == rows.dtype
        assert store.ids is None
        assert store.provenance["ingested_from"] == str(source)
        assert store.provenance["format"] in {"npy", "hdf5", "parquet", "zarr"}

    @pytest.mark.parametrize("write", FORMATS)
    def test_converts_when_asked(self, tmp_path: Path, write: Writer) -> None:
        source = write(tmp_path / "source", embeddings(dtype="float64"))
        store = ingest(
            source, tmp_path / "s.zarr", dtype="float16", codec="zstd", chunk_rows=8, shard_rows=16
        )
        np.testing.assert_array_equal(rows_of(store), embeddings(dtype="float64").astype("f2"))
        assert store.chunk_rows == 16

    @pytest.mark.parametrize("write", FORMATS)
    def test_takes_ids_and_labels_from_files(self, tmp_path: Path, write: Writer) -> None:
        (tmp_path / "ids.txt").write_text("".join(f"{name}\r\n" for name in names()))
        np.save(tmp_path / "labels.npy", np.arange(ROWS) // 4)
        store = ingest(
            write(tmp_path / "source", embeddings()),
            tmp_path / "s.zarr",
            ids=tmp_path / "ids.txt",
            labels=str(tmp_path / "labels.npy"),
        )
        assert values_of(store.ids) == names()
        assert values_of(store.labels) == (np.arange(ROWS) // 4).tolist()

    @pytest.mark.parametrize("write", FORMATS)
    @pytest.mark.parametrize("dtype", ["int32", "bool"])
    def test_refuses_what_is_not_floats(self, tmp_path: Path, write: Writer, dtype: str) -> None:
        source = write(tmp_path / "source", embeddings().astype(dtype))
        with pytest.raises(InputError, match="float"):
            ingest(source, tmp_path / "s.zarr")
        assert not (tmp_path / "s.zarr").exists()

    @pytest.mark.parametrize("write", FORMATS)
    def test_leaves_nothing_when_interrupted(self, tmp_path: Path, write: Writer) -> None:
        def interrupt(progress: Progress) -> None:
            raise KeyboardInterrupt

        source = write(tmp_path / "source", embeddings())
        with pytest.raises(KeyboardInterrupt):
            ingest(source, tmp_path / "s.zarr", progress=interrupt)
        assert list(tmp_path.iterdir()) == [source]

    @pytest.mark.parametrize("write", FORMATS[:3])
    def test_takes_memory_that_does_not_grow_with_the_rows(
        self, tmp_path: Path, write: Writer
    ) -> None:
        rows = np.random.default_rng(0).random((700_000, 128), "float32")
        size = rows.nbytes
        source = write(tmp_path / "large", rows)
        del rows
        ingest(write(tmp_path / "warm", embeddings()), tmp_path / "warm.zarr")
        memory = PeakMemory()
        store = ingest(source, tmp_path / "s.zarr")
        # of 358 MB: a piece, the writer's buffer and its chunks, 16 each, threads and allocators
        assert memory.bytes() < size / 2
        shutil.rmtree(store.path)
        source.unlink()


class TestNpyShards:
    def shards(self, folder: Path, counts: list[int], stem: str = "img_emb_") -> NDArray[Any]:
        folder.mkdir(parents=True)
        for number, rows in enumerate(counts):
            np.save(folder / f"{stem}{number}.npy", embeddings(rows, seed=number))
        return np.concatenate([embeddings(rows, seed=n) for n, rows in enumerate(counts)])

    def metadata(self, folder: Path, counts: list[int], digits: int = 1) -> list[str]:
        folder.mkdir()
        start = 0
        for number, rows in enumerate(counts):
            table = {"image_path": names(rows, start), "width": np.arange(start, start + rows)}
            pq.write_table(pa.table(table), folder / f"metadata_{number:0{digits}}.parquet")
            start += rows
        return names(start)

    def test_are_read_by_number_so_that_10_follows_9(self, tmp_path: Path) -> None:
        expected = self.shards(tmp_path / "shards", [3] * 11 + [1])
        (tmp_path / "shards" / "._img_emb_0.npy").write_text("left by another system")
        (tmp_path / "shards" / "notes.txt").write_text("")
        store = ingest(tmp_path / "shards", tmp_path / "s.zarr")
        np.testing.assert_array_equal(rows_of(store), expected)
        assert store.provenance["format"] == "npy-shards"

    @pytest.mark.parametrize("digits", [1, 4])
    @pytest.mark.parametrize("inner", ["", "img_emb"])
    def test_take_columns_from_the_metadata_of_the_same_number(
        self, tmp_path: Path, inner: str, digits: int
    ) -> None:
        counts = [5, 2, 7, 1, 1, 1, 1, 1, 1, 1, 4]
        expected = self.shards(tmp_path / "laion" / "img_emb", counts)
        ids = self.metadata(tmp_path / "laion" / "metadata", counts, digits)
        store = ingest(
            tmp_path / "laion" / inner, tmp_path / "s.zarr", ids="image_path", labels="width"
        )
        np.testing.assert_array_equal(rows_of(store), expected)
        assert values_of(store.ids) == ids
        assert values_of(store.labels) == list(range(len(ids)))

    def test_of_several_networks_must_be_chosen(self, tmp_path: Path) -> None:
        self.shards(tmp_path / "laion" / "img_emb", [4, 3])
        expected = self.shards(tmp_path / "laion" / "text_emb", [2, 1], "text_emb_")
        with pytest.raises(InputError, match=r"'img_emb', 'text_emb' could all be .*--embeddings"):
            ingest(tmp_path / "laion", tmp_path / "s.zarr")
        with pytest.raises(InputError, match="no 'audio' in it, only 'img_emb', 'text_emb'"):
            ingest(tmp_path / "laion", tmp_path / "s.zarr", embeddings="audio")
        with pytest.raises(InputError, match="img_emb: there is no 'audio' in it$"):
            ingest(tmp_path / "laion" / "img_emb", tmp_path / "s.zarr", embeddings="audio")
        store = ingest(tmp_path / "laion", tmp_path / "s.zarr", embeddings="text_emb")
        np.testing.assert_array_equal(rows_of(store), expected)

    def test_whose_metadata_does_not_fit_are_refused(self, tmp_path: Path) -> None:
        root = tmp_path / "laion"
        self.shards(root / "img_emb", [4, 3])
        out = tmp_path / "s.zarr"
        with pytest.raises(InputError, match="no folder .*metadata to take the column 'url'"):
            ingest(root, out, ids="url")
        self.metadata(root / "metadata", [4, 2])
        with pytest.raises(InputError, match=r"_1.npy has 3 rows, its metadata file has 2"):
            ingest(root, out, ids="image_path")
        with pytest.raises(InputError, match="no 'url' in it, only 'image_path', 'width'"):
            ingest(root, out, ids="url")
        (root / "metadata" / "metadata_1.parquet").unlink()
        with pytest.raises(InputError, match=r"_1.npy: no Parquet file of that number"):
            ingest(root, out, ids="image_path")

    def test_of_different_widths_or_dtypes_are_refused(self, tmp_path: Path) -> None:
        for name, odd in {"wide": np.ones((2, DIM + 1), "f4"), "half": embeddings(2, "f2")}.items():
            self.shards(tmp_path / name, [3, 3])
            np.save(tmp_path / name / "img_emb_2.npy", odd)
        with pytest.raises(WidthMismatchError, match=r"_2.npy has 7 columns, .*_0.npy has 6"):
            ingest(tmp_path / "wide", tmp_path / "s.zarr")
        with pytest.raises(InputError, match="_2.npy has dtype float16, .* has float32"):
            ingest(tmp_path / "half", tmp_path / "s.zarr")

    def test_that_are_truncated_are_named(self, tmp_path: Path) -> None:
        self.shards(tmp_path / "shards", [3, 3])
        last = tmp_path / "shards" / "img_emb_1.npy"
        last.write_bytes(last.read_bytes()[:-1])
        with pytest.raises(CorruptDataError, match=r"img_emb_1.npy: truncated"):
            ingest(tmp_path / "shards", tmp_path / "s.zarr")


class TestHdf5:
    def test_takes_datasets_by_name(self, tmp_path: Path) -> None:
        path = write_hdf5(
            tmp_path / "x.hdf5",
            net__a=embeddings(seed=1),
            net__b=embeddings(seed=2),
            files=names(),
            people=np.array([f"p{row % 3}".encode() for row in range(ROWS)]),
        )
        store = ingest(path, tmp_path / "s.zarr", embeddings="/net/b", ids="files", labels="people")
        np.testing.assert_array_equal(rows_of(store), embeddings(seed=2))
        assert values_of(store.ids) == names()
        assert values_of(store.labels) == [f"p{row % 3}" for row in range(ROWS)]
        with pytest.raises(InputError, match=r"'net/a', 'net/b' could all be the embeddings"):
            ingest(path, tmp_path / "other.zarr")
        with pytest.raises(InputError, match="no 'net/c' in it, only 'files', 'net/a', 'net/b'"):
            ingest(path, tmp_path / "other.zarr", embeddings="net/c")

    @pytest.mark.parametrize("chunks", [(13, DIM), (ROWS, 1), (1, 2)])
    def test_reads_chunks_of_any_shape(self, tmp_path: Path, chunks: tuple[int, int]) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_dataset("x", data=embeddings(dtype=">f8"), chunks=chunks, compression=1)
        store = ingest(tmp_path / "x.h5", tmp_path / "s.zarr")
        np.testing.assert_array_equal(rows_of(store), embeddings(dtype="f8"))
        assert store.dtype.isnative

    def test_refuses_what_cannot_be_used(self, tmp_path: Path) -> None:
        path = write_hdf5(
            tmp_path / "x.h5", flat=np.ones(3), whole=np.ones((3, 2), int), text=["a", "b", "c"]
        )
        out = tmp_path / "s.zarr"
        expected = r"nothing in it is rows x columns of floats; it has 'flat' \(\(3,\) float64\), "
        with pytest.raises(InputError, match=expected):
            ingest(path, out)
        with pytest.raises(InputError, match=rf"^{re.escape(str(path))}/flat: has shape \(3,\)"):
            ingest(path, out, embeddings="flat")
        with pytest.raises(InputError, match="x.h5/whole: has dtype int64"):
            ingest(path, out, embeddings="whole")
        good = write_hdf5(tmp_path / "y.h5", x=embeddings(3), weights=np.ones(3), short=[1, 2])
        with pytest.raises(InputError, match="y.h5/weights: .* expected one text or integer"):
            ingest(good, out, embeddings="x", ids="weights")
        with pytest.raises(InputError, match="y.h5/short has 2 values, .*y.h5/x has 3 rows"):
            ingest(good, out, ids="short")

    def test_refuses_a_damaged_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=embeddings(), chunks=(32, DIM), fletcher32=True)
            offset = file["x"].id.get_chunk_info(2).byte_offset
        content = bytearray(path.read_bytes())
        content[offset + 5] ^= 1
        path.write_bytes(content)
        with pytest.raises(CorruptDataError, match="x.h5/x: cannot be read"):
            ingest(path, tmp_path / "s.zarr")
        path.write_bytes(content[:1000])
        with pytest.raises(CorruptDataError, match="x.h5: cannot be read"):
            ingest(path, tmp_path / "s.zarr")
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("structure", [b"TREE", b"HEAP", b"SNOD"])
    def test_refuses_a_damaged_tree(self, tmp_path: Path, structure: bytes) -> None:
        path = write_hdf5(tmp_path / "x.h5", nested__x=embeddings())
        path.write_bytes(path.read_bytes().replace(structure, b"gone"))
        with pytest.raises(CorruptDataError, match="x.h5: cannot be read"):
            ingest(path, tmp_path / "s.zarr")

    def test_refuses_chunks_above_the_limit(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_dataset("x", shape=(1 << 28, 4), chunks=(1 << 27, 4), dtype="f4")
        with pytest.raises(InputError, match="declares chunks of 2,147,483,648 bytes"):
            ingest(tmp_path / "x.h5", tmp_path / "s.zarr")


class TestParquet:
    @pytest.mark.parametrize("kind", ["list", "large", "fixed"])
    def test_takes_a_column_of_lists(self, tmp_path: Path, kind: str) -> None:
        path = write_parquet(
            tmp_path / "x.parquet",
            embeddings(),
            kind,
            key=names(),
            person=pa.array([f"p{row % 5}" for row in range(ROWS)]).dictionary_encode(),
        )
        store = ingest(path, tmp_path / "s.zarr", ids="key", labels="person")
        np.testing.assert_array_equal(rows_of(store), embeddings())
        assert values_of(store.ids) == names()
        assert values_of(store.labels) == [f"p{row % 5}" for row in range(ROWS)]

    def test_takes_a_folder_in_the_order_of_numbers(self, tmp_path: Path) -> None:
        folder = tmp_path / "parts"
        folder.mkdir()
        for number in range(11):
            write_parquet(
                folder / f"part-{number}.parquet",
                embeddings(3, seed=number),
                key=np.arange(3) + 3 * number,
            )
        store = ingest(folder, tmp_path / "s.zarr", ids="key")
        expected = np.concatenate([embeddings(3, seed=number) for number in range(11)])
        np.testing.assert_array_equal(rows_of(store), expected)
        assert values_of(store.ids) == list(range(33))

    def test_must_be_told_which_of_two_columns(self, tmp_path: Path) -> None:
        path = write_parquet(
            tmp_path / "x.parquet", embeddings(), other=vectors(embeddings(seed=1))
        )
        with pytest.raises(InputError, match="'vector', 'other' could all be the embeddings"):
            ingest(path, tmp_path / "s.zarr")
        store = ingest(path, tmp_path / "s.zarr", embeddings="other")
        np.testing.assert_array_equal(rows_of(store), embeddings(seed=1))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([[1.0, 2.0], None, [3.0, 4.0]], "row 1 of the column 'vector' is null"),
            ([[1.0, 2.0], [3.0, 4.0], [5.0, None]], "row 2 of the column 'vector' has a null"),
            ([[1.0, 2.0], [3.0]], "row 1 of the column 'vector' has 1 values, the first row has 2"),
            ([[], []], "row 0 of the column 'vector' is an empty list"),
            ([None, [1.0]], "row 0 of the column 'vector' is null"),
            ([], "no rows"),
        ],
    )
    def test_names_the_row_that_is_no_embedding(
        self, tmp_path: Path, values: Any, message: str
    ) -> None:
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"vector": pa.array(values, pa.list_(pa.float32()))}), path)
        with pytest.raises(InputError, match=f"x.parquet: {message}"):
            ingest(path, tmp_path / "s.zarr")
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize(
        ("name", "row", "value", "message"),
        [
            ("key", 117_000, None, "is null"),
            ("vector", 190_000, None, "is null"),
            ("vector", 195_000, [*[1.0] * (DIM - 1), None], "has a null value"),
            ("vector", 199_999, [1.0], "has 1 values, the first row has 6"),
        ],
    )
    def test_counts_rows_over_row_groups_when_it_names_one(
        self, tmp_path: Path, name: str, row: int, value: Any, message: str
    ) -> None:
        rows = 200_000
        columns = {"vector": [[1.0] * DIM] * rows, "key": [*range(rows)]}
        columns[name][row] = value
        kinds = pa.schema({"vector": pa.list_(pa.float32()), "key": pa.int64()})
        pq.write_table(pa.table(columns, kinds), tmp_path / "x.parquet", row_group_size=90_000)
        with pytest.raises(InputError, match=f"row {row} of the column '{name}' {message}"):
            ingest(tmp_path / "x.parquet", tmp_path / "s.zarr", ids="key")

    def test_refuses_columns_of_another_kind(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "x.parquet", embeddings(3), score=[0.1, 0.2, 0.3])
        with pytest.raises(InputError, match="'score' is double, expected text or integers"):
            ingest(path, tmp_path / "s.zarr", labels="score")
        with pytest.raises(InputError, match="'score' is double, expected lists of floats"):
            ingest(path, tmp_path / "s.zarr", embeddings="score")

    def test_refuses_files_that_differ(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "0.parquet", embeddings(3))
        write_parquet(tmp_path / "1.parquet", embeddings(3, "f8"))
        with pytest.raises(InputError, match=r"1.parquet: the column 'vector' holds double"):
            ingest(tmp_path, tmp_path / "s.zarr")
        write_parquet(tmp_path / "1.parquet", np.ones((2, DIM - 1), "f4"))
        with pytest.raises(WidthMismatchError, match=r"1.parquet: row 0 .* has 5 values"):
            ingest(tmp_path, tmp_path / "s.zarr")

    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
    def test_takes_text_of_every_kind(self, tmp_path: Path, kind: pa.DataType) -> None:
        path = write_parquet(tmp_path / "x.parquet", embeddings(), key=pa.array(names(), kind))
        store = ingest(path, tmp_path / "s.zarr", ids="key")
        assert values_of(store.ids) == names()

    def test_takes_names_with_dots(self, tmp_path: Path) -> None:
        inner = pa.StructArray.from_arrays([vectors(embeddings(seed=1))], ["vector"])
        table = pa.table({"net": inner, "net.vector": vectors(embeddings()), "net.key": names()})
        pq.write_table(table, tmp_path / "x.parquet")
        store = ingest(tmp_path / "x.parquet", tmp_path / "s.zarr", ids="net.key")
        np.testing.assert_array_equal(rows_of(store), embeddings())
        assert values_of(store.ids) == names()

    def test_says_what_the_columns_hold_when_none_can_be_the_embeddings(
        self, tmp_path: Path
    ) -> None:
        path = write_parquet(tmp_path / "x.parquet", np.ones((3, 2), "int8"), key=["a", "b", "c"])
        expected = (
            r"nothing in it is lists of floats; it has 'vector' \(list<.*int8>\), 'key' \(str"
        )
        with pytest.raises(InputError, match=expected):
            ingest(path, tmp_path / "s.zarr")

    def test_refuses_a_name_that_several_columns_have(self, tmp_path: Path) -> None:
        columns = [vectors(embeddings(3)), *[pa.array(["a", "b", "c"])] * 2]
        table = pa.table(columns, names=["vector", "key", "key"])
        pq.write_table(table, tmp_path / "x.parquet")
        with pytest.raises(InputError, match="x.parquet: has several columns 'key'"):
            ingest(tmp_path / "x.parquet", tmp_path / "s.zarr", ids="key")

    def test_refuses_a_damaged_file(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "x.parquet", embeddings())
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(CorruptDataError, match="x.parquet: cannot be read"):
            ingest(path, tmp_path / "s.zarr")

    def test_refuses_text_that_is_no_utf_8(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        table = {"vector": vectors(embeddings(3)), "key": ["aaaa", "bbbb", "cccc"]}
        pq.write_table(pa.table(table), path, use_dictionary=False, compression="none")
        path.write_bytes(path.read_bytes().replace(b"bbbb\x04", b"\xff\xffbb\x04"))
        with pytest.raises(CorruptDataError, match="x.parquet: cannot be read .*bb failed"):
            ingest(path, tmp_path / "s.zarr", ids="key")


class TestZarr:
    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_takes_arrays_of_a_group_by_name(self, tmp_path: Path, zarr_format: int) -> None:
        path = write_zarr(
            tmp_path / "g.zarr",
            zarr_format,
            a=embeddings(seed=1),
            b=embeddings(seed=2),
            **{name: np.ones((2, 3)) for name in "fdce"},
            files=np.array(names(), np.dtypes.StringDType()),
            people=np.arange(ROWS),
        )
        store = ingest(path, tmp_path / "s.zarr", embeddings="b", ids="files", labels="people")
        np.testing.assert_array_equal(rows_of(store), embeddings(seed=2))
        assert values_of(store.ids) == names()
        assert values_of(store.labels) == list(range(ROWS))
        expected = "'a', 'b', 'c', 'd', 'e', 'f' could all be the embeddings"
        with pytest.raises(InputError, match=expected):
            ingest(path, tmp_path / "other.zarr")
        with pytest.raises(InputError, match=r"g.zarr/a: has shape \(130, 6\)"):
            ingest(path, tmp_path / "other.zarr", embeddings="b", ids="a")

    def test_takes_arrays_of_groups_in_groups(self, tmp_path: Path) -> None:
        inner = write_zarr(tmp_path / "g.zarr", other=np.arange(3)) / "net"
        write_zarr(inner, rows=embeddings(), key=np.arange(ROWS))
        store = ingest(tmp_path / "g.zarr", tmp_path / "s.zarr", ids="net/key")
        np.testing.assert_array_equal(rows_of(store), embeddings())
        assert values_of(store.ids) == list(range(ROWS))

    def test_refuses_chunks_above_the_limit(self, tmp_path: Path) -> None:
        group = zarr.open_group(write_zarr(tmp_path / "g.zarr", rows=embeddings(3)))
        group.create_array("wide", shape=(9, 2), chunks=(1 << 27, 2), dtype="float64")
        group.create_array("ids", shape=(3,), chunks=(1 << 28,), dtype="int64")
        message = "declares chunks of 2,147,483,648 bytes"
        with pytest.raises(InputError, match=f"g.zarr/ids: {message}"):
            ingest(tmp_path / "g.zarr", tmp_path / "s.zarr", embeddings="rows", ids="ids")
        with pytest.raises(InputError, match=f"g.zarr/wide: {message}"):
            ingest(tmp_path / "g.zarr", tmp_path / "s.zarr", embeddings="wide")

    def test_keeps_what_a_store_knows(self, tmp_path: Path) -> None:
        with cg.EmbeddingStore.create(
            tmp_path / "old.zarr", DIM, provenance={"model": "net-a"}
        ) as writer:
            writer.append(embeddings(), ids=names(), labels=np.arange(ROWS))
        (tmp_path / "people.txt").write_text("anna\n" * ROWS)
        store = ingest(tmp_path / "old.zarr", tmp_path / "new.zarr", labels=tmp_path / "people.txt")
        np.testing.assert_array_equal(rows_of(store), embeddings())
        assert values_of(store.ids) == names()
        assert set(values_of(store.labels)) == {"anna"}
        assert store.provenance["model"] == "net-a"
        assert store.provenance["format"] == "crossgram"

    @pytest.mark.parametrize("named", [None, "embeddings"])
    @pytest.mark.parametrize("dtype", [None, "float16"])
    def test_keeps_the_mask_of_a_store(
        self, tmp_path: Path, named: str | None, dtype: str | None
    ) -> None:
        masked = np.arange(ROWS) % 5 == 2
        write_store(tmp_path / "old.zarr", embeddings(), names(), masked=masked)
        store = ingest(tmp_path / "old.zarr", tmp_path / "new.zarr", embeddings=named, dtype=dtype)
        store.validate()
        assert values_of(store.masked) == masked.tolist()
        assert values_of(store.ids) == names()
        np.testing.assert_array_equal(np.isnan(rows_of(store)).all(axis=1), masked)

    def test_refuses_a_damaged_chunk(self, tmp_path: Path) -> None:
        path = as_zarr_array(tmp_path / "x.zarr", embeddings())
        chunk = path / "c" / "3" / "0"
        chunk.write_bytes(chunk.read_bytes()[:-4])
        with pytest.raises(CorruptDataError, match=r"x.zarr: chunk c/3/0 \(rows 51 to 67\)"):
            ingest(path, tmp_path / "s.zarr")
        assert list(tmp_path.iterdir()) == [path]


class TestFilesOfValues:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return as_npy(tmp_path / "x", embeddings(3))

    @pytest.mark.parametrize("content", ["a\nb\nc\n", "a\nb\nc", "\ufeffa\r\nb\r\nc\r\n"])
    def test_hold_one_value_per_line(self, source: Path, tmp_path: Path, content: str) -> None:
        (tmp_path / "i.txt").write_bytes(content.encode())
        store = ingest(source, tmp_path / "s.zarr", ids=tmp_path / "i.txt")
        assert values_of(store.ids) == ["a", "b", "c"]

    def test_end_lines_at_line_feeds_only(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "i.txt").write_bytes("a\rx\nb\u2028y\nc\x0cz\n".encode())
        store = ingest(source, tmp_path / "s.zarr", ids=tmp_path / "i.txt")
        assert values_of(store.ids) == ["a\rx", "b\u2028y", "c\x0cz"]

    @pytest.mark.parametrize(("content", "lines"), [("a\nb\n", 2), ("a\nb\nc\n\n", 4), ("", 0)])
    def test_of_another_length_are_refused_with_both_counts(
        self, source: Path, tmp_path: Path, content: str, lines: int
    ) -> None:
        (tmp_path / "i.txt").write_text(content)
        with pytest.raises(InputError, match=rf"i.txt has {lines} values, .*x.npy has 3 rows"):
            ingest(source, tmp_path / "s.zarr", ids=tmp_path / "i.txt")

    @pytest.mark.parametrize("values", [np.array(["x", "yy", "zzz"]), np.array([3, 1, 2], "i2")])
    def test_may_be_npy_arrays_of_text_or_integers(
        self, source: Path, tmp_path: Path, values: NDArray[Any]
    ) -> None:
        np.save(tmp_path / "i.npy", values)
        store = ingest(source, tmp_path / "s.zarr", labels=tmp_path / "i.npy")
        assert values_of(store.labels) == values.tolist()

    @pytest.mark.parametrize(
        "values", [np.ones(3), np.ones((3, 1), int), np.array(["a", "b", None], object)]
    )
    def test_of_another_kind_are_refused(
        self, source: Path, tmp_path: Path, values: NDArray[Any]
    ) -> None:
        np.save(tmp_path / "i.npy", values)
        with pytest.raises(InputError, match="i.npy: has .* expected one text or integer per row"):
            ingest(source, tmp_path / "s.zarr", ids=tmp_path / "i.npy")

    def test_that_are_no_text_or_absent_are_refused(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "i.txt").write_bytes(b"a\n\xff\nc\n")
        with pytest.raises(CorruptDataError, match="i.txt: cannot be read as UTF-8 text"):
            ingest(source, tmp_path / "s.zarr", ids=tmp_path / "i.txt")
        with pytest.raises(InputError, match="absent.txt: no such file"):
            ingest(source, tmp_path / "s.zarr", ids=tmp_path / "absent.txt")

    def test_are_the_only_ids_that_a_npy_file_can_have(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="has no named parts"):
            ingest(source, tmp_path / "s.zarr", ids="ids.csv")


def test_a_value_too_large_for_the_dtype_is_named(tmp_path: Path) -> None:
    rows = embeddings()
    rows[77, 2] = 70_000
    rows[78, 0] = np.inf
    with pytest.raises(NonFiniteError, match="row 77 holds a value too large for float16"):
        ingest(as_npy(tmp_path / "x", rows), tmp_path / "s.zarr", dtype="float16")
    assert not (tmp_path / "s.zarr").exists()


def test_rows_are_counted_over_shards_when_one_is_named(tmp_path: Path) -> None:
    for number, values in enumerate((np.ones(4), [1, 1e5, 1])):
        np.save(tmp_path / f"{number}.npy", np.array(values)[:, None])
    with pytest.raises(NonFiniteError, match="row 5 holds a value too large for float16"):
        ingest(tmp_path, tmp_path / "s.zarr", dtype="float16")


def test_what_is_not_finite_is_kept_as_it_is(tmp_path: Path) -> None:
    rows = embeddings()
    rows[3, 1], rows[4, 1] = np.nan, -np.inf
    store = ingest(as_npy(tmp_path / "x", rows), tmp_path / "s.zarr", dtype="float64")
    np.testing.assert_array_equal(rows_of(store), rows.astype("f8"))


def test_an_existing_output_is_refused_unless_overwritten(tmp_path: Path) -> None:
    source = as_npy(tmp_path / "x", embeddings())
    (tmp_path / "s.zarr").mkdir()
    with pytest.raises(OutputExistsError):
        ingest(source, tmp_path / "s.zarr")
    assert ingest(source, tmp_path / "s.zarr", overwrite=True).rows == ROWS


@pytest.mark.parametrize("out", ["folder", "folder/inner.zarr"])
def test_the_source_is_never_overwritten(tmp_path: Path, out: str) -> None:
    source = as_zarr_array(tmp_path / "folder" / "inner.zarr", embeddings())
    with pytest.raises(InputError, match=r"is .*inner\.zarr or a folder around it"):
        ingest(source, tmp_path / out, overwrite=True)
    np.testing.assert_array_equal(zarr.open_array(source, mode="r")[:], embeddings())


@pytest.mark.parametrize("option", ["ids", "labels"])
def test_a_file_of_values_is_never_overwritten(tmp_path: Path, option: str) -> None:
    (tmp_path / "old").mkdir()
    values = tmp_path / "old" / "names.txt"
    values.write_text("a\nb\nc\n")
    source = as_npy(tmp_path / "x", embeddings(3))
    given: dict[str, Any] = {option: values}
    with pytest.raises(InputError, match=r"is .*names\.txt or a folder around it"):
        ingest(source, tmp_path / "old", overwrite=True, **given)
    assert values.read_text() == "a\nb\nc\n"


def test_sources_of_no_known_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2")
    (tmp_path / "empty").mkdir()
    both = tmp_path / "both"
    both.mkdir()
    write_parquet(both / "0.parquet", embeddings())
    as_npy(both / "0", embeddings())
    cases = {
        "absent": "no such file or directory",
        "x.csv": "unknown format; expected one of .npy, .h5",
        "empty": "no Zarr array or group, and no .npy or .parquet files",
        "both": "has both .npy and .parquet files",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            ingest(tmp_path / name, tmp_path / "s.zarr")


@pytest.mark.parametrize(
    ("write", "module"),
    [(as_hdf5, "h5py"), (as_parquet, "pyarrow"), (as_parquet, "pyarrow.parquet")],
)
def test_a_package_that_is_not_installed_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer, module: str
) -> None:
    source = write(tmp_path / "source", embeddings())
    monkeypatch.setitem(sys.modules, module, None)
    package = module.partition(".")[0]
    with pytest.raises(InputError, match=rf"needs {package}: pip install 'crossgram\[ingest\]'"):
        ingest(source, tmp_path / "s.zarr")


def test_progress_ends_with_all_rows_and_bytes(tmp_path: Path) -> None:
    seen: list[Progress] = []
    rows = np.ones((70_000, 128), "float32")
    ingest(as_npy(tmp_path / "x", rows), tmp_path / "s.zarr", progress=seen.append)
    assert [(p.stage, p.total_rows) for p in seen] == [("ingest", len(rows))] * 3
    assert (seen[-1].rows, seen[-1].bytes) == (len(rows), rows.nbytes)
