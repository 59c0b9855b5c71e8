"""Every strength of a ridge from moments, held to refits on the rows of each training set."""

from __future__ import annotations

import re
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import crossgram, refused, succeeds
from hypothesis import given
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from strategies import EPSILON, Regression, moderate, moments_of, regressions, seeds, write_store

import crossgram as cg
from crossgram.cross_validation import Solver, cross_validated_r2
from crossgram.least_squares import solve_least_squares
from crossgram.source import Source

Values = NDArray[np.float64]


def regression(
    rows: int = 100, p: int = 8, q: int = 3, noise: float = 1.0, seed: int = 0
) -> Regression:
    """Return rows in three folds of unequal size."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, p)) @ rng.standard_normal((p, p)) + 2
    y = x @ rng.standard_normal((p, q)) + noise * rng.standard_normal((rows, q)) - 1
    assigned = np.searchsorted([7, 67], np.arange(rows) * 100 // rows, side="right")
    return Regression(x, y, assigned, np.ones(rows))


def centred(problem: Regression, *, intercept: bool) -> tuple[Values, Values]:
    """Return rows about their weighted means, times the roots of their weights."""
    x, y, w = problem.x, problem.y, problem.weights
    if intercept:
        x, y = x - np.average(x, axis=0, weights=w), y - np.average(y, axis=0, weights=w)
    return np.sqrt(w)[:, None] * x, np.sqrt(w)[:, None] * y


def largest_eigenvalue(problem: Regression, *, intercept: bool) -> float:
    return float(np.linalg.norm(centred(problem, intercept=intercept)[0], 2)) ** 2


def refitted_r2(problem: Regression, strength: float, *, intercept: bool) -> float:
    """Return the pooled R² on held-out folds by scikit-learn's Ridge on the other folds' rows."""
    errors = spread = 0.0
    for fold in np.unique(problem.assigned):
        held, kept = problem.assigned == fold, problem.assigned != fold
        w = problem.weights
        model = Ridge(strength, fit_intercept=intercept, solver="svd")
        model.fit(problem.x[kept], problem.y[kept], sample_weight=w[kept])
        predicted = model.predict(problem.x[held]).reshape(held.sum(), -1)
        mean = np.average(problem.y[kept], axis=0, weights=w[kept])
        errors += (w[held] @ (problem.y[held] - predicted) ** 2).sum()
        spread += (w[held] @ (problem.y[held] - mean) ** 2).sum()
    return float(1 - errors / spread)


def explicit_gcv(problem: Regression, strength: float, *, intercept: bool) -> tuple[float, float]:
    """Return score and degrees of freedom from the n x n matrix that maps targets to residuals."""
    seen = problem.weights > 0
    x, y = (block[seen] for block in centred(problem, intercept=intercept))
    rows = len(x)
    leaves = strength * np.linalg.inv(x @ x.T + strength * np.eye(rows))
    free = np.trace(leaves) - intercept
    return float(rows * ((leaves @ y) ** 2).sum() / free**2), float(rows - free)


def assert_refits(problem: Regression, *, intercept: bool) -> None:
    """Hold the R² of strengths over nine decades to refits.

    Sums of n products have errors of n ε of the largest eigenvalue e, which move a solution by a
    share of n ε e / strength, and its residuals by that share of the spread and of themselves.
    """
    largest = largest_eigenvalue(problem, intercept=intercept)
    strengths = largest * np.geomspace(1e-6, 1e3, 10)
    path = cg.ridge_path(problem.folded(), "a", "b", strengths, intercept=intercept)
    assert path.cross_validated_r2 is not None
    for strength, found in zip(path.strengths, path.cross_validated_r2, strict=True):
        expected = refitted_r2(problem, strength, intercept=intercept)
        share = 4 * len(problem.x) * EPSILON * (1 + largest / strength)
        assert found == pytest.approx(expected, abs=share * (1 + abs(expected)))


def _solver(intercept: bool, ridge: float) -> Solver:
    return partial(solve_least_squares, intercept=intercept, ridge=ridge)


@pytest.mark.parametrize("intercept", [True, False])
class TestCrossValidatedR2:
    """R² of each strength is what a refit on the rows of each training set gives."""

    def test_with_folds_of_unequal_size(self, intercept: bool) -> None:
        assert_refits(regression(), intercept=intercept)

    def test_with_weights(self, intercept: bool) -> None:
        problem = regression()
        weights = np.random.default_rng(1).random(len(problem.x))
        weights[::9] = 0
        weighted = Regression(problem.x, problem.y, problem.assigned, weights)
        assert_refits(weighted, intercept=intercept)

    def test_with_fewer_rows_than_columns(self, intercept: bool) -> None:
        assert_refits(regression(rows=30, p=50), intercept=intercept)

    def test_with_constant_columns(self, intercept: bool) -> None:
        problem = regression()
        problem.x[:, [1, 4]] = 0.1, 7.0
        assert_refits(problem, intercept=intercept)

    def test_with_a_column_that_is_constant_in_one_training_set_alone(
        self, intercept: bool
    ) -> None:
        problem = regression()
        problem.x[problem.assigned != 1, 3] = 0.1
        assert_refits(problem, intercept=intercept)

    def test_with_columns_that_depend_on_each_other(self, intercept: bool) -> None:
        problem = regression()
        problem.x[:, 5] = problem.x[:, 0] - 2 * problem.x[:, 1]
        problem.x[:, 6] = problem.x[:, 2]
        assert_refits(problem, intercept=intercept)

    def test_with_one_output(self, intercept: bool) -> None:
        assert_refits(regression(q=1), intercept=intercept)

    def test_is_that_of_a_solve_for_each_strength(self, intercept: bool) -> None:
        folded = regression().folded()
        path = cg.ridge_path(folded, "a", "b", intercept=intercept)
        assert path.cross_validated_r2 is not None
        for strength, found in zip(path.strengths[::5], path.cross_validated_r2[::5], strict=True):
            solved = cross_validated_r2(folded, "a", "b", _solver(intercept, strength))
            assert found == pytest.approx(solved, abs=1e-9)

    @given(problem=regressions())
    @moderate
    def test_of_any_rows(self, problem: Regression, intercept: bool) -> None:
        assert_refits(problem, intercept=intercept)


@pytest.mark.parametrize("intercept", [True, False])
class TestGeneralisedCrossValidation:
    """Scores and degrees of freedom are those of the matrix from targets to residuals."""

    @given(problem=regressions())
    @moderate
    def test_of_any_rows(self, problem: Regression, intercept: bool) -> None:
        largest = largest_eigenvalue(problem, intercept=intercept)
        strengths = largest * np.geomspace(1e-3, 1e3, 7)
        path = cg.ridge_path(problem.folded(), "a", "b", strengths, intercept=intercept)
        for k, strength in enumerate(path.strengths):
            score, freedom = explicit_gcv(problem, strength, intercept=intercept)
            assert path.gcv[k] == pytest.approx(score, rel=1e-8)
            assert path.degrees_of_freedom[k] == pytest.approx(freedom, rel=1e-9)

    def test_of_plain_moments_is_that_of_the_total_of_folds(self, intercept: bool) -> None:
        problem = regression()
        folded = problem.folded()
        path = cg.ridge_path(folded, "a", "b", intercept=intercept)
        plain = cg.ridge_path(folded.total(), "a", "b", intercept=intercept)
        np.testing.assert_array_equal(path.gcv, plain.gcv)
        np.testing.assert_array_equal(path.degrees_of_freedom, plain.degrees_of_freedom)
        assert plain.cross_validated_r2 is None

    @pytest.mark.parametrize("mean", [0.0, 1e6])
    def test_of_rows_that_are_interpolated_has_a_limit(self, intercept: bool, mean: float) -> None:
        problem = regression(rows=20, p=60)
        problem.x[:] += mean if intercept else 0.0
        x, y = centred(problem, intercept=intercept)
        inverse = np.linalg.pinv(x @ x.T, rcond=1e-9, hermitian=True)
        limit = len(x) * ((inverse @ y) ** 2).sum() / np.trace(inverse) ** 2
        strengths = np.linalg.norm(x, 2) ** 2 * np.geomspace(1e-14, 1e-7, 8)
        path = cg.ridge_path(problem.folded(), "a", "b", strengths, intercept=intercept)
        # eigenvalues are within five decades: no strength takes more than a percent of a direction
        np.testing.assert_allclose(path.gcv, limit, rtol=0.03)
        assert (path.degrees_of_freedom <= len(x)).all()


def test_scores_of_exact_targets_are_no_better_than_perfect() -> None:
    problem = regression(noise=0.0)
    strengths = largest_eigenvalue(problem, intercept=True) * np.geomspace(1e-15, 1e-8, 200)
    path = cg.ridge_path(problem.folded(), "a", "b", strengths)
    assert path.cross_validated_r2 is not None
    assert path.cross_validated_r2.max() <= 1
    assert path.cross_validated_r2.min() > 1 - 1e-9
    assert path.gcv.min() >= 0


def test_rows_that_a_subtraction_leaves_have_no_more_rank_than_rows() -> None:
    problem, rng = regression(rows=20, p=60), np.random.default_rng(7)
    others = moments_of([100 * rng.standard_normal((2000, dim)) for dim in (60, 3)])
    rest = (problem.folded().total() + others) - others
    path = cg.ridge_path(rest, "a", "b")
    plain = cg.ridge_path(problem.folded().total(), "a", "b")
    # sums that were 1e6 times larger leave rounding of 1e-9, 1e-4 of the smallest eigenvalue
    np.testing.assert_allclose(path.strengths, plain.strengths, rtol=1e-3)
    np.testing.assert_allclose(path.degrees_of_freedom, plain.degrees_of_freedom, rtol=1e-3)
    np.testing.assert_allclose(path.gcv, plain.gcv, rtol=1e-2)


class TestStrengths:
    """Without any given, they go from one percent to ninety-nine percent of shrinkage."""

    def test_span_the_eigenvalues_with_ten_per_decade(self) -> None:
        problem = regression()
        path = cg.ridge_path(problem.folded(), "a", "b")
        lengths = np.linalg.svd(centred(problem, intercept=True)[0], compute_uv=False)
        assert path.strengths[0] == pytest.approx(lengths[-1] ** 2 / 100, rel=1e-9)
        assert path.strengths[-1] == pytest.approx(lengths[0] ** 2 * 100, rel=1e-9)
        steps = np.diff(np.log10(path.strengths))
        np.testing.assert_allclose(steps, steps[0])
        assert 0.09 < steps[0] <= 0.1
        assert path.degrees_of_freedom[0] == pytest.approx(1 + 8, abs=0.08)
        assert path.degrees_of_freedom[-1] == pytest.approx(1, abs=0.08)

    def test_of_dependent_columns_stay_above_rounding(self) -> None:
        problem = regression()
        problem.x[:, 0] = problem.x[:, 1]
        path = cg.ridge_path(problem.folded(), "a", "b")
        lengths = np.linalg.svd(centred(problem, intercept=True)[0], compute_uv=False)
        assert path.strengths[0] == pytest.approx(lengths[-2] ** 2 / 100, rel=1e-9)

    def test_of_fast_products_stay_above_their_rounding(self) -> None:
        rng = np.random.default_rng(2)
        x = rng.standard_normal((5000, 12)) * np.geomspace(1, 1e-6, 12)
        moments = cg.accumulate([x, x[:, :2]], names=["a", "b"], precision="fast")
        path = cg.ridge_path(moments, "a", "b")
        assert path.strengths[0] >= np.finfo(np.float32).eps * path.strengths[-1] / 100

    @pytest.mark.parametrize("power", [-450, -20, 20, 450])
    def test_scale_with_the_data(self, power: int) -> None:
        problem = regression()
        scaled = Regression(
            problem.x * 2.0**power, problem.y * 2.0**-power, problem.assigned, problem.weights
        )
        plain, path = (cg.ridge_path(rows.folded(), "a", "b") for rows in (problem, scaled))
        np.testing.assert_allclose(path.strengths, plain.strengths * 4.0**power, rtol=1e-9)
        np.testing.assert_allclose(path.cross_validated_r2, plain.cross_validated_r2, atol=1e-9)
        np.testing.assert_allclose(path.gcv, plain.gcv * 4.0**-power, rtol=1e-9)
        np.testing.assert_allclose(path.degrees_of_freedom, plain.degrees_of_freedom, rtol=1e-9)

    def test_that_are_given_come_back_in_order_and_once(self) -> None:
        path = cg.ridge_path(regression().folded(), "a", "b", [10, 1.0, 100, 10])
        np.testing.assert_array_equal(path.strengths, [1, 10, 100])

    def test_more_than_fit_a_strip_are_scored_as_few_are(self) -> None:
        folded = regression().folded()
        strengths = np.geomspace(1, 1e4, 1001)
        many = cg.ridge_path(folded, "a", "b", strengths)
        few = cg.ridge_path(folded, "a", "b", strengths[::100])
        np.testing.assert_allclose(
            many.cross_validated_r2[::100], few.cross_validated_r2, rtol=1e-12
        )
        np.testing.assert_allclose(many.gcv[::100], few.gcv, rtol=1e-12)

    @pytest.mark.parametrize(
        ("strengths", "message"),
        [
            ([1.0, 0.0], "strength 0 given, expected positive and finite"),
            ([-2.0, 1.0], "strength -2 given, expected positive and finite"),
            ([1.0, float("nan")], "strength nan given, expected positive and finite"),
            ([1.0, float("inf")], "strength inf given, expected positive and finite"),
            ([1.0, 1e-30], "strength 1e-30 given, but .* float64 tells strengths from"),
            ([1.0, 1e30], r"strength 1e\+30 given, but .* float64 tells strengths from"),
            ([], r"strengths of shape \(0,\) given"),
            (1.0, r"strengths of shape \(\) given"),
            ([[1.0]], r"strengths of shape \(1, 1\) given"),
            (["strong"], r"strengths \['strong'\] given, expected numbers"),
        ],
    )
    def test_that_make_no_sense_are_refused(self, strengths: Any, message: str) -> None:
        with pytest.raises(cg.InputError, match=f"^ridge: {message}"):
            cg.ridge_path(regression().folded(), "a", "b", strengths)


class TestChoice:
    def test_tells_where_it_was_among_maps_that_leave_directions_out(self) -> None:
        rng = np.random.default_rng(6)
        x = 1e-8 * rng.standard_normal((2000, 5)) + rng.standard_normal((2000, 1))
        fitted = cg.fit(x, x[:, :2], ridge="auto")
        assert any("leave out directions" in note for note in fitted.certificate.notes)
        well = cg.fit(rng.standard_normal((2000, 5)), x[:, :2], ridge="auto")
        assert not any("leave out directions" in note for note in well.certificate.notes)

    def test_is_the_strength_of_the_largest_held_out_r2(self) -> None:
        problem = regression(noise=30.0)
        path = cg.ridge_path(problem.folded(), "a", "b")
        scores = [refitted_r2(problem, strength, intercept=True) for strength in path.strengths]
        assert path.chosen == path.strengths[np.argmax(scores)]
        assert path.chosen_by == "cross-validation"
        assert path.strengths[0] < path.chosen < path.strengths[-1]

    def test_is_the_strength_of_the_smallest_score_without_folds(self) -> None:
        problem = regression(noise=30.0)
        path = cg.ridge_path(problem.folded().total(), "a", "b")
        scores = [explicit_gcv(problem, strength, intercept=True)[0] for strength in path.strengths]
        assert path.chosen == path.strengths[np.argmin(scores)]
        assert path.chosen_by == "generalised cross-validation"

    def test_serves_rows_that_neither_saw_better_than_none_does(self) -> None:
        rows = regression(rows=2000, p=50, noise=20.0)
        few, many = slice(60), slice(60, None)
        chosen, plain = (cg.fit(rows.x[few], rows.y[few], ridge=r) for r in ("auto", 0.0))
        errors = [((m.apply(rows.x[many]) - rows.y[many]) ** 2).sum() for m in (chosen, plain)]
        assert errors[0] < 0.5 * errors[1]

    def test_of_moments_of_no_rows_is_refused(self) -> None:
        empty = moments_of([np.eye(3), np.eye(3)]).empty_like()
        with pytest.raises(cg.InputError, match="ridge: these moments are of no rows"):
            cg.ridge_path(empty, "a", "b")

    @pytest.mark.parametrize(("intercept", "rows"), [(True, "the same"), (False, "zero")])
    def test_for_a_source_without_spread_is_refused(self, intercept: bool, rows: str) -> None:
        parts = [
            moments_of([np.full((n, 3), 1e8 / 3 * intercept), np.eye(n)[:, :2]], drawn)
            for n, drawn in ((n, np.random.default_rng(0).random(n)) for n in (1000, 1500, 3))
        ]
        moments = parts[0] + parts[1] + parts[2]
        assert (moments.squares[0] > 0).all() == intercept  # rounding, and nothing else
        with pytest.raises(cg.InputError, match=f"ridge: the rows of a are all {rows}"):
            cg.solve(moments, ridge="auto", intercept=intercept)

    def test_from_one_fold_with_rows_is_refused(self) -> None:
        moments = moments_of([np.eye(3), np.eye(3)])
        folded = cg.FoldedMoments((moments, moments.empty_like(), moments.empty_like()), "ids")
        with pytest.raises(cg.InputError, match="ridge: 1 of 3 folds holds rows, expected at lea"):
            cg.ridge_path(folded, "a", "b", [0.1])

    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize("value", [0.0, 0.1])
    def test_for_targets_without_spread_is_as_good_as_any(
        self, value: float, intercept: bool
    ) -> None:
        problem = regression()
        weights = np.random.default_rng(8).random(100)
        flat = Regression(problem.x, np.full((100, 2), value), problem.assigned, weights)
        path = cg.ridge_path(flat.folded(), "a", "b", intercept=intercept)
        reproduced = float(intercept or value == 0)
        np.testing.assert_array_equal(path.cross_validated_r2, reproduced)
        assert (
            cross_validated_r2(flat.folded(), "a", "b", _solver(intercept, path.chosen))
            == reproduced
        )


class TestAuto:
    """fit and solve with ridge="auto" solve with the strength that they choose, and say how."""

    def test_solves_with_the_strength_that_the_path_chooses(self) -> None:
        folded = regression(noise=30.0).folded()
        solved, path = cg.solve(folded, ridge="auto"), cg.ridge_path(folded, "a", "b")
        given = cg.solve(folded, ridge=path.chosen)
        np.testing.assert_array_equal(solved.weight, given.weight)
        np.testing.assert_array_equal(solved.bias, given.bias)
        found = solved.certificate
        assert (found.ridge, found.ridge_chosen_by) == (path.chosen, "cross-validation")
        assert found.cross_validated_r2 == given.certificate.cross_validated_r2
        assert found.cross_validated_r2 == pytest.approx(path.cross_validated_r2.max(), abs=1e-9)
        assert found.notes == given.certificate.notes
        assert given.certificate.ridge_chosen_by == "caller"

    def test_without_intercept_chooses_without(self) -> None:
        folded = regression(noise=30.0).folded()
        chosen = cg.ridge_path(folded, "a", "b", intercept=False).chosen
        assert cg.solve(folded, ridge="auto", intercept=False).certificate.ridge == chosen

    def test_without_folds_says_that_no_row_was_held_out(self) -> None:
        moments = regression(noise=30.0).folded().total()
        certificate = cg.solve(moments, ridge="auto").certificate
        assert certificate.ridge == cg.ridge_path(moments, "a", "b").chosen
        assert certificate.ridge_chosen_by == "generalised cross-validation"
        assert certificate.cross_validated_r2 is None
        (note,) = certificate.notes
        assert "generalised cross-validation, from the rows that it is fitted on" in note

    def test_says_that_exact_targets_need_none(self) -> None:
        certificate = cg.solve(regression(noise=0.0).folded(), ridge="auto").certificate
        assert "the weakest that was tried: the map needs none" in certificate.notes[-1]
        assert certificate.r2 == pytest.approx(1, abs=1e-4)

    def test_says_that_no_map_holds_where_folds_contradict_each_other(self) -> None:
        x = np.random.default_rng(4).standard_normal((100, 3))
        fitted = cg.fit(x, np.where(np.arange(100) < 50, 1, -1)[:, None] * x, ridge="auto", folds=2)
        notes = fitted.certificate.notes
        assert any("the strongest that was tried, which leaves next to nothing" in n for n in notes)
        assert notes[-1].endswith("at every ridge that was tried: use more rows")

    def test_map_keeps_how_it_was_chosen_on_disk(self, tmp_path: Path) -> None:
        solved = cg.solve(regression().folded(), ridge="auto")
        solved.save(tmp_path / "m")
        assert cg.LinearMap.load(tmp_path / "m").certificate == solved.certificate

    @given(seeds)
    @moderate
    def test_r2_is_no_worse_than_that_of_any_other_strength(self, seed: int) -> None:
        folded = regression(rows=40, p=30, noise=5.0, seed=seed).folded()
        chosen = cg.solve(folded, ridge="auto").certificate
        rng = np.random.default_rng(seed)
        other = cg.solve(folded, ridge=chosen.ridge * 10 ** rng.uniform(-3, 3)).certificate
        # between two of ten strengths per decade, the best is a little better than either
        assert chosen.cross_validated_r2 >= other.cross_validated_r2 - 1e-2

    @pytest.mark.parametrize("ridge", ["Auto", "1", "", -1.0, float("nan"), 1j, True, None])
    def test_and_numbers_of_at_least_0_are_all_there_is(self, ridge: Any) -> None:
        def refuse(start: int, out: Any) -> None:
            raise AssertionError("read")

        unread = Source("x", 1000, 3, np.dtype("float32"), 1, refuse)
        with pytest.raises(cg.InputError, match=r"ridge: .* given, expected .* of at least 0"):
            cg.fit(unread, unread, ridge=ridge)


def test_choosing_holds_no_more_than_the_least_memory_that_a_plan_accepts() -> None:
    rng = np.random.default_rng(6)
    x, y = (rng.standard_normal((1100, dim), np.float32) for dim in (1024, 8))
    options: dict[str, Any] = {"folds": 2, "threads": 1}
    with pytest.raises(cg.MemoryLimitError) as refusal:
        cg.plan_fit(x, y, memory=1, **options)
    found = re.search(r"holds ([\d,]+) MB", str(refusal.value))
    assert found is not None
    plan = cg.plan_fit(x, y, memory=(int(found[1]) + 1) * 10**6, **options)
    folded = cg.accumulate([x, y], names=["a", "b"], maps=[("a", "b")], **options)
    tracemalloc.start()
    cg.solve(folded, ridge="auto")
    held = tracemalloc.get_traced_memory()[1] + 2 * 8 * 1024 * (1024 + 8)
    tracemalloc.stop()
    assert held <= plan.planned_memory_bytes - plan.memory["reserved"]


class TestFoldsOfAuto:
    """A fit that chooses keeps five folds by itself, apart from people who are in two of them."""

    x = np.random.default_rng(3).standard_normal((300, 4))
    ids = tuple(f"{row}.jpg" for row in range(300))
    labels = tuple(row // 3 for row in range(300))

    @pytest.mark.parametrize(
        ("source", "target", "by"),
        [
            ({"labels": labels, "ids": ids}, {}, "labels"),
            ({"ids": ids}, {"ids": ids, "labels": labels}, "labels"),
            ({"ids": ids}, {}, "ids"),
            ({}, {"ids": ids}, "ids"),
            ({}, {}, "rows"),
        ],
    )
    def test_are_by_labels_or_ids_or_rows(
        self, tmp_path: Path, source: dict[str, Any], target: dict[str, Any], by: str
    ) -> None:
        stores = [
            write_store(tmp_path / name, self.x, **columns)
            for name, columns in (("a.zarr", source), ("b.zarr", target))
        ]
        report = cg.fit_with_report(*stores, ridge="auto")
        assert isinstance(report.moments, cg.FoldedMoments)
        assert (len(report.moments.folds), report.moments.by) == (5, by)
        assert report.map.certificate.folds == 5
        expected = cg.fit(*stores, ridge="auto", folds=5, group_by=by)
        np.testing.assert_array_equal(report.map.weight, expected.weight)

    def test_are_those_that_were_asked_for(self, tmp_path: Path) -> None:
        store = write_store(tmp_path / "a.zarr", self.x, ids=self.ids, labels=self.labels)
        for options, expected in (
            ({"folds": 3}, (3, "rows")),
            ({"folds": 3, "group_by": "ids"}, (3, "ids")),
            ({"group_by": "ids"}, (5, "ids")),
        ):
            moments = cg.fit_with_report(store, store, ridge="auto", **options).moments
            assert isinstance(moments, cg.FoldedMoments)
            assert (len(moments.folds), moments.by) == expected

    def test_are_no_more_than_rows(self) -> None:
        assert cg.fit(self.x[:3], self.x[:3], ridge="auto").certificate.folds == 3
        with pytest.raises(cg.InputError, match=r"ridge: 'auto' given for one row"):
            cg.fit(self.x[:1], self.x[:1], ridge="auto")

    def test_are_not_kept_for_a_strength_that_is_given(self) -> None:
        report = cg.fit_with_report(self.x, self.x, ridge=1.0)
        assert isinstance(report.moments, cg.Moments)
        assert report.ridge_path is None


class TestAbsurdStrengths:
    """A strength that float64 loses beside the data, or the data beside it, is refused."""

    x = np.random.default_rng(5).standard_normal((50, 3)) * [1.0, 1e3, 1e-3]

    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize(
        ("ridge", "said"),
        [(1e-25, "changes nothing"), (5e-324, "changes nothing"), (1e30, "leaves nothing of")],
    )
    def test_with_what_it_is_compared_to(self, ridge: float, said: str, intercept: bool) -> None:
        message = re.escape(f"ridge: {ridge:g} given, which in float64 {said}")
        with pytest.raises(cg.InputError, match=message):
            cg.fit(self.x, self.x, ridge=ridge, intercept=intercept)

    @pytest.mark.parametrize("ridge", [1e-15, 1e-6, 1e18])
    def test_but_not_one_that_any_column_feels(self, ridge: float) -> None:
        expected = Ridge(ridge, solver="svd").fit(self.x, self.x)
        fitted = cg.fit(self.x, self.x, ridge=ridge)
        np.testing.assert_allclose(fitted.weight, expected.coef_, rtol=1e-6, atol=1e-9)

    def test_but_any_where_rows_are_all_the_same(self) -> None:
        fitted = cg.fit(np.full((9, 2), 0.1), np.ones((9, 1)), ridge=1e9)
        np.testing.assert_allclose(fitted.weight, 0.0, atol=1e-15)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of rows that are few for their columns, two of each person."""
    folder = tmp_path_factory.mktemp("ridge")
    problem = regression(rows=90, p=40, noise=10.0)
    for name, rows in (("a", problem.x), ("b", problem.y)):
        write_store(folder / f"{name}.zarr", rows, labels=np.arange(90) // 2)
    return folder


class TestCommands:
    def test_fit_chooses_keeps_folds_and_gives_the_path(self, data: Path, tmp_path: Path) -> None:
        stores = data / "a.zarr", data / "b.zarr"
        result = succeeds("fit", *stores, "-o", "m", "--ridge", "auto", cwd=tmp_path)
        path = result["ridge_path"]
        best = int(np.argmax(path["cross_validated_r2"]))
        assert result["ridge"] == path["chosen"] == path["strengths"][best]
        assert result["ridge_chosen_by"] == path["chosen_by"] == "cross-validation"
        assert result["folds"] == 5
        assert len({len(path[k]) for k in ("strengths", "gcv", "degrees_of_freedom")}) == 1
        report = cg.fit_with_report(*stores, ridge="auto")
        assert report.ridge_path is not None
        assert path == report.ridge_path.to_dict()
        certificate = cg.LinearMap.load(tmp_path / "m").certificate
        assert certificate == report.map.certificate
        assert "strengths" not in str(certificate)

    @pytest.mark.parametrize(
        ("folds", "by"),
        [((), "generalised cross-validation"), (("--folds", 4), "cross-validation")],
    )
    def test_solve_chooses_by_what_the_moments_hold(
        self, data: Path, tmp_path: Path, folds: tuple[Any, ...], by: str
    ) -> None:
        stores = data / "a.zarr", data / "b.zarr"
        succeeds("accumulate", *stores, "-o", "mo", *folds, cwd=tmp_path)
        result = succeeds("solve", "mo", "-o", "m", "--ridge", "auto", cwd=tmp_path)
        path = cg.ridge_path(cg.load_moments(tmp_path / "mo"), "a", "b")
        assert result["ridge_path"] == path.to_dict()
        assert (result["ridge"], result["ridge_chosen_by"]) == (path.chosen, by)

    def test_text_says_the_strength_and_how_it_was_chosen(self, data: Path, tmp_path: Path) -> None:
        stores = data / "a.zarr", data / "b.zarr"
        done = crossgram("fit", *stores, "-o", "m", "--ridge", "auto", cwd=tmp_path)
        certificate = cg.LinearMap.load(tmp_path / "m").certificate
        assert certificate is not None
        assert f"ridge {certificate.ridge:g} by cross-validation, exact" in done.stdout

    @pytest.mark.parametrize("ridge", ["1", "0"])
    def test_a_strength_that_is_given_has_no_path(
        self, data: Path, tmp_path: Path, ridge: str
    ) -> None:
        stores = data / "a.zarr", data / "b.zarr"
        result = succeeds("fit", *stores, "-o", "m", "--ridge", ridge, cwd=tmp_path)
        assert result["ridge_path"] is None
        assert (result["ridge"], result["ridge_chosen_by"]) == (float(ridge), "caller")

    @pytest.mark.parametrize(
        ("ridge", "message"),
        [
            ("lots", "'lots': expected a number, or auto"),
            ("-1", "ridge: -1.0 given, expected a finite number of at least 0"),
            ("nan", "ridge: nan given, expected a finite number of at least 0"),
            ("1e99", "ridge: 1e+99 given, which in float64 leaves nothing of the map"),
        ],
    )
    def test_a_strength_that_is_none_is_refused(
        self, data: Path, tmp_path: Path, ridge: str, message: str
    ) -> None:
        stores = data / "a.zarr", data / "b.zarr"
        assert message in refused("fit", *stores, "-o", "m", "--ridge", ridge, cwd=tmp_path)
        assert not (tmp_path / "m").exists()
