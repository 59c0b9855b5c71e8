from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from strategies import (
    EPSILON,
    column_scaled_digits,
    exact_least_squares,
    moderate,
    moments_of,
    seeds,
)

import crossgram as cg
from crossgram.evidence import residual_squares
from crossgram.least_squares import Fit, solve_least_squares

pytestmark = pytest.mark.usefixtures("one_blas_thread")

Matrix = NDArray[np.float64]


def random_problem(
    seed: int, rows: int = 200, p: int = 6, q: int = 3, noise: float = 0.1
) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, p)) @ rng.standard_normal((p, p)) + rng.standard_normal(p)
    y = x @ rng.standard_normal((p, q)) + rng.standard_normal(q)
    return x, y + noise * rng.standard_normal((rows, q))


def minimum_norm(x: Matrix, y: Matrix, *, intercept: bool) -> Matrix:
    """Return the coefficients of numpy.linalg.lstsq, the intercept not counted in the norm."""
    if intercept:
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return np.linalg.lstsq(x, y, rcond=1e-10)[0]


def assert_coefficients(fitted: cg.LinearMap, expected: Matrix, digits: float) -> None:
    error = np.linalg.norm(fitted.weight.T - expected)
    assert error <= 10**-digits * np.linalg.norm(expected)


class TestOrdinary:
    """The solution is that of numpy.linalg.lstsq."""

    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize(
        ("rows", "p", "q"), [(7, 6, 1), (200, 6, 3), (3000, 40, 20), (9, 1, 1)]
    )
    def test_with_full_rank(self, rows: int, p: int, q: int, intercept: bool) -> None:
        x, y = random_problem(rows, rows, p, q)
        fitted = cg.fit(x, y, intercept=intercept)
        assert fitted.certificate.rank == p
        assert fitted.certificate.method == "cholesky"
        assert_coefficients(fitted, minimum_norm(x, y, intercept=intercept), digits=8)
        bias = (y - x @ fitted.weight.T).mean(axis=0) if intercept else np.zeros(q)
        np.testing.assert_allclose(fitted.bias, bias, atol=1e-8)

    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize(
        ("columns", "rank"),
        [
            (lambda x: np.column_stack([x, x[:, 0]]), 4),
            (lambda x: np.column_stack([x, -x[:, 0], 3 * x[:, 1]]), 4),
            (lambda x: np.column_stack([x, x.sum(axis=1)]), 4),
            (lambda x: np.column_stack([x, np.zeros(len(x))]), 4),
            (lambda x: x[:3], 3),
            (lambda x: x[:1], 1),
        ],
        ids=["duplicate", "multiples", "sum", "zeros", "fewer rows", "one row"],
    )
    def test_of_minimum_norm_where_rank_is_missing(
        self, columns: Any, rank: int, intercept: bool
    ) -> None:
        full, y = random_problem(1, rows=50, p=4)
        x = columns(full)
        y = y[: len(x)]
        centring_loses = 1 if intercept and len(x) <= 4 else 0
        fitted = cg.fit(x, y, intercept=intercept)
        assert fitted.certificate.rank == rank - centring_loses
        assert fitted.certificate.method == "minimum norm"
        assert any("solution of minimum norm" in note for note in fitted.certificate.notes)
        expected = minimum_norm(x, y, intercept=intercept)
        np.testing.assert_allclose(fitted.weight.T, expected, atol=1e-9)

    @pytest.mark.parametrize("value", [0.1, 1.0, 1e8 + 0.1, -3e-5])
    def test_ignores_columns_that_are_constant(self, value: float) -> None:
        x, y = random_problem(2, rows=40_000, p=3, q=2)
        widened = np.column_stack([x[:, 0], np.full(len(x), value), x[:, 1:]])
        fitted = cg.fit(widened, y)
        assert fitted.certificate.rank == 3
        assert not fitted.weight[:, 1].any()
        np.testing.assert_allclose(
            np.delete(fitted.weight, 1, axis=1), cg.fit(x, y).weight, rtol=1e-9
        )

    def test_of_constant_rows_is_the_mean(self) -> None:
        y = np.random.default_rng(3).standard_normal((20, 2))
        fitted = cg.fit(np.ones((20, 3)), y)
        assert fitted.certificate.rank == 0
        assert not fitted.weight.any()
        np.testing.assert_allclose(fitted.bias, y.mean(axis=0), rtol=1e-14)
        assert fitted.certificate.r2 == 0.0

    @given(seeds)
    @moderate
    def test_does_not_depend_on_the_scale_of_columns(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        x, y = random_problem(seed, rows=60, p=5)
        scales = 10.0 ** rng.uniform(-12, 12, size=5)
        plain, scaled = cg.fit(x, y), cg.fit(x * scales, y)
        condition = plain.certificate.condition
        assert scaled.certificate.rank == 5
        assert scaled.certificate.condition == pytest.approx(condition, rel=1e-6)
        np.testing.assert_allclose(
            scaled.weight * scales, plain.weight, atol=1e3 * EPSILON * condition**2
        )

    def test_of_a_space_to_itself_is_the_identity(self) -> None:
        x, _ = random_problem(4, rows=500, p=8)
        fitted = cg.fit(x.astype(np.float32), x.astype(np.float32))
        np.testing.assert_allclose(fitted.weight, np.eye(8), atol=1e-9)
        np.testing.assert_allclose(fitted.bias, np.zeros(8), atol=1e-9)
        assert fitted.certificate.r2 == pytest.approx(1.0, abs=1e-14)

    def test_solves_every_map_of_one_set_of_moments(self) -> None:
        rng = np.random.default_rng(5)
        rows = [rng.standard_normal((100, dim)) for dim in (3, 4, 2)]
        moments = moments_of(rows)
        for i, source in enumerate("abc"):
            for j, target in enumerate("abc"):
                solved = cg.solve(moments, source, target)
                expected = minimum_norm(rows[i], rows[j], intercept=True)
                np.testing.assert_allclose(solved.weight.T, expected, atol=1e-12)
                assert (solved.source.name, solved.target.name) == (source, target)

    def test_of_weighted_rows_is_that_of_repeated_rows(self) -> None:
        x, y = random_problem(6)
        weights = np.random.default_rng(6).integers(0, 4, size=len(x))
        weighted = cg.fit(x, y, weights=weights)
        repeated = cg.fit(np.repeat(x, weights, axis=0), np.repeat(y, weights, axis=0))
        np.testing.assert_allclose(weighted.weight, repeated.weight, rtol=1e-9)
        np.testing.assert_allclose(weighted.bias, repeated.bias, rtol=1e-9)


class TestRidge:
    """The solution with a ridge is that of scikit-learn's Ridge."""

    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize("ridge", [1e-3, 1.0, 1e3])
    @pytest.mark.parametrize("rows", [4, 200])
    def test_with_any_strength(self, rows: int, ridge: float, intercept: bool) -> None:
        x, y = random_problem(7, rows)
        expected = Ridge(ridge, fit_intercept=intercept, solver="svd").fit(x, y)
        fitted = cg.fit(x, y, ridge=ridge, intercept=intercept)
        np.testing.assert_allclose(fitted.weight, expected.coef_, atol=1e-9)
        np.testing.assert_allclose(fitted.bias, expected.intercept_, atol=1e-9)

    def test_with_weights(self) -> None:
        x, y = random_problem(8)
        weights = np.random.default_rng(8).random(len(x))
        expected = Ridge(2.0, solver="svd").fit(x, y, sample_weight=weights)
        fitted = cg.fit(x, y, ridge=2.0, weights=weights)
        np.testing.assert_allclose(fitted.weight, expected.coef_, atol=1e-10)
        np.testing.assert_allclose(fitted.bias, expected.intercept_, atol=1e-10)

    def test_with_constant_and_duplicate_columns(self) -> None:
        x, y = random_problem(9)
        x = np.column_stack([x, x[:, 0], np.full(len(x), 0.1)])
        expected = Ridge(0.5, solver="svd").fit(x, y)
        np.testing.assert_allclose(cg.fit(x, y, ridge=0.5).weight, expected.coef_, atol=1e-9)

    @pytest.mark.parametrize("ridge", [-1.0, float("nan"), float("inf")])
    def test_of_no_sensible_strength_is_refused(self, ridge: float) -> None:
        with pytest.raises(cg.InputError, match=r"ridge: .*at least 0"):
            cg.fit(np.eye(3), np.eye(3), ridge=ridge)


class TestR2:
    """The share of variance explained is scikit-learn's r2_score."""

    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize("ridge", [0.0, 10.0])
    @pytest.mark.parametrize("weighted", [True, False])
    def test_of_each_output_and_pooled(self, intercept: bool, ridge: float, weighted: bool) -> None:
        x, y = random_problem(10, noise=2.0)
        weights = np.random.default_rng(10).random(len(x)) if weighted else None
        fitted = cg.fit(x, y, intercept=intercept, ridge=ridge, weights=weights)
        scores = {
            kind: r2_score(y, fitted.apply(x), sample_weight=weights, multioutput=kind)
            for kind in ("raw_values", "variance_weighted")
        }
        certificate = fitted.certificate
        np.testing.assert_allclose(certificate.r2_per_output, scores["raw_values"], rtol=1e-11)
        assert certificate.r2 == pytest.approx(scores["variance_weighted"], rel=1e-11)
        assert certificate.residual == pytest.approx(np.sqrt(1 - certificate.r2), rel=1e-9)

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e8 + 0.1])
    @pytest.mark.parametrize("rows", [50, 40_000])
    def test_of_a_constant_output_is_1_where_it_is_reproduced_else_0(
        self, value: float, rows: int
    ) -> None:
        x, _ = random_problem(11, rows, p=2)
        y = np.column_stack([x[:, 0], np.full(rows, value)])
        assert cg.fit(x, y).certificate.r2_per_output == pytest.approx((1.0, 1.0))
        without = cg.fit(x, y, intercept=False).certificate.r2_per_output
        assert without == pytest.approx((1.0, 0.0 if value else 1.0))

    def test_of_constant_outputs_alone_follows_the_same_rule(self) -> None:
        x, _ = random_problem(12, p=2)
        y = np.full((len(x), 2), 0.1)
        assert cg.fit(x, y).certificate.r2 == 1.0
        assert cg.fit(x, y, intercept=False).certificate.r2 == 0.0


class TestResiduals:
    @given(seeds, st.booleans())
    @moderate
    def test_of_any_coefficients_follow_from_moments(self, seed: int, intercept: bool) -> None:
        rng = np.random.default_rng(seed)
        x, y = random_problem(seed, rows=40)
        weights = rng.random(len(x))
        moments = moments_of([x, y], weights)
        fit = solve_least_squares(moments, "a", "b", intercept=intercept, ridge=1.0)
        other = Fit(fit.coefficients + rng.standard_normal((6, 3)), fit.bias + 1.0, fit.factor)
        errors = y - x @ other.coefficients - other.bias
        expected = weights @ errors**2
        found = residual_squares(moments, "a", "b", other)
        # the terms of the quadratic form are larger than their sum
        terms = moments.squares[1] + (np.abs(other.coefficients) ** 2).sum(axis=0) * (
            moments.squares[0].sum()
        )
        assert (np.abs(found - expected) <= 1e3 * EPSILON * (terms + expected)).all()

    def test_of_the_solution_are_orthogonal_to_the_rows(self) -> None:
        x, y = random_problem(13)
        fitted = cg.fit(x, y)
        errors = y - fitted.apply(x)
        lengths = np.outer(np.linalg.norm(x, axis=0), np.linalg.norm(errors, axis=0))
        assert (np.abs(x.T @ errors) <= 1e-10 * lengths).all()
        assert (np.abs(errors.mean(axis=0)) <= 1e-10).all()


def ill_conditioned_problem(seed: int) -> tuple[Matrix, Matrix]:
    """Return float64 rows with any condition to 1e6, any scales, means and residuals."""
    rng = np.random.default_rng(seed)
    rows, p, q = int(rng.choice([12, 40, 150, 1500])), rng.integers(1, 9), rng.integers(1, 4)
    left = np.linalg.qr(rng.standard_normal((rows, p)))[0]
    right = np.linalg.qr(rng.standard_normal((p, p)))[0]
    x = left * np.logspace(0, -rng.uniform(0, 6), p) @ right
    x += rng.choice([0, 1, 10, 500]) * x.std(axis=0)
    if rng.integers(2):
        x *= 10.0 ** rng.uniform(-6, 6, size=p)
    y = x @ (rng.standard_normal((p, q)) / np.linalg.norm(x, axis=0)[:, None])
    y /= np.linalg.norm(y, axis=0)
    noise = 10 ** rng.uniform(-8, 4) * rng.standard_normal((rows, q)) / np.sqrt(rows)
    return x, y + noise + rng.choice([0, 10])


def stored_problem(seed: int) -> tuple[Matrix, Matrix]:
    """Return rows as networks store them: float16 or float32, rectified or not, any mean."""
    rng = np.random.default_rng(seed)
    rows, p, q = int(rng.choice([150, 1500, 3000])), rng.integers(1, 7), rng.integers(1, 3)
    rotations = [np.linalg.qr(rng.standard_normal((p, p)))[0] for _ in range(2)]
    spread = rotations[0] * np.logspace(0, -rng.uniform(0, 4), p) @ rotations[1]
    x = rng.standard_normal((rows, p)) @ spread
    if rng.integers(2):
        x = np.maximum(x, 0)
    x += rng.choice([0, 1, 5, 50, 500]) * x.std(axis=0)
    x = x.astype(rng.choice(["float16", "float32"])).astype(np.float64)
    y = x @ rng.standard_normal((p, q))
    y += rng.choice([1e-3, 0.1, 1]) * y.std(axis=0) * rng.standard_normal((rows, q))
    return x, y.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("problem", [ill_conditioned_problem, stored_problem])
def test_the_certificate_never_claims_a_digit_more_than_is_found(problem: Any) -> None:
    """Digits are found against the exact solution, which is computed with fractions."""
    claimed_beyond_found = []
    for seed in range(48):
        x, y = problem(seed)
        intercept = seed % 2 == 0
        fitted = cg.fit(x, y, intercept=intercept)
        lengths = np.linalg.norm(x - x.mean(axis=0) if intercept else x, axis=0)
        exact = exact_least_squares(x, y, intercept=intercept)
        found = column_scaled_digits(fitted.weight.T, exact, lengths)
        claimed_beyond_found.append(fitted.certificate.digits - found)
    assert len(claimed_beyond_found) >= 40
    assert max(claimed_beyond_found) <= 1
    assert np.median(claimed_beyond_found) >= -2


def nearly_dependent_problem(spread: float) -> tuple[Matrix, Matrix]:
    """Return rows whose columns differ by 1 / `spread` of what they have in common."""
    rng = np.random.default_rng(23)
    own = rng.standard_normal((5000, 8))
    x = own / spread + rng.standard_normal((5000, 1))
    return x, own @ rng.standard_normal((8, 3)) + 0.1 * rng.standard_normal((5000, 3))


class TestDigits:
    @pytest.mark.parametrize("spread", [1e7, 1e8, 1e9])
    def test_are_none_where_one_pass_cannot_tell_the_rank(self, spread: float) -> None:
        x, y = nearly_dependent_problem(spread)
        certificate = cg.fit(x, y, digits=0).certificate
        assert certificate.rank < 8
        assert certificate.digits == 0
        assert any("as far as one pass can tell" in note for note in certificate.notes)
        assert any("no digit of the map is certain" in note for note in certificate.notes)

    def test_are_not_lost_where_few_rows_explain_the_rank(self) -> None:
        x, y = random_problem(3, rows=20, p=30)
        assert cg.fit(x, y).certificate.digits > 10

    @pytest.mark.parametrize("mean", [1e6, 1e8, 1e10])
    @pytest.mark.parametrize("space", ["source", "target"])
    def test_are_found_where_means_are_huge_and_segments_many(
        self, mean: float, space: str
    ) -> None:
        # of few bits, so that a mean is added without rounding
        x, y = (np.round(2.0**12 * part) / 2.0**12 for part in random_problem(4, rows=60_000))
        exact = minimum_norm(x, y, intercept=True)
        fitted = cg.fit(x + mean * (space == "source"), y + mean * (space == "target"))
        lengths = np.linalg.norm(x - x.mean(axis=0), axis=0)
        found = column_scaled_digits(fitted.weight.T, exact, lengths)
        assert found > fitted.certificate.digits - 1

    @pytest.mark.parametrize("scale", [2.0**10, 2.0**20, 2.0**30])
    def test_are_found_where_repeated_columns_differ_in_scale(self, scale: float) -> None:
        x, y = random_problem(5, rows=7)
        both = np.hstack([x, scale * x])
        # of all ways to share coefficients between the two halves, that of the smallest norm
        exact = exact_least_squares(x, y, intercept=True) / (1 + scale**2)
        fitted = cg.fit(both, y)
        found = column_scaled_digits(
            fitted.weight.T,
            np.vstack([exact, scale * exact]),
            np.linalg.norm(both - both.mean(axis=0), axis=0),
        )
        assert 0 < fitted.certificate.digits < found + 1

    def test_do_not_depend_on_an_output_that_is_constant(self) -> None:
        x, y = random_problem(6)
        alone = cg.fit(x, y, weights=np.linspace(0.1, 1, 200)).certificate.digits
        y = np.column_stack([y, np.full(200, 1234.567)])
        fitted = cg.fit(x, y, weights=np.linspace(0.1, 1, 200))
        assert fitted.certificate.digits == pytest.approx(alone, abs=0.5)
        assert not fitted.weight[-1].any()


def relative_error(coefficients: Matrix, reference: Matrix) -> float:
    return float(np.linalg.norm(coefficients - reference) / np.linalg.norm(reference))


def uncentred_float32_least_squares(x: Matrix, y: Matrix) -> Matrix:
    """Return the coefficients as products of raw float32 rows give them, for comparison."""
    rows = np.column_stack([x, np.ones(len(x))]).astype(np.float32)
    gram, cross = rows.T @ rows, rows.T @ y.astype(np.float32)
    return np.linalg.lstsq(gram.astype(float), cross.astype(float), rcond=None)[0][:-1]


def problem_with_large_means(condition: float) -> tuple[Matrix, Matrix, Matrix]:
    """Return float32 rows whose means are ten standard deviations, and the exact coefficients."""
    rng = np.random.default_rng(14)
    left, right = (np.linalg.qr(rng.standard_normal((32, 32)))[0] for _ in range(2))
    centred = rng.standard_normal((20_000, 32)) @ (
        left * np.geomspace(1, 1 / condition, 32) @ right
    )
    x = (centred + 10 * centred.std(axis=0)).astype(np.float32)
    y = x @ rng.standard_normal((32, 8)) + 0.1 * rng.standard_normal((20_000, 8))
    y = y.astype(np.float32)
    return x, y, minimum_norm(x.astype(float), y.astype(float), intercept=True)


class TestColumnsWithLargeMeans:
    def test_ruin_uncentred_float32_products(self) -> None:
        x, y, exact = problem_with_large_means(condition=1000)
        assert relative_error(uncentred_float32_least_squares(x, y), exact) > 0.1

    def test_leave_a_fit_exact(self) -> None:
        x, y, exact = problem_with_large_means(condition=1000)
        fitted = cg.fit(x, y)
        assert relative_error(fitted.weight.T, exact) < 1e-9
        assert fitted.certificate.digits > 7

    def test_leave_a_fast_fit_the_digits_that_it_claims(self) -> None:
        x, y, exact = problem_with_large_means(condition=100)
        fitted = cg.fit(x, y, precision="fast")
        error = relative_error(fitted.weight.T, exact)
        assert error < 1e-2 * relative_error(uncentred_float32_least_squares(x, y), exact)
        assert fitted.certificate.digits <= -np.log10(error) + 1

    def test_do_not_make_a_fast_fit_take_small_directions_for_noise(self) -> None:
        x, y, exact = problem_with_large_means(condition=1000)
        fitted = cg.fit(x, y, precision="fast")
        assert fitted.certificate.rank == x.shape[1]
        assert relative_error(fitted.weight.T, exact) < 0.1

    def test_leave_no_digits_where_a_fast_fit_left_directions_out(self) -> None:
        x, y, _ = problem_with_large_means(condition=100)
        fitted = cg.fit(np.hstack([x, x[:, :1] - x[:, 1:2]]), y, precision="fast")
        assert fitted.certificate.rank < x.shape[1] + 1
        assert fitted.certificate.digits == 0
        assert "as far as float32 products can tell" in fitted.certificate.notes[0]


@given(seed=seeds)
def test_the_condition_of_deficient_rows_is_that_of_their_range(seed: int) -> None:
    x, y = random_problem(seed)
    x = np.hstack([x, x[:, :2] - x[:, 2:4]])
    centred = x - x.mean(axis=0)
    values = np.linalg.svd(centred / np.linalg.norm(centred, axis=0), compute_uv=False)
    certificate = cg.fit(x, y).certificate
    assert certificate.rank == 6
    # eigenvalues are off by rounding of the largest, and the least by as much as it is smaller
    rounding = 1e3 * EPSILON * (values[0] / values[5]) ** 2
    assert certificate.condition == pytest.approx(values[0] / values[5], rel=rounding)


class TestNotes:
    """The certificate warns where a map will not generalise."""

    @pytest.mark.parametrize(
        ("rows", "ridge", "expected"),
        [
            (5, 0.0, "5 rows for 7 coefficients per output: the map interpolates its rows"),
            (5, 1.0, "5 rows for 7 coefficients per output"),
            (7, 0.0, "7 rows for 7 coefficients per output: the map interpolates its rows"),
            (8, 0.0, "only 8 rows for 7 coefficients per output: expect overfitting"),
            (13, 0.0, "only 13 rows for 7 coefficients per output: expect overfitting"),
        ],
    )
    def test_of_too_few_rows(self, rows: int, ridge: float, expected: str) -> None:
        x, y = random_problem(15, rows)
        assert cg.fit(x, y, ridge=ridge).certificate.notes[0].startswith(expected)

    def test_of_a_rank_that_few_rows_explain_leave_no_doubt(self) -> None:
        x, y = random_problem(15, 5)
        (note,) = cg.solve(moments_of([x, y])).certificate.notes[1:]
        assert "have rank 4 of 6: this" in note
        x, y = random_problem(15, 200)
        note, *_ = cg.solve(moments_of([np.hstack([x, x[:, :1]]), y])).certificate.notes
        assert "have rank 6 of 7 as far as one pass can tell" in note

    def test_of_constant_columns(self) -> None:
        x, y = random_problem(17, 200)
        x[:, 1] = 7.1
        (note,) = cg.fit(x, y).certificate.notes
        assert "(constant columns: 1)" in note

    def test_are_absent_where_there_is_nothing_to_say(self) -> None:
        assert cg.fit(*random_problem(16, 200)).certificate.notes == ()


class TestRefused:
    moments = moments_of([np.eye(3), np.eye(3)])

    def test_moments_of_no_rows(self) -> None:
        with pytest.raises(cg.InputError, match="no rows"):
            cg.solve(self.moments.empty_like())

    def test_moments_of_rows_without_weight(self) -> None:
        with pytest.raises(cg.InputError, match="weight is zero"):
            cg.solve(moments_of([np.eye(3), np.eye(3)], weights=[0, 0, 0]))

    def test_an_unknown_space(self) -> None:
        with pytest.raises(cg.InputError, match="no space 'z' in these moments; there are a, b"):
            cg.solve(self.moments, "a", "z")

    def test_one_space_without_names(self) -> None:
        with pytest.raises(cg.InputError, match="one space only; name the source and the target"):
            cg.solve(moments_of([np.eye(3)]))

    def test_a_block_that_was_not_kept(self) -> None:
        moments = moments_of([np.eye(3), np.eye(3)], maps=[("a", "b")])
        with pytest.raises(cg.InputError, match="b x b was not kept"):
            cg.solve(moments, "b", "a")


@given(seed=seeds, scale=st.floats(-6, 6))
def test_standard_errors_are_those_of_the_textbook(seed: int, scale: float) -> None:
    x, y = random_problem(seed)
    x[:, 0] *= 10.0**scale
    weight, bias = cg.fit(x, y).standard_errors()
    design = np.column_stack([x, np.ones(len(x))])
    # by QR, which squares no condition number
    inverse = np.linalg.inv(np.linalg.qr(design, mode="r"))
    spread = np.sqrt((inverse**2).sum(axis=1))
    residuals = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    deviations = np.sqrt((residuals**2).sum(axis=0) / (len(x) - design.shape[1]))
    np.testing.assert_allclose(weight, np.outer(deviations, spread[:-1]), rtol=1e-6)
    np.testing.assert_allclose(bias, deviations * spread[-1], rtol=1e-6)
