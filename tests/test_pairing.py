"""Row i of every space is the same image: held by ids while streaming, or made so by a join."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FLOATS,
    NAMES,
    assert_same_bits,
    mask_of,
    moderate,
    rows_of,
    seeds,
    values_of,
    write_store,
)

import crossgram as cg
from crossgram.pairing import joined
from crossgram.source import open_source

ROWS = 150
MANY = 70_001
"""More ids than one piece of a column, more rows than four segments."""

rng = np.random.default_rng(0)
X = rng.standard_normal((ROWS, 3)).astype(np.float32)
Y = rng.standard_normal((ROWS, 2)).astype(np.float32)
TEXT = [f"größe/{row:04d}.jpg" for row in range(ROWS)]


def stores(directory: Path, *columns: Any) -> list[Path]:
    """Write a store of as many rows as it has ids for each of the given columns of ids."""
    return [
        write_store(
            directory / f"{name}.zarr",
            np.random.default_rng(k).standard_normal((len(ids), k + 1)),
            None if ids[0] is None else ids,
        )
        for k, (name, ids) in enumerate(zip(NAMES, columns, strict=False))
    ]


def number_stores(directory: Path, *columns: Any, dim: int = 1, label: Any = None) -> list[Path]:
    """Write stores whose rows hold their own ids, with a label made of each."""
    paths = [directory / f"{name}.zarr" for name, _ in zip(NAMES, columns, strict=False)]
    for path, ids in zip(paths, columns, strict=True):
        labels = None if label is None else [label(value) for value in ids]
        with cg.EmbeddingStore.create(path, dim, dtype="float64") as writer:
            writer.append(np.tile(ids[:, None], dim), ids=ids, labels=labels)
    return paths


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the directory that temporary files go to, which must be empty in the end."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    assert list(directory.iterdir()) == []


class TestStreaming:
    """Without a join, ids are compared row by row and nothing is reordered."""

    @pytest.mark.parametrize("ids", [TEXT, range(-7, ROWS - 7)], ids=["text", "integers"])
    def test_takes_rows_with_equal_ids_as_they_are(self, tmp_path: Path, ids: Any) -> None:
        found = cg.accumulate([write_store(tmp_path / n, r, ids) for n, r in (("x", X), ("y", Y))])
        assert_same_bits(found, cg.accumulate([X, Y], names=["x", "y"]))

    def test_takes_equal_ids_that_are_stored_in_another_way(self, tmp_path: Path) -> None:
        plain, other = stores(tmp_path, TEXT, TEXT)
        node = zarr.open_group(other)
        ids = np.array(TEXT, np.dtypes.StringDType())
        array = node.create_array(
            "ids", shape=ids.shape, chunks=(7,), dtype=ids.dtype, overwrite=True
        )
        array[:] = ids
        assert cg.accumulate([plain, other]).rows == ROWS

    @pytest.mark.parametrize("threads", [1, 3])
    def test_names_the_first_row_that_differs_and_counts_what_is_common(
        self, tmp_path: Path, threads: int, temporary: Path
    ) -> None:
        ids = np.arange(MANY)
        other = ids.copy()
        other[[20_000, 66_000]] = [-1, -2]
        with pytest.raises(
            cg.PairingError,
            match=r"row 20000 is '20000' in .*a\.zarr and '-1' in .*b\.zarr; 69999 ids are in "
            "both, 2 only in the first, 2 only in the second.* --join ids",
        ):
            cg.accumulate(number_stores(tmp_path, ids, other), threads=threads)

    def test_names_rows_in_another_order_though_all_ids_are_common(
        self, tmp_path: Path, temporary: Path
    ) -> None:
        swapped = [*TEXT[:99], TEXT[100], TEXT[99], *TEXT[101:]]
        message = f"row 99 is {TEXT[99]!r} in .* and {TEXT[100]!r} in .*; 150 ids are in both. To"
        with pytest.raises(cg.PairingError, match=message):
            cg.accumulate(stores(tmp_path, TEXT, swapped))

    def test_names_the_first_row_that_differs_beside_an_id_that_occurs_twice(
        self, tmp_path: Path
    ) -> None:
        paths = stores(tmp_path, TEXT, [TEXT[0], TEXT[0], *TEXT[2:]])
        with pytest.raises(cg.PairingError, match=r"row 1 is .*; .*rows 0 and 1 have the same id"):
            cg.accumulate(paths)

    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_takes_stores_of_either_zarr_format(self, tmp_path: Path, zarr_format: int) -> None:
        for name in "ab":
            group = zarr.create_group(tmp_path / f"{name}.zarr", zarr_format=zarr_format)
            group.attrs["crossgram"] = {"format": 1}
            group.create_array("embeddings", data=X)
            group.create_array("ids", data=np.arange(ROWS))
        assert cg.accumulate([tmp_path / "a.zarr", tmp_path / "b.zarr"]).rows == ROWS

    @pytest.mark.parametrize("second", [TEXT, [None] * ROWS], ids=["ids", "no ids"])
    def test_compares_every_store_that_has_ids(self, tmp_path: Path, second: Any) -> None:
        third = [*TEXT[:-1], "other"]
        with pytest.raises(cg.PairingError, match=r"row 149 .* in .*a\.zarr and 'other' in .*c\."):
            cg.accumulate(stores(tmp_path, TEXT, second, third))

    @pytest.mark.parametrize("first", [True, False])
    def test_takes_rows_without_ids_beside_rows_with_ids(self, tmp_path: Path, first: bool) -> None:
        store = write_store(tmp_path / "x.zarr", X, TEXT)
        spaces = [store, Y] if first else [Y, store]
        found = cg.accumulate(spaces, names=["a", "b"])
        expected = cg.accumulate([X, Y] if first else [Y, X], names=["a", "b"])
        assert_same_bits(found, expected)

    def test_refuses_text_ids_beside_integer_ids(self, tmp_path: Path) -> None:
        numbers = range(ROWS)
        with pytest.raises(cg.PairingError, match=r"b\.zarr integers; make both text or both int"):
            cg.accumulate(stores(tmp_path, [str(number) for number in numbers], numbers))

    def test_refuses_other_counts_of_rows_with_the_count_of_common_ids(
        self, tmp_path: Path, temporary: Path
    ) -> None:
        with pytest.raises(
            cg.PairingError,
            match=r"a\.zarr has 150 rows, .*b\.zarr has 140; 130 ids are in both, 20 only in the "
            "first, 10 only in the second",
        ):
            cg.accumulate(stores(tmp_path, range(ROWS), range(20, 160)))

    def test_refuses_other_counts_of_rows_without_ids(self, tmp_path: Path) -> None:
        store = write_store(tmp_path / "x.zarr", X, TEXT)
        with pytest.raises(
            cg.PairingError, match=r"x\.zarr has 150 rows, array 2 has 149; .*no id"
        ):
            cg.accumulate([store, Y[:-1]])

    def test_stops_at_a_chunk_of_ids_that_is_lost(self, tmp_path: Path) -> None:
        spaces = stores(tmp_path, TEXT, TEXT)
        (spaces[1] / "ids" / "c" / "0").unlink()
        with pytest.raises(cg.CorruptDataError, match=r"b\.zarr/ids: chunk c/0 .* is missing"):
            cg.accumulate(spaces)


@st.composite
def overlapping_ids(draw: st.DrawFn) -> list[list[Any]]:
    """Draw the ids of two or three spaces: subsets in any order, with at least one in all."""
    kind = draw(st.sampled_from([int, "{:d}.jpg".format]))
    subset = st.sets(st.integers(1, 200), max_size=150)
    drawn = [draw(subset) | {0} for _ in range(draw(st.integers(2, 3)))]
    shuffle = np.random.default_rng(draw(seeds)).permutation
    return [[kind(int(number)) for number in shuffle(sorted(numbers))] for numbers in drawn]


def dictionary_join(columns: list[list[Any]]) -> list[list[int]]:
    """Return the rows of each space whose ids all have, in the order of the first."""
    tables = [{value: row for row, value in enumerate(column)} for column in columns]
    common = [value for value in columns[0] if all(value in table for table in tables)]
    return [[table[value] for value in common] for table in tables]


class TestJoin:
    """Rows of all spaces with the same id, in the order of the first."""

    @given(overlapping_ids(), st.lists(st.sampled_from(FLOATS), min_size=3, max_size=3))
    @moderate
    def test_is_that_of_dictionaries(
        self, tmp_path_factory: pytest.TempPathFactory, columns: list[list[Any]], dtypes: list[str]
    ) -> None:
        directory = tmp_path_factory.mktemp("join")
        spaces, labels = [], []
        for k, (ids, dtype) in enumerate(zip(columns, dtypes, strict=False)):
            labels.append([f"{k}: {value}" for value in ids])
            spaces.append(np.random.default_rng(k).standard_normal((len(ids), k + 1)).astype(dtype))
        paths = [
            write_store(directory / f"{name}.zarr", *space)
            for name, space in zip(NAMES, zip(spaces, columns, labels, strict=True), strict=False)
        ]
        rows = dictionary_join(columns)
        expected = [space[own] for space, own in zip(spaces, rows, strict=True)]
        with joined([open_source(path) for path in paths]) as found:
            for k, source in enumerate(found):
                np.testing.assert_array_equal(rows_of(source), expected[k])
                assert source.dtype == dtypes[k]
                assert source.row_numbers(0, source.rows).tolist() == rows[k]
                assert values_of(source.ids) == [columns[0][row] for row in rows[0]]
                assert values_of(source.labels) == [labels[k][row] for row in rows[k]]
        names = NAMES[: len(columns)]
        assert_same_bits(cg.accumulate(paths, join="ids"), cg.accumulate(expected, names=names))

    def test_leaves_rows_that_are_in_order_where_they_are(self, tmp_path: Path) -> None:
        sources = [open_source(path) for path in stores(tmp_path, TEXT, TEXT, TEXT[::-1])]
        with joined(sources) as paired:
            moved = [new.read != old.read for new, old in zip(paired, sources, strict=True)]
        assert moved == [False, False, True]

    @pytest.mark.parametrize("by", ["ids", "labels"])
    def test_gives_folds_the_ids_and_labels_of_its_rows(self, tmp_path: Path, by: str) -> None:
        order = np.random.default_rng(1).permutation(ROWS)
        labels = np.arange(ROWS) // 5
        x = write_store(tmp_path / "x.zarr", X, TEXT, labels)
        y = write_store(tmp_path / "y.zarr", Y, TEXT, labels)
        mixed = write_store(tmp_path / "m.zarr", Y[order], np.array(TEXT)[order], labels[order])
        options: dict[str, Any] = {"folds": 3, "group_by": by, "names": ["x", "y"]}
        found, expected = (
            cg.accumulate([x, mixed], join="ids", **options),
            cg.accumulate([x, y], **options),
        )
        for own, fold in zip(found.folds, expected.folds, strict=True):
            assert_same_bits(own, fold)

    def test_takes_the_masks_of_the_rows_along(self, tmp_path: Path) -> None:
        order = np.random.default_rng(1).permutation(ROWS)[:140]
        masks = mask_of(ROWS, *range(20), order[3]), mask_of(ROWS, order[7], order[100])
        spaces = [
            write_store(tmp_path / "x.zarr", X, TEXT, masked=masks[0]),
            write_store(
                tmp_path / "y.zarr", Y[order], np.array(TEXT)[order], None, masks[1][order]
            ),
        ]
        common = np.sort(order)
        with joined([open_source(path) for path in spaces]) as found:
            for source, mask in zip(found, masks, strict=True):
                assert values_of(source.masked) == mask[common].tolist()
        kept = common[~(masks[0] | masks[1])[common]]
        moments = cg.accumulate(spaces, join="ids")
        assert (moments.rows, moments.skipped) == (len(kept), 140 - len(kept))
        moments.skipped = 0
        assert_same_bits(moments, cg.accumulate([X[kept], Y[kept]], names=["x", "y"]))

    def test_names_a_row_that_is_not_finite_as_its_store_does(self, tmp_path: Path) -> None:
        y = Y[::-1].copy()
        y[139, 1] = np.nan
        spaces = [
            write_store(tmp_path / "x.zarr", X, TEXT),
            write_store(tmp_path / "y.zarr", y, TEXT[::-1]),
        ]
        with pytest.raises(cg.NonFiniteError, match=r"y\.zarr: row 139 holds nan in column 1"):
            cg.accumulate(spaces, join="ids")

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (
                [TEXT, [*TEXT[:120], TEXT[7], *TEXT[121:]]],
                rf"b\.zarr: rows 7 and 120 have the same id '{TEXT[7]}'",
            ),
            ([[1, 2, 3], [4, 5, 6]], r"no id is in all of .*a\.zarr, .*b\.zarr"),
            ([[1, 2], [2, 3], [3, 1]], r"no id is in all of .*a\.zarr, .*b\.zarr, .*c\.zarr"),
            ([[1, 2], ["1", "2"]], r"a\.zarr are integers, those of .*b\.zarr text"),
            ([[1, 2], [None, None]], r"join: .*b\.zarr has no ids"),
        ],
        ids=["an id twice", "no common id", "ids common to two of three", "kinds", "no ids"],
    )
    def test_refuses(
        self, tmp_path: Path, temporary: Path, columns: list[Any], message: str
    ) -> None:
        with pytest.raises(cg.PairingError, match=message):
            cg.accumulate(stores(tmp_path, *columns), join="ids")

    def test_refuses_arrays_which_have_no_ids(self) -> None:
        with pytest.raises(cg.PairingError, match="join: array 1 has no ids"):
            cg.accumulate([X, Y], join="ids")

    def test_names_a_chunk_that_is_lost(self, tmp_path: Path, temporary: Path) -> None:
        spaces = stores(tmp_path, TEXT, TEXT[::-1])
        (spaces[1] / "embeddings" / "c" / "1" / "0").unlink()
        where = r"b\.zarr: chunk c/1/0 \(rows 64 to 127\) is missing"
        with pytest.raises(cg.CorruptDataError, match=where):
            cg.accumulate(spaces, join="ids")


class TestPlans:
    def test_match_ids_and_read_no_row(self, tmp_path: Path, temporary: Path) -> None:
        paths = stores(tmp_path, range(ROWS), range(ROWS + 9, 9, -1))
        for path in paths:
            (path / "embeddings" / "c" / "0" / "0").write_bytes(b"damaged")
        assert cg.plan_fit(*paths, join="ids").rows == ROWS - 10

    def test_refuse_what_a_join_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(cg.PairingError, match="no id is in all of"):
            cg.plan_fit(*stores(tmp_path, [1, 2], [3, 4]), join="ids")


class TestFullDisk:
    """The system's temporary directory has room for a part of the rows only."""

    @pytest.fixture(autouse=True)
    def little_room(self, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        allocate = os.posix_fallocate

        def limited(descriptor: int, offset: int, size: int) -> None:
            if size > 8 * ROWS:
                raise OSError(errno.ENOSPC, "No space left on device")
            allocate(descriptor, offset, size)

        monkeypatch.setattr(os, "posix_fallocate", limited)

    def test_ends_a_join_with_a_plain_error(self, tmp_path: Path, temporary: Path) -> None:
        with pytest.raises(cg.RunError, match=f"{temporary}: the disk is full"):
            cg.accumulate(stores(tmp_path, TEXT, TEXT[::-1]), join="ids")

    def test_does_not_hide_that_ids_differ(self, tmp_path: Path) -> None:
        many = range(2 * ROWS)
        with pytest.raises(cg.PairingError, match="row 0 is '0' .* could not be counted .No space"):
            cg.accumulate(stores(tmp_path, many, many[::-1]))


class TestTemporaryFiles:
    def test_are_where_they_were_asked_for_until_the_end(self, tmp_path: Path) -> None:
        (tmp_path / "here").mkdir()
        sources = [open_source(path) for path in stores(tmp_path, TEXT, TEXT[::-1])]
        with pytest.raises(KeyboardInterrupt), joined(sources, tmp_path / "here"):
            assert len(list((tmp_path / "here").iterdir())) == 1
            raise KeyboardInterrupt
        assert list((tmp_path / "here").iterdir()) == []

    def test_are_gone_after_a_pass(self, tmp_path: Path, temporary: Path) -> None:
        during = []
        cg.accumulate(
            stores(tmp_path, TEXT, TEXT[::-1]),
            join="ids",
            progress=lambda _: during.extend(temporary.iterdir()),
        )
        assert during


class TestManyRows:
    """Ids fill many chunks of their column, pieces of a pass over it, and partitions."""

    @pytest.mark.parametrize("kind", [int, "person {}".format], ids=["integers", "text"])
    def test_are_joined_with_their_labels(self, tmp_path: Path, kind: Any) -> None:
        first = np.random.default_rng(2).permutation(MANY)
        second = first[::-1] + 1_000
        paths = number_stores(tmp_path, first, second, label=kind)
        expected = first[first >= 1_000].tolist()
        with joined([open_source(path) for path in paths]) as paired:
            for source in paired:
                assert rows_of(source)[:, 0].tolist() == expected
                assert values_of(source.ids) == expected
                assert values_of(source.labels) == [kind(value) for value in expected]

    def test_are_joined_by_partitions(self, tmp_path: Path, temporary: Path) -> None:
        first = np.random.default_rng(3).permutation(300_000)
        second = np.sort(first)[250:]
        paths = number_stores(tmp_path, first, second)
        expected = first[first >= 250]
        with joined([open_source(path) for path in paths]) as paired:
            for source in paired:
                np.testing.assert_array_equal(rows_of(source)[:, 0], expected)

    def test_are_joined_where_they_are_rewritten_block_by_block(self, tmp_path: Path) -> None:
        first = np.random.default_rng(4).permutation(5_000)
        paths = number_stores(tmp_path, first, first[::-1] + 1, dim=512)
        kept = np.flatnonzero(first >= 1)
        rows = kept, 5_000 - 1 - np.argsort(first)[first[kept] - 1]
        with joined([open_source(path) for path in paths]) as paired:
            for source, own in zip(paired, rows, strict=True):
                np.testing.assert_array_equal(rows_of(source)[:, 511], first[kept])
                np.testing.assert_array_equal(source.row_numbers(0, source.rows), own)

    def test_with_an_id_twice_are_refused_however_far_apart(self, tmp_path: Path) -> None:
        ids = np.arange(MANY)
        ids[-1] = 3
        (store,) = number_stores(tmp_path, ids)
        message = rf"a\.zarr: rows 3 and {MANY - 1} have the same id '3'"
        with pytest.raises(cg.PairingError, match=message):
            cg.accumulate([store, store], join="ids")
