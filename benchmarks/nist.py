"""Correct digits of the coefficients of NIST's linear regression sets, beside other packages."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from results import table, write

import crossgram as cg

_SETS = sorted((Path(__file__).parents[1] / "tests" / "nist").glob("*.json"))

Fit = Callable[[NDArray[Any], NDArray[Any], bool], NDArray[Any]]
"""Takes x (n, p), y (n,) and whether there is an intercept; returns it, if so, and the rest."""


def main() -> None:
    """Measure and write to RESULTS.md."""
    lines = []
    for path in _SETS:
        lines.append([path.stem, *(_digits(path, fit, np.float64) for fit in _FITS.values())])
        lines[-1].append(_digits(path, _crossgram(15), np.longdouble))
    write(
        "NIST",
        "## NIST's linear regression sets: correct digits of the worst coefficient\n\n"
        "Log relative errors against the certified values, powers of x computed and rounded in "
        "float64, which leaves 7.7 digits of Filip's to be had; in the last column in long double, "
        "of which crossgram sums residuals to 100 bits. 0 where nothing was right, or the package "
        "refused.\n\n" + table(["set", *_FITS, "crossgram, 15 digits, long double"], lines),
    )


def _digits(path: Path, fit: Fit, dtype: type) -> str:
    stored = json.loads(path.read_text(encoding="utf-8"))
    x = np.array([[dtype(value) for value in row] for row in stored["x"]])
    if stored["degree"]:
        x = x[:, :1] ** np.arange(1, stored["degree"] + 1)
    y = np.array([dtype(value) for value in stored["y"]])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fit(x, y, stored["intercept"])
    except (ValueError, np.linalg.LinAlgError):
        return "0.0"
    worst = 16.0
    for value, text in zip(map(float, found), stored["coefficients"], strict=True):
        true = Decimal(text)
        error = abs(Decimal(value) - true) / (abs(true) or 1)
        worst = min(worst, float(-error.log10()) if error else 16.0)
    return f"{max(worst, 0.0):.1f}"


def _crossgram(digits: float) -> Fit:
    def fit(x: NDArray[Any], y: NDArray[Any], intercept: bool) -> NDArray[Any]:
        fitted = cg.fit(x, y[:, None], intercept=intercept, digits=digits)
        return np.concatenate([fitted.bias[: int(intercept)], fitted.weight[0]])

    return fit


def _design(x: NDArray[Any], intercept: bool) -> NDArray[Any]:
    return np.hstack([np.ones((len(x), int(intercept))), x])


def _numpy(x: NDArray[Any], y: NDArray[Any], intercept: bool) -> NDArray[Any]:
    return np.linalg.lstsq(_design(x, intercept), y, rcond=None)[0]


def _gelsy(x: NDArray[Any], y: NDArray[Any], intercept: bool) -> NDArray[Any]:
    return scipy.linalg.lstsq(_design(x, intercept), y, lapack_driver="gelsy")[0]


def _scikit_learn(x: NDArray[Any], y: NDArray[Any], intercept: bool) -> NDArray[Any]:
    from sklearn.linear_model import LinearRegression

    return _of_estimator(LinearRegression(fit_intercept=intercept).fit(x, y), intercept)


def _intelex(x: NDArray[Any], y: NDArray[Any], intercept: bool) -> NDArray[Any]:
    from sklearnex.linear_model import IncrementalLinearRegression

    return _of_estimator(IncrementalLinearRegression(fit_intercept=intercept).fit(x, y), intercept)


def _of_estimator(model: Any, intercept: bool) -> NDArray[Any]:
    return np.concatenate([np.ravel(model.intercept_)[: int(intercept)], np.ravel(model.coef_)])


def _statsmodels(x: NDArray[Any], y: NDArray[Any], intercept: bool) -> NDArray[Any]:
    from statsmodels.api import OLS

    return np.asarray(OLS(y, _design(x, intercept)).fit().params)


_FITS: dict[str, Fit] = {
    "crossgram": _crossgram(6),
    "crossgram, 13 digits": _crossgram(13),
    "numpy lstsq": _numpy,
    "scipy gelsy": _gelsy,
    "scikit-learn": _scikit_learn,
    "scikit-learn-intelex": _intelex,
    "statsmodels": _statsmodels,
}


if __name__ == "__main__":
    main()
