"""Mapping a store gives the store of the mapped rows, whole or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from command_line import succeeds
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import moderate, rows_of, values_of, write_store

import crossgram as cg
from crossgram import mapping, store_writer
from crossgram.cluster import cluster_client
from crossgram.codecs import CODECS
from crossgram.source import open_source

Matrix = NDArray[Any]

ROWS, P, Q = 300, 5, 3
rng = np.random.default_rng(0)
# integers so small that products and sums of them are exact in every floating dtype
X = rng.integers(-9, 10, size=(ROWS, P)).astype(np.float32)
IDS = [f"größe/{row}.jpg" for row in range(ROWS)]
LABELS = np.arange(ROWS) // 7 - 3

# rows of a mebibyte each, so that a block of the pass holds sixteen
WIDE = 131_072
LONG = rng.integers(-2, 3, size=(50, WIDE)).astype(np.float64)


def integer_map(p: int = P, *, normalized: bool = False) -> cg.LinearMap:
    weight = np.random.default_rng(1).integers(-2, 3, size=(Q, p)).astype(float)
    bias = np.array([1.0, -2.0, 0.0])
    return cg.LinearMap(weight, bias, cg.Space("net-a", p, normalized), cg.Space("net-b", Q))


MAP, LONG_MAP = integer_map(), integer_map(WIDE)


def write_long(path: Path, rows: Matrix = LONG, **columns: Any) -> Path:
    with cg.EmbeddingStore.create(path, WIDE, dtype=rows.dtype, chunk_rows=7) as writer:
        writer.append(rows, **columns)
    return path


def contents(root: Path) -> dict[Path, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root): path.read_bytes() for path in files}


class TestRows:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize(
        "kind", ["store", "opened", "sharded", "npy", "fortran", "zarr2", "zarr3", "numpy", "dask"]
    )
    def test_of_any_source_are_mapped(self, tmp_path: Path, kind: str, dtype: str) -> None:
        x = X.astype(dtype)
        mapped = cg.apply(MAP, self.stored(kind, x, tmp_path / "x"), tmp_path / "out.zarr")
        expected = "float64" if dtype == "float64" else "float32"
        assert (mapped.rows, mapped.dim, mapped.dtype) == (ROWS, Q, expected)
        np.testing.assert_array_equal(rows_of(mapped), X @ MAP.weight.T + MAP.bias)

    def stored(self, kind: str, x: Matrix, path: Path) -> Any:
        match kind:
            case "numpy":
                return x
            case "dask":
                return dask.array.from_array(x, chunks=((90, 110, 100), (2, 3)))
            case "store":
                return str(write_store(path, x))
            case "opened":
                return cg.EmbeddingStore.open(write_store(path, x))
            case "sharded":
                with cg.EmbeddingStore.create(
                    path, P, dtype=x.dtype, chunk_rows=10, shard_rows=40
                ) as writer:
                    writer.append(x)
                return path
            case "zarr2" | "zarr3":
                array = zarr.create_array(
                    path, shape=x.shape, chunks=(77, 2), dtype=x.dtype, zarr_format=int(kind[-1])
                )
                array[:] = x
                return path
        order = np.asfortranarray if kind == "fortran" else np.ascontiguousarray
        np.save(path.with_suffix(".npy"), order(x))
        return path.with_suffix(".npy")

    def test_are_divided_by_their_lengths_where_the_map_takes_unit_rows(
        self, tmp_path: Path
    ) -> None:
        fitted = integer_map(normalized=True)
        rows = X + np.float32(0.1)
        mapped = cg.apply(fitted, write_store(tmp_path / "x", rows), tmp_path / "out.zarr")
        # both are within p + 3 roundings of terms that are at most |W| and |b|
        terms = np.abs(fitted.weight).sum(axis=1) + np.abs(fitted.bias)
        error = np.abs(rows_of(mapped) - fitted.apply(rows))
        assert (error <= 2 * (P + 3) * np.finfo(np.float32).eps * terms).all()

    @given(st.lists(st.integers(1, 20), min_size=1), st.sampled_from([None, 1, 3, 64]))
    @moderate
    def test_do_not_depend_on_the_chunks_that_they_come_and_go_in(
        self, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], chunk_rows: int | None
    ) -> None:
        cuts = [*(cut for cut in np.cumsum(sizes).tolist() if cut < len(LONG)), len(LONG)]
        chunks = tuple(np.diff(cuts, prepend=0).tolist())
        source = dask.array.from_array(LONG, chunks=(chunks, (WIDE,)))
        out = tmp_path_factory.mktemp("apply") / "out.zarr"
        mapped = cg.apply(LONG_MAP, source, out, chunk_rows=chunk_rows)
        np.testing.assert_array_equal(rows_of(mapped), EXPECTED)

    @pytest.mark.parametrize("given_as", [str, Path])
    def test_are_mapped_by_a_map_in_a_file(self, tmp_path: Path, given_as: Any) -> None:
        MAP.save(tmp_path / "map.safetensors")
        mapped = cg.apply(given_as(tmp_path / "map.safetensors"), X, tmp_path / "out.zarr")
        np.testing.assert_array_equal(rows_of(mapped), MAP.apply(X))


EXPECTED = LONG @ LONG_MAP.weight.T + LONG_MAP.bias


class TestNewStore:
    @pytest.mark.parametrize("labels", [LABELS, None, [f"p{n}" for n in LABELS]])
    @pytest.mark.parametrize("ids", [IDS, None, LABELS[::-1]])
    def test_has_the_ids_and_labels_of_the_source(
        self, tmp_path: Path, ids: Any, labels: Any
    ) -> None:
        store = write_store(tmp_path / "x.zarr", X, ids, labels)
        mapped = cg.apply(MAP, store, tmp_path / "out.zarr")
        for column, expected in ((mapped.ids, ids), (mapped.labels, labels)):
            assert (column is None) == (expected is None)
            if column is not None:
                assert column.read(0, ROWS).tolist() == list(expected)

    def test_has_ids_and_labels_where_they_belong_over_many_blocks(self, tmp_path: Path) -> None:
        store = write_long(tmp_path / "x.zarr", ids=IDS[:50], labels=LABELS[:50])
        mapped = cg.apply(LONG_MAP, store, tmp_path / "out.zarr")
        np.testing.assert_array_equal(rows_of(mapped), EXPECTED)
        assert mapped.ids is not None
        assert mapped.labels is not None
        assert mapped.ids.read(0, 50).tolist() == IDS[:50]
        assert mapped.labels.read(0, 50).tolist() == LABELS[:50].tolist()

    def test_says_what_made_it(self, tmp_path: Path) -> None:
        store = write_store(tmp_path / "x.zarr", X)
        assert cg.apply(MAP, store, tmp_path / "out.zarr").provenance == {
            "made_by": f"crossgram {cg.__version__} apply",
            "mapped_from": str(store),
            "source": "net-a",
            "target": "net-b",
        }

    @pytest.mark.parametrize("codec", CODECS)
    def test_has_the_layout_that_was_asked_for(self, tmp_path: Path, codec: str) -> None:
        layout = {"codec": codec, "chunk_rows": 20, "shard_rows": 60}
        cg.apply(MAP, X, tmp_path / "out", **layout)
        with cg.EmbeddingStore.create(tmp_path / "same", Q, **layout) as writer:
            writer.append(MAP.apply(X))
        assert contents(tmp_path / "out/embeddings") == contents(tmp_path / "same/embeddings")

    def test_is_not_put_over_another_unless_asked(self, tmp_path: Path) -> None:
        out = tmp_path / "out.zarr"
        cg.apply(MAP, X, out)
        with pytest.raises(cg.OutputExistsError, match=r"out\.zarr: already exists"):
            cg.apply(MAP, X[:7], out)
        assert cg.EmbeddingStore.open(out).rows == ROWS
        assert cg.apply(MAP, X[:7], out, overwrite=True).rows == 7
        assert cg.EmbeddingStore.open(out).rows == 7
        assert list(tmp_path.iterdir()) == [out]

    def test_never_takes_the_place_of_its_source_or_map(self, tmp_path: Path) -> None:
        store = write_store(tmp_path / "x.zarr", X, IDS)
        MAP.save(tmp_path / "m")
        for out in (store, tmp_path, tmp_path / "m"):
            with pytest.raises(cg.InputError, match="and would be replaced"):
                cg.apply(tmp_path / "m", store, out, overwrite=True)
        np.testing.assert_array_equal(rows_of(cg.EmbeddingStore.open(store)), X)
        cg.LinearMap.load(tmp_path / "m")


class TestMaskedRows:
    masked = np.isin(np.arange(50), [0, 17, 18, 49])

    def test_stay_masked_over_many_blocks(self, tmp_path: Path) -> None:
        rows = np.where(self.masked[:, None], np.nan, LONG)
        store = write_long(tmp_path / "x.zarr", rows, ids=IDS[:50], masked=self.masked)
        mapped = cg.apply(LONG_MAP, store, tmp_path / "out.zarr")
        mapped.validate()
        assert values_of(mapped.masked) == self.masked.tolist()
        assert values_of(mapped.ids) == IDS[:50]
        expected = np.where(self.masked[:, None], np.nan, EXPECTED)
        np.testing.assert_array_equal(rows_of(mapped), expected)

    def test_stay_masked_where_the_map_takes_unit_rows(self, tmp_path: Path) -> None:
        rows, masked = X[:50] + np.float32(0.1), self.masked
        fitted = integer_map(normalized=True)
        store = write_store(tmp_path / "x.zarr", rows, masked=masked)
        mapped = cg.apply(fitted, store, tmp_path / "out.zarr")
        expected = rows_of(cg.apply(fitted, rows, tmp_path / "whole.zarr"))
        np.testing.assert_array_equal(np.isnan(rows_of(mapped)).all(axis=1), masked)
        np.testing.assert_array_equal(rows_of(mapped)[~masked], expected[~masked])

    def test_that_are_none_leave_a_mask_all_the_same(self, tmp_path: Path) -> None:
        store = write_store(tmp_path / "x.zarr", X, masked=np.zeros(ROWS, bool))
        assert values_of(cg.apply(MAP, store, tmp_path / "out.zarr").masked) == [False] * ROWS

    @pytest.mark.parametrize("row", [16, 19])
    def test_do_not_hide_a_row_that_is_not_finite(self, tmp_path: Path, row: int) -> None:
        rows = np.where(self.masked[:, None], np.nan, X[:50]).astype(np.float32)
        rows[row, 2] = np.nan
        store = write_store(tmp_path / "x.zarr", rows, masked=self.masked)
        with pytest.raises(cg.NonFiniteError, match=rf"x\.zarr: row {row} cannot be mapped"):
            cg.apply(MAP, store, tmp_path / "out.zarr")
        assert not (tmp_path / "out.zarr").exists()


class TestProgress:
    def test_rises_part_by_part_to_all_rows_and_bytes(self, tmp_path: Path) -> None:
        seen: list[cg.Progress] = []
        cg.apply(LONG_MAP, LONG, tmp_path / "out.zarr", progress=seen.append, chunk_rows=16)
        rows = [progress.rows for progress in seen]
        assert rows == sorted(set(rows))
        assert (len(rows) > 1, rows[-1]) == (True, 50)
        assert [progress.bytes for progress in seen] == [8 * WIDE * count for count in rows]
        assert {(progress.stage, progress.total_rows) for progress in seen} == {("apply", 50)}

    def test_that_raises_stops_the_run_and_leaves_nothing(self, tmp_path: Path) -> None:
        before = threading.active_count()

        def stop(progress: cg.Progress) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cg.apply(LONG_MAP, LONG, tmp_path / "out.zarr", progress=stop)
        assert list(tmp_path.iterdir()) == []
        assert threading.active_count() == before


@pytest.fixture(params=["new", "overwriting"])
def untouched(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Give an output that a failing run must leave as it is: absent, or an earlier store."""
    (tmp_path / "outputs").mkdir()
    out = tmp_path / "outputs" / "out.zarr"
    if request.param == "overwriting":
        cg.apply(MAP, X, out)
    yield out
    if request.param == "overwriting":
        np.testing.assert_array_equal(rows_of(cg.EmbeddingStore.open(out)), MAP.apply(X))
    assert [path.name for path in out.parent.iterdir()] == [out.name] * out.exists()
    assert out.exists() == (request.param == "overwriting")


class TestFailure:
    """A run that fails says where, and leaves the outputs as they were."""

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_names_the_first_row_that_is_not_finite(
        self, tmp_path: Path, untouched: Path, value: float
    ) -> None:
        x = X.copy()
        x[[123, 250], 1] = value
        store = write_store(tmp_path / "x.zarr", x)
        with pytest.raises(cg.NonFiniteError, match=r"x\.zarr: row 123 cannot be mapped"):
            cg.apply(MAP, store, untouched, overwrite=True)

    def test_names_a_row_that_is_not_finite_in_a_later_block(self, untouched: Path) -> None:
        x = LONG.copy()
        x[37, -1] = np.nan
        with pytest.raises(cg.NonFiniteError, match="rows: row 37 cannot be mapped"):
            cg.apply(LONG_MAP, x, untouched, overwrite=True)

    def test_names_a_row_that_the_map_takes_beyond_the_largest_number(
        self, untouched: Path
    ) -> None:
        x = X.copy()
        x[5] = np.sign(MAP.weight[0]) * np.finfo(np.float32).max
        with pytest.raises(cg.NonFiniteError, match="row 5 .* values too large"):
            cg.apply(MAP, x, untouched, overwrite=True)

    def test_names_a_row_without_direction_where_rows_are_normalized(
        self, tmp_path: Path, untouched: Path
    ) -> None:
        x = X.copy() + np.float32(0.5)
        x[42] = 0
        cg.apply(MAP, x, tmp_path / "fine.zarr")
        with pytest.raises(cg.NonFiniteError, match="row 42 .* only zeros"):
            cg.apply(integer_map(normalized=True), x, untouched, overwrite=True)

    @pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"damaged")])
    @pytest.mark.parametrize(
        ("part", "where"),
        [
            ("embeddings/c/4/0", r"x\.zarr: chunk c/4/0 \(rows 28 to 34\)"),
            ("ids/c/0", r"x\.zarr/ids: chunk c/0 \(rows 0 to 49\)"),
        ],
    )
    def test_names_a_chunk_that_is_lost(
        self, tmp_path: Path, untouched: Path, damage: Any, part: str, where: str
    ) -> None:
        store = write_long(tmp_path / "x.zarr", ids=IDS[:50])
        damage(store / part)
        with pytest.raises(cg.CorruptDataError, match=where):
            cg.apply(LONG_MAP, store, untouched, overwrite=True)

    @pytest.mark.parametrize(
        ("fitted", "options", "error", "message"),
        [
            (integer_map(4), {}, cg.WidthMismatchError, "rows has 5 columns, .* net-b takes 4"),
            ("absent.safetensors", {}, cg.InputError, "absent.safetensors: no such file"),
            (MAP, {"codec": "gzip"}, cg.InputError, "codec: 'gzip' is not known"),
            (MAP, {"chunk_rows": 0}, cg.InputError, "chunk_rows: 0 given"),
            (MAP, {"chunk_rows": 4, "shard_rows": 6}, cg.InputError, "shard_rows: 6 is not a mul"),
        ],
        ids=["another width", "no map", "codec", "chunks", "shards"],
    )
    def test_comes_before_any_work_where_it_can_be_foreseen(
        self, untouched: Path, fitted: Any, options: Any, error: type[Exception], message: str
    ) -> None:
        seen: list[cg.Progress] = []
        with pytest.raises(error, match=message):
            cg.apply(fitted, X, untouched, overwrite=True, progress=seen.append, **options)
        assert seen == []


@pytest.fixture(scope="module")
def two() -> Iterator[Client]:
    with cluster_client(2, None) as started:
        yield started


def _limit(far: int, block: int, part: int) -> None:
    mapping._FAR_BYTES, mapping._BLOCK_BYTES, mapping._PART_BYTES = far, block, part


@pytest.fixture
def small(two: Client) -> Iterator[None]:
    """Have a few hundred rows be many blocks and parts, here and on the workers."""
    kept = mapping._FAR_BYTES, mapping._BLOCK_BYTES, mapping._PART_BYTES
    for limits in ((300 * 40 * 4, 100 * 40 * 4, 200 * 30 * 8), kept):
        _limit(*limits)
        two.run(_limit, *limits)
        if limits != kept:
            yield


class TestOnCluster:
    @pytest.mark.parametrize(
        "layout",
        [{}, {"chunk_rows": 10, "shard_rows": 20}, {"chunk_rows": 50, "codec": "none"}],
        ids=["plain", "shards", "chunks"],
    )
    def test_the_store_is_the_same(
        self, tmp_path: Path, two: Client, small: None, layout: dict[str, Any]
    ) -> None:
        rows = np.random.default_rng(0).normal(size=(3000, 40)).astype(np.float32)
        masked = np.arange(3000) % 11 == 3
        rows[masked] = np.nan
        fitted = cg.LinearMap(
            np.random.default_rng(1).normal(size=(30, 40)),
            np.arange(30.0),
            cg.Space("a", 40),
            cg.Space("b", 30),
        )
        source = tmp_path / "x.zarr"
        with cg.EmbeddingStore.create(source, 40, chunk_rows=50) as writer:
            writer.append(
                rows, ids=[f"i{k}" for k in range(3000)], labels=range(3000), masked=masked
            )
        done: list[int] = []
        for name, client in (("here", None), ("there", two)):
            cg.apply(
                fitted,
                source,
                tmp_path / name,
                client=client,
                progress=lambda own: done.append(own.rows),
                **layout,
            )
        assert done[-1] == 3000
        assert len(done) > 10 or not layout
        assert contents(tmp_path / "there") == contents(tmp_path / "here")

    def test_wide_rows_become_narrow_ones_within_memory(self, tmp_path: Path, two: Client) -> None:
        source = write_long(tmp_path / "x.zarr")
        mapped = cg.apply(LONG_MAP, source, tmp_path / "out.zarr", client=two)
        np.testing.assert_array_equal(rows_of(mapped), LONG @ LONG_MAP.weight.T + LONG_MAP.bias)

    def test_odd_chunks_give_the_same_rows(self, tmp_path: Path, two: Client, small: None) -> None:
        source = write_store(tmp_path / "x.zarr", X)
        mapped = cg.apply(MAP, source, tmp_path / "out.zarr", client=two, chunk_rows=7)
        np.testing.assert_array_equal(rows_of(mapped), X @ MAP.weight.T + MAP.bias)

    def test_a_failure_leaves_nothing_of_tasks_that_go_on(
        self, tmp_path: Path, two: Client, small: None
    ) -> None:
        rows = np.random.default_rng(0).normal(size=(100_000, 40)).astype(np.float32)
        rows[250, 3] = np.inf
        source = write_store(tmp_path / "x.zarr", rows)
        fitted = cg.LinearMap(np.ones((30, 40)), np.zeros(30), cg.Space("a", 40), cg.Space("b", 30))
        with pytest.raises(cg.NonFiniteError, match="row 250 cannot be mapped"):
            cg.apply(fitted, source, tmp_path / "out.zarr", client=two, chunk_rows=50)
        two.run(time.sleep, 0.5)
        assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]

    def test_a_relative_place_is_this_process_s(
        self, tmp_path: Path, two: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = write_store(tmp_path / "x.zarr", X)
        monkeypatch.chdir(tmp_path)
        assert cg.apply(MAP, source, "out.zarr", client=two).rows == ROWS

    def test_what_cannot_be_mapped_leaves_nothing(self, tmp_path: Path, two: Client) -> None:
        rows = X.copy()
        rows[200, 1] = np.nan
        source = write_store(tmp_path / "x.zarr", rows)
        with pytest.raises(cg.NonFiniteError, match="row 200 cannot be mapped"):
            cg.apply(MAP, source, tmp_path / "out.zarr", client=two)
        assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]
        with pytest.raises(cg.InputError, match="lies in this process"):
            cg.apply(MAP, X, tmp_path / "out.zarr", client=two)
        assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]

    def test_the_command_takes_workers(self, tmp_path: Path) -> None:
        write_store(tmp_path / "x.zarr", X)
        MAP.save(tmp_path / "map.safetensors")
        made = succeeds(
            *("apply", "map.safetensors", "x.zarr", "out.zarr", "--workers", 2), cwd=tmp_path
        )
        assert made["rows"] == ROWS
        np.testing.assert_array_equal(
            rows_of(cg.EmbeddingStore.open(tmp_path / "out.zarr")), X @ MAP.weight.T + MAP.bias
        )


class TestColumns:
    @pytest.mark.parametrize("name", ["ids", "labels"])
    def test_stored_alike_are_copied_byte_for_byte(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        write_store(tmp_path / "a.zarr", X, ids=IDS, labels=LABELS)

        def refused(*_: Any) -> None:
            raise AssertionError("values were appended")

        monkeypatch.setattr(store_writer.Appender, "append", _but_embeddings(refused))
        cg.apply(MAP, tmp_path / "a.zarr", tmp_path / "b.zarr")
        before, after = (contents(tmp_path / store / name) for store in ("a.zarr", "b.zarr"))
        chunks = [path for path in before if path.suffix != ".json"]
        assert chunks
        assert all(before[path] == after[path] for path in chunks)

    def test_stored_otherwise_are_written_again(self, tmp_path: Path) -> None:
        write_store(tmp_path / "a.zarr", X, ids=IDS, labels=LABELS)
        group = zarr.open_group(tmp_path / "a.zarr")
        for name, values in (("ids", np.array(IDS, np.dtypes.StringDType())), ("labels", LABELS)):
            group.create_array(
                name,
                data=values,
                chunks=(7,),
                compressors=None,
                overwrite=True,
                config={"write_empty_chunks": True},
            )
        made = cg.apply(MAP, tmp_path / "a.zarr", tmp_path / "b.zarr")
        assert made.ids is not None
        assert made.labels is not None
        assert made.ids.array.chunks != (7,)
        assert made.ids.read(0, ROWS).tolist() == IDS
        assert made.labels.read(0, ROWS).tolist() == LABELS.tolist()

    @pytest.mark.parametrize("name", ["ids", "labels"])
    def test_that_are_damaged_are_named(self, tmp_path: Path, name: str) -> None:
        write_store(tmp_path / "a.zarr", X, ids=IDS, labels=LABELS)
        chunk = tmp_path / "a.zarr" / name / "c" / "0"
        content = bytearray(chunk.read_bytes())
        content[-1] ^= 1
        chunk.write_bytes(content)
        with pytest.raises(cg.CorruptDataError, match=rf"a\.zarr/{name}: chunk c/0"):
            cg.apply(MAP, tmp_path / "a.zarr", tmp_path / "b.zarr")
        assert not (tmp_path / "b.zarr").exists()


def _but_embeddings(refused: Any) -> Any:
    """Return an `Appender.append` that takes rows of embeddings only."""
    append = store_writer.Appender.append

    def checked(self: Any, values: Any) -> None:
        if np.ndim(values) == 1:
            refused()
        append(self, values)

    return checked


@pytest.mark.parametrize("chunk_rows", [1, 64, 1000, 2500])
@pytest.mark.parametrize("columns", [512, 600])
def test_the_same_rows_are_mapped_together_near_and_far(chunk_rows: int, columns: int) -> None:
    """For BLAS may give other last bits to rows that are multiplied with others."""
    zeros = zarr.create_array(
        zarr.storage.MemoryStore(),
        shape=(40_000, columns),
        chunks=(chunk_rows, columns),
        dtype="f4",
    )
    source = open_source(zeros, "rows")

    def mapped_at_once(cut: mapping._Cut) -> list[tuple[int, int]]:
        return [
            (start + own.start, start + own.stop)
            for start in range(0, source.rows, cut.read)
            for own in cut.pieces(min(cut.read, source.rows - start), 870)
        ]

    near, far = (mapping._Cut.of(source, 1024, columns, is_near) for is_near in (True, False))
    assert far.read > near.read
    assert mapped_at_once(near) == mapped_at_once(far)
    assert {len(range(*own)) > 870 for own in mapped_at_once(near)} == {False}
