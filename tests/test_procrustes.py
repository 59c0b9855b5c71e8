"""Orthogonal Procrustes from moments."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group
from sklearn.metrics import r2_score
from strategies import (
    EPSILON,
    correct_digits,
    exact_products,
    moderate,
    paired_rows,
    seeds,
)

import crossgram as cg

Matrix = NDArray[np.float64]
WIDTHS = [(4, 4), (3, 6), (6, 3), (1, 1), (1, 4), (4, 1)]


def centred(rows: Matrix, intercept: bool) -> Matrix:
    return rows - rows.mean(axis=0) if intercept else rows


def padded(rows: Matrix, width: int) -> Matrix:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def rotate(
    x: Matrix, y: Matrix, *, intercept: bool = True, scale: bool = False, **options: object
) -> cg.LinearMap:
    return cg.fit(x, y, method="procrustes", intercept=intercept, scale=scale, **options)


class TestRotation:
    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize(("p", "q"), WIDTHS)
    def test_is_that_of_scipy_on_rows_filled_with_zeros_to_the_wider_space(
        self, p: int, q: int, intercept: bool
    ) -> None:
        x, y = paired_rows(p * 10 + q, p=p, q=q)
        width = max(p, q)
        square, _ = orthogonal_procrustes(
            padded(centred(x, intercept), width), padded(centred(y, intercept), width)
        )
        found = rotate(x, y, intercept=intercept)
        # the singular values of these products are within a factor of 1e3
        np.testing.assert_allclose(found.weight.T, square[:p, :q], rtol=0, atol=1e-10)
        bias = y.mean(axis=0) - x.mean(axis=0) @ found.weight.T if intercept else np.zeros(q)
        np.testing.assert_allclose(found.bias, bias, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("p", "q"), WIDTHS)
    def test_has_orthonormal_rows_or_columns(self, p: int, q: int) -> None:
        turn = rotate(*paired_rows(1, p=p, q=q)).weight
        gram = turn.T @ turn if p <= q else turn @ turn.T
        np.testing.assert_allclose(gram, np.eye(min(p, q)), rtol=0, atol=1e-14)

    @given(seeds, st.integers(2, 6), st.booleans())
    @moderate
    def test_is_found_again_where_rows_are_turned(self, seed: int, p: int, intercept: bool) -> None:
        rng = np.random.default_rng(seed)
        turn = ortho_group.rvs(p, random_state=rng)
        x = rng.standard_normal((20 * p, p))
        y = x @ turn + (rng.standard_normal(p) if intercept else 0.0)
        found = rotate(x, y, intercept=intercept)
        np.testing.assert_allclose(found.weight.T, turn, rtol=0, atol=1e-12)
        assert found.certificate.r2 == pytest.approx(1.0, abs=1e-12)

    def test_may_reflect(self) -> None:
        x = np.random.default_rng(0).standard_normal((50, 3))
        found = rotate(x, x * [1, 1, -1])
        assert np.linalg.det(found.weight) == pytest.approx(-1.0)

    @given(seeds, st.sampled_from([(3, 3), (2, 5), (4, 4)]))
    @moderate
    def test_leaves_less_than_any_other(self, seed: int, widths: tuple[int, int]) -> None:
        p, q = widths
        rng = np.random.default_rng(seed)
        x, y = paired_rows(seed, rows=60, p=p, q=q, noise=2.0)
        x, y = centred(x, True), centred(y, True)
        best = np.linalg.norm(y - x @ rotate(x, y).weight.T)
        for _ in range(20):
            other = ortho_group.rvs(q, random_state=rng)[:p]
            assert best <= np.linalg.norm(y - x @ other) * (1 + 1e-12)

    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize(("p", "q"), WIDTHS)
    def test_is_scaled_to_fit_the_rows_best(self, p: int, q: int, intercept: bool) -> None:
        x, y = paired_rows(2, p=p, q=q)
        turn = rotate(x, y, intercept=intercept).weight
        scaled = rotate(x, y, intercept=intercept, scale=True)
        turned = centred(x, intercept) @ turn.T
        best = (turned * centred(y, intercept)).sum() / (turned**2).sum()
        np.testing.assert_allclose(scaled.weight, best * turn, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            scaled.bias,
            y.mean(axis=0) - x.mean(axis=0) @ scaled.weight.T if intercept else np.zeros(q),
            atol=1e-10,
        )
        plain = rotate(x, y, intercept=intercept).certificate.residual
        assert scaled.certificate.residual <= plain

    @pytest.mark.parametrize("scale", [True, False])
    def test_of_constant_rows_gives_the_mean(self, scale: bool) -> None:
        _, y = paired_rows(12, p=4, q=4)
        x = np.ones_like(y)
        found = rotate(x, y, scale=scale)
        expected = np.broadcast_to(y.mean(axis=0), y.shape)
        np.testing.assert_allclose(found.apply(x), expected, rtol=1e-12)
        assert (found.certificate.rank, found.certificate.digits) == (0, 0)
        assert found.certificate.r2 == pytest.approx(0.0, abs=1e-12)

    def test_of_weighted_rows_is_that_of_repeated_rows(self) -> None:
        x, y = paired_rows(3)
        weights = np.random.default_rng(3).integers(0, 4, size=len(x))
        weighted = rotate(x, y, scale=True, weights=weights)
        repeated = rotate(np.repeat(x, weights, axis=0), np.repeat(y, weights, axis=0), scale=True)
        np.testing.assert_allclose(weighted.weight, repeated.weight, rtol=0, atol=1e-11)


class TestCertificate:
    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize("scale", [True, False])
    @pytest.mark.parametrize(("p", "q"), [(4, 4), (3, 6), (6, 3)])
    def test_tells_the_r2_on_the_rows(self, p: int, q: int, scale: bool, intercept: bool) -> None:
        x, y = paired_rows(4, p=p, q=q)
        found = rotate(x, y, scale=scale, intercept=intercept)
        scores = [
            r2_score(y, found.apply(x), multioutput=kind)
            for kind in ("raw_values", "variance_weighted")
        ]
        np.testing.assert_allclose(found.certificate.r2_per_output, scores[0], atol=1e-11)
        assert found.certificate.r2 == pytest.approx(scores[1], abs=1e-11)
        assert found.certificate.residual**2 == pytest.approx(1 - scores[1], abs=1e-11)

    def test_names_the_method(self) -> None:
        x, y = paired_rows(5, p=4, q=4)
        assert rotate(x, y).certificate.method == "procrustes"
        assert rotate(x, y, scale=True).certificate.method == "procrustes, scaled"

    @pytest.mark.parametrize(
        ("values", "width", "condition"),
        [
            ([8, 4, 2], 3, 8 / 3),
            ([8, 4, 2], 5, 4),
            ([8, 4, 0], 3, 2),
            ([8], 1, 1),
            ([8, 4], 2, 4 / 3),
        ],
    )
    def test_tells_how_much_the_rotation_amplifies_changes(
        self, values: list[float], width: int, condition: float
    ) -> None:
        rows = np.random.default_rng(6).standard_normal((40, len(values)))
        basis = np.linalg.qr(rows)[0]
        y = padded(basis * values, width)
        certificate = rotate(basis, y, intercept=False).certificate
        assert certificate.condition == pytest.approx(condition, rel=1e-10)
        assert certificate.rank == np.count_nonzero(values)

    def test_says_where_the_rotation_is_arbitrary(self) -> None:
        x, y = paired_rows(7, p=4, q=4)
        y[:, 3] = y[:, 2]
        certificate = rotate(x, y).certificate
        assert (certificate.rank, certificate.digits) == (3, 0)
        assert "have rank 3 of 4: how the other directions are turned" in certificate.notes[0]

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e8 + 0.1])
    def test_takes_no_direction_from_the_rounding_of_constant_columns(self, value: float) -> None:
        x, y = paired_rows(8, rows=40_000, p=3, q=3)
        widened = np.column_stack([y, np.full(len(y), value)])
        found = rotate(x, widened)
        assert found.certificate.rank == 3
        assert found.certificate.digits > 10
        np.testing.assert_allclose(found.weight[:3], rotate(x, y).weight, rtol=0, atol=1e-11)
        np.testing.assert_allclose(found.weight[3], 0.0, rtol=0, atol=10 * EPSILON)

    def test_says_that_a_projection_is_no_rotation(self) -> None:
        (note,) = rotate(*paired_rows(9, p=6, q=3), scale=True).certificate.notes
        assert "from 6 to 3 columns keeps no distances" in note
        assert rotate(*paired_rows(9, p=3, q=6), scale=True).certificate.notes == ()

    @pytest.mark.parametrize("factor", [0.1, 10.0])
    def test_says_where_lengths_differ(self, factor: float) -> None:
        x, _ = paired_rows(10, p=4)
        (note,) = rotate(x, factor * x).certificate.notes
        assert f"rows of array 1 times {factor:.3g} would fit better" in note
        assert rotate(x, factor * x, scale=True).certificate.notes == ()

    def test_says_which_digits_are_lost_to_directions_that_hardly_correlate(self) -> None:
        rng = np.random.default_rng(11)
        x = rng.standard_normal((100, 3))
        y = x * [1, 1e-11, 1e-11] + 1.0
        certificate = rotate(x, y, scale=True).certificate
        assert certificate.rank == 3
        assert certificate.digits < 6
        assert "hardly correlated" in certificate.notes[-1]

    @pytest.mark.parametrize(("precision", "complete"), [("exact", 90), ("fast", 60)])
    def test_never_claims_a_digit_more_than_is_found(self, precision: str, complete: int) -> None:
        """Digits are found against singular values and vectors of 50 digits."""
        beyond = []
        for seed in range(100):
            x, y, intercept, scale = difficult_problem(seed, stored=precision == "fast")
            found = rotate(x, y, intercept=intercept, scale=scale, precision=precision)
            if found.certificate.rank < min(x.shape[1], y.shape[1]):
                assert found.certificate.digits == 0
                continue
            exact = exact_rotation(x, y, intercept=intercept, scale=scale)
            beyond.append(found.certificate.digits - correct_digits(found.weight.T, exact))
        assert len(beyond) >= complete
        assert max(beyond) <= 1
        assert np.median(beyond) >= -3


def difficult_problem(seed: int, *, stored: bool) -> tuple[Matrix, Matrix, bool, bool]:
    """Return rows of any spread, mean and correlation, perhaps float32, and how to fit them."""
    rng = np.random.default_rng(seed)
    rows = int(rng.choice([8, 20, 300]))
    p, q = rng.integers(1, 6, size=2)
    spread = 10.0 ** -rng.uniform(0, rng.choice([0.1, 2, 4]), p)
    x = rng.standard_normal((rows, p)) * spread @ ortho_group.rvs(p + 1, random_state=rng)[:p, :p]
    y = x @ rng.standard_normal((p, q)) * np.logspace(0, -rng.uniform(0, 5), q)
    y += 10 ** rng.uniform(-8, 1) * rng.standard_normal((rows, q))
    x, y = x + rng.choice([0, 1, 100]), y + rng.choice([0, 10, 1000])
    if stored or rng.integers(2):
        x, y = (values.astype(np.float32).astype(float) for values in (x, y))
    return x, y, bool(rng.integers(2)), bool(rng.integers(2))


def exact_rotation(x: Matrix, y: Matrix, *, intercept: bool, scale: bool) -> mpmath.matrix:
    with mpmath.workdps(50):
        normal, cross = exact_products(x, y, intercept=intercept)
        tall = cross.rows >= cross.cols
        left, values, right = mpmath.svd_r(cross if tall else cross.T)
        turn = left * right if tall else (left * right).T
        spread = turn.T * normal * turn
        trace = mpmath.fsum(spread[k, k] for k in range(spread.rows))
        return turn * (mpmath.fsum(values) / trace if scale else mpmath.mpf(1))
