"""The linear regression sets of NIST, through the public API, from blocks that are streamed."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import crossgram as cg

NAMES = sorted(path.stem for path in (Path(__file__).parent / "nist").glob("*.json"))
BLOCK = 7
EXACT = Decimal("1e-30")
"""Residuals below this are those of 80-digit arithmetic: the outputs are exact polynomials."""


class Problem(NamedTuple):
    x: NDArray[Any]
    y: NDArray[Any]
    intercept: bool
    coefficients: list[Decimal]
    standard_errors: list[Decimal]
    residual_sd: Decimal


def problem(name: str, dtype: Any = np.float64) -> Problem:
    """Return a set with the powers of x computed, and rounded, in a dtype."""
    stored = json.loads((Path(__file__).parent / "nist" / f"{name}.json").read_text())
    x = np.array([[dtype(value) for value in row] for row in stored["x"]])
    if stored["degree"]:
        x = x[:, :1] ** np.arange(1, stored["degree"] + 1)
    return Problem(
        x,
        np.array([[dtype(value)] for value in stored["y"]]),
        stored["intercept"],
        [Decimal(value) for value in stored["coefficients"]],
        [Decimal(value) for value in stored["standard_errors"]],
        Decimal(stored["residual_sd"]),
    )


def log_relative_error(found: Any, true: list[Decimal]) -> float:
    """Return the correct digits of the worst of some numbers."""
    digits = []
    for value, expected in zip(map(Decimal, map(float, found)), true, strict=True):
        error = abs(value - expected) / (abs(expected) or 1)
        digits.append(17.0 if error == 0 else min(17.0, float(-error.log10())))
    return min(digits)


def in_order(fitted: cg.LinearMap, given: Problem) -> NDArray[np.float64]:
    return np.concatenate([fitted.bias, fitted.weight[0]]) if given.intercept else fitted.weight[0]


def streamed(given: Problem, tmp_path: Path, **options: Any) -> cg.LinearMap:
    """Fit from stores of a few rows a chunk."""
    paths = []
    for name, rows in (("x", given.x), ("y", given.y)):
        paths.append(tmp_path / f"{name}.zarr")
        with cg.EmbeddingStore.create(
            paths[-1], rows.shape[1], dtype="float64", chunk_rows=BLOCK
        ) as writer:
            writer.append(rows)
    return cg.fit(*paths, intercept=given.intercept, **options)


def by_lstsq(given: Problem) -> float:
    ones = np.ones((len(given.x), 1 if given.intercept else 0))
    rows = np.hstack([ones, given.x]).astype(np.float64)
    solution = np.linalg.lstsq(rows, given.y.astype(np.float64)[:, 0], rcond=None)[0]
    return log_relative_error(solution, given.coefficients)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "filip"])
def test_nine_digits_of_the_coefficients(name: str, tmp_path: Path) -> None:
    given = problem(name)
    fitted = streamed(given, tmp_path, digits=13)
    assert log_relative_error(in_order(fitted, given), given.coefficients) >= 9


@pytest.mark.parametrize("name", NAMES)
def test_no_fewer_digits_than_a_dense_solver(name: str, tmp_path: Path) -> None:
    """Of Filip's seven; rounded to float64, its rows determine 7.7."""
    given = problem(name)
    fitted = streamed(given, tmp_path, digits=15)
    found = log_relative_error(in_order(fitted, given), given.coefficients)
    assert found >= by_lstsq(given)
    assert found >= 7


@pytest.mark.skipif(
    np.finfo(np.longdouble).eps == np.finfo(np.float64).eps, reason="long double is float64 here"
)
@pytest.mark.parametrize("name", NAMES)
class TestRowsWiderThanFloat64:
    """The powers of Filip's x, rounded to float64, determine its coefficients to 8 digits only."""

    def test_give_nine_digits_of_all_coefficients(self, name: str) -> None:
        given = problem(name, np.longdouble)
        fitted = cg.fit(given.x, given.y, intercept=given.intercept, digits=15)
        assert log_relative_error(in_order(fitted, given), given.coefficients) >= 9

    def test_give_standard_errors_too(self, name: str) -> None:
        """To nine digits, and six of Filip's, whose condition number of 4e9 takes the other ten."""
        given = problem(name, np.longdouble)
        fitted = cg.fit(given.x, given.y, intercept=given.intercept, digits=15)
        weight, bias = fitted.standard_errors()
        errors = np.concatenate([bias, weight[0]]) if given.intercept else weight[0]
        deviation = fitted.certificate.residual_sd
        if given.residual_sd < EXACT:
            assert deviation[0] < 1e-16 * np.abs(given.y).max()
        else:
            assert log_relative_error(deviation, [given.residual_sd]) >= 9
            expected = 6 if name == "filip" else 9
            assert log_relative_error(errors, given.standard_errors) >= expected
