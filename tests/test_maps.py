"""Choosing how a map is solved: in Python and at the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import crossgram, refused, succeeds
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from strategies import moments_of, paired_rows

import crossgram as cg
from crossgram.maps import METHODS

Matrix = NDArray[np.float64]
Predict = Callable[[Matrix], Matrix]
ROWS, FOLDS = 600, 4
X, Y = paired_rows(0, rows=ROWS, p=5, q=5, noise=2.0)


def fitted_rotation(x: Matrix, y: Matrix, scale: bool, centre: bool) -> Predict:
    mean_x, mean_y = (rows.mean(axis=0) if centre else 0.0 for rows in (x, y))
    turn, _ = orthogonal_procrustes(x - mean_x, y - mean_y)
    turned = (x - mean_x) @ turn
    factor = (turned * (y - mean_y)).sum() / (turned**2).sum() if scale else 1.0
    return lambda rows: factor * (rows - mean_x) @ turn + mean_y


def fitted_reduced_rank(x: Matrix, y: Matrix, rank: int, centre: bool) -> Predict:
    mean_x, mean_y = (rows.mean(axis=0) if centre else 0.0 for rows in (x, y))
    full = np.linalg.lstsq(x - mean_x, y - mean_y, rcond=None)[0]
    _, _, directions = np.linalg.svd((x - mean_x) @ full)
    kept = directions[:rank].T
    return lambda rows: (rows - mean_x) @ full @ kept @ kept.T + mean_y


CHOICES: list[tuple[dict[str, Any], Callable[[Matrix, Matrix, bool], Predict]]] = [
    ({"method": "procrustes"}, lambda x, y, centre: fitted_rotation(x, y, False, centre)),
    (
        {"method": "procrustes", "scale": True},
        lambda x, y, centre: fitted_rotation(x, y, True, centre),
    ),
    (
        {"method": "reduced-rank", "rank": 2},
        lambda x, y, centre: fitted_reduced_rank(x, y, 2, centre),
    ),
    ({"method": "lstsq"}, lambda x, y, centre: fitted_reduced_rank(x, y, 5, centre)),
]


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("options", "model"), CHOICES)
class TestEveryMethod:
    def test_is_cross_validated_by_fitting_without_each_fold(
        self, options: dict[str, Any], model: Any, intercept: bool
    ) -> None:
        assigned = np.arange(ROWS) * FOLDS // ROWS
        errors = totals = 0.0
        for fold in range(FOLDS):
            held, kept = assigned == fold, assigned != fold
            predict = model(X[kept], Y[kept], intercept)
            errors += ((Y[held] - predict(X[held])) ** 2).sum()
            totals += ((Y[held] - Y[kept].mean(axis=0)) ** 2).sum()
        found = cg.fit(X, Y, folds=FOLDS, intercept=intercept, **options).certificate
        assert found.cross_validated_r2 == pytest.approx(1 - errors / totals, rel=1e-9)
        assert found.folds == FOLDS

    def test_is_solved_alike_from_rows_and_from_moments(
        self, options: dict[str, Any], model: Any, intercept: bool
    ) -> None:
        fitted = cg.fit(X, Y, names=["a", "b"], intercept=intercept, **options)
        moments = cg.accumulate([X, Y], names=["a", "b"], maps=[("a", "b")])
        solved = cg.solve(moments, intercept=intercept, **options)
        np.testing.assert_array_equal(fitted.weight, solved.weight)
        assert fitted.certificate == solved.certificate
        expected = model(X, Y, intercept)(X)
        np.testing.assert_allclose(fitted.apply(X), expected, rtol=0, atol=1e-9)

    def test_keeps_its_certificate_on_disk(
        self, options: dict[str, Any], model: Any, intercept: bool, tmp_path: Path
    ) -> None:
        fitted = cg.fit(X, Y, intercept=intercept, **options)
        fitted.save(tmp_path / "m")
        assert cg.LinearMap.load(tmp_path / "m").certificate == fitted.certificate


def test_overfitting_is_told_only_where_the_rows_themselves_are_fitted() -> None:
    noise = np.random.default_rng(2).standard_normal((60, 40))
    x, y = noise[:, :20], noise[:, 20:]
    overfitted = cg.fit(x, y, folds=3).certificate
    assert any(note.endswith("it overfits; use ridge, or more rows") for note in overfitted.notes)
    turned = cg.fit(x, y, folds=3, method="procrustes").certificate
    assert any(note.endswith("it overfits; use more rows") for note in turned.notes)
    too_long = cg.fit(10 * x, y, folds=3, method="procrustes").certificate
    assert too_long.r2 < 0
    assert not any("overfits" in note for note in too_long.notes)


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "cca"}, "method: 'cca' given, expected one of lstsq, procrustes, reduced"),
            ({"rank": 3}, "rank: 3 given for lstsq; it is for --method reduced-rank"),
            ({"rank": 3, "method": "procrustes"}, "rank: 3 given for procrustes"),
            ({"scale": True}, "scale: given for lstsq; it is for --method procrustes"),
            ({"scale": True, "method": "reduced-rank", "rank": 1}, "given for reduced-rank"),
            ({"ridge": 1.0, "method": "procrustes"}, "ridge: 1.0 given for procrustes"),
            ({"method": "reduced-rank"}, "needs a rank"),
            ({"method": "reduced-rank", "rank": 6}, "rank: 6 given, .* from 1 to 5"),
        ],
    )
    def test_what_does_not_go_together(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(cg.InputError, match=message):
            cg.solve(moments_of([X, Y]), **options)

    def test_before_a_row_is_read(self) -> None:
        broken = np.full((10, 5), np.nan)
        with pytest.raises(cg.InputError, match="rank: 9 given"):
            cg.fit(broken, broken, method="reduced-rank", rank=9)

    @pytest.mark.parametrize("method", ["procrustes", "reduced-rank"])
    def test_moments_of_no_rows(self, method: str) -> None:
        options = {"rank": 1} if method == "reduced-rank" else {}
        with pytest.raises(cg.InputError, match="no rows"):
            cg.solve(moments_of([X, Y]).empty_like(), method=method, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, rows in (("a", X), ("b", Y[:, :3])):
        np.save(folder / f"{name}.npy", rows)
    return folder


class TestCommands:
    @pytest.mark.parametrize(
        ("arguments", "options", "named"),
        [
            (["procrustes"], {}, "procrustes"),
            (["procrustes", "--scale"], {"scale": True}, "procrustes, scaled"),
            (["reduced-rank", "--rank", 2], {"rank": 2}, "reduced rank"),
        ],
    )
    def test_fit_and_solve_take_a_method(
        self, data: Path, tmp_path: Path, arguments: list[Any], options: Any, named: str
    ) -> None:
        pair = data / "a.npy", data / "b.npy"
        result = succeeds(
            "fit", *pair, "-o", "m", "--moments", "s", "--method", *arguments, cwd=tmp_path
        )
        succeeds("solve", "s", "-o", "again", "--method", *arguments, cwd=tmp_path)
        expected = cg.fit(*pair, method=arguments[0], **options)
        for name in ("m", "again"):
            loaded = cg.LinearMap.load(tmp_path / name)
            np.testing.assert_array_equal(loaded.weight, expected.weight)
        assert result["method"] == named
        assert result["r2"] == expected.certificate.r2

    def test_text_names_the_method(self, data: Path, tmp_path: Path) -> None:
        done = crossgram(
            *("fit", data / "a.npy", data / "b.npy", "-o", "m"),
            *("--method", "reduced-rank", "--rank", 2),
            cwd=tmp_path,
        )
        assert "rank       2 of 5" in done.stdout
        assert "method     reduced rank, an intercept" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--rank", 2], "rank: 2 given for lstsq"),
            (["--scale"], "scale: given for lstsq"),
            (["--method", "reduced-rank"], "needs a rank"),
            (["--method", "reduced-rank", "--rank", 4], "from 1 to 3"),
            (["--method", "procrustes", "--ridge", 1], "ridge: 1.0 given for procrustes"),
            (["--method", "pls"], "'pls' is not one of 'lstsq', 'procrustes', 'reduced-rank'"),
        ],
    )
    def test_what_does_not_go_together_is_refused(
        self, data: Path, tmp_path: Path, arguments: list[Any], message: str
    ) -> None:
        pair = data / "a.npy", data / "b.npy"
        assert message in refused("fit", *pair, "-o", "m", *arguments, cwd=tmp_path)
        assert not (tmp_path / "m").exists()

    def test_methods_are_those_of_the_library(self, tmp_path: Path) -> None:
        shown = crossgram("solve", "--help", cwd=tmp_path).stdout
        assert f"[{'|'.join(METHODS)}]" in shown
