from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold
from strategies import EPSILON, assert_moments_agree, moments_of, write_store

import crossgram as cg
from crossgram.grouping import assigner
from crossgram.source import open_source

ROWS, FOLDS = 3000, 5
rng = np.random.default_rng(0)
X = rng.standard_normal((ROWS, 6)) + 3.0
Y = X @ rng.standard_normal((6, 3)) + 0.5 * rng.standard_normal((ROWS, 3))
IDS = np.array([f"image-{row}.jpg" for row in range(ROWS)])
LABELS = rng.integers(0, 200, size=ROWS)


def explicit_r2(assigned: NDArray[Any], model: Any, weights: NDArray[Any] | None = None) -> float:
    """Return the pooled R² on held-out folds by fitting anew without each fold."""
    weights = np.ones(ROWS) if weights is None else weights
    errors = totals = 0.0
    for fold in np.unique(assigned):
        held, kept = assigned == fold, assigned != fold
        model.fit(X[kept], Y[kept], sample_weight=weights[kept])
        mean = np.average(Y[kept], axis=0, weights=weights[kept])
        errors += (weights[held] @ (Y[held] - model.predict(X[held])) ** 2).sum()
        totals += (weights[held] @ (Y[held] - mean) ** 2).sum()
    return 1 - errors / totals


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("stores")
    return [
        write_store(directory / f"{name}.zarr", rows, ids=IDS, labels=LABELS)
        for name, rows in (("x", X), ("y", Y))
    ]


class TestCrossValidatedR2:
    """Merging the moments of folds gives what fitting anew without each fold gives."""

    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize("ridge", [0.0, 100.0])
    def test_with_contiguous_folds(self, intercept: bool, ridge: float) -> None:
        assigned = np.empty(ROWS, int)
        for fold, (_, held) in enumerate(KFold(FOLDS).split(X)):
            assigned[held] = fold
        model = (
            Ridge(ridge, fit_intercept=intercept, solver="svd")
            if ridge
            else LinearRegression(fit_intercept=intercept)
        )
        moments = cg.accumulate([X, Y], folds=FOLDS)
        certificate = cg.solve(moments, intercept=intercept, ridge=ridge).certificate
        assert certificate.cross_validated_r2 == pytest.approx(
            explicit_r2(assigned, model), rel=1e-11
        )
        assert certificate.folds == FOLDS

    @pytest.mark.parametrize("by", ["rows", "ids", "labels"])
    def test_with_any_grouping(self, stores: list[Path], by: str) -> None:
        sources = [open_source(store) for store in stores]
        assigned = assigner(sources, FOLDS, by)(0, ROWS)
        certificate = cg.fit(*stores, folds=FOLDS, group_by=by).certificate
        expected = explicit_r2(assigned, LinearRegression())
        assert certificate.cross_validated_r2 == pytest.approx(expected, rel=1e-11)

    def test_with_weights(self) -> None:
        weights = np.random.default_rng(1).random(ROWS)
        assigned = np.arange(ROWS) * FOLDS // ROWS
        certificate = cg.fit(X, Y, folds=FOLDS, weights=weights).certificate
        expected = explicit_r2(assigned, LinearRegression(), weights)
        assert certificate.cross_validated_r2 == pytest.approx(expected, rel=1e-11)

    def test_leaves_the_map_that_of_all_rows(self) -> None:
        folded, plain = cg.fit(X, Y, folds=FOLDS), cg.fit(X, Y)
        condition = plain.certificate.condition
        np.testing.assert_allclose(folded.weight, plain.weight, atol=ROWS * EPSILON * condition**2)
        assert folded.certificate.r2 == pytest.approx(plain.certificate.r2, rel=1e-12)
        assert plain.certificate.cross_validated_r2 is None

    def test_is_below_the_fit_on_noise(self) -> None:
        noise = np.random.default_rng(2).standard_normal((60, 30))
        certificate = cg.fit(noise[:, :20], noise[:, 20:], folds=3).certificate
        assert certificate.r2 > 0.2
        assert certificate.cross_validated_r2 < 0.0


class TestFolds:
    def test_by_rows_are_contiguous_and_of_equal_size(self) -> None:
        assigned = assigner([open_source(X[:10])], 3, "rows")(0, 10)
        assert (np.diff(assigned) >= 0).all()
        assert sorted(np.bincount(assigned)) == [3, 3, 4]

    @pytest.mark.parametrize("by", ["ids", "labels"])
    def test_do_not_depend_on_how_rows_are_read(self, stores: list[Path], by: str) -> None:
        assign = assigner([open_source(stores[0])], FOLDS, by)
        pieces = [assign(start, min(start + 700, ROWS)) for start in range(0, ROWS, 700)]
        np.testing.assert_array_equal(np.concatenate(pieces), assign(0, ROWS))

    def test_by_labels_keep_each_label_in_one_fold(self, stores: list[Path]) -> None:
        assigned = assigner([open_source(stores[0])], FOLDS, "labels")(0, ROWS)
        folds_of_labels = {(label, fold) for label, fold in zip(LABELS, assigned, strict=True)}
        assert len(folds_of_labels) == len(np.unique(LABELS))
        assert set(assigned) == set(range(FOLDS))

    @pytest.mark.parametrize("by", ["rows", "ids", "labels"])
    def test_hold_the_moments_of_their_rows(self, stores: list[Path], by: str) -> None:
        assigned = assigner([open_source(stores[0])], FOLDS, by)(0, ROWS)
        folded = cg.accumulate(stores, folds=FOLDS, group_by=by, names=["a", "b"])
        for k, fold in enumerate(folded.folds):
            rows = [X[assigned == k], Y[assigned == k]]
            assert_moments_agree(fold, moments_of(rows), rows)
            rest = [X[assigned != k], Y[assigned != k]]
            assert_moments_agree(folded.without(k), moments_of(rest), rest)
        assert_moments_agree(folded.total(), moments_of([X, Y]), [X, Y])

    def test_of_which_one_takes_all_rows_are_refused(self, tmp_path: Path) -> None:
        labels = [f"person {k % 2}" for k in range(20)]
        store = write_store(tmp_path / "x.zarr", X[:20], labels=labels)
        with pytest.raises(
            cg.InputError, match=r"all of the 20 rows fell into one fold of 2 by labels"
        ):
            cg.fit(store, store, folds=2, group_by="labels")

    @pytest.mark.parametrize("different", [1, 3])
    def test_more_than_there_are_labels_are_refused(self, tmp_path: Path, different: int) -> None:
        labels = [f"person {k % different}" for k in range(20)]
        store = write_store(tmp_path / "x.zarr", X[:20], labels=labels)
        with pytest.raises(cg.InputError, match=f"folds: 5 given for {different} different labels"):
            cg.accumulate([store, store], folds=5, group_by="labels")

    def test_of_which_one_stays_empty_are_passed_over(self, tmp_path: Path) -> None:
        labels = [f"person {k % 3}" for k in range(len(X))]
        stores = [
            write_store(tmp_path / f"{name}.zarr", rows, labels=labels)
            for name, rows in (("a", X), ("b", Y))
        ]
        folded = cg.accumulate(stores, folds=3, group_by="labels")
        assert folded.with_rows == [0, 1]
        certificate = cg.solve(folded).certificate
        assert certificate.folds == 2
        assert "no rows fell into 1 of 3 folds" in certificate.notes
        expected = explicit_r2((np.arange(ROWS) % 3 == 2).astype(int), LinearRegression())
        assert certificate.cross_validated_r2 == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("folds", [1, -1, 11])
    def test_in_a_number_that_makes_no_sense_are_refused(self, folds: int) -> None:
        with pytest.raises(cg.InputError, match=f"folds: {folds} given, expected from 2 to .*10"):
            cg.fit(X[:10], Y[:10], folds=folds)

    @pytest.mark.parametrize("by", ["ids", "labels"])
    def test_by_something_absent_are_refused(self, by: str) -> None:
        with pytest.raises(cg.InputError, match=f"no {by} in array 1 or array 2"):
            cg.fit(X, Y, folds=2, group_by=by)

    @pytest.mark.parametrize("folds", [0, 2])
    def test_by_something_unknown_are_refused(self, folds: int) -> None:
        with pytest.raises(cg.InputError, match="'colour' given, expected one of"):
            cg.fit(X, Y, folds=folds, group_by="colour")
