"""Rows are read again until the map has the digits asked for, and the certificate is true."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from command_line import succeeds
from hypothesis import given, settings
from numpy.typing import NDArray
from strategies import (
    EPSILON,
    column_scaled_digits,
    exact_least_squares,
    longdouble_least_squares,
    mask_of,
    moderate,
    seeds,
    write_store,
)

import crossgram as cg

Matrix = NDArray[np.float64]


def conditioned(
    seed: int, condition: float, rows: int = 3000, p: int = 12, q: int = 2, noise: float = 0.1
) -> tuple[Matrix, Matrix]:
    """Return rows of a condition number, and outputs of unit length but for the noise."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((p, p)))[0] for _ in range(2))
    x = rng.standard_normal((rows, p)) @ (left * np.geomspace(1, 1 / condition, p) @ right)
    y = x @ (rng.standard_normal((p, q)) / np.linalg.norm(x, axis=0)[:, None])
    y /= np.linalg.norm(y, axis=0)
    return x, y + noise * rng.standard_normal((rows, q)) / np.sqrt(rows)


def random_problem(seed: int) -> tuple[Matrix, Matrix, bool]:
    """Return rows of condition 1 to 1e14: few or many, scaled, shifted, with outliers, exact."""
    rng = np.random.default_rng(seed)
    p = int(
        rng.choice([1, 2, 3, 5, 8, 13, 20, 40, 80, 300], p=[0.1] * 5 + [0.15] * 3 + [0.03, 0.02])
    )
    rows = int(p * rng.choice([1.2, 2, 5, 10])) + 5 + int(rng.choice([0, 0, 1000]))
    noise = 10 ** rng.uniform(-10, 2) if rng.random() < 0.7 else 0.0
    x, y = conditioned(seed, 10 ** rng.uniform(0, 14), rows, p, int(rng.integers(1, 4)), noise)
    if rng.random() < 0.3:
        x *= 10.0 ** rng.uniform(-6, 6, size=p)
    if rng.random() < 0.5:
        x += rng.choice([1, 10, 1000]) * x.std(axis=0)
    if rng.random() < 0.3:
        x[rng.integers(0, rows, 3)] *= 1e4
    return x, y, bool(rng.integers(2))


@cache
def exact_solution(seed: int) -> NDArray[np.longdouble]:
    """Return the solution of a random problem, whatever digits are asked for."""
    x, y, intercept = random_problem(seed)
    return longdouble_least_squares(x, y, intercept=intercept)


def scaled_digits(fitted: cg.LinearMap, x: Matrix, exact: Any, intercept: bool) -> float:
    lengths = np.linalg.norm(x - x.mean(axis=0) if intercept else x, axis=0)
    return max(column_scaled_digits(fitted.weight.T, exact, lengths), 0.0)


@pytest.mark.usefixtures("one_blas_thread_in_class")
class TestCertificate:
    @pytest.mark.parametrize("digits", [0, 6, 12])
    def test_never_claims_a_digit_more_than_is_found(self, digits: float) -> None:
        """Found against long double, which has four digits more than float64."""
        above, below = [], []
        for seed in range(220):
            x, y, intercept = random_problem(seed)
            fitted = cg.fit(x, y, intercept=intercept, digits=digits)
            exact = exact_solution(seed)
            # what the reference itself has, of a condition number that takes digits from it
            known = 18 - np.log10(max(fitted.certificate.condition, 1))
            found = scaled_digits(fitted, x, exact, intercept)
            above.append(min(fitted.certificate.digits, known) - found)
            below.append(found - fitted.certificate.digits)
        assert max(above) <= 1
        assert np.mean(np.array(below) <= 2) >= 0.9

    @settings(moderate, max_examples=60)
    @given(seeds)
    def test_is_true_of_any_rows(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        p = int(rng.integers(1, 6))
        x, y = conditioned(
            seed, 10 ** rng.uniform(0, 12), int(rng.integers(p + 2, 40)), p, 1, rng.choice([0, 0.1])
        )
        intercept = bool(rng.integers(2))
        exact = exact_least_squares(x, y, intercept=intercept)
        for digits in (0, 6, 15):
            fitted = cg.fit(x, y, intercept=intercept, digits=digits)
            found = scaled_digits(fitted, x, exact, intercept)
            assert fitted.certificate.digits <= found + 1

    @pytest.mark.parametrize(
        ("condition", "most"), [(1e2, 15), (1e4, 15), (1e6, 15), (1e8, 14), (1e10, 10)]
    )
    def test_has_the_digits_asked_for_after_few_passes(self, condition: float, most: int) -> None:
        for digits in (6, most):
            certificate = cg.fit(*conditioned(1, condition), digits=digits).certificate
            assert certificate.digits >= digits
            assert certificate.passes <= 5
            assert certificate.rank == 12

    def test_tells_the_passes_in_the_order_they_are_needed(self) -> None:
        passes = [
            cg.fit(*conditioned(2, condition), digits=6).certificate.passes
            for condition in (1e2, 1e6, 1e9)
        ]
        assert passes[0] == 1
        assert passes == sorted(passes)
        assert passes[-1] <= 3

    def test_says_where_no_number_of_passes_can_tell_the_rank(self) -> None:
        x, y = conditioned(3, 1e13, p=6)
        certificate = cg.fit(x, y).certificate
        assert certificate.rank < 6
        assert certificate.digits == 0
        assert any("as numpy.linalg.lstsq does" in note for note in certificate.notes)


class TestRankDeficientRows:
    """The solution has the smallest norm, and the rank, that numpy.linalg.lstsq gives."""

    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize(
        "combine",
        [
            lambda x: np.hstack([x, x[:, :2]]),
            lambda x: np.hstack([x, x[:, :3] @ [[1.0], [2.0], [-1.0]]]),
            lambda x: np.hstack([x, np.ones((len(x), 1)) * 3]),
            lambda x: x[:9],
        ],
        ids=["repeated", "dependent", "constant", "few rows"],
    )
    @pytest.mark.parametrize("condition", [1e1, 1e6])
    def test_agree_with_lstsq(self, combine: Any, intercept: bool, condition: float) -> None:
        x, y = conditioned(4, condition, rows=500)
        x = combine(x)
        y = y[: len(x)]
        fitted = cg.fit(x, y, intercept=intercept)
        rows = (x - x.mean(axis=0), y - y.mean(axis=0)) if intercept else (x, y)
        expected, _, rank, singular = np.linalg.lstsq(*rows, rcond=None)
        assert fitted.certificate.rank == rank
        error = np.linalg.norm(fitted.weight.T - expected) / np.linalg.norm(expected)
        kept = singular[singular > max(x.shape) * EPSILON * singular[0]]
        # the error of lstsq itself, and that of what the certificate promises
        assert error <= 100 * EPSILON * (kept[0] / kept[-1]) ** 2 + 10 ** (
            1 - fitted.certificate.digits
        )
        assert fitted.certificate.digits >= 6


class TestSources:
    """However rows are given, paired and cut, the same passes give the same map."""

    x, y = conditioned(5, 1e8, rows=20_000)
    options: dict[str, Any] = {"digits": 11}  # noqa: RUF012

    def expected(self) -> cg.LinearMap:
        return cg.fit(self.x, self.y, threads=1, **self.options)

    @pytest.mark.parametrize("threads", [2, 5])
    def test_threads_change_no_bit(self, threads: int) -> None:
        fitted = cg.fit(self.x, self.y, threads=threads, **self.options)
        np.testing.assert_array_equal(fitted.weight, self.expected().weight)
        np.testing.assert_array_equal(fitted.bias, self.expected().bias)
        assert fitted.certificate == self.expected().certificate
        assert fitted.certificate.passes > 2

    def test_stores_dask_arrays_and_joins(self, tmp_path: Path) -> None:
        order = np.random.default_rng(6).permutation(len(self.x))
        stores = [
            write_store(tmp_path / "x.zarr", self.x, range(len(self.x))),
            write_store(tmp_path / "y.zarr", self.y[order], order),
        ]
        joined = cg.fit(*stores, join="ids", **self.options)
        chunks = da.from_array(self.x, chunks=(1000, -1)), da.from_array(self.y, chunks=(999, -1))
        for fitted in (joined, cg.fit(*chunks, **self.options)):
            difference = np.abs(fitted.weight - self.expected().weight).max()
            assert difference <= 1e-10 * np.abs(self.expected().weight).max()

    def test_weights_are_numbers_of_repetitions(self) -> None:
        weights = np.random.default_rng(7).integers(0, 3, size=len(self.x))
        weighted = cg.fit(self.x, self.y, weights=weights, **self.options)
        repeated = cg.fit(
            np.repeat(self.x, weights, axis=0), np.repeat(self.y, weights, axis=0), **self.options
        )
        difference = np.abs(weighted.weight - repeated.weight).max()
        assert difference <= 1e-10 * np.abs(repeated.weight).max()
        assert weighted.certificate.passes == repeated.certificate.passes

    def test_rows_that_are_not_finite_stay_out_of_every_pass(self) -> None:
        x, y = self.x.copy(), self.y.copy()
        x[[3, 19_000]], y[777] = np.nan, np.inf
        kept = np.setdiff1d(np.arange(len(x)), [3, 777, 19_000])
        fitted = cg.fit(x, y, on_nonfinite="skip", **self.options)
        expected = cg.fit(x[kept], y[kept], **self.options)
        difference = np.abs(fitted.weight - expected.weight).max()
        assert difference <= 1e-10 * np.abs(expected.weight).max()
        assert (fitted.certificate.rows, fitted.certificate.skipped) == (len(kept), 3)

    def test_masked_rows_stay_out_of_every_pass(self, tmp_path: Path) -> None:
        masks = mask_of(len(self.x), 3, *range(16_000, 19_000)), mask_of(len(self.x), 3, 777)
        kept = ~(masks[0] | masks[1])
        stores = [
            write_store(tmp_path / f"{name}.zarr", rows, masked=mask)
            for name, rows, mask in zip("xy", (self.x, self.y), masks, strict=True)
        ]
        fitted = cg.fit(*stores, **self.options)
        expected = cg.fit(self.x[kept], self.y[kept], **self.options)
        difference = np.abs(fitted.weight - expected.weight).max()
        assert difference <= 1e-10 * np.abs(expected.weight).max()
        assert (fitted.certificate.rows, fitted.certificate.skipped) == (kept.sum(), 3002)
        assert fitted.certificate.digits >= 11
        assert fitted.certificate.passes == expected.certificate.passes > 2

    def test_unit_rows_are_those_of_every_pass(self) -> None:
        lengths = [np.linalg.norm(rows, axis=1)[:, None] for rows in (self.x, self.y)]
        fitted = cg.fit(self.x, self.y, normalize=True, digits=9)
        expected = longdouble_least_squares(
            self.x / lengths[0], self.y / lengths[1], intercept=True
        )
        error = np.linalg.norm(fitted.weight.T - expected) / np.linalg.norm(expected)
        # the unit rows of the two differ by rounding, which the condition number multiplies
        assert error <= 10 * EPSILON * fitted.certificate.condition

    def test_digits_of_unit_rows_are_those_that_rounding_leaves(self) -> None:
        fitted = cg.fit(self.x, self.y, normalize=True, digits=15)
        lengths = [
            np.sqrt((rows.astype(np.longdouble) ** 2).sum(axis=1)) for rows in (self.x, self.y)
        ]
        units = [rows / own[:, None] for rows, own in zip((self.x, self.y), lengths, strict=True)]
        exact = longdouble_least_squares(*units, intercept=True)
        spread = np.linalg.norm((units[0] - units[0].mean(axis=0)).astype(float), axis=0)
        found = column_scaled_digits(fitted.weight.T, exact, spread)
        assert fitted.certificate.digits <= found + 1
        assert any("15 digits were asked for" in note for note in fitted.certificate.notes)

    def test_ridge_is_that_of_rows_below_the_rows(self) -> None:
        strength = 1e-9
        fitted = cg.fit(self.x, self.y, intercept=False, ridge=strength, **self.options)
        below = np.sqrt(np.longdouble(strength)) * np.eye(12, dtype=np.longdouble)
        expected = longdouble_least_squares(
            np.vstack([self.x, below]), np.vstack([self.y, np.zeros((12, 2))]), intercept=False
        )
        error = np.linalg.norm(fitted.weight.T - expected) / np.linalg.norm(expected)
        reference = len(self.x) * float(np.finfo(np.longdouble).eps)
        assert fitted.certificate.passes > 1
        assert error <= reference * fitted.certificate.condition + 10 ** (
            1 - fitted.certificate.digits
        )

    @pytest.mark.parametrize(("condition", "in_doubt"), [(1e5, False), (1e9, True)])
    def test_folds_say_where_their_score_is_of_one_pass(
        self, condition: float, in_doubt: bool
    ) -> None:
        x, y = conditioned(14, condition, rows=4000)
        certificate = cg.fit(x, y, folds=4, **self.options).certificate
        assert certificate.passes > 1
        assert certificate.folds == 4
        assert in_doubt == any(
            "held-out R2 is of maps from one pass" in n for n in certificate.notes
        )
        if not in_doubt:
            errors = totals = 0.0
            for held_out in np.array_split(np.arange(4000), 4):
                rest = np.setdiff1d(np.arange(4000), held_out)
                means = x[rest].mean(axis=0), y[rest].mean(axis=0)
                m = np.linalg.lstsq(x[rest] - means[0], y[rest] - means[1], rcond=None)[0]
                residuals = y[held_out] - means[1] - (x[held_out] - means[0]) @ m
                errors += (residuals**2).sum()
                totals += ((y[held_out] - means[1]) ** 2).sum()
            assert certificate.cross_validated_r2 == pytest.approx(1 - errors / totals, abs=1e-6)

    def test_weights_of_any_size_are_those_of_every_sum(self) -> None:
        """Weights whose sum is rounded, of unit rows that are nearly the same."""
        for seed in range(6):
            rng = np.random.default_rng(seed)
            x = rng.standard_normal((60, 5)) + 1e7
            x /= np.linalg.norm(x, axis=1)[:, None]
            y = x @ rng.standard_normal((5, 2)) + 1e-9 * rng.standard_normal((60, 2))
            weights = rng.choice([0.3, 0.7, 1.1], 60)
            fitted = cg.fit(x, y, weights=weights, digits=12)
            exact = exact_least_squares(x, y, intercept=True, weights=weights)
            lengths = np.sqrt(weights @ (x - weights @ x / weights.sum()) ** 2)
            found = column_scaled_digits(fitted.weight.T, exact, lengths)
            assert fitted.certificate.passes > 2
            assert found > fitted.certificate.digits - 1


class TestReading:
    def test_is_done_once_where_that_is_enough_or_nothing_more_is_asked(self) -> None:
        for options in ({"digits": 0}, {"precision": "fast"}, {"ridge": 1.0}):
            assert cg.fit(*conditioned(8, 1e7), **options).certificate.passes == 1

    def test_is_reported_pass_by_pass(self) -> None:
        stages = []
        x, y = conditioned(9, 1e8, rows=20_000)
        fitted = cg.fit(x, y, digits=12, progress=lambda report: stages.append(report.stage))
        found = list(dict.fromkeys(stages))
        assert found[:2] == ["accumulate", "accumulate again"]
        assert found[-1] == "residuals"
        assert fitted.certificate.passes >= len(found)

    @pytest.mark.parametrize("digits", [-1, 16, np.nan, True, "6", None])
    def test_is_refused_for_digits_that_no_map_has(self, digits: Any) -> None:
        with pytest.raises(cg.InputError, match="digits: .* from 0 to 15"):
            cg.fit(*conditioned(10, 10.0), digits=digits)


class TestMemory:
    @pytest.mark.parametrize("digits", [0, 14, 15])
    def test_is_planned_for_every_pass(self, tmp_path: Path, digits: int) -> None:
        rng = np.random.default_rng(15)
        for name, dim in (("x", 700), ("y", 500)):
            np.save(tmp_path / f"{name}.npy", rng.standard_normal((6000, dim), np.float32))
        arguments = "fit", "x.npy", "y.npy", "-o", "m", "--digits", digits, "--threads", 1
        result = succeeds(*arguments, cwd=tmp_path)
        assert (result["passes"] > 1) == (digits > 0)
        assert result["peak_memory_bytes"] < 1.25 * result["planned_memory_bytes"]


class TestResiduals:
    def test_have_the_r2_of_a_fit_whose_coefficients_are_large(self) -> None:
        x, y = conditioned(11, 1e8, noise=1e-4)
        exact = longdouble_least_squares(x, y, intercept=True)
        rows = (x - x.mean(axis=0)).astype(np.longdouble)
        targets = (y - y.mean(axis=0)).astype(np.longdouble)
        expected = float(1 - ((targets - rows @ exact) ** 2).sum() / (targets**2).sum())
        certificate = cg.fit(x, y, digits=10).certificate
        assert certificate.r2 == pytest.approx(expected, abs=1e-12)
        assert not any("R2 is known" in note for note in certificate.notes)


class TestStandardErrors:
    @pytest.mark.parametrize("intercept", [True, False])
    @pytest.mark.parametrize("digits", [0, 12])
    def test_are_those_of_the_textbook(self, intercept: bool, digits: float) -> None:
        x, y = conditioned(12, 1e3, rows=400, p=5)
        fitted = cg.fit(x, y, intercept=intercept, digits=digits)
        rows = np.hstack([np.ones((400, 1 if intercept else 0)), x])
        solution = np.linalg.lstsq(rows, y, rcond=None)[0]
        freedom = 400 - rows.shape[1]
        deviation = np.sqrt(((y - rows @ solution) ** 2).sum(axis=0) / freedom)
        inverse = np.sqrt(np.linalg.inv(rows.T @ rows).diagonal())
        weight, bias = fitted.standard_errors()
        np.testing.assert_allclose(weight, np.outer(deviation, inverse[-5:]), rtol=1e-8)
        np.testing.assert_allclose(bias, deviation * inverse[0] if intercept else 0, rtol=1e-8)
        np.testing.assert_allclose(fitted.certificate.residual_sd, deviation, rtol=1e-8)

    @pytest.mark.parametrize(
        "options", [{"ridge": 1.0}, {"weights": np.linspace(0, 1, 400)}, {"precision": "fast"}]
    )
    def test_survive_the_file_or_are_refused(self, options: Any, tmp_path: Path) -> None:
        fitted = cg.fit(*conditioned(13, 10.0, rows=400), **options)
        fitted.save(tmp_path / "map")
        loaded = cg.LinearMap.load(tmp_path / "map")
        if options.get("precision") == "fast":
            np.testing.assert_array_equal(loaded.standard_errors()[0], fitted.standard_errors()[0])
        else:
            with pytest.raises(cg.InputError, match="has no standard errors"):
                loaded.standard_errors()
