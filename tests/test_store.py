"""An embedding store gives back what was written, or says which part of it is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from strategies import rows_of, values_of

from crossgram.codecs import CODECS, compressors
from crossgram.errors import (
    CorruptDataError,
    InputError,
    NonFiniteError,
    OutputExistsError,
    RunError,
    WidthMismatchError,
)
from crossgram.output import whole_directory, whole_file
from crossgram.store import EmbeddingStore

ROWS, DIM, CHUNK = 150, 5, 32


def embeddings(rows: int = ROWS, dtype: str = "float32") -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(rows, DIM)).astype(dtype)


def names(rows: int = ROWS) -> list[str]:
    return [f"größe/{row:04d}.jpg" for row in range(rows)]


def write(path: Path, **layout: Any) -> EmbeddingStore:
    with EmbeddingStore.create(path, DIM, chunk_rows=CHUNK, **layout) as writer:
        writer.append(embeddings(), ids=names(), labels=np.arange(ROWS) // 3)
    return EmbeddingStore.open(path)


MASKED = np.arange(ROWS) % 40 == 3


def write_masked(path: Path, **layout: Any) -> EmbeddingStore:
    rows = embeddings()
    rows[MASKED] = np.nan
    with EmbeddingStore.create(path, DIM, chunk_rows=CHUNK, **layout) as writer:
        for start, stop in [(0, 1), (1, 45), (45, 45), (45, ROWS)]:
            own = slice(start, stop)
            writer.append(rows[own], ids=names()[own], masked=MASKED[own])
    return EmbeddingStore.open(path)


def chunk_file(store: EmbeddingStore, index: int, array: str = "embeddings") -> Path:
    suffix = (index, 0) if array == "embeddings" else (index,)
    return store.path / array / "c" / "/".join(map(str, suffix))


def edit_metadata(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **changes}))


@pytest.mark.parametrize("shard_rows", [None, 2 * CHUNK])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("codec", CODECS)
def test_rows_come_back_bit_for_bit(
    tmp_path: Path, codec: str, dtype: str, shard_rows: int | None
) -> None:
    written = embeddings(dtype=dtype)
    with EmbeddingStore.create(
        tmp_path / "s.zarr",
        DIM,
        dtype=dtype,
        codec=codec,
        chunk_rows=CHUNK,
        shard_rows=shard_rows,
        provenance={"model": "net-a"},
    ) as writer:
        writer.append(written)
    store = EmbeddingStore.open(tmp_path / "s.zarr")
    assert (store.rows, store.dim, store.dtype) == (ROWS, DIM, np.dtype(dtype))
    assert store.chunk_rows == (shard_rows or CHUNK)
    assert store.provenance == {"model": "net-a"}
    assert (store.ids, store.labels) == (None, None)
    assert rows_of(store).tobytes() == written.tobytes()
    middle = np.empty((70, DIM), dtype)
    store.read(45, middle)
    np.testing.assert_array_equal(middle, written[45:115])


def test_stores_are_read_by_the_fast_pipeline(tmp_path: Path) -> None:
    store = write(tmp_path / "s.zarr")
    pipeline = store.embeddings._async_array.codec_pipeline
    assert type(pipeline).__name__ == "ZarrsCodecPipeline"


def test_values_that_equal_the_fill_value_are_stored_all_the_same(tmp_path: Path) -> None:
    with EmbeddingStore.create(tmp_path / "s.zarr", DIM, chunk_rows=CHUNK) as writer:
        writer.append(np.zeros((ROWS, DIM), "float32"), labels=np.zeros(ROWS, int))
    EmbeddingStore.open(tmp_path / "s.zarr").validate()


@pytest.mark.parametrize(
    ("ids", "labels"),
    [
        (names(), [f"person {row % 7}" for row in range(ROWS)]),
        (np.array(names()), np.arange(ROWS, dtype="int32") - 9),
        (np.array(names(), dtype=object), np.arange(ROWS, dtype="uint64")),
        (np.array(names(), dtype=np.dtypes.StringDType()), np.arange(ROWS)[::-1]),
    ],
)
def test_ids_and_labels_come_back_by_range(tmp_path: Path, ids: Any, labels: Any) -> None:
    with EmbeddingStore.create(tmp_path / "s.zarr", DIM) as writer:
        writer.append(embeddings(), ids=ids, labels=labels)
    store = EmbeddingStore.open(tmp_path / "s.zarr")
    assert store.ids is not None
    assert store.labels is not None
    assert store.ids.read(20, 90).tolist() == list(ids)[20:90]
    assert store.labels.read(0, ROWS).tolist() == list(labels)


def test_any_cut_into_appends_gives_the_same_files(tmp_path: Path) -> None:
    rows, ids = embeddings(), names()
    write(tmp_path / "once.zarr")
    with EmbeddingStore.create(tmp_path / "pieces.zarr", DIM, chunk_rows=CHUNK) as writer:
        for start, stop in [(0, 1), (1, 32), (32, 33), (33, 33), (33, 140), (140, ROWS)]:
            labels = np.arange(start, stop) // 3
            writer.append(rows[start:stop], ids=np.array(ids[start:stop], "U20"), labels=labels)
            assert writer.rows == stop
    contents = [
        {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        for root in (tmp_path / "once.zarr", tmp_path / "pieces.zarr")
    ]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("missing_first", [True, False])
def test_ids_of_some_rows_only_are_refused(tmp_path: Path, missing_first: bool) -> None:
    with (
        pytest.raises(InputError, match="ids given for some rows only"),
        EmbeddingStore.create(tmp_path / "s.zarr", DIM) as writer,
    ):
        for with_ids in (not missing_first, missing_first):
            writer.append(embeddings(2), ids=names(2) if with_ids else None)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (names(ROWS - 1), r"shape \(149,\), the block has 150 rows"),
        (np.zeros((ROWS, 1), int), r"shape \(150, 1\)"),
        (np.linspace(0, 1, ROWS), "float64 given, expected text or integers"),
        ([None] * ROWS, "object given, expected text or integers"),
        (np.full(ROWS, 2**63, "uint64"), "9223372036854775808, integers are stored as int64"),
    ],
)
def test_ids_that_are_not_one_text_or_integer_per_row_are_refused(
    tmp_path: Path, ids: Any, message: str
) -> None:
    with (
        pytest.raises(InputError, match=message),
        EmbeddingStore.create(tmp_path / "s.zarr", DIM) as writer,
    ):
        writer.append(embeddings(), ids=ids)


def test_ids_of_another_kind_in_a_later_append_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="ids of dtype int64 after"),
        EmbeddingStore.create(tmp_path / "s.zarr", DIM) as writer,
    ):
        writer.append(embeddings(2), ids=["a", "b"])
        writer.append(embeddings(2), ids=[1, 2])


@pytest.mark.parametrize(
    ("block", "error"),
    [
        (np.zeros((3, DIM + 1)), WidthMismatchError),
        (np.zeros(DIM), WidthMismatchError),
        (np.zeros((3, DIM), complex), InputError),
        (np.full((3, DIM), "x"), InputError),
    ],
)
def test_blocks_that_are_not_rows_of_the_store_are_refused(
    tmp_path: Path, block: NDArray[Any], error: type[Exception]
) -> None:
    with pytest.raises(error), EmbeddingStore.create(tmp_path / "s.zarr", DIM) as writer:
        writer.append(block)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dtype": "int32"},
        {"dtype": "complex64"},
        {"dtype": "longdouble"},
        {"dim": 0},
        {"codec": "gzip"},
        {"chunk_rows": 0},
        {"chunk_rows": -1},
        {"chunk_rows": 8, "shard_rows": 12},
        {"chunk_rows": 8, "shard_rows": 4},
    ],
)
def test_a_layout_that_cannot_be_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    arguments = {"dim": DIM, **wrong}
    with (
        pytest.raises(InputError, match=list(wrong)[-1]),
        EmbeddingStore.create(tmp_path / "s.zarr", **arguments),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_and_untouched(tmp_path: Path) -> None:
    write(tmp_path / "s.zarr")
    with (
        pytest.raises(OutputExistsError, match="already exists"),
        EmbeddingStore.create(tmp_path / "s.zarr", DIM),
    ):
        pass
    np.testing.assert_array_equal(rows_of(EmbeddingStore.open(tmp_path / "s.zarr")), embeddings())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_and_keeps_what_was_to_be_overwritten(
    tmp_path: Path, error: type[BaseException]
) -> None:
    write(tmp_path / "s.zarr")
    for name in ("new.zarr", "s.zarr"):
        with (
            pytest.raises(error),
            EmbeddingStore.create(tmp_path / name, DIM, chunk_rows=1, overwrite=True) as writer,
        ):
            writer.append(embeddings(7))
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]
    np.testing.assert_array_equal(rows_of(EmbeddingStore.open(tmp_path / "s.zarr")), embeddings())


def test_overwriting_spares_what_crossgram_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "ids.txt").touch()
    (tmp_path / "file").touch()
    for name, message in (("precious", "files that crossgram did not make"), ("file", "is a file")):
        with (
            pytest.raises(InputError, match=message),
            EmbeddingStore.create(tmp_path / name, DIM, overwrite=True),
        ):
            pass
    assert (tmp_path / "precious" / "ids.txt").exists()
    assert (tmp_path / "file").is_file()


@pytest.mark.parametrize("name", ["folder", "null"])
def test_no_file_takes_the_place_of_what_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "null").symlink_to("/dev/null")
    with (
        pytest.raises(InputError, match="a file cannot take its place"),
        whole_file(tmp_path / name, overwrite=True),
    ):
        pass


def test_overwriting_replaces_the_whole_store(tmp_path: Path) -> None:
    write(tmp_path / "s.zarr")
    with EmbeddingStore.create(tmp_path / "s.zarr", DIM, overwrite=True) as writer:
        writer.append(embeddings(2))
    store = EmbeddingStore.open(tmp_path / "s.zarr")
    assert (store.rows, store.ids) == (2, None)
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_a_store_without_rows_is_not_made(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="no rows were written"),
        EmbeddingStore.create(tmp_path / "s.zarr", DIM),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parent", ["absent", "file"])
def test_an_output_whose_directory_is_none_is_refused_before_work(
    tmp_path: Path, parent: str
) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="does not exist"),
        EmbeddingStore.create(tmp_path / parent / "s.zarr", DIM),
    ):
        pass


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, truncate, empty, flip])
@pytest.mark.parametrize(
    ("layout", "where"),
    [
        *(({"codec": codec}, r"chunk c/2/0 \(rows 64 to 95\)") for codec in CODECS),
        ({"shard_rows": 2 * CHUNK}, r"chunk c/2/0 \(rows 128 to 149\)"),
    ],
)
def test_lost_rows_are_named_and_never_read_as_fill_values(
    tmp_path: Path, damage: Any, layout: dict[str, Any], where: str
) -> None:
    store = write(tmp_path / "s.zarr", **layout)
    damage(chunk_file(store, 2))
    store = EmbeddingStore.open(store.path)
    with pytest.raises(CorruptDataError, match=where):
        rows_of(store)
    with pytest.raises(CorruptDataError, match=where):
        store.validate()
    store.read(0, np.empty((2 * CHUNK, DIM), "float32"))


@pytest.mark.parametrize("damage", [Path.unlink, truncate, empty, flip])
def test_lost_columns_of_some_rows_are_named(tmp_path: Path, damage: Any) -> None:
    store = write(tmp_path / "s.zarr")
    group = zarr.open_group(store.path)
    layout: dict[str, Any] = {"chunks": (CHUNK, 2), "compressors": compressors("lz4")}
    group.create_array("embeddings", data=embeddings(), overwrite=True, **layout)
    damage(store.path / "embeddings" / "c" / "2" / "1")
    with pytest.raises(CorruptDataError, match=r"chunk c/2/1 \(rows 64 to 95\)"):
        rows_of(EmbeddingStore.open(store.path))


def test_a_folder_in_the_place_of_a_chunk_is_lost_data(tmp_path: Path) -> None:
    store = write(tmp_path / "s.zarr")
    chunk_file(store, 1).unlink()
    chunk_file(store, 1).mkdir()
    with pytest.raises(CorruptDataError, match="chunk c/1/0 .* is missing"):
        rows_of(EmbeddingStore.open(store.path))


@pytest.mark.parametrize("column", ["ids", "labels", "masked"])
def test_a_column_that_was_written_and_is_gone_is_missed(tmp_path: Path, column: str) -> None:
    store = (write_masked if column == "masked" else write)(tmp_path / "s.zarr")
    (store.path / column / "zarr.json").unlink()
    with pytest.raises(CorruptDataError, match=f"its array '{column}' is missing"):
        EmbeddingStore.open(store.path)


class TestMask:
    """A store tells which of its rows hold no embedding."""

    def test_comes_back_by_range(self, tmp_path: Path) -> None:
        store = write_masked(tmp_path / "s.zarr")
        assert store.masked is not None
        np.testing.assert_array_equal(store.masked.read(2, 130), MASKED[2:130])
        np.testing.assert_array_equal(np.isnan(rows_of(store)).all(axis=1), MASKED)
        store.validate()
        assert write(tmp_path / "other.zarr").masked is None

    @pytest.mark.parametrize("missing_first", [True, False])
    def test_of_some_rows_only_is_refused(self, tmp_path: Path, missing_first: bool) -> None:
        with (
            pytest.raises(InputError, match="masked given for some rows only"),
            EmbeddingStore.create(tmp_path / "s.zarr", DIM) as writer,
        ):
            for given in (not missing_first, missing_first):
                writer.append(embeddings(2), masked=[False, False] if given else None)

    @pytest.mark.parametrize(
        ("masked", "message"),
        [
            (np.zeros(ROWS), "masked of dtype float64 given, expected booleans"),
            (np.zeros(ROWS, int), "masked of dtype int64 given, expected booleans"),
            (np.zeros(ROWS - 1, bool), r"masked has shape \(149,\), the block has 150 rows"),
            (np.zeros((ROWS, 1), bool), r"masked has shape \(150, 1\)"),
        ],
    )
    def test_that_is_not_one_boolean_per_row_is_refused(
        self, tmp_path: Path, masked: Any, message: str
    ) -> None:
        with (
            pytest.raises(InputError, match=message),
            EmbeddingStore.create(tmp_path / "s.zarr", DIM) as writer,
        ):
            writer.append(embeddings(), masked=masked)

    def test_of_a_row_that_holds_a_value_is_refused_and_adds_nothing(self, tmp_path: Path) -> None:
        rows, masked = embeddings(9), np.zeros(9, bool)
        masked[[2, 5]] = True
        rows[2] = rows[5] = np.nan
        rows[5, 3] = 7.5
        with EmbeddingStore.create(tmp_path / "s.zarr", DIM) as writer:
            with pytest.raises(InputError, match="row 5 .* masked but holds values, first 7.5"):
                writer.append(rows, masked=masked)
            rows[5] = np.nan
            writer.append(rows, masked=masked)
        np.testing.assert_array_equal(rows_of(EmbeddingStore.open(tmp_path / "s.zarr")), rows)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"data_type": "int8", "fill_value": 0}, "s.zarr/masked has dtype int8, expected bool"),
            ({"shape": [ROWS + 1]}, r"s.zarr/masked has shape \(151,\), embeddings has 150 rows"),
        ],
    )
    def test_of_another_kind_is_refused_when_the_store_is_opened(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        store = write_masked(tmp_path / "s.zarr")
        edit_metadata(store.path / "masked" / "zarr.json", **changes)
        with pytest.raises(CorruptDataError, match=message):
            EmbeddingStore.open(store.path)

    @pytest.mark.parametrize("row", [3, 43, 123])
    def test_of_a_row_that_holds_a_value_on_disk_is_not_valid(
        self, tmp_path: Path, row: int
    ) -> None:
        store = write_masked(tmp_path / "s.zarr")
        zarr.open_group(store.path)["embeddings"][row, 2] = 1.0
        store = EmbeddingStore.open(store.path)
        with pytest.raises(CorruptDataError, match=rf"s\.zarr: row {row} is masked but holds"):
            store.validate()

    def test_does_not_keep_a_store_from_being_overwritten(self, tmp_path: Path) -> None:
        write_masked(tmp_path / "s.zarr")
        write_masked(tmp_path / "s.zarr", overwrite=True)
        assert write(tmp_path / "s.zarr", overwrite=True).masked is None


def test_an_append_that_is_refused_adds_nothing(tmp_path: Path) -> None:
    with EmbeddingStore.create(tmp_path / "s.zarr", DIM) as writer:
        wrongs: tuple[dict[str, Any], ...] = (
            {"ids": names(8)},
            {"labels": [1.5] * 9},
            {"ids": ["\ud800"] * 9},
        )
        for wrong in wrongs:
            columns = {"ids": names(9), "labels": names(9), **wrong}
            with pytest.raises(InputError):
                writer.append(embeddings()[:9], **columns)
        writer.append(embeddings()[:0], ids=[], labels=[])
        writer.append(embeddings()[:5], ids=names(5))
    store = EmbeddingStore.open(tmp_path / "s.zarr")
    assert values_of(store.ids) == names(5)
    assert store.labels is None
    np.testing.assert_array_equal(rows_of(store), embeddings()[:5])


def test_values_too_large_for_the_store_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(NonFiniteError, match="too large for float16; choose a wider dtype"),
        EmbeddingStore.create(tmp_path / "s.zarr", DIM, dtype="float16") as writer,
    ):
        writer.append(embeddings() * 1e10)


@pytest.mark.parametrize("provenance", [{"x": np.float32(1)}, {"x": float("nan")}, {"x": Path()}])
def test_provenance_that_is_not_json_is_refused_before_work(
    tmp_path: Path, provenance: dict[str, Any]
) -> None:
    with (
        pytest.raises(InputError, match="provenance: holds something that is not JSON"),
        EmbeddingStore.create(tmp_path / "s.zarr", DIM, provenance=provenance),
    ):
        pytest.fail("the store was made")


@pytest.mark.parametrize("provenance", [[], "text", None, {"x": float("inf")}])
def test_provenance_of_another_kind_is_refused_when_opened(tmp_path: Path, provenance: Any) -> None:
    store = write(tmp_path / "s.zarr")
    attributes = {"crossgram": {"format": 1, "provenance": provenance}}
    edit_metadata(store.path / "zarr.json", attributes=attributes)
    with pytest.raises(CorruptDataError, match=r"s\.zarr: its provenance"):
        EmbeddingStore.open(store.path)


def test_chunks_of_no_rows_are_refused(tmp_path: Path) -> None:
    store = write(tmp_path / "s.zarr")
    grid = {"name": "regular", "configuration": {"chunk_shape": [0, DIM]}}
    edit_metadata(store.path / "embeddings" / "zarr.json", chunk_grid=grid)
    # Zarr 3.4 opens it, and takes chunks to have one row
    with pytest.raises(CorruptDataError, match="s\\.zarr"):
        EmbeddingStore.open(store.path).read(0, np.empty((1, DIM), np.float32))


def test_overwriting_spares_a_store_that_something_was_put_into(tmp_path: Path) -> None:
    store = write(tmp_path / "s.zarr")
    (store.path / "mine.txt").write_text("mine")
    with (
        pytest.raises(InputError, match="holds files that crossgram did not make"),
        EmbeddingStore.create(store.path, DIM, overwrite=True),
    ):
        pytest.fail("the store was made")
    assert (store.path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("damage", [Path.unlink, truncate, empty, flip])
@pytest.mark.parametrize("column", ["ids", "labels", "masked"])
def test_lost_columns_are_named(tmp_path: Path, damage: Any, column: str) -> None:
    store = (write_masked if column == "masked" else write)(tmp_path / "s.zarr")
    damage(chunk_file(store, 0, column))
    with pytest.raises(CorruptDataError, match=rf"s.zarr/{column}: chunk c/0 \(rows 0 to 149\)"):
        EmbeddingStore.open(store.path).validate()


def test_a_whole_store_is_valid(tmp_path: Path) -> None:
    write(tmp_path / "s.zarr").validate()


def test_validation_names_the_first_id_that_occurs_twice(tmp_path: Path) -> None:
    ids = names()
    ids[90] = ids[80] = ids[7]
    ids[5] = ids[149]
    with EmbeddingStore.create(tmp_path / "s.zarr", DIM) as writer:
        writer.append(embeddings(), ids=ids)
    with pytest.raises(InputError, match=r"0149.jpg' occurs 2 times, first in row 5"):
        EmbeddingStore.open(tmp_path / "s.zarr").validate()


@pytest.mark.parametrize("array", ["embeddings", "ids", "labels", "masked"])
def test_chunks_above_the_limit_are_refused_when_the_store_is_opened(
    tmp_path: Path, array: str
) -> None:
    (write_masked if array == "masked" else write)(tmp_path / "s.zarr")
    shape = [1 << 28, DIM] if array == "embeddings" else [1 << 40]
    grid = {"name": "regular", "configuration": {"chunk_shape": shape}}
    edit_metadata(tmp_path / "s.zarr" / array / "zarr.json", chunk_grid=grid)
    with pytest.raises(InputError, match="declares chunks of"):
        EmbeddingStore.open(tmp_path / "s.zarr")


def test_a_store_of_zarr_version_2_is_read(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "s.zarr", zarr_format=2)
    for name, values in (("embeddings", embeddings()), ("ids", np.arange(ROWS))):
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=(CHUNK, *values.shape[1:])
        )
        array[:] = values
    group.attrs["crossgram"] = {"format": 1}
    store = EmbeddingStore.open(tmp_path / "s.zarr")
    store.validate()
    np.testing.assert_array_equal(rows_of(store), embeddings())
    (tmp_path / "s.zarr" / "embeddings" / "3.0").unlink()
    with pytest.raises(CorruptDataError, match=r"chunk 3.0 \(rows 96 to 127\) is missing"):
        rows_of(store)


def test_what_would_be_unpickled_is_refused(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "s.zarr", zarr_format=2)
    array = group.create_array("embeddings", shape=(ROWS, DIM), dtype="f4", chunks=(CHUNK, DIM))
    array[:] = embeddings()
    ids = group.create_array("ids", shape=(ROWS,), dtype=np.dtypes.StringDType(), chunks=(ROWS,))
    ids[:] = np.array(names(), np.dtypes.StringDType())
    group.attrs["crossgram"] = {"format": 1}
    filters = [{"id": "vlen-utf8"}, {"id": "pickle"}]
    edit_metadata(tmp_path / "s.zarr" / "ids" / ".zarray", filters=filters)
    with pytest.raises(InputError, match="stored with pickle"):
        EmbeddingStore.open(tmp_path / "s.zarr")


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    zarr.create_group(tmp_path / "group.zarr")
    zarr.create_array(tmp_path / "array.zarr", shape=(3, 2), dtype="f4")
    expected = {
        "absent": "no such file or directory",
        "file": "not a Zarr store",
        "folder": "not a Zarr store",
        "group.zarr": "not an embedding store",
        "array.zarr": "not an embedding store",
    }
    for name, message in expected.items():
        with pytest.raises(InputError, match=message):
            EmbeddingStore.open(tmp_path / name)


def test_parts_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    store = write(tmp_path / "good.zarr")

    def broken(name: str, change: Any) -> Path:
        copy = tmp_path / name
        shutil.copytree(store.path, copy)
        change(copy)
        return copy

    cases = {
        "embeddings' is missing": lambda path: shutil.rmtree(path / "embeddings"),
        r"labels has shape \(149,\), embeddings has 150 rows": lambda path: edit_metadata(
            path / "labels" / "zarr.json", shape=[ROWS - 1]
        ),
        r"embeddings has shape \(0, 5\)": lambda path: edit_metadata(
            path / "embeddings" / "zarr.json", shape=[0, DIM]
        ),
        "dtype int32; expected": lambda path: edit_metadata(
            path / "embeddings" / "zarr.json", data_type="int32", fill_value=0
        ),
        "store format 99": lambda path: edit_metadata(
            path / "zarr.json", attributes={"crossgram": {"format": 99}}
        ),
        "metadata cannot be read": lambda path: (path / "zarr.json").write_text("{"),
        "metadata of 'ids' cannot be read": lambda path: (path / "ids/zarr.json").write_text("{"),
    }
    for number, (message, change) in enumerate(cases.items()):
        with pytest.raises(InputError, match=message):
            EmbeddingStore.open(broken(f"{number}.zarr", change))


def test_a_full_disk_is_reported_as_such_and_leaves_nothing(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        with Path("/dev/full").open("w") as device:
            device.write("x")

    for manager, name in ((whole_file, "map.safetensors"), (whole_directory, "s.zarr")):
        with (
            pytest.raises(RunError, match=f"{name}: the disk is full"),
            manager(tmp_path / name) as temporary,
        ):
            fill(temporary)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_is_a_failed_run_and_leaves_nothing(tmp_path: Path) -> None:
    program = f"""
import resource, numpy as np
from crossgram.errors import RunError
from crossgram.store import EmbeddingStore
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    with EmbeddingStore.create({str(tmp_path / "s.zarr")!r}, 256, codec="none") as writer:
        writer.append(np.ones((1000, 256)))
except RunError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == f"{tmp_path / 's.zarr'}: cannot be written: File too large\n", run.stderr
    assert list(tmp_path.iterdir()) == []
