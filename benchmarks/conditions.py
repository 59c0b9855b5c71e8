"""Error and time of a fit against the condition number, for one, two and three passes."""

from __future__ import annotations

from functools import partial
from statistics import median

import click
import numpy as np
from machine import timed
from numpy.typing import NDArray
from results import table, write

import crossgram as cg

_ROWS, _P, _Q = 50_000, 64, 16
_CONDITIONS = tuple(10.0**exponent for exponent in range(2, 13, 2))
_DIGITS = {"one pass": 0.0, "two or three, to 6 digits": 6.0, "more, to 14 digits": 14.0}

Matrix = NDArray[np.float64]


@click.command()
@click.option("--repeats", default=5, show_default=True)
def main(repeats: int) -> None:
    """Measure and write to RESULTS.md."""
    lines = []
    for condition in _CONDITIONS:
        x, y = _problem(condition)
        exact = _long_double_qr(x, y)
        lines.append([f"{condition:.0e}", *_by_crossgram(x, y, exact, repeats)])
        seconds = median(timed(partial(_lstsq, x, y)) for _ in range(repeats))
        lines[-1] += [f"{_error(_lstsq(x, y), exact):.1e}", f"{seconds:.2f} s"]
    header = ["condition"]
    for name in _DIGITS:
        header += [name, "claims", "passes", "time"]
    write(
        "conditions",
        f"## Error of M against the condition number, {_ROWS:,} rows, {_P} to {_Q}, float64\n\n"
        "Rows of a known map with noise of a tenth of the outputs, as arrays. Errors are of M, "
        "relative, Frobenius, against a QR in long double, which has about 19 digits less those "
        "that the condition number takes; what the certificate claims stands beside. Medians of "
        f"{repeats}.\n\n" + table([*header, "numpy.linalg.lstsq", "time"], lines),
    )


def _problem(condition: float) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((_P, _P)))[0] for _ in range(2))
    x = rng.standard_normal((_ROWS, _P)) @ (left * np.geomspace(1, 1 / condition, _P) @ right)
    y = x @ (rng.standard_normal((_P, _Q)) / np.linalg.norm(x, axis=0)[:, None])
    y /= y.std(axis=0)
    return x, y + 0.1 * rng.standard_normal((_ROWS, _Q))


def _by_crossgram(x: Matrix, y: Matrix, exact: Matrix, repeats: int) -> list[str]:
    cells = []
    for digits in _DIGITS.values():
        fitted = cg.fit(x, y, digits=digits)
        seconds = median(timed(partial(cg.fit, x, y, digits=digits)) for _ in range(repeats))
        certificate = fitted.certificate
        assert certificate is not None
        cells += [
            f"{_error(fitted.weight.T, exact):.1e}",
            f"{10**-certificate.digits:.0e}",
            str(certificate.passes),
            f"{seconds:.2f} s",
        ]
    return cells


def _lstsq(x: Matrix, y: Matrix) -> Matrix:
    return np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(axis=0), rcond=None)[0]


def _error(found: Matrix, exact: Matrix) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _long_double_qr(x: Matrix, y: Matrix) -> Matrix:
    rows = np.hstack([x, y]).astype(np.longdouble)
    rows -= rows.mean(axis=0)
    for k in range(_P):
        mirror = rows[k:, k].copy()
        mirror[0] += np.copysign(np.sqrt((mirror**2).sum()), mirror[0])
        mirror /= np.sqrt((mirror**2).sum())
        rows[k:, k:] -= 2 * np.outer(mirror, mirror @ rows[k:, k:])
    solution = rows[:_P, _P:].copy()
    for k in reversed(range(_P)):
        solution[k] -= rows[k, k + 1 : _P] @ solution[k + 1 :]
        solution[k] /= rows[k, k]
    return solution.astype(np.float64)


if __name__ == "__main__":
    main()
