"""From moments to maps and correlations, beside the decompositions of LAPACK that they need."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from beside import Ceiling, measure
from forms import FORM
from machine import timed

import crossgram as cg
from crossgram.cca import canonical_correlations, whiten

pytestmark = pytest.mark.benchmark(group="solve")

FOLDS = 5
ONE = {"runs": 1}


@pytest.fixture(scope="module", params=FORM.solve_dims)
def dim(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def rows(dim: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, noise = (rng.standard_normal((10 * dim, dim), np.float32) for _ in range(2))
    return x, x @ rng.standard_normal((dim, dim), np.float32) + noise


@pytest.fixture(scope="module")
def moments(rows: tuple[np.ndarray, np.ndarray]) -> cg.Moments:
    return _accumulated(*rows)


def test_cholesky(benchmark: Any, moments: cg.Moments) -> None:
    gram, cross = moments.scatter("a", "a"), moments.scatter("a", "b")

    def lapack() -> None:
        scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, lower=True), cross)

    _measure(benchmark, partial(cg.solve, moments, "a", "b"), "dpotrf + dpotrs", lapack)


def test_eigenvectors(benchmark: Any, rows: tuple[np.ndarray, np.ndarray]) -> None:
    """Of columns half of which are the others'."""
    x, y = rows
    half = x.shape[1] // 2
    deficient = _accumulated(np.concatenate([x[:, :half], x[:, :half]], axis=1), y)
    certificate = cg.solve(deficient, "a", "b").certificate
    assert certificate is not None
    assert certificate.rank == half
    lapack = _eigenvectors(deficient.scatter("a", "a"))
    _measure(benchmark, partial(cg.solve, deficient, "a", "b"), "dsyevd", lapack)


def test_procrustes(benchmark: Any, moments: cg.Moments) -> None:
    run = partial(cg.solve, moments, "a", "b", method="procrustes")
    _measure(benchmark, run, "dgesdd", partial(scipy.linalg.svd, moments.scatter("a", "b")))


def test_canonical_correlations(benchmark: Any, moments: cg.Moments) -> None:
    spaces, cross = ("a", "b"), moments.scatter("a", "b")
    scatters = [moments.scatter(own, own) for own in spaces]

    def run() -> None:
        canonical_correlations(*(whiten(moments, own) for own in spaces), cross)

    def lapack() -> None:
        for scatter in scatters:
            scipy.linalg.cholesky(scatter)
        scipy.linalg.svd(cross)

    _measure(benchmark, run, "two dpotrf, a dgesdd", lapack)


def test_ridge_path(benchmark: Any, rows: tuple[np.ndarray, np.ndarray]) -> None:
    folded = _accumulated(*rows, folds=FOLDS)
    run = partial(cg.ridge_path, folded, "a", "b", np.geomspace(1e-2, 1e6, FORM.strengths))
    decompose = _eigenvectors(folded.total().scatter("a", "a"))

    def lapack() -> None:
        for _ in range(1 + FOLDS):
            decompose()

    _measure(benchmark, run, f"{1 + FOLDS} dsyevd", lapack)


def _accumulated(x: np.ndarray, y: np.ndarray, **options: Any) -> Any:
    return cg.accumulate([x, y], names=["a", "b"], **options)


def _eigenvectors(gram: np.ndarray) -> partial[Any]:
    return partial(scipy.linalg.eigh, gram, driver="evd", check_finite=False)


def _measure(benchmark: Any, run: Any, name: str, lapack: Any) -> None:
    measure(benchmark, run, ONE, Ceiling(name, partial(timed, lapack), 1))
