"""Error and time of a fit against the condition number, for one, two and three passes."""

from __future__ import annotations

from functools import partial
from statistics import median

import click
import mpmath
import numpy as np
from machine import timed
from numpy.typing import NDArray
from results import table, write

import crossgram as cg

_ROWS, _P, _Q = 50_000, 64, 16
_CONDITIONS = tuple(10.0**exponent for exponent in range(2, 13, 2))
_PIECE_BITS = 18  # sums of 50,000 products of two such integers are exact in float64
_DIGITS = {"one pass": 0.0, "two or three, to 6 digits": 6.0, "more, to 14 digits": 14.0}
_PEER = "numpy.linalg.lstsq"

Matrix = NDArray[np.float64]


@click.command()
@click.option("--repeats", default=5, show_default=True)
def main(repeats: int) -> None:
    """Measure and write to RESULTS.md."""
    lines = []
    errors: dict[str, list[float]] = {name: [] for name in [*_DIGITS, _PEER]}
    for condition in _CONDITIONS:
        x, y = _problem(condition)
        exact = _exact(x, y)
        lines.append([f"{condition:.0e}", *_by_crossgram(x, y, exact, repeats, errors)])
        seconds = median(timed(partial(_lstsq, x, y)) for _ in range(repeats))
        errors[_PEER].append(_error(_lstsq(x, y), exact))
        lines[-1] += [f"{errors[_PEER][-1]:.1e}", f"{seconds:.2f} s"]
    header = ["condition"]
    for name in _DIGITS:
        header += [name, "claims", "passes", "time"]
    write(
        "conditions",
        f"## Error of M against the condition number, {_ROWS:,} rows, {_P} to {_Q}, float64\n\n"
        "Rows of a known map with noise of a tenth of the outputs, as arrays. Errors are of M, "
        "relative, Frobenius, against the normal equations of exact moments solved to 80 digits; "
        "what the certificate claims stands beside. At 1e12 crossgram and lstsq both leave out "
        "directions below max(rows, columns) times the rounding of float64. Medians of "
        f"{repeats}.\n\n" + table([*header, _PEER, "time"], lines),
        {"condition": _CONDITIONS, "errors": errors},
    )


def _problem(condition: float) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((_P, _P)))[0] for _ in range(2))
    x = rng.standard_normal((_ROWS, _P)) @ (left * np.geomspace(1, 1 / condition, _P) @ right)
    y = x @ (rng.standard_normal((_P, _Q)) / np.linalg.norm(x, axis=0)[:, None])
    y /= y.std(axis=0)
    return x, y + 0.1 * rng.standard_normal((_ROWS, _Q))


def _by_crossgram(
    x: Matrix, y: Matrix, exact: Matrix, repeats: int, errors: dict[str, list[float]]
) -> list[str]:
    cells = []
    for name, digits in _DIGITS.items():
        fitted = cg.fit(x, y, digits=digits)
        seconds = median(timed(partial(cg.fit, x, y, digits=digits)) for _ in range(repeats))
        certificate = fitted.certificate
        assert certificate is not None
        errors[name].append(_error(fitted.weight.T, exact))
        cells += [
            f"{errors[name][-1]:.1e}",
            f"{10**-certificate.digits:.0e}",
            str(certificate.passes),
            f"{seconds:.2f} s",
        ]
    return cells


def _lstsq(x: Matrix, y: Matrix) -> Matrix:
    return np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(axis=0), rcond=None)[0]


def _error(found: Matrix, exact: Matrix) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _exact(x: Matrix, y: Matrix) -> Matrix:
    """Return M of the normal equations of exact moments, solved to 80 digits."""
    rows = np.hstack([x, np.ones((_ROWS, 1)), y])
    _, exponents = np.frexp(np.abs(rows).max(axis=0))
    left = np.ldexp(rows, -exponents)
    pieces = []
    while left.any():
        left *= 2.0**_PIECE_BITS
        pieces.append(np.trunc(left))
        left -= pieces[-1]
    gram = np.zeros((rows.shape[1],) * 2, dtype=object)
    for i, first in enumerate(pieces):
        for j, second in enumerate(pieces):
            gram += (first.T @ second).astype(np.int64).astype(object) << (
                _PIECE_BITS * (2 * len(pieces) - 2 - i - j)
            )
    unknowns = _P + 1
    with mpmath.workdps(80):
        system = np.vectorize(mpmath.mpf, otypes=[object])(gram[:unknowns])
        for k in range(unknowns):
            system[k] /= system[k, k]
            others = np.arange(unknowns) != k
            system[others] -= np.outer(system[others, k], system[k])
        solution = system[:_P, unknowns:].astype(np.float64)
    return np.ldexp(solution, exponents[unknowns:] - exponents[:_P, None])


if __name__ == "__main__":
    main()
