"""Canonical correlations of two spaces from their scatter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossgram.dense import eigenvectors, product, singular_vectors, solve_triangle
from crossgram.errors import InputError
from crossgram.least_squares import factor_normal
from crossgram.moments import Moments
from crossgram.normal_equations import eigenvalue_rounding

__all__ = [
    "CanonicalCorrelations",
    "Whitening",
    "canonical_correlations",
    "principal_whitening",
    "whiten",
]


@dataclass(frozen=True)
class Whitening:
    """Coordinates in which a space's rows are uncorrelated and of equal length.

    Attributes
    ----------
    matrix : ndarray, shape (r, p)
        W, with W S Wᵀ = I for the scatter S.
    loadings : ndarray, shape (r, p)
        W S: inner products of the coordinates with the centred columns.
    condition : float
        2-norm condition number of the centred rows, columns scaled to length 1, on their range.
    """

    matrix: NDArray[np.float64]
    loadings: NDArray[np.float64]
    condition: float

    @property
    def rank(self) -> int:
        """Numerical rank of the space's centred rows."""
        return len(self.matrix)


@dataclass(frozen=True)
class CanonicalCorrelations:
    """Directions of two spaces that correlate most, each uncorrelated with those before.

    Attributes
    ----------
    correlations : ndarray, shape (r,)
        From 1 to 0, as many as the smaller of the two ranks.
    first_loadings : ndarray, shape (r, p)
        Inner products of the first space's variates, of length 1, with its centred columns.
    second_loadings : ndarray, shape (r, q)
        The same of the second space.
    """

    correlations: NDArray[np.float64]
    first_loadings: NDArray[np.float64]
    second_loadings: NDArray[np.float64]

    def swapped(self) -> CanonicalCorrelations:
        """Return the same of the second space and the first."""
        return CanonicalCorrelations(self.correlations, self.second_loadings, self.first_loadings)

    def projection_weighted(self) -> float:
        """Return the mean correlation, weighted by what the first space's variates carry of it.

        Notes
        -----
        Σ α_i ρ_i / Σ α_i with α_i = Σ_j |⟨h_i, x_j⟩|, h_i the first space's variates and x_j its
        columns (Morcos, Raghu and Bengio, NeurIPS 2018, section 2); h_i sums to zero, so that
        centring x_j or not is the same. The variates of equal correlations may be turned among
        themselves, and their weights with them.
        """
        weights = np.abs(self.first_loadings).sum(axis=1)
        return float(np.average(self.correlations, weights=weights))


def whiten(moments: Moments, space: str, *, regularization: float = 0.0) -> Whitening:
    """Return whitened coordinates of a space, by Cholesky, or by eigenvectors where it is singular.

    Parameters
    ----------
    moments : Moments
        With the block space x space.
    space : str
        Its name.
    regularization : float
        κ: what is whitened is S + κ (tr S / p) I, the scatter with κ times its mean variance added
        to every direction. This steadies correlations of few rows, and keeps their invariance to
        rotations and scale, though not to other invertible maps.

    Raises
    ------
    InputError
        If the block was not kept or the regularization is not a finite number of at least 0.

    Notes
    -----
    Directions that `solve` would leave out of a map for their rounding are left out here.
    """
    if not (np.isfinite(regularization) and regularization >= 0):
        raise InputError(
            f"regularization: {regularization!r} given, expected a finite number of at least 0"
        )
    scatter = moments.scatter(space, space)
    ridge = regularization * float(scatter.diagonal().mean())
    factor = factor_normal(moments, space, scatter, ridge)
    if factor.cholesky is not None:
        matrix = solve_triangle(factor.cholesky, np.diag(factor.scale), lower=True)
    else:
        assert factor.values is not None
        assert factor.vectors is not None
        matrix = (factor.vectors / np.sqrt(factor.values)).T * factor.scale
    return Whitening(matrix, product(matrix, scatter), factor.condition)


def principal_whitening(moments: Moments, space: str, variance: float) -> NDArray[np.float64]:
    """Return W, shape (k, p): the fewest principal directions with a share of variance, whitened.

    Parameters
    ----------
    moments : Moments
        With the block space x space.
    space : str
        Its name.
    variance : float
        The share, above 0 and at most 1; directions that are nothing but rounding never count.

    Raises
    ------
    InputError
        If the block was not kept or the share is out of range.
    """
    if not 0 < variance <= 1:
        raise InputError(f"variance: {variance!r} given, expected a share above 0 and at most 1")
    scatter = moments.scatter(space, space)
    values, vectors = eigenvectors(scatter)
    values, vectors = values[::-1], vectors[:, ::-1]
    known = values[values > eigenvalue_rounding(len(values)) * values[0]]
    shares = np.cumsum(known) / known.sum()
    kept = min(int(np.searchsorted(shares, variance)) + 1, len(known))
    return np.asarray((vectors[:, :kept] / np.sqrt(values[:kept])).T)


def canonical_correlations(
    first: Whitening, second: Whitening, cross: NDArray[np.float64]
) -> CanonicalCorrelations:
    """Return the canonical correlations of two whitened spaces.

    Parameters
    ----------
    first, second : Whitening
        Of the spaces X and Y.
    cross : ndarray, shape (p, q)
        Their scatter S_xy.

    Notes
    -----
    The singular values of W_x S_xy W_yᵀ (Hotelling 1936; Björck and Golub, Mathematics of
    Computation 27, 1973).

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(50, 3))
    >>> moments = Moments({"a": 3, "b": 2})
    >>> moments.update(rows, rows[:, :2] @ [[1, 2], [3, 4]])
    >>> spaces = whiten(moments, "a"), whiten(moments, "b")
    >>> canonical_correlations(*spaces, moments.scatter("a", "b")).correlations.round(9)
    array([1., 1.])
    """
    left, values, right = singular_vectors(
        product(product(first.matrix, cross), second.matrix.T), overwrite=True
    )
    return CanonicalCorrelations(
        np.minimum(values, 1.0),
        product(left.T, first.loadings),
        product(right, second.loadings),
    )
