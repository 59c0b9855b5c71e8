"""How alike two spaces are up to rotation and scale: linear CKA and Procrustes distance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from crossgram.dense import singular_values
from crossgram.moments import Moments
from crossgram.norm_moments import NormMoments

__all__ = ["linear_cka", "procrustes_distance", "unbiased_linear_cka"]

_FEWEST_ROWS = 4
_ROUNDING = 64 * float(np.finfo(np.float64).eps)


def linear_cka(moments: Moments, first: str, second: str) -> float:
    """Return the linear centred kernel alignment of two spaces, from 0 to 1.

    Parameters
    ----------
    moments : Moments
        With both spaces' blocks and the one between them.
    first, second : str
        Their names.

    Notes
    -----
    ||S_xy||² / (||S_xx|| ||S_yy||) in Frobenius norms (Kornblith, Norouzi, Lee and Hinton, ICML
    2019).

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(50, 2))
    >>> moments = Moments({"a": 2, "b": 2})
    >>> moments.update(rows, 3 * rows @ [[0.6, 0.8], [-0.8, 0.6]])
    >>> round(linear_cka(moments, "a", "b"), 9)
    1.0
    """
    own = [float(np.linalg.norm(_unit(moments, name, name))) for name in (first, second)]
    return float(np.linalg.norm(_unit(moments, first, second))) ** 2 / (own[0] * own[1])


def unbiased_linear_cka(moments: Moments, first: str, second: str) -> float | None:
    """Return linear CKA of unbiased estimates of HSIC; None where they say nothing.

    That is where the moments have no norms, of fewer than 4 rows, and of rows that are all equally
    far from each other. It may be below 0.

    Notes
    -----
    HSIC_1 (Song, Smola, Gretton, Bedo and Borgwardt, JMLR 13, 2012, equation 5) of linear kernels,
    which does not change when rows are shifted. About the means, with a = ||x||² and b = ||y||²,

        n (n - 3) HSIC_1 = ||S_xy||² + tr S_xx tr S_yy / ((n - 1)(n - 2)) - n / (n - 2) Σ a b

    and the unbiased CKA is HSIC_1(x, y) / √(HSIC_1(x, x) HSIC_1(y, y)).
    """
    if moments.norms is None or moments.rows < _FEWEST_ROWS:
        return None
    own = [_hsic(moments, moments.norms, name, name) for name in (first, second)]
    if any(value <= _ROUNDING * size for value, size in own):
        return None
    cross, _ = _hsic(moments, moments.norms, first, second)
    return cross / math.sqrt(own[0][0] * own[1][0])


def _hsic(moments: Moments, norms: NormMoments, first: str, second: str) -> tuple[float, float]:
    """Return n (n - 3) HSIC_1 of the spaces scaled to trace 1, and the size of its largest term."""
    n = float(moments.rows)
    i, j = moments.index(first), moments.index(second)
    products = float(norms.fourth[i, j]) / _trace(moments, first) / _trace(moments, second)
    terms = (
        float(np.linalg.norm(_unit(moments, first, second))) ** 2,
        1 / ((n - 1) * (n - 2)),
        -n / (n - 2) * products,
    )
    return sum(terms), max(map(abs, terms))


def procrustes_distance(moments: Moments, first: str, second: str) -> float:
    """Return how far two spaces are from a rotation and a scale of each other, from 0 to 2.

    Parameters
    ----------
    moments : Moments
        With the block first x second.
    first, second : str
        Names of the spaces.

    Notes
    -----
    The least ||X - Y Q||² over orthogonal Q of rows that were centred and divided by their
    Frobenius norms, the narrower space padded with zeros: 2 - 2 ||S_xy||_* / √(tr S_xx tr S_yy),
    with the sum of singular values ||.||_* (Ding, Denain and Steinhardt, NeurIPS 2021). The
    angular distance of Williams, Kunz, Kornblith and Linderman (NeurIPS 2021) is the arc cosine
    of 1 - half of it.
    """
    values = singular_values(_unit(moments, first, second))
    return max(2.0 - 2.0 * float(values.sum()), 0.0)


def _unit(moments: Moments, first: str, second: str) -> NDArray[np.float64]:
    """Return the scatter of spaces scaled to trace 1, whose squares neither over- nor underflow."""
    size = math.sqrt(_trace(moments, first)) * math.sqrt(_trace(moments, second))
    return moments.scatter(first, second) / size


def _trace(moments: Moments, space: str) -> float:
    return float(moments.squares[moments.index(space)].sum())
