"""Numbers at the ends of what floats can hold: the right answer, or a plain refusal.

Tolerances are those of the arithmetic: coefficients of columns scaled to length 1 err by the
certificate's digits, which themselves follow from ε, the condition and the sums (see
docs/mathematics.md); a factor of two that multiplies rows changes no bit of anything else.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from strategies import EPSILON

import crossgram as cg
from crossgram.errors import InputError, NonFiniteError

Matrix = NDArray[np.float64]

ROWS, P, Q = 3000, 4, 2
RNG = np.random.default_rng(20)
X: Matrix = RNG.normal(size=(ROWS, P))
Y: Matrix = X @ RNG.normal(size=(P, Q)) + 0.1 * RNG.normal(size=(ROWS, Q))
UNIT = cg.fit(X, Y)

OVERFLOW = "overflow.*divide the rows by a constant first"
UNDERFLOW = "underflow float64; multiply the rows by a constant first"

EXACT_POWERS = [-440, -300, 300, 500]
"""Of two: squares of rows times these, and sums of thousands of them, are normal numbers."""


def lstsq(x: Matrix, y: Matrix) -> Matrix:
    """Return the coefficients of centred float64 rows by Householder QR."""
    return np.asarray(np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(axis=0), rcond=None)[0])


def assert_close(fitted: cg.LinearMap, x: Matrix, expected: Matrix) -> None:
    """Hold coefficients, of columns scaled to length 1, to the digits that the certificate has."""
    assert fitted.certificate is not None
    lengths = np.linalg.norm(x - x.mean(axis=0), axis=0)[:, None]
    found, wanted = lengths * fitted.weight.T, lengths * expected
    error = np.linalg.norm(found - wanted, axis=0) / np.linalg.norm(wanted, axis=0)
    # the reference is another float64 algorithm, with an error of its own
    reference = 8 * EPSILON * fitted.certificate.condition**2
    assert error.max() <= 10.0**-fitted.certificate.digits + reference


class TestScale:
    """Of rows: a power of two goes through every sum without rounding."""

    @pytest.mark.parametrize("power", EXACT_POWERS)
    @pytest.mark.parametrize(
        ("options", "is_exact"),
        [
            ({}, True),
            ({"intercept": False}, True),
            ({"folds": 3}, True),
            ({"digits": 15}, True),
            ({"ridge": "auto"}, False),
            ({"method": "procrustes"}, False),
            ({"method": "procrustes", "scale": True}, False),
            ({"method": "reduced-rank", "rank": 1}, False),
        ],
        ids=str,
    )
    def test_of_both_spaces_changes_nothing_of_a_map(
        self, power: int, options: dict[str, Any], is_exact: bool
    ) -> None:
        factor = 2.0**power
        found, expected = cg.fit(X * factor, Y * factor, **options), cg.fit(X, Y, **options)
        assert found.certificate is not None
        assert expected.certificate is not None
        # singular values and eigenvectors come by ways that depend on the size of the numbers
        certain = 0.0 if is_exact else 10.0**-expected.certificate.digits
        np.testing.assert_allclose(found.weight, expected.weight, rtol=0, atol=2 * certain)
        reach = 2 * certain * np.abs(X).max() * P
        np.testing.assert_allclose(found.bias / factor, expected.bias, rtol=0, atol=reach)
        for name in ("rank", "passes", "method", "notes"):
            assert getattr(found.certificate, name) == getattr(expected.certificate, name), name
        for name in ("condition", "digits", "r2", "residual"):
            assert getattr(found.certificate, name) == pytest.approx(
                getattr(expected.certificate, name), rel=4e3 * certain, abs=0
            ), name

    @pytest.mark.parametrize("power", EXACT_POWERS)
    def test_of_the_source_divides_the_map(self, power: int) -> None:
        found = cg.fit(X * 2.0**power, Y)
        np.testing.assert_array_equal(found.weight * 2.0**power, UNIT.weight)
        np.testing.assert_array_equal(found.bias, UNIT.bias)

    @pytest.mark.parametrize("power", EXACT_POWERS)
    def test_changes_nothing_of_a_comparison(self, power: int) -> None:
        found, expected = (
            cg.compare(cg.accumulate([X * factor, Y * factor], names=["a", "b"]))
            for factor in (2.0**power, 1.0)
        )
        for own, wanted in zip(found.pairs, expected.pairs, strict=True):
            for name, value in vars(wanted).items():
                # of well-conditioned spaces, sums as long as there are rows
                near = pytest.approx(value, rel=ROWS * EPSILON) if type(value) is float else value
                assert getattr(own, name) == near, name

    @pytest.mark.parametrize("factor", [1e154, 1e200, 1e300, 1e307])
    @pytest.mark.parametrize("which", [(1, 0), (0, 1), (1, 1)], ids=["source", "target", "both"])
    def test_whose_squares_overflow_is_refused(self, factor: float, which: tuple[int, int]) -> None:
        x, y = (
            rows * (factor if is_huge else 1.0) for rows, is_huge in zip((X, Y), which, strict=True)
        )
        with pytest.raises(InputError, match=OVERFLOW):
            cg.fit(x, y)

    @pytest.mark.parametrize("factor", [1e-150, 1e-200, 1e-300, 1e-310, 5e-324])
    @pytest.mark.parametrize("which", [(1, 0), (0, 1), (1, 1)], ids=["source", "target", "both"])
    def test_whose_squares_vanish_is_refused(self, factor: float, which: tuple[int, int]) -> None:
        x, y = (
            rows * (factor if is_tiny else 1.0) for rows, is_tiny in zip((X, Y), which, strict=True)
        )
        with pytest.raises(InputError, match=UNDERFLOW):
            cg.fit(x, y)

    @pytest.mark.parametrize("power", [-1060, -700, 700, 1010])
    def test_does_not_matter_to_unit_rows(self, power: int) -> None:
        """Also of subnormal rows, as far as they have bits: 14 are left at 2^-1060."""
        rows = np.ldexp(np.round(X * 256), power)
        found = cg.fit(rows, Y, normalize="source")
        expected = cg.fit(np.round(X * 256), Y, normalize="source")
        # lengths are rounded once more where squares are of rows divided by their largest number
        np.testing.assert_allclose(found.weight, expected.weight, rtol=1e3 * EPSILON)

    def test_of_one_column_by_twelve_orders_is_undone(self) -> None:
        """Powers of two near 1e12 and 1e-12: the same bits, each column by itself."""
        factors = np.ldexp(1.0, np.array([0, 40, -40, 20]))
        found = cg.fit(X * factors, Y * np.ldexp(1.0, np.array([0, 40])))
        np.testing.assert_array_equal(
            found.weight * factors / np.ldexp(1.0, np.array([[0], [40]])), UNIT.weight
        )
        assert found.certificate is not None
        assert UNIT.certificate is not None
        assert found.certificate.rank == P
        assert found.certificate.digits == UNIT.certificate.digits

    @pytest.mark.parametrize("digits", [0, 6])
    @pytest.mark.parametrize("exponent", [-14, -12, -6, -3, 0, 3, 6, 8, 12, 14])
    def test_of_a_repeated_column_costs_no_more_digits_than_the_certificate_says(
        self, exponent: int, digits: float
    ) -> None:
        """c and f c in place of c: the coefficients (1, f) m / (1 + f²) have the least norm."""
        factor = 10.0**exponent
        x = np.hstack([X, factor * X[:, :1]])
        found = cg.fit(x, Y, digits=digits)
        assert found.certificate is not None
        assert found.certificate.rank == P
        expected = np.vstack([UNIT.weight.T, factor * UNIT.weight.T[:1] / (1 + factor**2)])
        expected[0] /= 1 + factor**2
        assert_close(found, x, expected)
        if digits:
            # however it is shared, what it does is the same
            allowed = ROWS * EPSILON * np.abs(Y).max()
            np.testing.assert_allclose(found.apply(x), UNIT.apply(X), rtol=0, atol=allowed)


class TestNarrowFloats:
    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_that_overflowed_to_infinity_stop_by_row_and_column(self, dtype: str) -> None:
        x = X.astype(dtype)
        with np.errstate(over="ignore"):
            x[1234, 2] = np.float64(1e39)
        with pytest.raises(NonFiniteError, match=r"row 1234 holds inf in column 2"):
            cg.fit(x, Y)
        found = cg.fit(x, Y, on_nonfinite="skip")
        kept = np.arange(ROWS) != 1234
        assert_close(found, x[kept].astype("f8"), lstsq(x[kept].astype("f8"), Y[kept]))
        assert found.certificate is not None
        assert found.certificate.skipped == 1

    @pytest.mark.parametrize(("dtype", "factor"), [("float16", 3e-7), ("float32", 1e-43)])
    def test_that_are_subnormal_count_as_the_numbers_they_are(
        self, dtype: str, factor: float
    ) -> None:
        x = (X * factor).astype(dtype)
        assert 0 < np.abs(x[x != 0]).min() < np.finfo(dtype).tiny
        values = x.astype("f8")
        unit = values / np.float64(np.finfo(dtype).smallest_subnormal)
        found = cg.fit(x, Y)
        assert_close(found, values, lstsq(unit, Y) / np.finfo(dtype).smallest_subnormal)

    @pytest.mark.parametrize("factor", [1e20, 1e-30])
    def test_whose_float32_products_overflow_or_vanish_are_refused(self, factor: float) -> None:
        with pytest.raises(InputError, match="flow float64"):
            cg.fit((X * factor).astype("f4"), Y.astype("f4"), precision="fast")


class TestMeans:
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_that_are_huge_beside_the_spread_cost_no_digit(self, dtype: str) -> None:
        """1e8 and a spread of 1e-2: held against lstsq of the same numbers, shifted exactly."""
        spread = 1e-2 if dtype == "float64" else 100.0
        x = (1e8 + spread * X).astype(dtype)
        shifted = x.astype("f8") - 1e8  # exact: Sterbenz
        found = cg.fit(x, Y, digits=12)
        assert found.certificate is not None
        assert found.certificate.rank == P
        assert found.certificate.digits >= 12
        assert_close(found, shifted, lstsq(shifted, Y))

    def test_that_are_huge_leave_the_scatter_its_digits(self) -> None:
        x = 1e8 + 1e-2 * X
        scatter = cg.accumulate([x]).scatter("array 1", "array 1")
        with mpmath.workdps(40):
            shifted = x - 1e8
            centred = shifted - shifted.mean(axis=0)
            exact = centred.T @ centred
        lengths = np.sqrt(np.diag(exact))
        # a sum of n products errs by n ε at the very most, about the shift; by √n ε in practice
        allowed = ROWS * EPSILON * np.outer(lengths, lengths)
        assert (np.abs(scatter - exact) <= allowed).all()

    @pytest.mark.parametrize("mean", [1e8, 1e12])
    def test_that_are_huge_leave_merged_parts_their_digits(self, mean: float) -> None:
        """Of numbers that a mean is added to without rounding; it must cancel in every merge."""
        parts, spacing = 60, float(np.spacing(2 * mean))
        x = np.round(X / spacing / 64) * spacing * 64
        whole = cg.Moments({"a": P})
        for rows in np.array_split(x + mean, parts):
            part = cg.Moments({"a": P})
            part.update(rows)
            whole.absorb(part)
        centred = x - x.mean(axis=0)
        lengths = np.linalg.norm(centred, axis=0)
        allowed = ROWS * EPSILON * np.outer(lengths, lengths)
        assert (np.abs(whole.scatter("a", "a") - centred.T @ centred) <= allowed).all()
        removed = cg.Moments({"a": P})
        removed.update(x[: ROWS // 2] + mean)
        rest = x[ROWS // 2 :] - x[ROWS // 2 :].mean(axis=0)
        found = whole.subtract(removed).scatter("a", "a")
        assert (np.abs(found - rest.T @ rest) <= allowed).all()

    def test_of_constant_columns_that_are_huge_are_refused_or_left_out(self) -> None:
        x = np.hstack([X, np.full((ROWS, 1), 1e100)])
        found = cg.fit(x, Y)
        np.testing.assert_array_equal(found.weight[:, P], 0.0)
        # solved by eigenvectors instead of Cholesky, from the same sums
        allowed = 64 * EPSILON * np.abs(UNIT.weight).max()
        np.testing.assert_allclose(found.weight[:, :P], UNIT.weight, rtol=0, atol=allowed)
        x[:, P] = 1.7e308
        with pytest.raises(InputError, match="overflow"):
            cg.fit(x, Y)


class TestUnitRows:
    def test_of_zeros_alone_stop_by_row(self) -> None:
        x = X.copy()
        x[[77, 2000]] = 0.0
        with pytest.raises(NonFiniteError, match=r"row 77 is all zeros and has no direction"):
            cg.fit(x, Y, normalize=True)
        with pytest.raises(NonFiniteError, match=r"row 0 is all zeros"):
            cg.fit(np.zeros((9, 2)), np.ones((9, 2)), normalize=True)

    def test_of_zeros_may_be_left_out_or_are_rows_like_others_where_not_normalized(self) -> None:
        x = X.copy()
        x[77] = 0.0
        kept = np.arange(ROWS) != 77
        skipped = cg.fit(x, Y, normalize=True, on_nonfinite="skip")
        without = cg.fit(x[kept], Y[kept], normalize=True)
        # the tiles are cut elsewhere, which changes roundings alone
        np.testing.assert_allclose(skipped.weight, without.weight, rtol=ROWS * EPSILON)
        assert skipped.certificate is not None
        assert skipped.certificate.skipped == 1
        assert_close(cg.fit(x, Y), x, lstsq(x, Y))


@pytest.mark.usefixtures("one_blas_thread_in_class")
class TestFewRows:
    def test_one_gives_the_map_of_minimum_norm_through_it(self) -> None:
        x, y = X[:1], Y[:1]
        found = cg.fit(x, y)
        np.testing.assert_array_equal(found.weight, 0.0)
        np.testing.assert_array_equal(found.bias, y[0])
        through = cg.fit(x, y, intercept=False)
        np.testing.assert_allclose(
            through.weight, np.outer(y[0], x[0]) / (x[0] @ x[0]), rtol=64 * EPSILON
        )
        for each, rank in ((found, 0), (through, 1)):
            assert each.certificate is not None
            assert each.certificate.rank == rank
            assert any("will not generalise" in note for note in each.certificate.notes)

    @pytest.mark.parametrize("columns", [3, 30, 1100])
    @pytest.mark.parametrize("rows", [2, 3, 20])
    def test_fewer_than_columns_give_the_solution_of_minimum_norm(
        self, rows: int, columns: int
    ) -> None:
        rng = np.random.default_rng(rows * columns)
        x, y = rng.normal(size=(rows, columns)), rng.normal(size=(rows, Q))
        found = cg.fit(x, y)
        assert found.certificate is not None
        assert found.certificate.rank == min(rows - 1, columns)
        expected = lstsq(x, y)
        # of well-conditioned rows; sums over the columns are as long as these
        condition = found.certificate.condition
        allowed = 64 * np.sqrt(columns) * EPSILON * condition**2 * np.linalg.norm(expected)
        assert np.linalg.norm(found.weight.T - expected) <= allowed

    def test_the_condition_is_that_of_centred_columns_scaled_to_one_length(self) -> None:
        x = X @ np.diag(np.logspace(0, -3, P)) @ RNG.normal(size=(P, P))
        centred = x - x.mean(axis=0)
        expected = np.linalg.cond(centred / np.linalg.norm(centred, axis=0))
        found = cg.fit(x, Y).certificate
        assert found is not None
        # of a Gram matrix, whose smallest eigenvalue errs by ε of the largest, and more in sums
        assert found.condition == pytest.approx(expected, rel=64 * EPSILON * expected**2)

    def test_a_constant_column_hides_no_direction(self) -> None:
        """Singular values down to 1e-5 of the largest are told by one pass, with it or without."""
        x = X @ np.linalg.qr(RNG.normal(size=(P, P)))[0]
        x = x @ np.diag(np.logspace(0, -5, P)) @ np.linalg.qr(RNG.normal(size=(P, P)))[0]
        for given in (x, np.hstack([x, np.full((ROWS, 1), 3.0)])):
            found = cg.fit(given, Y, digits=0)
            assert found.certificate is not None
            assert found.certificate.rank == P

    def test_duplicate_columns_share_their_coefficients(self) -> None:
        found = cg.fit(np.hstack([X, X]), Y)
        assert found.certificate is not None
        assert found.certificate.rank == P
        # Gram matrices of rank P are told from others at ε: a further pass has full accuracy
        np.testing.assert_allclose(found.weight[:, :P], found.weight[:, P:], rtol=1e-9)
        np.testing.assert_allclose(found.weight[:, :P], UNIT.weight / 2, rtol=1e-9)

    def test_all_zeros_give_the_mean(self) -> None:
        found = cg.fit(np.zeros((10, P)), np.ones((10, Q)))
        np.testing.assert_array_equal(found.weight, 0.0)
        np.testing.assert_array_equal(found.bias, 1.0)


class TestWeights:
    @pytest.mark.parametrize("power", [-900, -600, 600, 990])
    def test_of_any_size_give_the_same_map(self, power: int) -> None:
        """Weights that are one power of two, even: their roots are exact, too."""
        found, expected = (cg.fit(X, Y, weights=np.full(ROWS, w)) for w in (2.0**power, 1.0))
        np.testing.assert_array_equal(found.weight, expected.weight)
        np.testing.assert_array_equal(found.bias, expected.bias)
        assert found.certificate is not None
        assert expected.certificate is not None
        assert found.certificate.r2 == expected.certificate.r2

    @pytest.mark.parametrize("power", [-900, 900])
    def test_of_any_size_merge(self, power: int) -> None:
        """Of parts whose means differ: products of two such weights are no floats."""
        parts = [cg.Moments({"a": P, "b": Q}) for _ in range(4)]
        for k, part in enumerate(parts):
            half = slice(0, ROWS // 2) if k % 2 == 0 else slice(ROWS // 2, ROWS)
            weights = np.full(ROWS // 2, 1.0 if k < 2 else 2.0**power)
            part.update(X[half] + 5 * (k % 2), Y[half], weights=weights)
        expected, found = parts[0] + parts[1], parts[2] + parts[3]
        for names in (("a", "a"), ("a", "b"), ("b", "b")):
            np.testing.assert_array_equal(
                found.scatter(*names), expected.scatter(*names) * 2.0**power
            )
        rest = found - parts[3]
        np.testing.assert_allclose(
            rest.scatter("a", "a"),
            parts[2].scatter("a", "a"),
            # the scatter of the whole, of which most is subtracted
            atol=ROWS * EPSILON * found.scatter("a", "a").max(),
        )

    def test_that_are_uneven_cancel_nothing(self) -> None:
        """Rows that hardly count come first; a shift by their mean would cost twelve digits."""
        x = RNG.normal(size=(2048, 3))
        x[1024:] += 1e6
        weights = np.where(np.arange(2048) < 1024, 1e-12, 1.0)
        moments = cg.Moments({"a": 3})
        moments.update(x, weights=weights)
        shifted = x - 1e6  # exact for the rows that count
        centred = shifted - weights @ shifted / weights.sum()
        expected = (weights[:, None] * centred).T @ centred
        # the others are 1e6 away: their share is as large as that of those that count
        np.testing.assert_allclose(
            moments.scatter("a", "a"), expected, rtol=0, atol=2048 * EPSILON * expected.max()
        )

    @pytest.mark.parametrize("spread", [1.0, 1e-20])
    def test_whose_sum_overflows_are_refused(self, spread: float) -> None:
        with pytest.raises(InputError, match="overflow"):
            cg.fit(spread * X, spread * Y, weights=np.full(ROWS, 1e306))
        first, second = (cg.Moments({"a": P}) for _ in range(2))
        first.update(1e-20 * X[:100], weights=np.full(100, 1.5e306))
        second.update(1e-20 * X[100:200], weights=np.full(100, 1.5e306))
        with pytest.raises(InputError, match="merge: the sum of the weights overflows"):
            first.merge(second)
