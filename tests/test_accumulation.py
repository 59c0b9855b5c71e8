from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import dask.array
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import (
    assert_moments_agree,
    assert_same_bits,
    mask_of,
    moderate,
    moments_of,
    write_store,
)
from threadpoolctl import threadpool_info, threadpool_limits

import crossgram as cg
from crossgram.accumulation import Options, prepared
from crossgram.accumulator import Accumulator
from crossgram.merge_tree import MergeTree, merge_folds
from crossgram.moments import Moments
from crossgram.plan import make_plan
from crossgram.residual_moments import ResidualAccumulator
from crossgram.row_checks import unmasked_tiles
from crossgram.segment_sums import _selection
from crossgram.source import Source, open_source
from crossgram.spaces import Space, all_pairs
from crossgram.store import Column

# six segments of 16,384 rows, the last of them short
ROWS = 5 * 16_384 + 1_237
rng = np.random.default_rng(0)
X = (rng.standard_normal((ROWS, 3)) + 5.0).astype(np.float32)
Y = (X @ rng.standard_normal((3, 2)) + rng.standard_normal((ROWS, 2))).astype(np.float32)
NAMES = ["a", "b"]


def accumulated(x: Any = X, y: Any = Y, **options: Any) -> Any:
    return cg.accumulate([x, y], names=NAMES, **options)


@pytest.fixture(scope="module")
def whole() -> Moments:
    return moments_of([X, Y])


class TestThreads:
    """The result is the same to the last bit with any number of threads."""

    @pytest.mark.parametrize("threads", [2, 3, 7])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"precision": "fast"},
            {"normalize": True},
            {"weights": np.linspace(0, 1, ROWS)},
            {"maps": [("a", "b")]},
        ],
        ids=["plain", "fast", "normalized", "weighted", "one map"],
    )
    def test_change_no_bit(self, threads: int, options: dict[str, Any]) -> None:
        assert_same_bits(accumulated(threads=threads, **options), accumulated(threads=1, **options))

    def test_of_runs_side_by_side_leave_the_blas_threads_as_they_were(self) -> None:
        with threadpool_limits(limits=2, user_api="blas"):
            before = [pool["num_threads"] for pool in threadpool_info()]
            runs = [
                threading.Thread(target=accumulated, args=(X[:rows], Y[:rows]))
                for rows in (20_000, ROWS, 40_000)
            ]
            for run in runs:
                run.start()
            for run in runs:
                run.join()
            assert [pool["num_threads"] for pool in threadpool_info()] == before

    @pytest.mark.parametrize("folds", [0, 3])
    @pytest.mark.parametrize("chunk_rows", [1024, 1500])
    def test_change_no_bit_where_memory_is_short(
        self, tmp_path: Path, chunk_rows: int, folds: int
    ) -> None:
        x = np.random.default_rng(5).standard_normal((20_000, 300), np.float32)
        with cg.EmbeddingStore.create(tmp_path / "x.zarr", 300, chunk_rows=chunk_rows) as writer:
            writer.append(x, ids=range(len(x)))
        options: dict[str, Any] = {"folds": folds, "group_by": "ids" if folds else "rows"}
        plans, found = [], []
        for threads in (1, 4):
            with prepared(
                [tmp_path / "x.zarr"], Options(memory=60_000_000, threads=threads, **options)
            ) as ready:
                plans.append(ready.plan)
                moments = ready.run()
            found.append(moments.total() if folds else moments)
        assert plans[0].block_rows < 16 * chunk_rows
        assert_same_bits(*found)

    @pytest.mark.parametrize("threads", [2, 7])
    def test_change_no_bit_of_folds(self, threads: int) -> None:
        alone, together = accumulated(folds=3, threads=1), accumulated(folds=3, threads=threads)
        for found, expected in zip(together.folds, alone.folds, strict=True):
            assert_same_bits(found, expected)

    @pytest.mark.parametrize("threads", [1, 2, 7])
    def test_name_the_same_row_that_is_not_finite(self, threads: int) -> None:
        x = X.copy()
        for row in (20_000, 20_001, 70_000):
            x[row, 1] = np.nan
        with pytest.raises(cg.NonFiniteError, match="array 1: row 20000 holds nan in column 1"):
            cg.accumulate([x, Y], threads=threads)


class TestMergeTree:
    """Segments may be finished in any order."""

    @given(st.integers(1, 13).flatmap(lambda count: st.permutations(range(count))))
    @moderate
    def test_merges_in_the_same_tree(self, order: list[int]) -> None:
        rows = np.random.default_rng(len(order)).standard_normal((7 * len(order), 2))

        def merged(indices: Any) -> Moments:
            tree = MergeTree(len(order), merge_folds)
            for index in indices:
                tree.add(index, [moments_of([rows[7 * index : 7 * index + 7]])])
            (result,) = tree.result()
            return result

        found = merged(order)
        assert_same_bits(found, merged(range(len(order))))
        assert_moments_agree(found, moments_of([rows]), [rows])

    def test_takes_segments_from_many_threads(self) -> None:
        count = 64
        rows = np.random.default_rng(1).standard_normal((count, 5, 2))
        expected, tree = MergeTree(count, merge_folds), MergeTree(count, merge_folds)
        for index in range(count):
            expected.add(index, [moments_of([rows[index]])])

        def add_every_fourth(first: int) -> None:
            for index in range(first, count, 4):
                tree.add(index, [moments_of([rows[index]])])

        threads = [threading.Thread(target=add_every_fourth, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_same_bits(tree.result()[0], expected.result()[0])


class TestSources:
    """Rows give the same moments wherever they are stored."""

    @pytest.mark.parametrize("kind", ["store", "sharded", "zarr", "npy", "fortran", "dask", "path"])
    def test_of_any_kind(self, kind: str, tmp_path: Path, whole: Moments) -> None:
        assert_moments_agree(accumulated(self.stored(kind, tmp_path)), whole, [X, Y])

    def stored(self, kind: str, directory: Path) -> Any:
        path = directory / "x"
        match kind:
            case "store":
                return cg.EmbeddingStore.open(write_store(path, X))
            case "path":
                return str(write_store(path, X))
            case "sharded":
                with cg.EmbeddingStore.create(
                    path, 3, chunk_rows=1000, shard_rows=9000, codec="zstd"
                ) as writer:
                    writer.append(X)
                return path
            case "zarr":
                array = zarr.create_array(path, shape=X.shape, chunks=(777, 2), dtype=X.dtype)
                array[:] = X
                return array
            case "dask":
                return dask.array.from_array(X, chunks=(5000, 2))
        order = np.asfortranarray if kind == "fortran" else np.ascontiguousarray
        np.save(directory / "x.npy", order(X))
        return directory / "x.npy"

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_of_any_floating_dtype(self, dtype: str) -> None:
        x = X.astype(dtype)
        assert_moments_agree(accumulated(x), moments_of([x, Y]), [x, Y])

    def test_of_three_spaces_in_one_pass(self) -> None:
        spaces = {"a": X[:3000], "b": Y[:3000], "c": X[:3000, :1]}
        found = cg.accumulate(list(spaces.values()), names=list(spaces))
        assert_moments_agree(found, moments_of(list(spaces.values())), list(spaces.values()))

    def test_are_named_after_their_files(self, tmp_path: Path) -> None:
        first, second = (
            write_store(tmp_path / d / "net.zarr", X[:9]) for d in self.folders(tmp_path)
        )
        moments = cg.accumulate([first, second, X[:9]])
        assert [space.name for space in moments.spaces] == ["net", "net-2", "array 3"]

    def folders(self, directory: Path) -> tuple[str, str]:
        for name in ("one", "two"):
            (directory / name).mkdir()
        return "one", "two"


@pytest.mark.parametrize("rows", [[0], [2, 3, 4], [0, 1, 3], [1, 4], [0, 2, 3, 4]])
def test_rows_of_a_fold_are_those_that_are_wanted(rows: list[int]) -> None:
    numbers = np.arange(5)
    assert numbers[_selection(np.isin(numbers, rows))].tolist() == rows


class TestOptions:
    def test_of_memory_changes_no_more_than_the_rounding(self, whole: Moments) -> None:
        plan = make_plan([open_source(X), open_source(Y)], whole.spaces, whole.pairs)
        small = accumulated(memory=plan.planned_memory_bytes - 1, threads=2)
        assert_moments_agree(small, whole, [X, Y])

    def test_of_weights_weigh_the_rows(self) -> None:
        weights = np.random.default_rng(2).random(ROWS)
        found = accumulated(weights=weights)
        expected = moments_of([X, Y], weights)
        assert found.weight == pytest.approx(expected.weight, rel=1e-12)
        found.weight = expected.weight
        assert_moments_agree(found, expected, [X, Y])

    def test_of_weights_weigh_the_rows_of_their_folds(self) -> None:
        weights = np.random.default_rng(2).random(ROWS)
        found = accumulated(weights=weights, folds=3)
        third = ROWS // 3
        for k, fold in enumerate(found.folds):
            # contiguous runs of rows, equally long but for one
            assert fold.weight == pytest.approx(weights[k * third : (k + 1) * third].sum(), abs=1.5)
        total = found.folds[0] + found.folds[1] + found.folds[2]
        assert total.weight == pytest.approx(weights.sum(), rel=1e-12)
        expected = moments_of([X, Y], weights)
        total.weight = expected.weight
        assert_moments_agree(total, expected, [X, Y])

    def test_of_normalizing_divide_rows_by_their_lengths(self) -> None:
        unit = X / np.linalg.norm(X.astype(float), axis=1, keepdims=True)
        found = accumulated(normalize=["a"])
        assert found.spaces == (Space("a", 3, normalized=True), Space("b", 2))
        expected = moments_of([unit, Y])
        expected.spaces = found.spaces
        assert_moments_agree(found, expected, [unit, Y])

    def test_of_the_fast_precision_keep_seven_digits(self, whole: Moments) -> None:
        fast = accumulated(precision="fast")
        assert fast.precision == "fast"
        lengths = np.sqrt(np.outer(whole.squares[0], whole.squares[1]))
        error = np.abs(fast.blocks[0, 1] - whole.blocks[0, 1]) / lengths
        assert 0 < error.max() < 1024 * np.finfo(np.float32).eps

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"precision": "double"}, "precision: 'double' given, expected one of"),
            ({"on_nonfinite": "ignore"}, "on_nonfinite: 'ignore' given"),
            ({"join": "labels"}, "join: 'labels' given"),
            ({"threads": 0}, "threads: 0 given, expected at least 1"),
            ({"memory": -5}, "memory: -5 given"),
            ({"memory": "2GB"}, "memory: '2GB' given, expected a whole number"),
            ({"folds": 2.5}, "folds: 2.5 given, expected a whole number"),
            ({"group_by": "ids"}, "group_by: 'ids' given without folds"),
            ({"group_by": [1, 2]}, r"group_by: \[1, 2\] given, expected one of"),
            ({"weights": ["a"] * ROWS}, "weights: .*expected a number for each row"),
            ({"normalize": ["z"]}, "normalize: no space 'z'; there are a, b"),
            ({"maps": [("a", "z")]}, "no space 'z'"),
            ({"weights": [1.0]}, r"weights: shape \(1,\) given"),
            ({"weights": np.full(ROWS, -1.0)}, "weights: must be finite and not negative"),
        ],
    )
    def test_that_make_no_sense_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(cg.InputError, match=message):
            accumulated(**options)

    def test_of_names_must_be_one_per_space(self) -> None:
        with pytest.raises(cg.InputError, match="names: 1 given for 2 spaces"):
            cg.accumulate([X, Y], names=["a"])


class TestRowsThatVaryTooLittle:
    @pytest.mark.parametrize("maps", [None, [("b", "a")]], ids=["all blocks", "one map"])
    def test_are_refused_before_their_squares_vanish(self, maps: Any) -> None:
        with pytest.raises(cg.InputError, match="column 0 varies by so little that its squares"):
            accumulated(1e-170 * X[:50].astype(float), Y[:50], maps=maps)

    def test_are_no_columns_that_are_constant(self) -> None:
        constant = np.full((50, 2), [0.1, 1e-30])
        assert not accumulated(constant, Y[:50]).squares[0].any()


class TestRowsThatAreNotFinite:
    """They stop the run, or are left out of every space and counted."""

    def damaged(self, tmp_path: Path, value: float) -> tuple[list[Path], NDArray[np.bool_]]:
        x, y = X[:5000].copy(), Y[:5000].copy()
        x[[7, 3000], 1] = value
        y[[7, 4999], 0] = value
        keep = np.ones(5000, bool)
        keep[[7, 3000, 4999]] = False
        return [write_store(tmp_path / f"{n}.zarr", r) for n, r in (("x", x), ("y", y))], keep

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_stop_naming_store_row_and_column(self, tmp_path: Path, value: float) -> None:
        stores, _ = self.damaged(tmp_path, value)
        with pytest.raises(
            cg.NonFiniteError, match=rf"x\.zarr: row 7 holds {value} in column 1; .*skip"
        ):
            accumulated(*stores)
        with pytest.raises(cg.NonFiniteError, match=r"y\.zarr: row 7 .* column 0"):
            accumulated(X[:5000], stores[1])

    def test_are_named_by_their_place_among_all_also_in_folds(self) -> None:
        x, row = X.copy(), ROWS // 3 + 5  # in a block with rows of two folds
        x[row, 1] = np.nan
        with pytest.raises(cg.NonFiniteError, match=f"row {row} holds nan in column 1"):
            accumulated(x, folds=3)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("weighted", [True, False])
    def test_are_left_out_of_both_spaces_and_counted(
        self, tmp_path: Path, value: float, weighted: bool
    ) -> None:
        stores, keep = self.damaged(tmp_path, value)
        weights = np.arange(1.0, 5001.0) if weighted else None
        kept = [X[:5000][keep], Y[:5000][keep]]
        found = accumulated(*stores, on_nonfinite="skip", weights=weights)
        assert (found.rows, found.skipped) == (4997, 3)
        expected = moments_of(kept, None if weights is None else weights[keep])
        assert_moments_agree(found, expected, kept)

    def test_are_counted_in_the_certificate(self, tmp_path: Path) -> None:
        stores, _ = self.damaged(tmp_path, np.nan)
        certificate = cg.fit(*stores, on_nonfinite="skip").certificate
        assert (certificate.rows, certificate.skipped) == (4997, 3)

    def test_that_are_all_there_is_leave_nothing_to_solve(self) -> None:
        with pytest.raises(cg.InputError, match="no rows"):
            cg.fit(np.full((5, 2), np.nan), np.ones((5, 1)), on_nonfinite="skip")

    def test_include_zero_rows_where_rows_are_normalized(self) -> None:
        x = X[:100].copy()
        x[42] = 0
        with pytest.raises(
            cg.NonFiniteError, match=r"array 1: row 42 is all zeros .* no direction"
        ):
            cg.accumulate([x, Y[:100]], normalize=True)
        skipped = accumulated(x, Y[:100], normalize=["a"], on_nonfinite="skip")
        assert (skipped.rows, skipped.skipped) == (99, 1)
        assert accumulated(x, Y[:100], normalize=["b"]).rows == 100

    def test_include_finite_rows_whose_squares_overflow(self) -> None:
        with pytest.raises(cg.InputError, match="overflow"):
            cg.accumulate([X[:100].astype(float) * 1e200, Y[:100]])


class TestMaskedRows:
    """They are left out of every space and counted, whatever is done with other rows."""

    masks = (mask_of(5000, 0, 7, *range(1000, 2100)), mask_of(5000, 7, 3000, 4999))
    masked = masks[0] | masks[1]
    count = int(masked.sum())
    labels: ClassVar[list[str]] = [f"person-{row % 11}" for row in range(5000)]

    def stores(self, folder: Path, **columns: Any) -> list[Path]:
        return [
            write_store(folder / f"{name}.zarr", rows[:5000], masked=mask, **columns)
            for name, rows, mask in zip(NAMES, (X, Y), self.masks, strict=True)
        ]

    def others(self, folder: Path, labels: Any = None) -> list[Path]:
        """Write the stores of the rows that are not masked."""
        own = None if labels is None else np.array(labels)[~self.masked]
        return [
            write_store(folder / f"{name}-others.zarr", rows[:5000][~self.masked], labels=own)
            for name, rows in zip(NAMES, (X, Y), strict=True)
        ]

    @pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
    @pytest.mark.parametrize(
        "options",
        [{}, {"precision": "fast"}, {"normalize": True}, {"norms": True}, {"maps": [("a", "b")]}],
        ids=["plain", "fast", "normalized", "norms", "one map"],
    )
    def test_give_the_bits_of_stores_without_them(
        self, tmp_path: Path, options: dict[str, Any], on_nonfinite: str
    ) -> None:
        found = accumulated(*self.stores(tmp_path), on_nonfinite=on_nonfinite, **options)
        expected = accumulated(*self.others(tmp_path), **options)
        assert (found.rows, found.skipped) == (5000 - self.count, self.count)
        found.skipped = 0
        assert_same_bits(found, expected)

    def test_have_no_part_in_weights(self, tmp_path: Path) -> None:
        weights = np.arange(1.0, 5001.0)
        found = accumulated(*self.stores(tmp_path), weights=weights)
        expected = accumulated(*self.others(tmp_path), weights=weights[~self.masked])
        found.skipped = 0
        assert_same_bits(found, expected)

    def test_do_not_count_among_those_of_their_label(self, tmp_path: Path) -> None:
        # of the first person, only masked rows
        labels = np.array(self.labels)
        labels[~self.masked & (labels == "person-0")] = "person-1"
        found = cg.accumulate(self.stores(tmp_path, labels=labels), balance=True)
        expected = cg.accumulate(self.others(tmp_path, labels=labels), names=NAMES, balance=True)
        assert found.weight == pytest.approx(10)
        found.skipped = 0
        assert_same_bits(found, expected)

    def test_are_left_out_of_their_fold_and_counted_there(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"folds": 3, "group_by": "labels"}
        found = accumulated(*self.stores(tmp_path, labels=self.labels), **options)
        expected = accumulated(*self.others(tmp_path, labels=self.labels), **options)
        assert sum(fold.skipped for fold in found.folds) == self.count
        assert min(fold.skipped for fold in found.folds) > 0
        for own, fold in zip(found.folds, expected.folds, strict=True):
            own.skipped = 0
            assert_same_bits(own, fold)

    def test_are_counted_in_a_certificate_with_cross_validation(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"folds": 3, "group_by": "labels"}
        found = cg.fit(*self.stores(tmp_path, labels=self.labels), **options)
        expected = cg.fit(*self.others(tmp_path, labels=self.labels), **options)
        np.testing.assert_array_equal(found.weight, expected.weight)
        certificate = found.certificate
        assert (certificate.rows, certificate.skipped) == (5000 - self.count, self.count)
        assert certificate.cross_validated_r2 == expected.certificate.cross_validated_r2

    def test_have_no_part_in_a_comparison(self, tmp_path: Path) -> None:
        found = cg.compare(self.stores(tmp_path), names=NAMES)
        expected = cg.compare(self.others(tmp_path), names=NAMES)
        assert found == expected

    def many(self, folder: Path) -> tuple[list[Path], NDArray[np.bool_]]:
        """Write stores of all rows, with masked ones in some segments and all in one of them."""
        scattered = np.random.default_rng(3).random((2, ROWS)) < [[0.01], [0.2]]
        scattered[0, 16_384:32_768] = True
        scattered[:, 40_000:60_000] = False
        stores = [
            write_store(folder / f"{name}.zarr", rows, masked=mask)
            for name, rows, mask in zip(NAMES, (X, Y), scattered, strict=True)
        ]
        return stores, ~scattered.any(axis=0)

    @pytest.mark.parametrize("folds", [0, 3])
    def test_of_many_segments_leave_the_same_bits_to_any_threads(
        self, tmp_path: Path, folds: int
    ) -> None:
        stores, keep = self.many(tmp_path)
        one, *others = (accumulated(*stores, folds=folds, threads=threads) for threads in (1, 2, 7))
        for other in others:
            for pair in zip(*(m.folds if folds else [m] for m in (one, other)), strict=True):
                assert_same_bits(*pair)
        total = one.total() if folds else one
        assert total.skipped == ROWS - keep.sum()
        assert_moments_agree(total, moments_of([X[keep], Y[keep]]), [X, Y])

    @pytest.mark.parametrize("row", [6, 2500])
    def test_do_not_hide_a_row_that_is_not_finite(self, tmp_path: Path, row: int) -> None:
        y = Y[:5000].copy()
        y[row, 1] = np.inf
        stores = self.stores(tmp_path)
        other = write_store(tmp_path / "y.zarr", y, masked=self.masks[1])
        with pytest.raises(cg.NonFiniteError, match=rf"y\.zarr: row {row} holds inf in column 1"):
            accumulated(stores[0], other)
        skipped = accumulated(stores[0], other, on_nonfinite="skip")
        assert skipped.skipped == self.count + 1

    def test_are_left_out_whatever_they_hold(self) -> None:
        x = X[:5000].copy()
        x[7] = np.inf
        x[3000] = np.nan
        sources = [
            Source(name, 5000, rows.shape[1], rows.dtype, 1, reader(rows), masked=mask)
            for name, rows, mask in zip(
                NAMES, (x, Y[:5000]), (Column(mask, "mask") for mask in self.masks), strict=True
            )
        ]
        found = accumulated(*sources)
        found.skipped = 0
        kept = [X[:5000][~self.masked], Y[:5000][~self.masked]]
        assert_same_bits(found, accumulated(*kept))

    def test_that_are_all_there_is_leave_nothing_to_solve(self, tmp_path: Path) -> None:
        store = write_store(tmp_path / "x.zarr", X[:50], masked=np.ones(50, bool))
        assert accumulated(store, Y[:50]).skipped == 50
        with pytest.raises(cg.InputError, match="no rows"):
            cg.fit(store, Y[:50])

    @pytest.mark.parametrize("masked", [None, np.zeros(9, bool)])
    def test_that_are_none_leave_tiles_that_copy_nothing(self, masked: Any) -> None:
        assert list(unmasked_tiles(9, masked, 4)) == [slice(0, 4), slice(4, 8), slice(8, 12)]


def reader(rows: NDArray[Any]) -> Any:
    def read(start: int, out: NDArray[Any]) -> None:
        out[:] = rows[start : start + len(out)]

    return read


class TestProgress:
    def test_rises_to_all_rows_and_bytes_in_the_calling_thread(self) -> None:
        seen: list[cg.Progress] = []
        threads = set()

        def watch(progress: cg.Progress) -> None:
            seen.append(progress)
            threads.add(threading.get_ident())

        accumulated(progress=watch, threads=3)
        rows = [progress.rows for progress in seen]
        assert rows == sorted(rows)
        assert (seen[-1].rows, seen[-1].total_rows) == (ROWS, ROWS)
        assert seen[-1].bytes == X.nbytes + Y.nbytes
        assert threads == {threading.get_ident()}

    def test_that_raises_stops_the_run_and_its_threads(self) -> None:
        before = threading.active_count()

        def stop(progress: cg.Progress) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            accumulated(progress=stop, threads=3)
        assert threading.active_count() == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones(5), "expected rows x columns"),
        (np.ones((5, 2), int), "dtype int64, expected float16, float32 or float64"),
        (np.ones((0, 2)), "at least one row"),
        ("nowhere.zarr", r"nowhere\.zarr: no such file or directory"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(given: Any, message: str) -> None:
    with pytest.raises(cg.InputError, match=message):
        cg.accumulate([X[:5], given])


def test_a_chunk_that_is_lost_stops_the_run_by_name(tmp_path: Path) -> None:
    store = write_store(tmp_path / "x.zarr", X[:300])
    (store / "embeddings" / "c" / "2" / "0").unlink()
    with pytest.raises(cg.CorruptDataError, match=r"x\.zarr.*c/2/0 \(rows 128 to 191\) is missing"):
        accumulated(store, Y[:300])


class TestBalance:
    labels: ClassVar[list[str]] = ["one"] * 40 + ["two"] * 5 + ["three"] * 15

    def stores(self, folder: Path) -> list[Path]:
        return [
            write_store(folder / "x.zarr", X[:60], labels=self.labels),
            write_store(folder / "y.zarr", Y[:60]),
        ]

    def test_lets_every_label_count_alike(self, tmp_path: Path) -> None:
        counts = {label: self.labels.count(label) for label in self.labels}
        weights = [1 / counts[label] for label in self.labels]
        stores = self.stores(tmp_path)
        balanced = cg.accumulate(stores, balance=True)
        assert balanced.weight == pytest.approx(3)
        assert_same_bits(balanced, cg.accumulate(stores, weights=weights))

    def test_needs_labels_and_no_other_weights(self, tmp_path: Path) -> None:
        with pytest.raises(cg.InputError, match="balance: no labels in array 1 or array 2"):
            accumulated(balance=True)
        with pytest.raises(cg.InputError, match="balance: given with weights"):
            cg.accumulate(self.stores(tmp_path), balance=True, weights=np.ones(60))


class TestSpentSums:
    """Their memory is used again, whatever is in it."""

    SPACES = (Space("a", 3), Space("b", 2))

    def rows(self, start: int) -> list[NDArray[np.float32]]:
        return [X[start : start + 2000], Y[start : start + 2000]]

    def test_of_moments(self) -> None:
        accumulator = Accumulator(self.SPACES, all_pairs(2))
        accumulator.add(self.rows(0))
        spent = accumulator.moments()
        kept = dict(spent.blocks)
        for block in kept.values():
            block.fill(np.nan)
        accumulator.add(self.rows(2000))
        found = accumulator.moments(spent)
        assert all(found.blocks[pair] is kept[pair] for pair in kept)
        assert_same_bits(found, moments_of(self.rows(2000)))
        nothing = accumulator.moments(found)
        assert all(nothing.blocks[pair] is kept[pair] for pair in kept)
        assert_same_bits(nothing, Moments({"a": 3, "b": 2}))

    def test_of_residuals(self) -> None:
        def accumulator() -> ResidualAccumulator:
            return ResidualAccumulator(
                self.SPACES, np.ones((3, 2)), np.ones(2), skip_nonfinite=False, labels=NAMES
            )

        def added(to: ResidualAccumulator, start: int) -> ResidualAccumulator:
            numbers = [np.arange(2000)] * 2
            to.add(self.rows(start), weights=None, row_numbers=numbers)
            return to

        once = accumulator()
        spent = added(once, 0).moments()
        for array in (*spent.products, spent.squares):
            array.fill(np.nan)
        added(once, 2000).moments(spent)
        found, expected = added(once, 4000).moments(), added(accumulator(), 4000).moments()
        assert found is spent
        for own, other in zip(found.products, expected.products, strict=True):
            assert own.tobytes() == other.tobytes()
        assert found.squares.tobytes() == expected.squares.tobytes()
