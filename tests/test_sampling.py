"""Rows held out, and the random samples of the others, against drawing each row by itself."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kstest
from strategies import drawn, moderate, seeds, splitmix, write_store

from crossgram import InputError, sampling
from crossgram.sampling import MOST_OF_A_LABEL, MOST_SCORED, hold_out
from crossgram.source import Source, open_source
from crossgram.store import Column


def source(
    rows: int,
    ids: NDArray[Any] | None = None,
    labels: NDArray[Any] | None = None,
    masked: NDArray[np.bool_] | None = None,
) -> Source:
    """Return a source of which no row is read."""
    columns = {
        name: None if values is None else Column(values, name)
        for name, values in (("ids", ids), ("labels", labels), ("masked", masked))
    }
    return Source("x", rows, 1, np.dtype("f4"), 1, lambda start, out: None, **columns)


def keys_of(values: NDArray[Any]) -> list[int]:
    return [zlib.crc32(str(value).encode()) for value in values.tolist()]


def prefixes(given: Source, sizes: list[int], share: float = 0.2, seed: int = 0) -> Any:
    return hold_out([given], share, seed).assigner(sizes)(0, given.rows)


def test_the_slow_twin_draws_the_numbers_that_splitmix_is_published_with() -> None:
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [splitmix(place) for place in range(3)] == expected


class TestPrefixes:
    @given(st.integers(30, 3000), st.floats(0.1, 0.8), st.integers(0, 2**63 - 1), seeds)
    @moderate
    def test_are_the_first_rows_of_a_random_order(
        self, rows: int, share: float, seed: int, sizes_seed: int
    ) -> None:
        expected = drawn(range(rows), share, seed)
        total = len(expected.training)
        some = np.random.default_rng(sizes_seed).integers(1, total + 1, 4)
        sizes = sorted({*some.tolist(), total})
        assigned = prefixes(source(rows), sizes, share, seed)
        assert np.flatnonzero(assigned == len(sizes)).tolist() == expected.held_out
        for k, size in enumerate(sizes):
            assert set(np.flatnonzero(assigned <= k)) == set(expected.training[:size])

    def test_are_exact_where_many_rows_are_in_a_bin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampling, "_BINS", 4)
        monkeypatch.setattr(sampling, "_BIN_SHIFT", np.uint64(62))
        expected = drawn(range(1000))
        sizes = [1, 100, 101, 500, len(expected.training)]
        assigned = prefixes(source(1000), sizes)
        for k, size in enumerate(sizes):
            assert set(np.flatnonzero(assigned <= k)) == set(expected.training[:size])

    def test_do_not_depend_on_how_rows_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        labels = np.arange(5000) // 7
        whole = prefixes(source(5000, labels=labels), [10, 300, 4000 - 11])
        monkeypatch.setattr(sampling, "_COLUMN_ROWS", 97)
        apart = hold_out([source(5000, labels=labels)], 0.2, 0)
        assign = apart.assigner([10, 300, 4000 - 11])
        pieces = [assign(start, min(start + 700, 5000)) for start in range(0, 5000, 700)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)

    @pytest.mark.parametrize("seed", range(3))
    def test_of_a_store_sorted_by_person_are_of_rows_from_everywhere(self, seed: int) -> None:
        labels = np.arange(100_000) // 100
        total = hold_out([source(100_000, labels=labels)], 0.2, seed).training_rows
        assigned = prefixes(source(100_000, labels=labels), [500, 5000, total], seed=seed)
        training = np.flatnonzero(assigned < 3)
        for k in range(2):
            places = np.searchsorted(training, np.flatnonzero(assigned <= k)) / total
            assert kstest(places, "uniform").pvalue > 1e-3

    def test_of_another_seed_are_other_rows(self) -> None:
        first, again, other = (
            prefixes(source(1000), [100, len(drawn(range(1000), seed=seed).training)], seed=seed)
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        # by chance, about 10 of 100 rows would be in both
        assert np.count_nonzero((first == 0) & (other == 0)) < 40


class TestMaskedRows:
    """They are neither held out nor in a sample: a size counts rows that are there."""

    @pytest.mark.parametrize("by_label", [False, True])
    def test_are_drawn_nowhere(self, by_label: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(0)
        masks = rng.random((2, 5000)) < [[0.2], [0.05]]
        labels = rng.permutation(np.arange(5000) // 9)
        # of some labels, no row is there
        masks[0, labels < 100] = True
        masked = masks[0] | masks[1]
        expected = drawn(
            keys_of(labels) if by_label else range(5000),
            seed=4,
            by_label=by_label,
            masked=set(np.flatnonzero(masked).tolist()),
        )
        monkeypatch.setattr(sampling, "_COLUMN_ROWS", 97)
        own = labels if by_label else None
        apart = hold_out([source(5000, labels=own, masked=m) for m in masks], 0.2, 4)
        assert (apart.rows, apart.training_rows) == (
            len(expected.held_out),
            len(expected.training),
        )
        assert apart.scored.tolist() == (expected.scored if by_label else [])
        sizes = [10, 1000, apart.training_rows]
        assigned = apart.assigner(sizes)(0, 5000)
        assert np.flatnonzero((assigned == 3) & ~masked).tolist() == expected.held_out
        for k, size in enumerate(sizes):
            there = np.flatnonzero((assigned <= k) & ~masked)
            assert set(there) == set(expected.training[:size])

    def test_that_leave_too_few_are_refused(self) -> None:
        masked = np.arange(100) > 2
        with pytest.raises(InputError, match="of 3 rows .* expected at least 2 of both"):
            hold_out([source(100), source(100, masked=masked)], 0.2, 0)

    @pytest.mark.parametrize("labels", [None, np.arange(100) // 5])
    def test_that_are_all_there_is_are_refused(self, labels: NDArray[Any] | None) -> None:
        masked = np.ones(100, bool)
        with pytest.raises(InputError, match="of 0 rows .* expected at least 2 of both"):
            hold_out([source(100, labels=labels, masked=masked)], 0.2, 0)


class TestHeldOut:
    @given(st.integers(2, 40), st.integers(0, 2**63 - 1))
    @moderate
    def test_rows_of_a_label_are_all_held_out_or_none(self, of_each: int, seed: int) -> None:
        labels = np.array([f"person {k // of_each}" for k in range(2000)])
        apart = hold_out([source(2000), source(2000, labels=labels)], 0.3, seed)
        held = apart.assigner([apart.training_rows])(0, 2000) == 1
        assert not set(labels[held]) & set(labels[~held])
        assert (apart.by, apart.rows, apart.training_rows) == ("labels", held.sum(), (~held).sum())
        assert (
            np.flatnonzero(held).tolist()
            == drawn(keys_of(labels), 0.3, seed, by_label=True).held_out
        )

    @pytest.mark.parametrize(("people", "held_out"), [(3, 2), (16, 3), (50, 10)])
    def test_of_few_labels_the_very_share_is_held_out(self, people: int, held_out: int) -> None:
        labels = np.arange(people * 20) // 20
        for seed in range(20):
            apart = hold_out([source(len(labels), labels=labels)], 0.2, seed)
            assert apart.rows == held_out * 20

    def test_of_many_labels_chance_comes_near_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampling, "_FEW_LABELS", 1000)
        labels = np.arange(30_000) // 3
        apart = hold_out([source(30_000, labels=labels)], 0.2, 0)
        assert apart.rows == len(drawn(keys_of(labels)).held_out)

    def test_ids_are_held_out_wherever_their_rows_are(self) -> None:
        ids = np.array([f"image-{k}.jpg" for k in range(1000)])
        shuffled = np.random.default_rng(0).permutation(ids)
        held = []
        for values in (ids, shuffled):
            apart = hold_out([source(1000, ids=values)], 0.2, 5)
            assert apart.by == "ids"
            assigned = apart.assigner([apart.training_rows])(0, 1000)
            held.append(set(values[assigned == 1]))
        assert held[0] == held[1]

    def test_labels_go_before_ids(self) -> None:
        ids, labels = np.arange(100), np.arange(100) // 2
        assert hold_out([source(100, ids=ids), source(100, labels=labels)], 0.2, 0).by == "labels"

    @pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
    def test_rows_are_about_the_share_asked_for(self, share: float) -> None:
        apart = hold_out([source(100_000)], share, 0)
        deviation = np.sqrt(100_000 * share * (1 - share))
        assert abs(apart.rows - 100_000 * share) < 5 * deviation
        assert apart.by == "rows"
        assert len(apart.scored) == 0

    def test_columns_of_a_store_are_read_like_those_of_arrays(self, tmp_path: Path) -> None:
        labels = np.arange(300) // 3
        store = write_store(tmp_path / "x.zarr", np.ones((300, 2), np.float32), labels=labels)
        found = prefixes(open_source(store), [50, 200])
        expected = prefixes(source(300, labels=labels), [50, 200])
        np.testing.assert_array_equal(found, expected)


class TestScoredRows:
    @pytest.mark.parametrize(
        ("rows", "of_each"), [(3000, 3), (3000, 50), (40_000, 7), (40_000, 45), (400, 400 // 3)]
    )
    def test_are_whole_labels_as_far_as_the_limits_allow(
        self, rows: int, of_each: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        labels = np.random.default_rng(0).permutation(np.arange(rows) // of_each)
        expected = drawn(keys_of(labels), seed=3, by_label=True)
        given = source(rows, labels=labels)
        found = hold_out([given], 0.2, 3).scored
        assert found.tolist() == expected.scored
        assert len(found) <= MOST_SCORED
        assert np.bincount(labels[found]).max() <= MOST_OF_A_LABEL
        monkeypatch.setattr(sampling, "_COLUMN_ROWS", 131)
        np.testing.assert_array_equal(hold_out([given], 0.2, 3).scored, found)


class TestRefused:
    @pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), "half", True])
    def test_a_share_that_is_none(self, share: Any) -> None:
        with pytest.raises(InputError, match="held-out: .* expected a share between 0 and 1"):
            hold_out([source(100)], share, 0)

    @pytest.mark.parametrize("seed", [-1, 2**63, 0.5, "x"])
    def test_a_seed_that_is_none(self, seed: Any) -> None:
        with pytest.raises(InputError, match="seed: .* expected a whole number from 0"):
            hold_out([source(100)], 0.2, seed)

    @pytest.mark.parametrize("rows", [1, 2, 3])
    def test_too_few_rows(self, rows: int) -> None:
        with pytest.raises(InputError, match=f"of {rows} rows .* expected at least 2 of both"):
            hold_out([source(rows)], 0.2, 0)

    def test_rows_of_one_label_only(self) -> None:
        labels = np.full(100, "somebody")
        with pytest.raises(InputError, match="by labels .* of 100 rows .* another share or seed"):
            hold_out([source(100, labels=labels)], 0.2, 0)
