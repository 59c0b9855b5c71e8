"""Verification: how well the scores of pairs tell the same class from another.

Scores are similarities: higher is more alike. Genuine pairs are two images of one class (person),
impostor pairs of two. All rates are exact in the presence of ties.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossgram.errors import InputError, NonFiniteError, WidthMismatchError
from crossgram.kernels.numpy import unit_rows

__all__ = [
    "TAR_MODES",
    "OperatingPoint",
    "PairScores",
    "Roc",
    "allowed_false_accepts",
    "area_under_curve",
    "equal_error_of",
    "equal_error_rate",
    "least_rate",
    "pair_scores",
    "roc_curve",
    "tellable",
    "thinned",
    "true_accepts_at",
]

_TWO_DIGITS = Context(prec=2, rounding=ROUND_CEILING)

TAR_MODES = ("conservative", "nearest", "interpolate")
"""Ways to read the true accept rate at a false accept rate off a finite ROC curve."""


@dataclass(frozen=True)
class PairScores:
    """Scores of pairs of images.

    Attributes
    ----------
    genuine, impostor : ndarray, shapes (N_g,) and (N_i,), float64
        Of pairs of one class, and of two.
    """

    genuine: NDArray[np.float64]
    impostor: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name, scores in (("genuine", self.genuine), ("impostor", self.impostor)):
            if scores.ndim != 1 or not len(scores):
                raise InputError(
                    f"{name} scores: an array of shape {scores.shape} given, expected one score "
                    "per pair and at least one pair"
                )
            if not np.isfinite(scores).all():
                raise NonFiniteError(f"{name} scores: hold NaN or infinity")


@dataclass(frozen=True)
class Roc:
    """The rates at every threshold, from accepting no pair to accepting all.

    Attributes
    ----------
    threshold : ndarray, shape (t,)
        Falling; infinity, then every distinct score. A pair is accepted if it reaches it.
    false_accept, true_accept : ndarray, shape (t,)
        Shares of the impostor and of the genuine pairs accepted.
    """

    threshold: NDArray[np.float64]
    false_accept: NDArray[np.float64]
    true_accept: NDArray[np.float64]


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold that keeps a false accept rate achieves.

    Attributes
    ----------
    far : float
        The rate asked for.
    threshold : float
        A pair is accepted if its score is above it; with the mode "nearest", if it reaches it, and
        with "interpolate", the true accept rate is that of no threshold, and this the next one that
        keeps the rate.
    true_accept_rate : float
        Share of the genuine pairs accepted.
    achieved_far : float
        Share of the impostor pairs accepted; above `far` only with the mode "nearest".
    false_accepts : int
        Their number.
    """

    far: float
    threshold: float
    true_accept_rate: float
    achieved_far: float
    false_accepts: int


def pair_scores(
    labels: ArrayLike, probes: ArrayLike, gallery: ArrayLike | None = None
) -> PairScores:
    """Return the cosines of all pairs of different images of a labelled set.

    Parameters
    ----------
    labels : array, shape (n,)
        Class of each image.
    probes : array, shape (n, d)
        The images' embeddings.
    gallery : array, shape (n, d), optional
        The same images' embeddings by another network. Probe i then meets gallery j, for every i
        and j but i = j; without it, i meets j once.

    Returns
    -------
    PairScores
        n(n - 1) scores with a gallery, else half as many; memory grows with n².

    Raises
    ------
    WidthMismatchError
        If the arrays do not fit.
    NonFiniteError
        If a row is zero, or holds NaN or infinity.

    Examples
    --------
    >>> scores = pair_scores(["p", "p", "q"], [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> scores.genuine, scores.impostor
    (array([1.]), array([0., 0.]))
    """
    names = np.asarray(labels)
    left = _unit(probes, "probes")
    right = left if gallery is None else _unit(gallery, "gallery")
    if left.shape != right.shape or names.shape != left.shape[:1]:
        raise WidthMismatchError(
            f"pair_scores: {names.shape} labels, probes {left.shape} and gallery {right.shape} "
            "given, expected (n,), (n, d) and (n, d)"
        )
    cosines = left @ right.T
    same = names[:, None] == names
    pairs = np.triu(np.ones_like(same), 1) if gallery is None else ~np.eye(len(names), dtype=bool)
    return PairScores(cosines[pairs & same], cosines[pairs & ~same])


def area_under_curve(scores: PairScores) -> float:
    """Return the area under the ROC curve: P(genuine > impostor) + P(equal) / 2.

    Notes
    -----
    The Mann-Whitney statistic over N_g N_i, counted in integers (Hanley and McNeil 1982).
    """
    impostor = np.sort(scores.impostor)
    below = np.searchsorted(impostor, scores.genuine, "left").sum(dtype=np.int64)
    not_above = np.searchsorted(impostor, scores.genuine, "right").sum(dtype=np.int64)
    return (int(below) + int(not_above)) / (2 * len(scores.genuine) * len(impostor))


def roc_curve(scores: PairScores) -> Roc:
    """Return the ROC curve, one point for every distinct score."""
    threshold = np.unique(np.concatenate([scores.genuine, scores.impostor]))[::-1]
    return Roc(
        np.concatenate([[np.inf], threshold]),
        _reaching(scores.impostor, threshold),
        _reaching(scores.genuine, threshold),
    )


def thinned(roc: Roc, per_decade: int = 20) -> Roc:
    """Return some of the points of an ROC curve, evenly on a logarithmic axis of false accepts.

    Parameters
    ----------
    roc : Roc
        By falling threshold.
    per_decade : int
        Points per factor of ten of the false accept rate.

    Returns
    -------
    Roc
        Of each false accept rate of a grid, which ends at 1, the last point that keeps it.
    """
    least = roc.false_accept[np.argmax(roc.false_accept > 0)]
    decades = -math.log10(least)
    grid = 10.0 ** -(np.arange(math.ceil(decades * per_decade), -1, -1) / per_decade)
    # a rate that stands on the grid may be rounded to either side of it
    grid *= 1 + 4 * np.finfo(np.float64).eps
    last = np.unique(np.searchsorted(roc.false_accept, grid, "right") - 1)
    return Roc(roc.threshold[last], roc.false_accept[last], roc.true_accept[last])


def equal_error_rate(scores: PairScores) -> float:
    """Return the rate at which false accepts and false rejects are equally frequent.

    Notes
    -----
    The root of 1 - x - ROC(x), the ROC curve being linear between its points.
    """
    roc = roc_curve(scores)
    return equal_error_of(roc.false_accept, roc.true_accept)


def equal_error_of(false_accept: NDArray[np.float64], true_accept: NDArray[np.float64]) -> float:
    """Return the equal error rate of a piece of an ROC curve that begins before it is reached."""
    excess = false_accept + true_accept - 1
    after = int(np.argmax(excess >= 0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(false_accept[after - 1] + share * (false_accept[after] - false_accept[after - 1]))


def true_accepts_at(far: float, scores: PairScores, mode: str = "conservative") -> OperatingPoint:
    """Return what is accepted at the lowest threshold that keeps a false accept rate.

    Parameters
    ----------
    far : float
        Above 0 and below 1, and so large that it allows one false accept: far N_i >= 1.
    scores : PairScores
    mode : {"conservative", "nearest", "interpolate"}
        The definition below; or the point of scikit-learn's ROC curve whose false accept rate is
        nearest, of two the higher one, as insightface's evaluation of IJB has it; or the line
        between the points of the ROC curve, the highest true accept rate at each.

    Raises
    ------
    InputError
        If there are too few impostor pairs for that rate, or the mode is unknown.

    Notes
    -----
    With k = floor(far N_i), the threshold is the (k + 1)-th largest impostor score, and a pair is
    accepted if its score is above it. So at most k impostors are, also where scores are equal.
    """
    if mode not in TAR_MODES:
        raise InputError(f"mode: {mode!r} given, expected one of {TAR_MODES}")
    count = len(scores.impostor)
    allowed = allowed_false_accepts(far, count)
    if allowed < 1:
        raise InputError(
            f"far: {far:g} of {count} impostor pairs is less than one false accept; choose "
            f"{least_rate(count)} or more, or score more pairs"
        )
    if mode == "nearest":
        return _nearest(far, scores)
    if mode == "interpolate":
        return _interpolated(far, scores)
    threshold = np.partition(scores.impostor, count - 1 - allowed)[count - 1 - allowed]
    false_accepts = int(np.count_nonzero(scores.impostor > threshold))
    return OperatingPoint(
        far=far,
        threshold=float(threshold),
        true_accept_rate=float(np.mean(scores.genuine > threshold)),
        achieved_far=false_accepts / count,
        false_accepts=false_accepts,
    )


def allowed_false_accepts(far: float, impostors: int) -> int:
    """Return how many of some impostor pairs a false accept rate allows to be accepted.

    Raises
    ------
    InputError
        If it is no rate.
    """
    if not 0 < far < 1:
        raise InputError(f"far: {far} given, expected a share above 0 and below 1")
    # the decimal that was written, for 0.29 * 100 is below 29 in binary
    return math.floor(Fraction(repr(float(far))) * impostors)


def least_rate(impostors: int) -> str:
    """Return the least false accept rate that allows one of some pairs, up to two digits."""
    return f"{float(_TWO_DIGITS.divide(1, impostors)):g}"


def tellable(fars: Iterable[float], impostors: int) -> list[float]:
    """Return the false accept rates, each once, that allow one of some impostor pairs or more."""
    return [far for far in dict.fromkeys(fars) if allowed_false_accepts(far, impostors)]


def _nearest(far: float, scores: PairScores) -> OperatingPoint:
    roc = roc_curve(scores)
    false = np.rint(roc.false_accept * len(scores.impostor)).astype(np.int64)
    true = np.rint(roc.true_accept * len(scores.genuine)).astype(np.int64)
    # scikit-learn leaves out the points within a straight piece, but never the highest score
    corner = np.ones(len(false), bool)
    corner[2:-1] = (np.diff(false[1:], 2) != 0) | (np.diff(true[1:], 2) != 0)
    points = np.flatnonzero(corner)
    distance = np.abs(roc.false_accept[points] - far)
    best = points[len(points) - 1 - int(np.argmin(distance[::-1]))]
    return OperatingPoint(
        far=far,
        threshold=float(roc.threshold[best]),
        true_accept_rate=float(roc.true_accept[best]),
        achieved_far=float(roc.false_accept[best]),
        false_accepts=int(false[best]),
    )


def _interpolated(far: float, scores: PairScores) -> OperatingPoint:
    roc = roc_curve(scores)
    # of points of one false accept rate, the last has the highest true accept rate
    last = np.append(np.diff(roc.false_accept) > 0, True)
    false, true, threshold = roc.false_accept[last], roc.true_accept[last], roc.threshold[last]
    kept = int(np.searchsorted(false, far, "right")) - 1
    return OperatingPoint(
        far=far,
        threshold=float(threshold[kept]),
        true_accept_rate=float(np.interp(far, false, true)),
        achieved_far=float(false[kept]),
        false_accepts=round(float(false[kept]) * len(scores.impostor)),
    )


def _reaching(scores: NDArray[np.float64], threshold: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of scores >= each threshold, after a 0 for the infinite one."""
    below = np.searchsorted(np.sort(scores), threshold, "left")
    return np.concatenate([[0.0], (len(scores) - below) / len(scores)])


def _unit(rows: ArrayLike, name: str) -> NDArray[np.float64]:
    given = np.asarray(rows)
    if given.ndim != 2 or not given.size or given.dtype.kind not in "fiu":
        raise InputError(
            f"{name}: an array of shape {given.shape} and dtype {given.dtype} given, expected "
            "rows of numbers"
        )
    unit = unit_rows(given)
    finite = np.isfinite(unit).all(axis=1)
    if not finite.all():
        raise NonFiniteError(
            f"{name}: row {int(np.argmin(finite))} is zero or holds NaN or infinity and has no "
            "direction; mend it"
        )
    return unit
