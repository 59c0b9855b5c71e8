"""Moments that were merged, added to and subtracted from are those of a fresh run."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import (
    EPSILON,
    assert_moments_agree,
    direct_scatter,
    mask_of,
    moderate,
    moments_of,
    spaces,
    write_store,
)

import crossgram as cg
from crossgram.fingerprint import fingerprint, id_sum
from crossgram.history import id_sum_of
from crossgram.pairing import at_rows
from crossgram.selection import read_list
from crossgram.source import open_source
from crossgram.store import Column

ROWS, MONDAY = 800, 600
rng = np.random.default_rng(0)
X = (rng.standard_normal((ROWS, 4)) + 1.0).astype(np.float32)
Y = (X[:, :3] + rng.standard_normal((ROWS, 3))).astype(np.float32)
IDS = [f"person-{row // 5}/{row % 5}.jpg" for row in range(ROWS)]
LABELS = [f"person-{row // 5}" for row in range(ROWS)]
WEIGHTS = rng.random(ROWS)

PEOPLE = ["person-3", "person-70", "person-119"]
OF_PEOPLE = np.isin(LABELS, PEOPLE)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one map": {"maps": [("a", "b")]},
    "unit rows": {"normalize": ["a"]},
    "fast": {"precision": "fast"},
    "folds by ids": {"folds": 3, "group_by": "ids"},
    "folds by labels": {"folds": 3, "group_by": "labels"},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def write_pair(directory: Path, rows: Any, **columns: Any) -> list[Path]:
    """Write the stores a and b of some of the rows."""
    directory.mkdir(parents=True)
    picked = np.arange(ROWS)[rows]
    columns = columns or {
        "ids": [IDS[row] for row in picked],
        "labels": [LABELS[row] for row in picked],
    }
    return [
        write_store(directory / f"{name}.zarr", block[picked], **columns)
        for name, block in (("a", X), ("b", Y))
    ]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Stores of Monday's rows, Tuesday's, both, and of those without some people."""
    folder = tmp_path_factory.mktemp("stores")
    runs = {
        "monday": slice(MONDAY),
        "tuesday": slice(MONDAY, None),
        "both": slice(None),
        "others": ~OF_PEOPLE,
        "people": OF_PEOPLE,
    }
    return {name: write_pair(folder / name, rows) for name, rows in runs.items()}


def accumulated(given: list[Path], **options: Any) -> Any:
    return cg.accumulate(given, names=["a", "b"], **options)


def parts(moments: Any) -> tuple[cg.Moments, ...]:
    return moments.folds if isinstance(moments, cg.FoldedMoments) else (moments,)


def allowed(precision: str) -> float:
    """Return how far two runs over these rows may differ, relative to the lengths of the columns.

    Sums of n products carry at most n u of the lengths of what was summed, u half of ε. Of the two
    results, each is put together from at most three such sums with those of the means, of no more
    than a third more rows than are left. The sums of `fast` are of float32.
    """
    if precision == "fast":
        return 2 * 3 * ROWS * float(np.finfo(np.float32).eps)
    bound = 2 * 3 * ROWS * EPSILON / 2
    assert bound < 1e-12
    return bound


def assert_same_run(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    for mine, theirs in zip(parts(found), parts(expected), strict=True):
        assert (mine.rows, mine.spaces, mine.pairs) == (theirs.rows, theirs.spaces, theirs.pairs)
        assert mine.precision == theirs.precision
        assert mine.weight == pytest.approx(theirs.weight, rel=1e-12)
        tolerance = allowed(theirs.precision)
        lengths = [np.sqrt(squares) for squares in theirs.squares]
        for i, j in theirs.pairs:
            scale = np.outer(lengths[i], lengths[j])
            error = np.abs(mine.blocks[i, j] - theirs.blocks[i, j])
            assert (error <= tolerance * scale).all()
        for k, mean in enumerate(theirs.means):
            spread = np.sqrt(theirs.squares[k] / theirs.weight) + np.abs(mean)
            assert (np.abs(mine.means[k] - mean) <= tolerance * spread).all()


class TestAFreshRun:
    """Equals every way of putting together the same rows, to 1e-12 of the columns' lengths."""

    @every_option
    def test_equals_the_merged_shards(self, stores: Any, options: dict[str, Any]) -> None:
        shards = [accumulated(stores[day], **options) for day in ("monday", "tuesday")]
        merged = cg.merge_moments(shards)
        assert merged.rows == ROWS - MONDAY
        assert merged.warnings == ()
        assert_same_run(merged.moments, accumulated(stores["both"], **options))

    @every_option
    def test_equals_the_rows_added(self, stores: Any, options: dict[str, Any]) -> None:
        added = cg.add_rows(accumulated(stores["monday"], **options), stores["tuesday"])
        assert (added.rows, added.warnings) == (ROWS - MONDAY, ())
        assert_same_run(added.moments, accumulated(stores["both"], **options))

    @every_option
    @pytest.mark.parametrize("by", ["ids", "labels", "ids and labels"])
    def test_equals_the_listed_rows_subtracted(
        self, stores: Any, options: dict[str, Any], by: str
    ) -> None:
        ids = [IDS[row] for row in np.flatnonzero(OF_PEOPLE)]
        listed: dict[str, Any] = {
            "ids": {"ids": ids},
            "labels": {"labels": PEOPLE},
            "ids and labels": {"ids": ids[:3], "labels": PEOPLE},
        }[by]
        whole = accumulated(stores["both"], **options)
        fewer = cg.subtract_rows(whole, stores["both"], **listed)
        assert (fewer.rows, fewer.warnings) == (15, ())
        assert_same_run(fewer.moments, accumulated(stores["others"], **options))

    @every_option
    def test_equals_whole_stores_subtracted(self, stores: Any, options: dict[str, Any]) -> None:
        shards = [accumulated(stores[day], **options) for day in ("monday", "tuesday")]
        both = cg.merge_moments(shards).moments
        for fewer in (
            cg.subtract_rows(both, stores["tuesday"]),
            cg.subtract_moments(both, shards[1]),
        ):
            assert (fewer.rows, fewer.warnings) == (ROWS - MONDAY, ())
            assert_same_run(fewer.moments, shards[0])

    def test_equals_rows_of_the_fold_that_they_were_in(self, stores: Any) -> None:
        whole = accumulated(stores["both"], folds=4)
        # the last of the second fold and the first of the third
        people = [*PEOPLE, "person-79", "person-80"]
        fewer = cg.subtract_rows(whole, stores["both"], labels=people).moments
        fold_of = np.arange(ROWS) * 4 // ROWS
        for k, fold in enumerate(fewer.folds):
            kept = (fold_of == k) & ~np.isin(LABELS, people)
            expected = moments_of([X[kept], Y[kept]])
            assert_same_run(fold, expected)

    def test_equals_weighted_rows_added_and_subtracted(self, stores: Any) -> None:
        monday = accumulated(stores["monday"], weights=WEIGHTS[:MONDAY])
        both = cg.add_rows(monday, stores["tuesday"], weights=WEIGHTS[MONDAY:]).moments
        assert_same_run(both, accumulated(stores["both"], weights=WEIGHTS))
        of_tuesday = [label for label in LABELS[MONDAY:] if label.endswith("2")]
        fewer = cg.subtract_rows(
            both, stores["tuesday"], labels=of_tuesday, weights=WEIGHTS[MONDAY:]
        )
        kept = ~np.isin(LABELS, of_tuesday)
        assert_same_run(fewer.moments, moments_of([X[kept], Y[kept]], WEIGHTS[kept]))

    def test_equals_rows_joined_by_id(self, stores: Any, tmp_path: Path) -> None:
        order = np.random.default_rng(1).permutation(ROWS)
        mixed = write_store(tmp_path / "b.zarr", Y[order], ids=[IDS[row] for row in order])
        pair = [stores["both"][0], mixed]
        whole = accumulated(pair, join="ids")
        fewer = cg.subtract_rows(whole, pair, labels=PEOPLE, join="ids")
        assert fewer.warnings == ()
        assert_same_run(fewer.moments, accumulated(stores["others"]))

    def test_equals_rows_left_out_as_not_finite(self, tmp_path: Path) -> None:
        rows = X[:100].copy()
        rows[[7, 40]] = np.nan
        store = write_store(tmp_path / "a.zarr", rows, ids=IDS[:100])
        whole = cg.accumulate([store], on_nonfinite="skip")
        fewer = cg.subtract_rows(whole, [store], ids=IDS[5:15], on_nonfinite="skip")
        assert (fewer.moments.rows, fewer.moments.skipped) == (89, 1)
        kept = np.setdiff1d(np.arange(100), [*range(5, 15), 40])
        assert_moments_agree(fewer.moments, moments_of([X[kept]]), [X[:100]])

    @every_option
    def test_equals_masked_rows_added_and_removed(
        self, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        masks = mask_of(ROWS, 7, 17, 700), mask_of(ROWS, 7, 350, *range(610, 690))
        masked = masks[0] | masks[1]
        pairs = {
            name: [
                write_store(
                    tmp_path / f"{name}-{space}.zarr",
                    rows[own],
                    np.array(IDS)[own],
                    np.array(LABELS)[own],
                    None if mask is None else mask[own],
                )
                for space, rows, mask in zip("ab", (X, Y), given, strict=True)
            ]
            for name, own, given in (
                ("monday", np.s_[:MONDAY], masks),
                ("tuesday", np.s_[MONDAY:], masks),
                ("others", np.flatnonzero(~masked & ~OF_PEOPLE), (None, None)),
            )
        }
        both = cg.add_rows(accumulated(pairs["monday"], **options), pairs["tuesday"])
        assert (both.rows, both.warnings) == (ROWS - MONDAY, ())
        fewer = cg.subtract_rows(both.moments, pairs["monday"], labels=PEOPLE)
        assert fewer.rows == OF_PEOPLE.sum()
        assert_same_run(fewer.moments, accumulated(pairs["others"], **options))
        # of the people removed, one row of each of two was masked
        assert sum(part.skipped for part in parts(fewer.moments)) == masked.sum() - 2

    def test_equals_itself_less_a_masked_row(self, tmp_path: Path) -> None:
        store = write_store(tmp_path / "a.zarr", X, IDS, masked=mask_of(ROWS, 7, 40))
        whole = cg.accumulate([store])
        fewer = cg.subtract_rows(whole, [store], ids=IDS[7:8])
        assert (fewer.moments.rows, fewer.moments.skipped) == (ROWS - 2, 1)
        assert_same_run(fewer.moments, whole)

    def test_equals_the_definition_of_the_scatter(self, stores: Any) -> None:
        fewer = cg.subtract_rows(accumulated(stores["both"]), stores["both"], labels=PEOPLE)
        x, y = X[~OF_PEOPLE], Y[~OF_PEOPLE]
        scale = np.sqrt(np.outer(direct_scatter(x, x).diagonal(), direct_scatter(y, y).diagonal()))
        error = np.abs(fewer.moments.scatter("a", "b") - direct_scatter(x, y))
        assert (error <= allowed("exact") * scale).all()

    def test_leaves_what_was_revised_as_it_was(self, stores: Any) -> None:
        monday = accumulated(stores["monday"])
        before = monday.copy()
        both = cg.add_rows(monday, stores["tuesday"]).moments
        cg.subtract_rows(both, stores["tuesday"])
        assert_same_run(monday, before)
        assert monday.history == before.history


class TestReading:
    def test_of_listed_rows_touches_no_other_chunk(self, tmp_path: Path) -> None:
        store = write_store(tmp_path / "a.zarr", X, labels=LABELS)
        whole = cg.accumulate([store])
        # rows 15 to 19 are in chunk 0; history looks at the first and the last row
        for chunk in range(1, ROWS // 64):
            (store / "embeddings" / "c" / str(chunk) / "0").unlink()
        fewer = cg.subtract_rows(whole, [store], labels=["person-3"])
        kept = np.array(LABELS) != "person-3"
        assert_moments_agree(fewer.moments, moments_of([X[kept]]), [X])
        with pytest.raises(cg.CorruptDataError, match="chunk c/1/0"):
            cg.subtract_rows(whole, [store], labels=["person-14"])

    @moderate
    @given(st.sets(st.integers(0, ROWS - 1), min_size=1), st.integers(1, 300))
    def test_at_rows_gives_these_rows(self, wanted: set[int], chunk_rows: int) -> None:
        rows = np.array(sorted(wanted))
        source = at_rows(replace(open_source(X), chunk_rows=chunk_rows), rows)
        for start in range(0, len(rows), 50):
            out = np.empty((min(50, len(rows) - start), 4), np.float32)
            source.read(start, out)
            np.testing.assert_array_equal(out, X[rows[start : start + 50]])

    def test_of_rows_that_are_not_finite_names_them_as_the_store_does(self, tmp_path: Path) -> None:
        rows = X.copy()
        rows[351] = np.nan
        store = write_store(tmp_path / "a.zarr", rows, labels=LABELS)
        whole = cg.accumulate([store], on_nonfinite="skip")
        with pytest.raises(cg.NonFiniteError, match="row 351 holds nan"):
            cg.subtract_rows(whole, [store], labels=["person-70"])

    def test_lists_have_one_value_per_line(self, tmp_path: Path) -> None:
        (tmp_path / "list").write_bytes("größe/1 a.jpg\r\n\n b \nc".encode())
        assert read_list(tmp_path / "list") == ["größe/1 a.jpg", " b ", "c"]

    def test_ids_that_are_integers_are_listed_as_text(self, tmp_path: Path) -> None:
        store = write_store(tmp_path / "a.zarr", X, ids=range(ROWS))
        fewer = cg.subtract_rows(cg.accumulate([store]), [store], ids=["0", "17"]).moments
        kept = np.setdiff1d(np.arange(ROWS), [0, 17])
        assert_moments_agree(fewer, moments_of([X[kept]]), [X])


class TestHistory:
    """Says what was read, when and how, and goes where the moments go."""

    def test_tells_what_was_accumulated(self, stores: Any) -> None:
        before = datetime.now(UTC).replace(microsecond=0)
        moments = accumulated(stores["monday"], normalize=["a"], precision="fast")
        (step,) = moments.history
        assert (step.operation, step.rows, step.version) == ("accumulate", MONDAY, cg.__version__)
        assert before <= datetime.fromisoformat(step.time) <= datetime.now(UTC)
        assert [each.path for each in step.inputs] == [str(path) for path in stores["monday"]]
        assert [each.rows for each in step.inputs] == [MONDAY, MONDAY]
        assert step.options["normalize"] == ["a"]
        assert step.options["precision"] == "fast"

    @pytest.mark.parametrize("options", [{}, {"folds": 2, "group_by": "ids"}], ids=str)
    def test_is_carried_through_every_operation(
        self, stores: Any, options: dict[str, Any], tmp_path: Path
    ) -> None:
        monday, tuesday = (accumulated(stores[d], **options) for d in ("monday", "tuesday"))
        moments = cg.merge_moments([monday, tuesday], ["m.st", "t.st"]).moments
        moments = cg.subtract_rows(moments, stores["monday"], labels=PEOPLE[:1]).moments
        moments = cg.subtract_moments(moments, tuesday, label="t.st").moments
        moments = cg.add_rows(moments, stores["tuesday"]).moments
        moments.save(tmp_path / "m")
        loaded = cg.load_moments(tmp_path / "m")
        assert loaded.history == moments.history
        assert [(step.operation, step.rows) for step in loaded.history] == [
            ("accumulate", MONDAY),
            ("accumulate", ROWS - MONDAY),
            ("merge", ROWS),
            ("subtract", 5),
            ("subtract", ROWS - MONDAY),
            ("add", ROWS - MONDAY),
        ]
        assert [each.path for each in loaded.history[2].inputs] == ["m.st", "t.st"]
        assert loaded.history[4].options["moments"] == "t.st"
        if options:
            assert loaded.total().history == loaded.history

    def test_is_kept_by_the_operators_of_moments(self, stores: Any) -> None:
        monday, tuesday = accumulated(stores["monday"]), accumulated(stores["tuesday"])
        both = monday + tuesday
        assert both.history == monday.history + tuesday.history
        signs = [step.operation for step in (both - tuesday).history]
        assert signs == ["accumulate", "accumulate", "subtract"]
        assert [step.operation for step in (both - both).history][2:] == ["subtract"] * 2
        assert [step.operation for step in (both - (both - tuesday)).history][2:] == [
            "subtract",
            "subtract",
            "add",
        ]

    def test_is_absent_from_files_of_before(self, tmp_path: Path) -> None:
        from crossgram.tensor_file import read_tensors, write_tensors

        moments_of([X]).save(tmp_path / "new")
        tensors, facts = read_tensors(tmp_path / "new", "moments")
        kept = {k: v for k, v in facts.items() if k not in ("history", "kind", "format")}
        write_tensors(tmp_path / "old", "moments", tensors, kept, overwrite=False)
        assert cg.Moments.load(tmp_path / "old").history == ()

    @pytest.mark.parametrize("folds", [0, 2])
    @pytest.mark.parametrize(
        "change",
        [
            {"operation": "divide"},
            {"rows": -1},
            {"rows": "3"},
            {"rows": True},
            {"ids": "xyz"},
            {"time": None},
            {"inputs": [{"path": "a"}]},
            {"inputs": [3]},
            {"more": 1},
            None,
            7,
        ],
        ids=str,
    )
    def test_that_is_hostile_is_refused(
        self, stores: Any, tmp_path: Path, change: Any, folds: int
    ) -> None:
        from safetensors.numpy import load_file, save_file

        accumulated(stores["monday"], folds=folds).save(tmp_path / "good")
        with (tmp_path / "good").open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        facts = json.loads(header["__metadata__"]["crossgram"])
        if isinstance(change, dict):
            facts["history"][0] |= change
        else:
            facts["history"] = change if change is None else [change]
        save_file(load_file(tmp_path / "good"), tmp_path / "bad", {"crossgram": json.dumps(facts)})
        with pytest.raises(cg.CorruptDataError, match="bad"):
            cg.load_moments(tmp_path / "bad")

    def test_is_recorded_by_a_fit_that_is_asked_to(self, stores: Any) -> None:
        recorded = cg.fit_with_report(*stores["monday"], record=True).moments.history
        assert recorded[0].digests == accumulated(stores["monday"]).history[0].digests
        assert cg.fit_with_report(*stores["monday"]).moments.history == ()


class TestIdSums:
    @moderate
    @given(st.lists(st.text(max_size=8), min_size=1), st.randoms(use_true_random=False))
    def test_add_up_in_any_order_and_split(self, ids: list[str], random: Any) -> None:
        def total(values: list[str]) -> int:
            return int(id_sum(Column(np.array(values, np.dtypes.StringDType()), "ids")) or "", 16)

        mixed = random.sample(ids, len(ids))
        cut = random.randint(0, len(ids))
        assert (total(mixed[:cut]) + total(mixed[cut:])) % 2**64 == total(ids)
        assert total([*ids, "one more"]) != total(ids)

    def test_are_the_same_of_the_same_rows_however_they_came_together(self, stores: Any) -> None:
        both = cg.add_rows(accumulated(stores["tuesday"]), stores["monday"]).moments
        fewer = cg.subtract_rows(both, stores["monday"], labels=PEOPLE).moments
        assert id_sum_of(both.history) == id_sum_of(accumulated(stores["both"]).history)
        assert id_sum_of(fewer.history) == id_sum_of(accumulated(stores["others"]).history)
        assert id_sum_of(accumulated([X, Y]).history) is None
        assert id_sum_of(()) is None


class TestFingerprints:
    def test_do_not_depend_on_place_layout_or_order_of_ids_between(self, tmp_path: Path) -> None:
        first = open_source(write_store(tmp_path / "x.zarr", X, ids=IDS))
        with cg.EmbeddingStore.create(tmp_path / "y.zarr", 4, codec="zstd", chunk_rows=99) as w:
            w.append(X, ids=IDS)
        second = open_source(tmp_path / "y.zarr")
        digests = {fingerprint(s, id_sum(s.ids)).digest for s in (first, second)}
        assert len(digests) == 1

    def test_differ_where_masks_do(self, tmp_path: Path) -> None:
        masks = [None, *(mask_of(ROWS, *rows) for rows in ([], [70], [71], [70, 71]))]
        stores = [
            write_store(tmp_path / f"{k}.zarr", X, masked=mask) for k, mask in enumerate(masks)
        ]
        unmasked, masks_nothing, *others = (
            fingerprint(open_source(store), None).digest for store in stores
        )
        assert unmasked == masks_nothing
        assert len({unmasked, *others}) == 4

    def test_differ_where_shape_dtype_ids_or_ends_do(self, tmp_path: Path) -> None:
        end, start = X.copy(), X.copy()
        end[-1, 2] += 1
        start[0, 0] += 1
        blocks = [X, X[:-1], X[:, :3], X.astype(np.float64), end, start]
        found = [fingerprint(open_source(block), None).digest for block in blocks]
        found += [fingerprint(open_source(X), f"{k:016x}").digest for k in range(2)]
        assert len(set(found)) == len(found)


class TestRefusedSubtraction:
    """Rows that were never added, as far as the file can tell."""

    def test_of_stores_that_the_history_does_not_name(self, stores: Any) -> None:
        with pytest.raises(cg.InputError, match=r"tuesday/a\.zarr.*never added.*--allow-unknown"):
            cg.subtract_rows(accumulated(stores["monday"]), stores["tuesday"])
        with pytest.raises(cg.InputError, match="never added"):
            cg.subtract_moments(accumulated(stores["monday"]), accumulated(stores["people"]))

    def test_of_other_embeddings_of_the_same_images(self, stores: Any, tmp_path: Path) -> None:
        newer = write_store(tmp_path / "a.zarr", X + 1, ids=IDS, labels=LABELS)
        with pytest.raises(cg.InputError, match="never added"):
            cg.subtract_rows(accumulated(stores["both"]), [newer, stores["both"][1]], labels=PEOPLE)

    def test_of_stores_that_were_subtracted_before(self, stores: Any) -> None:
        both = cg.add_rows(accumulated(stores["monday"]), stores["tuesday"]).moments
        rest = cg.subtract_rows(both, stores["tuesday"]).moments
        with pytest.raises(cg.InputError, match=r"200 rows of .*tuesday.*, of which 0 are left"):
            cg.subtract_rows(rest, stores["tuesday"])

    def test_of_the_same_people_twice(self, stores: Any) -> None:
        rest = cg.subtract_rows(accumulated(stores["both"]), stores["both"], labels=PEOPLE).moments
        with pytest.raises(cg.InputError, match="these 15 rows of .* removed already, at 20"):
            cg.subtract_rows(rest, stores["both"], labels=PEOPLE)

    def test_of_the_same_people_more_often_than_they_were_added(self, stores: Any) -> None:
        twice = cg.add_rows(accumulated(stores["both"]), stores["both"]).moments
        once = cg.subtract_rows(twice, stores["both"], labels=PEOPLE).moments
        none = cg.subtract_rows(once, stores["both"], labels=PEOPLE).moments
        with pytest.raises(cg.InputError, match="removed already"):
            cg.subtract_rows(none, stores["both"], labels=PEOPLE)

    def test_of_a_whole_store_of_which_some_rows_are_gone(self, stores: Any) -> None:
        both = cg.add_rows(accumulated(stores["monday"]), stores["tuesday"]).moments
        rest = cg.subtract_rows(both, stores["monday"], labels=PEOPLE).moments
        with pytest.raises(cg.InputError, match="600 rows of .*, of which 585 are left"):
            cg.subtract_rows(rest, stores["monday"])

    @pytest.mark.parametrize("weights", [None, WEIGHTS[::-1]])
    def test_with_other_weights(self, stores: Any, weights: Any) -> None:
        whole = accumulated(stores["both"], weights=WEIGHTS)
        with pytest.raises(cg.InputError, match="were accumulated with other weights"):
            cg.subtract_rows(whole, stores["both"], labels=PEOPLE, weights=weights)

    @pytest.mark.parametrize("by", ["ids", "labels"])
    def test_of_a_list_with_something_that_is_in_no_row(self, stores: Any, by: str) -> None:
        known = {"ids": IDS, "labels": LABELS}[by][0]
        with pytest.raises(cg.InputError, match=rf"{by}: 2 of 3 are not in .*/{by}, first 'zoe'"):
            cg.subtract_rows(
                accumulated(stores["both"]), stores["both"], **{by: [known, "zoe", "adam"]}
            )

    @pytest.mark.parametrize("by", ["ids", "labels"])
    def test_by_a_column_that_no_store_has(self, by: str) -> None:
        with pytest.raises(cg.InputError, match=f"{by}: neither array 1 nor array 2 has {by}"):
            cg.subtract_rows(accumulated([X, Y]), [X, Y], **{by: ["x"]})

    def test_by_an_empty_list(self, stores: Any) -> None:
        with pytest.raises(cg.InputError, match="ids: none given"):
            cg.subtract_rows(accumulated(stores["both"]), stores["both"], ids=[])

    def test_that_leaves_a_negative_eigenvalue(self) -> None:
        line = np.repeat(np.random.default_rng(3).standard_normal((200, 1)), 2, axis=1)
        across = np.array([[0.1, -0.1], [-0.1, 0.1]])
        with pytest.raises(cg.InputError, match="negative eigenvalue"):
            cg.subtract_moments(moments_of([line]), moments_of([across]))

    def test_that_leaves_a_negative_variance(self, stores: Any) -> None:
        with pytest.raises(cg.InputError, match="negative variance"):
            cg.subtract_moments(moments_of([X]), moments_of([100 * X[:50]]))

    def test_of_folds_that_cannot_be_known(self, stores: Any) -> None:
        folded = accumulated(stores["monday"], folds=3)
        with pytest.raises(cg.InputError, match="which folds they are in cannot be told"):
            cg.subtract_rows(folded, stores["tuesday"], allow_unknown=True)


@moderate
@given(spaces(least_rows=3), st.data())
def test_subtracting_rows_that_were_added_is_never_refused(
    blocks: list[Any], data: st.DataObject
) -> None:
    count = len(blocks[0])
    gone = np.zeros(count, bool)
    gone[data.draw(st.lists(st.integers(0, count - 1), min_size=1))] = True
    names = list("abc"[: len(blocks)])
    for precision in ("exact", "fast"):
        whole, part = (
            cg.accumulate(rows, names=names, precision=precision)
            for rows in (blocks, [block[gone] for block in blocks])
        )
        rest = cg.subtract_moments(whole, part, allow_unknown=True)
        assert rest.moments.rows == count - gone.sum()


class TestWarnings:
    """Say what the file cannot tell, and what was lost."""

    def test_of_rows_without_any_record(self, stores: Any) -> None:
        fewer = cg.subtract_rows(moments_of([X, Y]), stores["tuesday"])
        (warning,) = fewer.warnings
        assert "were ever added cannot be told: the history does not account for all" in warning
        fewer = cg.subtract_moments(accumulated([X, Y]), moments_of([X[:9], Y[:9]]))
        assert any("other moments: does not record" in warning for warning in fewer.warnings)

    def test_of_rows_added_beside_the_record(self, stores: Any) -> None:
        moments = accumulated(stores["monday"])
        moments.update(X[MONDAY:], Y[MONDAY:])
        (warning,) = cg.subtract_rows(moments, stores["tuesday"]).warnings
        assert "does not account for all rows" in warning

    def test_of_rows_that_lie_in_another_store_if_allowed(self, stores: Any) -> None:
        whole = accumulated(stores["both"])
        fewer = cg.subtract_rows(whole, stores["people"], allow_unknown=True)
        (warning,) = fewer.warnings
        assert "does not name it" in warning
        assert_same_run(fewer.moments, accumulated(stores["others"]))

    def test_of_rows_that_may_be_among_those_removed_before(self, stores: Any) -> None:
        rest = cg.subtract_rows(accumulated(stores["both"]), stores["both"], labels=PEOPLE).moments
        (warning,) = cg.subtract_rows(rest, stores["both"], labels=["person-9"]).warnings
        assert "15 rows of" in warning
        assert "whether some of these 5 are among them cannot be told" in warning

    def test_of_rows_that_count_twice(self, stores: Any) -> None:
        monday = accumulated(stores["monday"])
        for revision in (
            cg.merge_moments([monday, monday]),
            cg.add_rows(monday, stores["monday"]),
        ):
            (warning,) = revision.warnings
            assert "the same rows of" in warning
            assert "count more than once" in warning
            once = cg.subtract_rows(revision.moments, stores["monday"])
            assert once.warnings == ()
            assert_same_run(once.moments, monday)

    @pytest.mark.parametrize("spread", [1e2, 1e4, 1e6])
    def test_of_digits_that_cancelled(self, spread: float) -> None:
        far = spread * np.random.default_rng(4).standard_normal((1500, 2))
        near = np.random.default_rng(5).standard_normal((500, 2))
        both, part = moments_of([np.vstack([far, near])]), moments_of([far])
        rest = cg.subtract_moments(both, part)
        assert any("digits cancelled" in warning for warning in rest.warnings)
        ratio = (both.squares[0] / direct_scatter(near, near).diagonal()).max()
        assert rest.digits == pytest.approx(-np.log10(EPSILON * float(ratio)), abs=0.1)
        error = np.abs(rest.moments.squares[0] / direct_scatter(near, near).diagonal() - 1).max()
        # the digits are those of one rounding; sums of n products carry up to n
        assert error <= 2000 * 10**-rest.digits
        assert error > 1e-3 * 10**-rest.digits

    def test_of_digits_are_absent_where_few_rows_go(self, stores: Any) -> None:
        fewer = cg.subtract_rows(accumulated(stores["both"]), stores["both"], labels=PEOPLE)
        assert fewer.warnings == ()
        assert 15.5 < fewer.digits < 15.7
        assert cg.add_rows(fewer.moments, stores["people"]).digits is None


class TestWhatMomentsReveal:
    """The claims of docs/privacy.md."""

    def test_one_row_is_the_mean(self) -> None:
        np.testing.assert_array_equal(moments_of([X[:1]]).means[0], X[0])

    def test_two_rows_are_the_mean_and_a_step_to_either_side(self) -> None:
        moments = moments_of([X[:2], Y[:2]])
        step = moments.blocks[0, 0][0] / np.sqrt(2 * moments.blocks[0, 0][0, 0])
        rows = sorted([tuple(moments.means[0] + step), tuple(moments.means[0] - step)])
        np.testing.assert_allclose(rows, sorted(map(tuple, X[:2])), rtol=1e-12)

    def test_a_row_that_was_removed_is_the_difference(self, stores: Any) -> None:
        before = accumulated(stores["both"])
        after = cg.subtract_rows(before, stores["both"], ids=IDS[17:18]).moments
        row = (before - after).means[0]
        # the mean of n rows carries at most n u of the rows' size, and n of it are taken apart
        np.testing.assert_allclose(row, X[17], atol=ROWS * ROWS * EPSILON * np.abs(X).max())

    def test_few_rows_span_the_range_of_the_scatter(self) -> None:
        few = np.random.default_rng(6).standard_normal((6, 20))
        values, vectors = np.linalg.eigh(moments_of([few]).scatter("a", "a"))
        span = vectors[:, values > 1e-12 * values.max()]
        assert span.shape[1] == 5
        centred = few - few.mean(axis=0)
        np.testing.assert_allclose(centred @ span @ span.T, centred, atol=1e-12)


class TestRefusedMerge:
    """Names what differs and between which."""

    rows = np.eye(4)

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (lambda r: moments_of([r]), r"t\.st is of the spaces a \(4\), m\.st of a \(4\), b"),
            (lambda r: moments_of([r, r[:, :2]]), r"t\.st is of .* b \(2\), m\.st of .*b \(4\)"),
            (
                lambda r: moments_of([r, r], maps=[("a", "b")]),
                r"m\.st keeps the block b x b, t\.st does not",
            ),
            (
                lambda r: cg.accumulate([r, r], names=["a", "b"], normalize=["a"]),
                r"a \(4, unit rows\)",
            ),
            (
                lambda r: cg.accumulate([r, r], names=["a", "b"], folds=2),
                r"t\.st is in 2 folds by rows, m\.st without folds",
            ),
        ],
    )
    def test_of_moments_that_differ(self, other: Any, message: str) -> None:
        mine = moments_of([self.rows, self.rows])
        with pytest.raises(cg.InputError, match=message):
            cg.merge_moments([mine, other(self.rows)], ["m.st", "t.st"])

    def test_of_other_folds(self, stores: Any) -> None:
        two, three, by_ids = (
            accumulated(stores["monday"], folds=k, group_by=by)
            for k, by in ((2, "rows"), (3, "rows"), (2, "ids"))
        )
        for other, message in ((three, "3 folds by rows"), (by_ids, "2 folds by ids")):
            with pytest.raises(cg.InputError, match=f"in {message}, .*in 2 folds by rows"):
                cg.merge_moments([two, other])
            with pytest.raises(cg.InputError, match="merge: moments in 2 folds by rows and in"):
                two.merge(other)

    def test_of_one(self) -> None:
        with pytest.raises(cg.InputError, match="1 moments given, expected at least two"):
            cg.merge_moments([moments_of([self.rows])])


class TestRefusedStores:
    def test_of_another_number(self, stores: Any) -> None:
        with pytest.raises(cg.InputError, match="1 stores given, .* 2 spaces; .* a, b, in this"):
            cg.add_rows(accumulated(stores["monday"]), stores["tuesday"][:1])

    def test_of_another_width(self, stores: Any) -> None:
        with pytest.raises(cg.WidthMismatchError, match=r"b\.zarr: has 3 columns, a .* has 4"):
            cg.add_rows(accumulated(stores["monday"]), stores["tuesday"][::-1])

    def test_in_another_order(self, tmp_path: Path) -> None:
        pair = [write_store(tmp_path / f"{name}.zarr", X) for name in "ab"]
        with pytest.raises(cg.InputError, match=r"b\.zarr: given for a, but named like another"):
            cg.add_rows(cg.accumulate(pair), pair[::-1])


def test_a_few_rows_may_be_added_to_many_folds(stores: Any) -> None:
    folded = accumulated(stores["monday"], folds=8, group_by="labels")
    pair: list[NDArray[Any]] = [X[:1], Y[:1]]
    with pytest.raises(cg.InputError, match="no labels in array 1 or array 2"):
        cg.add_rows(folded, pair)
    by_rows = accumulated(stores["monday"], folds=8)
    assert cg.add_rows(by_rows, pair).moments.total().rows == MONDAY + 1
