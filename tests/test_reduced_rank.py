"""Reduced-rank regression from moments."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import r2_score
from strategies import correct_digits, exact_products, moderate, moments_of, paired_rows, seeds

import crossgram as cg

Matrix = NDArray[np.float64]
pytestmark = pytest.mark.usefixtures("one_blas_thread")

WIDTHS = [(5, 4), (4, 5), (4, 4), (2, 6)]


def explicit(x: Matrix, y: Matrix, rank: int, *, intercept: bool, ridge: float) -> Matrix:
    """Return coefficients by the definition: least squares onto the best rows of that rank.

    A ridge is least squares with the rows √ridge I below, whose targets are 0.
    """
    if intercept:
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    rows = np.vstack([x, np.sqrt(ridge) * np.eye(x.shape[1])])
    targets = np.vstack([y, np.zeros((x.shape[1], y.shape[1]))])
    fitted = rows @ np.linalg.lstsq(rows, targets, rcond=1e-10)[0]
    left, values, right = np.linalg.svd(fitted, full_matrices=False)
    nearest = left[:, :rank] * values[:rank] @ right[:rank]
    return np.linalg.lstsq(rows, nearest, rcond=1e-10)[0]


def reduce(x: Matrix, y: Matrix, rank: int, **options: Any) -> cg.LinearMap:
    return cg.fit(x, y, method="reduced-rank", rank=rank, **options)


class TestMap:
    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize("ridge", [0.0, 50.0])
    @pytest.mark.parametrize(("p", "q"), WIDTHS)
    def test_is_that_of_the_definition(self, p: int, q: int, ridge: float, intercept: bool) -> None:
        x, y = paired_rows(p * 10 + q, p=p, q=q)
        for rank in range(1, min(p, q) + 1):
            found = reduce(x, y, rank, ridge=ridge, intercept=intercept)
            expected = explicit(x, y, rank, intercept=intercept, ridge=ridge)
            np.testing.assert_allclose(found.weight.T, expected, rtol=0, atol=1e-9)
            bias = (y - x @ found.weight.T).mean(axis=0) if intercept else np.zeros(q)
            np.testing.assert_allclose(found.bias, bias, rtol=0, atol=1e-11)
            assert np.linalg.matrix_rank(found.weight, tol=1e-9) == rank
            assert found.certificate.rank == rank

    def test_of_rows_of_deficient_rank_has_the_minimum_norm(self) -> None:
        x, y = paired_rows(1, p=4)
        x = np.column_stack([x, x[:, 0] + x[:, 1], np.full(len(x), 3.0)])
        for rank in (1, 2, 3):
            found = reduce(x, y, rank)
            expected = explicit(x, y, rank, intercept=True, ridge=0.0)
            np.testing.assert_allclose(found.weight.T, expected, rtol=0, atol=1e-9)
            assert any("solution of minimum norm" in note for note in found.certificate.notes)

    def test_of_more_than_the_rank_of_the_rows_has_theirs(self) -> None:
        x, y = paired_rows(2, p=2, q=5)
        found = reduce(np.column_stack([x, x.sum(axis=1)]), y, 3)
        assert found.certificate.rank == 2
        assert np.linalg.matrix_rank(found.weight, tol=1e-9) == 2

    @pytest.mark.parametrize("ridge", [0.0, 3.0])
    @pytest.mark.parametrize(("p", "q"), WIDTHS)
    def test_of_full_rank_is_that_of_least_squares(self, p: int, q: int, ridge: float) -> None:
        x, y = paired_rows(3, p=p, q=q)
        found, plain = reduce(x, y, min(p, q), ridge=ridge), cg.fit(x, y, ridge=ridge)
        np.testing.assert_array_equal(found.weight, plain.weight)
        np.testing.assert_array_equal(found.bias, plain.bias)
        assert found.certificate.digits == plain.certificate.digits

    @pytest.mark.parametrize("constant", ["source", "target"])
    def test_of_constant_rows_is_their_mean(self, constant: str) -> None:
        x, y = paired_rows(11)
        if constant == "source":
            x = np.ones_like(x)
        else:
            y = np.zeros_like(y)
        found = reduce(x, y, 2)
        assert not found.weight.any()
        np.testing.assert_allclose(found.bias, y.mean(axis=0), rtol=1e-12)
        assert found.certificate.rank == (0 if constant == "source" else 2)
        assert found.certificate.digits > 15

    def test_of_weighted_rows_is_that_of_repeated_rows(self) -> None:
        x, y = paired_rows(4)
        weights = np.random.default_rng(4).integers(0, 4, size=len(x))
        weighted = reduce(x, y, 2, weights=weights)
        repeated = reduce(np.repeat(x, weights, axis=0), np.repeat(y, weights, axis=0), 2)
        np.testing.assert_allclose(weighted.weight, repeated.weight, rtol=0, atol=1e-10)


class TestCertificate:
    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize("ridge", [0.0, 20.0])
    def test_tells_the_r2_on_the_rows(self, ridge: float, intercept: bool) -> None:
        x, y = paired_rows(5)
        found = reduce(x, y, 2, ridge=ridge, intercept=intercept)
        scores = [
            r2_score(y, found.apply(x), multioutput=kind)
            for kind in ("raw_values", "variance_weighted")
        ]
        np.testing.assert_allclose(found.certificate.r2_per_output, scores[0], atol=1e-11)
        assert found.certificate.r2 == pytest.approx(scores[1], abs=1e-11)
        assert found.certificate.method == "reduced rank"
        assert found.certificate.ridge == ridge

    def test_says_where_directions_cannot_be_told_apart(self) -> None:
        rows = np.random.default_rng(6).standard_normal((50, 4))
        x = np.linalg.qr(rows - rows.mean(axis=0))[0]
        certificate = reduce(x, x * [3, 2, 2, 1], 2).certificate
        assert certificate.digits < 1
        assert (
            "directions 2 and 3 of array 2 explain nearly the same: 0.444" in certificate.notes[0]
        )
        assert reduce(x, x * [3, 2, 2, 1], 3).certificate.digits > 12

    @pytest.mark.parametrize("precision", ["exact", "fast"])
    def test_never_claims_a_digit_more_than_is_found(self, precision: str) -> None:
        """Digits are found against eigenvectors of 50 digits."""
        beyond = []
        for seed in range(100):
            x, y, rank, options = difficult_problem(seed, stored=precision == "fast")
            found = reduce(x, y, rank, precision=precision, **options)
            if found.certificate.rank < rank:
                continue
            exact, lengths = exact_coefficients(x, y, rank, **options)
            scaled = np.array(lengths, float)[:, None] * found.weight.T
            for row, length in enumerate(lengths):
                for column in range(exact.cols):
                    exact[row, column] *= length
            beyond.append(found.certificate.digits - correct_digits(scaled, exact))
        assert len(beyond) >= 90
        assert max(beyond) <= 1
        assert np.median(beyond) >= -3


def difficult_problem(seed: int, *, stored: bool) -> tuple[Matrix, Matrix, int, dict[str, Any]]:
    """Return rows of any condition, mean and scale, perhaps float32, a rank and how to fit."""
    rng = np.random.default_rng(seed)
    rows = int(rng.choice([10, 30, 300]))
    p, q = rng.integers(2, 6, size=2)
    turn = np.linalg.qr(rng.standard_normal((p, p)))[0]
    x = rng.standard_normal((rows, p)) * 10.0 ** -rng.uniform(0, rng.choice([0.1, 2, 3]), p) @ turn
    y = x @ (rng.standard_normal((p, q)) / np.linalg.norm(x, axis=0)[:, None])
    y *= np.logspace(0, -rng.uniform(0, 4), q)
    y += 10 ** rng.uniform(-6, 1) * rng.standard_normal((rows, q))
    x *= 10.0 ** rng.uniform(-3, 3, p)
    x, y = x + rng.choice([0, 1, 100]) * x.std(axis=0), y + rng.choice([0, 10])
    if stored or rng.integers(2):
        x, y = (values.astype(np.float32).astype(float) for values in (x, y))
    options = {"intercept": bool(rng.integers(2)), "ridge": float(rng.choice([0, 0, 0.1]))}
    return x, y, int(rng.integers(1, min(p, q))) if min(p, q) > 2 else 1, options


def exact_coefficients(
    x: Matrix, y: Matrix, rank: int, *, intercept: bool, ridge: float
) -> tuple[mpmath.matrix, list[Any]]:
    """Return the coefficients and the lengths of the columns, with those of the ridge."""
    with mpmath.workdps(50):
        normal, cross = exact_products(x, y, intercept=intercept)
        normal += ridge * mpmath.eye(normal.rows)
        full = normal**-1 * cross
        explained = cross.T * full
        _, directions = mpmath.eigsy((explained + explained.T) / 2)
        kept = directions[:, directions.cols - rank :]
        lengths = [mpmath.sqrt(normal[k, k]) for k in range(normal.rows)]
        return full * kept * kept.T, lengths


class TestRankCurve:
    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize("ridge", [0.0, 50.0])
    @pytest.mark.parametrize(("p", "q"), WIDTHS)
    def test_is_the_r2_of_the_map_of_every_rank(
        self, p: int, q: int, ridge: float, intercept: bool
    ) -> None:
        moments = moments_of(paired_rows(7, p=p, q=q))
        options: dict[str, Any] = {"intercept": intercept, "ridge": ridge}
        curve = cg.rank_curve(moments, "a", "b", **options)
        expected = [
            cg.solve(moments, method="reduced-rank", rank=rank, **options).certificate.r2
            for rank in range(1, min(p, q) + 1)
        ]
        np.testing.assert_allclose(curve, expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize("ridge", [0.0, 50.0])
    @pytest.mark.parametrize(("p", "q"), WIDTHS)
    def test_of_folds_is_the_r2_on_rows_held_out(
        self, p: int, q: int, ridge: float, intercept: bool
    ) -> None:
        folded = cg.accumulate(paired_rows(8, p=p, q=q), folds=4, names=["a", "b"])
        options: dict[str, Any] = {"intercept": intercept, "ridge": ridge}
        curve = cg.rank_curve(folded, "a", "b", **options)
        expected = [
            cg.solve(
                folded, method="reduced-rank", rank=rank, **options
            ).certificate.cross_validated_r2
            for rank in range(1, min(p, q) + 1)
        ]
        np.testing.assert_allclose(curve, expected, rtol=0, atol=1e-12)

    @given(seeds, st.sampled_from([0.0, 1.0, 1e3]), st.booleans())
    @moderate
    def test_never_falls_on_the_rows_that_were_fitted(
        self, seed: int, ridge: float, intercept: bool
    ) -> None:
        moments = moments_of(paired_rows(seed, rows=40, noise=3.0))
        curve = cg.rank_curve(moments, "a", "b", intercept=intercept, ridge=ridge)
        assert (np.diff(curve) >= -1e-13).all()

    def test_of_constant_targets_is_0(self) -> None:
        x, _ = paired_rows(9, p=3)
        moments = moments_of([x, np.zeros((len(x), 2))])
        np.testing.assert_array_equal(cg.rank_curve(moments, "a", "b"), [0.0, 0.0])


class TestRefused:
    @pytest.mark.parametrize("rank", [0, -1, 5, 2.0, "2"])
    def test_a_rank_that_no_map_has(self, rank: Any) -> None:
        x, y = paired_rows(10, p=6, q=4)
        message = r"rank: .* given, expected a whole number from 1 to 4, .*a \(6\) and b \(4\)"
        with pytest.raises(cg.InputError, match=message):
            cg.solve(moments_of([x, y]), method="reduced-rank", rank=rank)

    def test_no_rank(self) -> None:
        with pytest.raises(cg.InputError, match="reduced-rank needs a rank"):
            cg.fit(*paired_rows(10), method="reduced-rank")
