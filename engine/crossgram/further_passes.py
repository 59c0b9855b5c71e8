"""Reading the rows again, until the map has the digits that were asked for."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossgram.accumulation import Pass
from crossgram.errors import InputError
from crossgram.evidence import (
    Spread,
    certified_map,
    correct_digits,
    is_rounding,
    products,
    sums_of_squares,
)
from crossgram.least_squares import Rank, digit_notes, row_notes
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments
from crossgram.preconditioner import Preconditioner
from crossgram.progress import ProgressCallback, ignore
from crossgram.refinement import (
    NEARLY_ORTHONORMAL,
    Problem,
    Solution,
    contraction,
    corrected,
    least_error,
    precondition,
    solve_preconditioned,
)

__all__ = ["MOST_DIGITS", "check_digits", "refine"]

MOST_DIGITS = 15
"""Of a float64 number."""

_MOST_PASSES = 8
_AS_FAR = (
    ", leaving out directions below max(rows, columns) times the rounding of float64, as "
    "numpy.linalg.lstsq does"
)


def check_digits(digits: Any) -> None:
    """Refuse a number of digits that no map in float64 can have."""
    is_number = isinstance(digits, Real) and not isinstance(digits, bool)
    if not (is_number and 0 <= float(digits) <= MOST_DIGITS):
        raise InputError(f"digits: {digits!r} given, a map in float64 has from 0 to {MOST_DIGITS}")


def refine(
    ready: Pass,
    moments: Moments,
    solved: LinearMap,
    digits: float,
    progress: ProgressCallback = ignore,
) -> LinearMap:
    """Return a least-squares map of enough digits, reading the rows again where it takes that.

    Parameters
    ----------
    ready : Pass
        The pass that gave the moments, to be run again.
    moments : Moments
        Of all of its rows.
    solved : LinearMap
        The least-squares map from them.
    digits : float
        Correct digits to reach; further passes end when the certificate promises them, or another
        pass would not add any.
    progress : callable
        Called with a `Progress` now and then.

    Returns
    -------
    LinearMap
        `solved` itself where it has the digits, or its products are of float32.
    """
    certificate = solved.certificate
    assert certificate is not None
    if certificate.digits >= digits or moments.precision == "fast":
        return solved
    return _Refinement(ready, moments, solved, progress).run(digits)


class _Solved(NamedTuple):
    coefficients: NDArray[np.float64]
    bias: NDArray[np.float64]


class _Refinement:
    """The passes of one fit, what they share, and how many there were."""

    def __init__(
        self, ready: Pass, moments: Moments, solved: LinearMap, progress: ProgressCallback
    ) -> None:
        certificate = solved.certificate
        assert certificate is not None
        self._ready, self._moments, self._progress = ready, moments, progress
        self._source, self._target = solved.source, solved.target
        self._intercept, self._ridge = certificate.intercept, certificate.ridge
        self._passes = 1
        normal, _ = products(moments, self._source.name, self._target.name, self._intercept)
        squares = normal.diagonal() + self._ridge
        constant = is_rounding(squares, moments, self._source.name)
        self._problem = Problem(
            rows=moments.rows,
            most_rank=min(int(np.count_nonzero(~constant)), moments.rows - self._intercept),
            lengths=np.where(constant, 0.0, np.sqrt(np.maximum(squares, 0.0))),
            target_lengths=np.sqrt(sums_of_squares(moments, self._target.name, self._intercept)),
            ridge=self._ridge,
            rounded=self._source.normalized or self._target.normalized,
        )
        self._triangle = precondition(normal, self._problem)

    def run(self, digits: float) -> LinearMap:
        solution = self._preconditioned()
        while (
            correct_digits(solution.error) < digits
            and solution.defect > NEARLY_ORTHONORMAL
            and self._passes < _MOST_PASSES
        ):
            self._triangle = solution.triangle
            solution = self._preconditioned()
        bias = self._bias(solution.coefficients)
        shrinks = (
            contraction(solution) < 0.5
            and solution.rank_is_certain
            and least_error(solution) < 0.5 * solution.error
        )
        while correct_digits(solution.error) < digits and shrinks and self._passes < _MOST_PASSES:
            before = solution.error
            residuals = self._ready.residuals(solution.coefficients, bias, self._progress)
            self._passes += 1
            solution, bias = corrected(
                solution, bias, residuals, self._problem, intercept=self._intercept
            )
            shrinks = solution.error < 0.5 * before
        return self._certified(solution, bias, digits)

    def _preconditioned(self) -> Solution:
        means = self._moments.means
        centres = (means[0], means[1]) if self._intercept else (0 * means[0], 0 * means[1])
        preconditioner = Preconditioner(centres, self._triangle, self._problem.lengths == 0)
        moments = self._ready.precondition(preconditioner, self._progress)
        self._passes += 1
        names = self._source.name, self._target.name
        normal, cross = products(moments, *names, self._intercept)
        squares = sums_of_squares(moments, self._target.name, self._intercept)
        return solve_preconditioned(normal, cross, preconditioner, self._problem, squares)

    def _bias(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        means, tails = self._moments.means, self._moments.mean_tails
        if not self._intercept:
            return np.zeros_like(means[1])
        return (means[1] - means[0] @ coefficients) + (tails[1] - tails[0] @ coefficients)

    def _certified(self, solution: Solution, bias: NDArray[np.float64], asked: float) -> LinearMap:
        digits = correct_digits(solution.error)
        varying = int(np.count_nonzero(self._problem.lengths))
        rank = Rank(solution.rank, varying, "" if solution.rank_is_certain else _AS_FAR)
        notes = row_notes(self._moments, self._source, rank, self._intercept, self._ridge)
        notes += digit_notes(self._moments, self._source, rank, digits)
        if digits < asked:
            notes += (f"{asked:g} digits were asked for; another pass would add none",)
        return certified_map(
            self._moments,
            self._source,
            self._target,
            _Solved(solution.coefficients, bias),
            rank=solution.rank,
            condition=solution.condition,
            digits=digits,
            method="cholesky" if rank.found == self._source.dim else "minimum norm",
            intercept=self._intercept,
            ridge=self._ridge,
            notes=notes,
            spread=self._spread(solution),
            passes=self._passes,
            residuals=solution.residuals,
        )

    def _spread(self, solution: Solution) -> Spread | None:
        if self._ridge or solution.rank < self._source.dim:
            return None
        inverse = self._problem.scale[:, None] * (solution.vectors / solution.singular)
        bias = 0.0
        if self._intercept:
            half = self._moments.means[0] @ inverse
            bias = float(np.sqrt(1 / self._moments.weight + half @ half))
        return Spread(np.linalg.norm(inverse, axis=1), bias)
