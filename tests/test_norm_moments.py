"""Sums of norms: what unbiased CKA needs beside the scatter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file
from strategies import (
    EPSILON,
    assert_same_bits,
    moderate,
    moments_of,
    spaces,
    splits,
)

import crossgram as cg
from crossgram import CorruptDataError, FoldedMoments, InputError, Moments
from crossgram.norm_moments import NormMoments

Blocks = list[NDArray[Any]]


def norms_of(moments: Moments) -> NormMoments:
    assert moments.norms is not None
    return moments.norms


def direct_norms(blocks: Blocks, rows: slice = slice(None)) -> dict[str, NDArray[np.longdouble]]:
    """Return the sums about the means of `rows` by their definition, in long double."""
    parts = []
    for block in blocks:
        values = block[rows].astype(np.longdouble)
        parts.append(values - values.mean(axis=0))
    lengths = np.array([(part**2).sum(axis=1) for part in parts])
    return {
        "norms.fourth": lengths @ lengths.T,
        **{f"norms.third.{j}": lengths @ part for j, part in enumerate(parts)},
    }


def assert_norms_agree(
    found: NormMoments,
    expected: dict[str, Any],
    blocks: Blocks,
    rows: slice = slice(None),
    scale: float = 1.0,
) -> None:
    """Hold sums of norms about the mean of `rows` to the rounding of sums over all `blocks`.

    A sum of n products has a relative error of at most n ε of the sum of their sizes, and each
    row's distance from the mean one of n ε of the largest row, by which merged means may be off.
    """
    error = 8 * scale * (len(blocks[0]) + 8) * EPSILON
    sizes, entries, lengths = [], [], []
    for block in blocks:
        values = block.astype(np.longdouble)
        part = values - values[rows].mean(axis=0)
        sizes.append(np.linalg.norm(part, axis=1))
        lengths.append(error * np.linalg.norm(values, axis=1).max())
        entries.append((np.abs(part), error * np.abs(values).max(axis=0)))
    squares = np.array([size**2 for size in sizes])
    wider = np.array([(size + more) ** 2 for size, more in zip(sizes, lengths, strict=True)])
    allowed = {"norms.fourth": (1 + error) * wider @ wider.T - squares @ squares.T}
    for j, (sizes_j, more) in enumerate(entries):
        allowed[f"norms.third.{j}"] = (1 + error) * wider @ (sizes_j + more) - squares @ sizes_j
    for name, sums in found.to_parts().items():
        assert (np.abs(sums - expected[name]) <= allowed[name]).all(), name


@moderate
@given(spaces())
def test_are_the_sums_about_the_means_by_their_definition(blocks: Blocks) -> None:
    found = norms_of(moments_of(blocks, norms=True))
    assert_norms_agree(found, direct_norms(blocks), blocks)


def test_nothing_cancels_where_means_are_large_beside_spreads() -> None:
    rows = 2.0**30 + np.random.default_rng(0).integers(-4, 5, size=(5000, 3))
    first, second = (moments_of([part], norms=True) for part in (rows[:2000], rows[2000:]))
    expected = direct_norms([rows])["norms.fourth"]
    # integers and power-of-two shifts leave only the rounding of two means, ε 2³⁰ beside 4
    np.testing.assert_allclose(norms_of(first + second).fourth, expected.astype(float), rtol=1e-5)


@moderate
@given(spaces(), st.data())
def test_do_not_depend_on_how_rows_were_chunked(blocks: Blocks, data: st.DataObject) -> None:
    whole = moments_of(blocks, norms=True)
    chunked = whole.empty_like()
    for rows in data.draw(splits(len(blocks[0]))):
        chunked.update(*(block[rows] for block in blocks))
    assert_norms_agree(norms_of(chunked), norms_of(whole).to_parts(), blocks)


@moderate
@given(spaces(least_rows=3), st.data())
def test_do_not_depend_on_the_order_of_merging(blocks: Blocks, data: st.DataObject) -> None:
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(blocks[0]))] * 2)))
    cuts = (slice(first), slice(first, second), slice(second, None))
    a, b, c = (moments_of([block[rows] for block in blocks], norms=True) for rows in cuts)
    expected = direct_norms(blocks)
    for merged in ((a + b) + c, a + (b + c), c + (a + b), (c + b) + a):
        assert_norms_agree(norms_of(merged), expected, blocks)


@moderate
@given(spaces(least_rows=2), st.data())
def test_subtracting_undoes_merging(blocks: Blocks, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(blocks[0]) - 1))
    kept, removed = (
        moments_of([block[rows] for block in blocks], norms=True)
        for rows in (slice(cut), slice(cut, None))
    )
    rest = norms_of((kept + removed) - removed)
    share = len(blocks[0]) / cut
    assert_norms_agree(rest, norms_of(kept).to_parts(), blocks, slice(cut), scale=share)


@moderate
@given(spaces())
def test_of_no_rows_are_the_identity_of_merging(blocks: Blocks) -> None:
    moments = moments_of(blocks, norms=True)
    assert_same_bits(moments + moments.empty_like(), moments)
    assert_same_bits(moments.empty_like() + moments, moments)
    assert_same_bits(moments - moments, moments.empty_like())


def test_leave_every_other_bit_of_the_moments_alone() -> None:
    rng = np.random.default_rng(1)
    blocks = [rng.normal(size=(3000, dim)).astype(np.float32) for dim in (4, 2)]
    found, expected = moments_of(blocks, norms=True), moments_of(blocks)
    assert expected.norms is None
    found.norms = None
    assert_same_bits(found, expected)


class TestStreamed:
    blocks = tuple(
        np.random.default_rng(dim).normal(size=(40_000, dim)).astype(np.float32) for dim in (5, 3)
    )

    def test_are_the_same_bits_with_any_number_of_threads(self) -> None:
        one, two = (cg.accumulate(self.blocks, norms=True, threads=n) for n in (1, 2))
        assert isinstance(one, Moments)
        assert isinstance(two, Moments)
        assert_same_bits(one, two)
        assert_norms_agree(norms_of(one), direct_norms(list(self.blocks)), list(self.blocks))

    def test_of_folds_merge_to_those_of_all_rows(self) -> None:
        folded = cg.accumulate(self.blocks, norms=True, folds=3)
        assert isinstance(folded, FoldedMoments)
        found = norms_of(folded.total())
        assert_norms_agree(found, direct_norms(list(self.blocks)), list(self.blocks))

    def test_of_fast_products_keep_the_rounding_of_float32_rows(self) -> None:
        fast = cg.accumulate(self.blocks, norms=True, precision="fast")
        assert isinstance(fast, Moments)
        expected = direct_norms(list(self.blocks))["norms.fourth"].astype(float)
        # centred rows are rounded to float32, 6e-8, and appear four times in each product
        np.testing.assert_allclose(norms_of(fast).fourth, expected, rtol=4 * 6e-8)

    def test_leave_out_the_rows_that_are_not_finite(self) -> None:
        holed = self.blocks[0].copy()
        holed[7] = np.nan
        found = cg.accumulate([holed, self.blocks[1]], norms=True, on_nonfinite="skip")
        assert isinstance(found, Moments)
        kept = [np.delete(block, 7, axis=0) for block in self.blocks]
        assert_norms_agree(norms_of(found), direct_norms(kept), kept)

    def test_count_in_the_planned_memory(self) -> None:
        from crossgram.accumulation import Options, prepared

        planned = []
        for norms in (False, True):
            with prepared(self.blocks, Options(norms=norms, threads=1)) as ready:
                planned.append(ready.plan.memory["accumulators"])
        assert planned[1] - planned[0] == 2 * 8 * 2 * (2 + 5 + 3)


class TestRefused:
    rows = (np.random.default_rng(3).normal(size=(5, 2)), np.ones((5, 1)))

    def test_of_weighted_rows(self) -> None:
        moments = moments_of(list(self.rows), norms=True)
        with pytest.raises(InputError, match="weights: norms are kept of rows of weight 1 only"):
            moments.update(*self.rows, weights=np.ones(5))

    @pytest.mark.parametrize("option", [{"weights": np.ones(5)}, {"maps": [("a", "b")]}])
    def test_with_options_that_exclude_them(self, option: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=f"norms: given with {next(iter(option))}"):
            cg.accumulate(self.rows, names=["a", "b"], norms=True, **option)

    def test_of_some_blocks_only(self) -> None:
        with pytest.raises(InputError, match="norms: they need every block"):
            Moments({"a": 2, "b": 1}, [("a", "b")], norms=True)

    @pytest.mark.parametrize("verb", ["merge", "subtract"])
    def test_where_only_one_side_has_them(self, verb: str) -> None:
        with_norms, without = moments_of(list(self.rows), norms=True), moments_of(list(self.rows))
        with pytest.raises(InputError, match=f"{verb}: only one .* has norms; .*--norms"):
            getattr(with_norms, verb)(without)

    def test_that_overflow(self) -> None:
        with pytest.raises(InputError, match="fourth powers of the rows overflow"):
            moments_of([np.diag([1e100, -1e100])], norms=True)
        near = moments_of([np.full((2, 1), 1e100)], norms=True)
        far = moments_of([np.full((2, 1), -1e100)], norms=True)
        before = near.copy()
        with pytest.raises(InputError, match="merge: fourth powers"):
            near.absorb(far)
        assert_same_bits(near, before)


class TestFile:
    moments = moments_of([np.random.default_rng(4).normal(size=(9, d)) for d in (3, 2)], norms=True)

    def test_keeps_every_bit(self, tmp_path: Path) -> None:
        self.moments.save(tmp_path / "m")
        assert_same_bits(Moments.load(tmp_path / "m"), self.moments)

    @pytest.mark.parametrize(
        ("name", "array"),
        [
            ("norms.fourth", None),
            ("norms.third.1", None),
            ("norms.fourth", np.zeros((3, 3))),
            ("norms.third.0", np.zeros((2, 2))),
            ("norms.third.0", np.zeros((2, 3), np.float32)),
            ("norms.fourth", np.full((2, 2), np.inf)),
            ("scatter.0.1", None),
        ],
        ids=str,
    )
    def test_whose_norms_contradict_the_rest_is_refused(
        self, tmp_path: Path, name: str, array: Any
    ) -> None:
        tensors, facts = self.moments.to_parts()
        changed: dict[str, Any] = {**tensors, name: array}
        if array is None:
            del changed[name]
        document = json.dumps({"kind": "moments", "format": 1, **facts})
        save_file(changed, tmp_path / "hostile", metadata={"crossgram": document})
        with pytest.raises(CorruptDataError, match="hostile: the parts .* contradict"):
            Moments.load(tmp_path / "hostile")

    def test_of_folds_of_which_only_some_have_norms_is_refused(self, tmp_path: Path) -> None:
        plain = self.moments.copy()
        plain.norms = None
        FoldedMoments((self.moments, plain), "rows").save(tmp_path / "m")
        with pytest.raises(CorruptDataError, match="folds are of different spaces"):
            FoldedMoments.load(tmp_path / "m")
