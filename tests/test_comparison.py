"""Comparing spaces: every measure against its definition on raw rows, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray
from strategies import centred, gram_error, moderate, moments_of, orthogonal, related_spaces

import crossgram as cg
from crossgram import InputError
from crossgram.comparison import MEASURES, Comparison, PairMeasures

Rows = NDArray[np.float64]
NAMES = ("a", "b", "c")


def three_spaces(rows: int = 300) -> list[Rows]:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(rows, 4))
    return [
        common @ rng.normal(size=(4, dim)) + noise * rng.normal(size=(rows, dim)) + mean
        for dim, noise, mean in ((6, 0.5, 3.0), (4, 1.0, 0.0), (5, 0.1, -1.0))
    ]


def pair_of(comparison: Comparison, source: str, target: str) -> PairMeasures:
    (found,) = (p for p in comparison.pairs if (p.source, p.target) == (source, target))
    return found


def fitted_by_lstsq(x: Rows, y: Rows) -> Rows:
    """Return what least squares with an intercept predicts of y from x."""
    design = np.column_stack([x, np.ones(len(x))])
    return np.asarray(design @ np.linalg.lstsq(design, y, rcond=None)[0])


def explained(predicted: Rows, rows: Rows) -> float:
    return float(1 - np.sum((rows - predicted) ** 2) / np.sum(centred(rows) ** 2))


def by_svcca(x: Rows, y: Rows, variance: float) -> float:
    """Return the mean canonical correlation of the leading left singular vectors."""
    bases = []
    for rows in (x, y):
        left, values, _ = np.linalg.svd(centred(rows), full_matrices=False)
        shares = np.cumsum(values**2) / np.sum(values**2)
        bases.append(left[:, : int(np.argmax(shares >= variance)) + 1])
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean())


@moderate
@given(related_spaces())
def test_r2_is_that_of_least_squares_on_the_rows(blocks: list[Rows]) -> None:
    compared = cg.compare(moments_of(blocks))
    for source, target, x, y in (("a", "b", *blocks), ("b", "a", *blocks[::-1])):
        expected = explained(fitted_by_lstsq(x, y), y)
        assert pair_of(compared, source, target).r2 == pytest.approx(expected, abs=gram_error(x, y))


@moderate
@given(related_spaces())
def test_cycle_r2_is_that_of_rows_sent_through_both_maps(blocks: list[Rows]) -> None:
    compared = cg.compare(moments_of(blocks))
    for source, target, x, y in (("a", "b", *blocks), ("b", "a", *blocks[::-1])):
        back = np.column_stack([y, np.ones(len(y))])
        there = fitted_by_lstsq(x, y)
        coefficients = np.linalg.lstsq(back, x, rcond=None)[0]
        returned = np.column_stack([there, np.ones(len(y))]) @ coefficients
        assert pair_of(compared, source, target).cycle_r2 == pytest.approx(
            explained(returned, x), abs=gram_error(x, y)
        )


def test_r2_is_the_one_that_the_solved_maps_certificate_has() -> None:
    moments = moments_of(three_spaces())
    for pair in cg.compare(moments).pairs:
        certificate = cg.solve(moments, pair.source, pair.target).certificate
        assert certificate is not None
        assert pair.r2 == pytest.approx(certificate.r2, abs=gram_error(*three_spaces()))


@pytest.mark.parametrize("variance", [0.6, 0.9, 0.99])
def test_svcca_is_cca_of_leading_singular_vectors(variance: float) -> None:
    blocks = dict(zip(NAMES, three_spaces(), strict=True))
    compared = cg.compare(moments_of(list(blocks.values())), variance=variance)
    for pair in compared.pairs:
        x, y = blocks[pair.source], blocks[pair.target]
        assert pair.svcca == pytest.approx(by_svcca(x, y, variance), abs=gram_error(x, y))


def test_a_rotated_scaled_copy_is_the_same_by_every_measure() -> None:
    x = three_spaces()[0]
    turned = 3 * x @ orthogonal(np.random.default_rng(1), x.shape[1]) + 5
    compared = cg.compare([x, turned], names=["a", "b"])
    for measure in MEASURES:
        identical = compared.matrix(measure)[0, 0]
        np.testing.assert_allclose(compared.matrix(measure), identical, atol=gram_error(x, turned))


def test_an_invertible_copy_is_the_same_to_maps_and_cca_only() -> None:
    x = three_spaces()[1]
    compared = cg.compare([x, x * [1, 5, 25, 125]], names=["a", "b"])
    pair = compared.pairs[0]
    for value in (pair.r2, pair.cycle_r2, pair.mean_cca, pair.pwcca):
        assert value == pytest.approx(1, abs=gram_error(x))
    for value in (pair.linear_cka, pair.unbiased_cka):
        assert value is not None
        assert value < 0.9
    assert pair.procrustes > 0.1


def test_regularization_moves_canonical_correlations_only() -> None:
    moments = moments_of(three_spaces(), norms=True)
    plain, steadied = cg.compare(moments), cg.compare(moments, regularization=0.1)
    for measure in MEASURES:
        same = np.array_equal(plain.matrix(measure), steadied.matrix(measure))
        assert same == (measure not in ("mean_cca", "pwcca"))
    assert (steadied.matrix("mean_cca") <= plain.matrix("mean_cca")).all()


class TestSameFrom:
    """Arrays, moments, moments with folds and their files give the same comparison."""

    blocks = three_spaces()
    expected = cg.compare(blocks, names=NAMES)

    def assert_same(self, found: Comparison) -> None:
        assert found.notes == self.expected.notes
        for measure in MEASURES:
            np.testing.assert_allclose(
                found.matrix(measure),
                self.expected.matrix(measure),
                atol=100 * gram_error(*self.blocks),
            )

    def test_moments(self, tmp_path: Path) -> None:
        moments = cg.accumulate(self.blocks, names=NAMES, norms=True)
        moments.save(tmp_path / "m")
        assert cg.compare(moments) == self.expected
        assert cg.compare(tmp_path / "m") == self.expected
        assert cg.compare(str(tmp_path / "m")) == self.expected

    def test_moments_with_folds(self, tmp_path: Path) -> None:
        folded = cg.accumulate(self.blocks, names=NAMES, norms=True, folds=3)
        folded.save(tmp_path / "m")
        self.assert_same(cg.compare(folded))
        self.assert_same(cg.compare(tmp_path / "m"))

    def test_rows_in_another_order(self) -> None:
        order = np.random.default_rng(2).permutation(len(self.blocks[0]))
        self.assert_same(cg.compare([block[order] for block in self.blocks], names=NAMES))

    def test_weights_that_are_repetitions(self) -> None:
        weights = np.arange(len(self.blocks[0])) % 3
        repeated = [np.repeat(block, weights, axis=0) for block in self.blocks]
        found = cg.compare(self.blocks, names=NAMES, weights=weights)
        expected = cg.compare(repeated, names=NAMES)
        for measure in set(MEASURES) - {"unbiased_cka"}:
            np.testing.assert_allclose(
                found.matrix(measure), expected.matrix(measure), atol=gram_error(*self.blocks)
            )
        assert np.isnan(found.matrix("unbiased_cka")[0, 1])
        assert "which rows of other weights than 1 exclude" in found.notes[0]


class TestComparison:
    compared = cg.compare(three_spaces(), names=NAMES)

    def test_is_json(self) -> None:
        values = json.loads(json.dumps(self.compared.to_dict(), allow_nan=False))
        assert [space["name"] for space in values["spaces"]] == list(NAMES)
        assert [(p["source"], p["target"]) for p in values["pairs"]] == [
            (a, b) for a in NAMES for b in NAMES if a != b
        ]
        assert values["rows"] == 300
        assert values["pairs"][0]["r2"] == self.compared.pairs[0].r2

    def test_tells_rank_condition_and_components_of_spaces(self) -> None:
        for space, rows in zip(self.compared.spaces, three_spaces(), strict=True):
            columns = centred(rows) / np.linalg.norm(centred(rows), axis=0)
            assert (space.dim, space.rank) == (rows.shape[1], rows.shape[1])
            assert space.condition == pytest.approx(np.linalg.cond(columns))
            assert 1 <= space.components <= space.dim

    @pytest.mark.parametrize("measure", MEASURES)
    def test_matrix_has_sources_down_and_targets_across(self, measure: str) -> None:
        values = self.compared.matrix(measure)
        for pair in self.compared.pairs:
            place = NAMES.index(pair.source), NAMES.index(pair.target)
            assert values[place] == getattr(pair, measure)
        assert (values == values.T).all() == (measure not in ("r2", "cycle_r2", "pwcca"))
        assert (values.diagonal() == (0.0 if measure == "procrustes" else 1.0)).all()

    def test_has_no_matrix_of_other_measures(self) -> None:
        with pytest.raises(InputError, match="measure: 'rsa' given, expected one of r2, "):
            self.compared.matrix("rsa")


class TestNotes:
    def test_tell_what_unrelated_rows_would_give_where_they_are_few(self) -> None:
        rng = np.random.default_rng(3)
        x, y = rng.normal(size=(101, 20)), rng.normal(size=(101, 10))
        compared = cg.compare([x, y], names=["a", "b"])
        assert (
            "101 rows for spaces of rank up to 20: of unrelated rows, R2 would be about 0.20"
            in (compared.notes[0])
        )
        # its mean over draws is 20 / 100, its deviation √(2 · 0.2 · 0.8 / 100 / 10) or so
        assert pair_of(compared, "a", "b").r2 == pytest.approx(0.2, abs=0.1)

    def test_tell_what_canonical_correlations_of_dependent_columns_are_worth(self) -> None:
        x, y, _ = three_spaces()
        near = np.column_stack([x, x[:, 0] + 1e-6 * y[:, 0]])
        (note,) = cg.compare([near, y], names=["a", "b"]).notes
        assert "the columns of a are nearly dependent" in note
        assert not cg.compare([near, y], regularization=1e-3).notes

    def test_tell_how_unbiased_cka_comes_about(self) -> None:
        compared = cg.compare(moments_of(three_spaces()))
        assert compared.pairs[0].unbiased_cka is None
        assert "unbiased CKA was left out, for want of norms" in compared.notes[0]

    def test_tell_where_directions_were_left_out_that_may_count(self) -> None:
        rng = np.random.default_rng(4)
        common = rng.normal(size=(2000, 1))
        x = 1e-8 * rng.normal(size=(2000, 5)) + common
        notes = cg.compare([x, rng.normal(size=(2000, 3))], names=["a", "b"]).notes
        assert any("columns of a depend on each other, or nearly so" in note for note in notes)
        assert not any("columns of b" in note for note in notes)


class TestRefused:
    def test_rows_whose_fourth_powers_underflow(self) -> None:
        rng = np.random.default_rng(5)
        x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
        with pytest.raises(InputError, match="fourth powers of their lengths underflow"):
            cg.compare([1e-90 * x, y])

    x, y, z = three_spaces()

    @pytest.mark.parametrize("data", [[x], [], moments_of([x]), x, "rows.npy"])
    def test_one_space(self, data: Any) -> None:
        with pytest.raises(
            InputError, match="compare: one space given.*; give a list of two or more"
        ):
            cg.compare(data)

    def test_a_space_of_equal_rows(self) -> None:
        with pytest.raises(InputError, match="the 300 rows of b are all the same"):
            cg.compare([self.x, np.full((300, 2), 0.1)], names=["a", "b"])

    def test_moments_of_no_rows(self) -> None:
        with pytest.raises(InputError, match="these moments are of no rows"):
            cg.compare(moments_of([self.x[:0], self.y[:0]]))

    @pytest.mark.parametrize(("maps", "missing"), [("ab", "b x b"), ("aabbcc", "a x b")])
    def test_a_block_that_was_not_kept(self, maps: str, missing: str) -> None:
        pairs = list(zip(maps[::2], maps[1::2], strict=True))
        moments = moments_of([self.x, self.y, self.z], maps=pairs)
        with pytest.raises(InputError, match=f"{missing} was not kept .* without --map"):
            cg.compare(moments)

    def test_options_of_a_pass_that_is_over(self) -> None:
        with pytest.raises(InputError, match="normalize and names given with moments"):
            cg.compare(moments_of([self.x, self.y]), normalize=True, names=["a", "b"])

    @pytest.mark.parametrize("option", [{"variance": 0}, {"regularization": -1}])
    def test_settings_out_of_range(self, option: dict[str, float]) -> None:
        with pytest.raises(InputError, match=f"{next(iter(option))}: .* given, expected"):
            cg.compare(moments_of([self.x, self.y]), **option)
