"""Principal components and whitening of one space, from its scatter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from crossgram.dense import eigenvectors, product
from crossgram.errors import InputError
from crossgram.evidence import EPSILON, is_rounding
from crossgram.linear_map import LinearMap
from crossgram.moments import Moments
from crossgram.normal_equations import eigenvalue_rounding
from crossgram.spaces import Space

__all__ = ["PrincipalComponents", "principal_components"]


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Directions of a space in falling order of the variance of its rows along them.

    Attributes
    ----------
    space : Space
        The space.
    mean : ndarray, shape (d,)
        Mean of its rows.
    components : ndarray, shape (d, d)
        The directions, one per row, of length 1; the largest entry of each is positive.
    variances : ndarray, shape (d,)
        Variance along each, with n - 1 for n rows.
    rank : int
        How many variances are more than rounding.
    """

    space: Space
    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variances: NDArray[np.float64]
    rank: int

    @property
    def explained(self) -> NDArray[np.float64]:
        """Share of the whole variance along each component, shape (d,)."""
        total = self.variances.sum()
        return np.asarray(self.variances / total if total > 0 else np.zeros_like(self.variances))

    def projection(self, rank: int | None = None) -> LinearMap:
        """Return the map from the space to its leading components, centred.

        Parameters
        ----------
        rank : int, optional
            How many; all by default.

        Returns
        -------
        LinearMap
            To a space of that many columns, called after the space with "-pca" behind.

        Raises
        ------
        InputError
            If the rank is not from 1 to d.
        """
        kept = self.components[: self._checked(rank)]
        return self._map(kept, "pca")

    def whitening(
        self, rank: int | None = None, *, epsilon: float = 0.0, zca: bool = False
    ) -> LinearMap:
        """Return the map after which rows have mean 0 and the identity for their covariance.

        Parameters
        ----------
        rank : int, optional
            Use the leading components alone; all by default.
        epsilon : float
            Added to every variance first, so that directions of little variance are not blown up.
        zca : bool
            Turn back into the space: of all whitened rows, the nearest to the centred ones. By
            default rows stay in the basis of the components.

        Returns
        -------
        LinearMap
            To a space called after the space with "-white" behind, of `rank` columns, or of d
            with `zca`.

        Raises
        ------
        InputError
            If the rank is not from 1 to d, epsilon is negative or not finite, or a direction
            without variance would have to be whitened.
        """
        kept = self._checked(rank)
        if not (math.isfinite(epsilon) and epsilon >= 0):
            raise InputError(f"epsilon: {epsilon!r} given, expected a finite number of at least 0")
        if epsilon == 0 and kept > self.rank:
            raise InputError(
                f"whitening: the rows of {self.space.name} vary along {self.rank} of "
                f"{kept} directions only; give a rank of at most {self.rank}, or an epsilon"
            )
        leading = self.components[:kept]
        whitened = leading / np.sqrt(self.variances[:kept] + epsilon)[:, None]
        return self._map(product(leading.T, whitened) if zca else whitened, "white")

    def _checked(self, rank: object) -> int:
        dim = self.space.dim
        if rank is None:
            return dim
        if isinstance(rank, bool) or not isinstance(rank, Integral) or not 1 <= int(rank) <= dim:
            raise InputError(
                f"rank: {rank!r} given, expected a whole number from 1 to {dim}, the width of "
                f"{self.space.name}"
            )
        return int(rank)

    def _map(self, weight: NDArray[np.float64], suffix: str) -> LinearMap:
        target = Space(f"{self.space.name}-{suffix}", len(weight))
        return LinearMap(weight, -weight @ self.mean, self.space, target)


def principal_components(moments: Moments, space: str | None = None) -> PrincipalComponents:
    """Return the principal components of one space.

    Parameters
    ----------
    moments : Moments
        With the block space x space.
    space : str, optional
        Its name; by default the first.

    Returns
    -------
    PrincipalComponents
        Makes the maps to the components, and the whitening ones.

    Raises
    ------
    InputError
        If the name is unknown, the block was not kept, or there are fewer than two rows.

    Notes
    -----
    Eigenvectors and eigenvalues of S / (n - 1); of weighted rows, of S / W times n / (n - 1).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(1000, 3)) * [1, 5, 2] + 7
    >>> moments = Moments({"a": 3})
    >>> moments.update(x)
    >>> components = principal_components(moments, "a")
    >>> components.explained.round(1)
    array([0.8, 0.1, 0. ])
    >>> np.cov(components.whitening(2).apply(x).T).round(9) + 0.0
    array([[1., 0.],
           [0., 1.]])
    """
    position = 0 if space is None else moments.index(space)
    chosen = moments.spaces[position]
    if moments.rows < 2 or moments.weight == 0:
        raise InputError(
            f"principal components: moments of {moments.rows} rows (weight {moments.weight:g}) "
            "given, expected at least 2 rows"
        )
    covariance = moments.scatter(chosen.name, chosen.name) / moments.weight
    covariance *= moments.rows / (moments.rows - 1)
    constant = is_rounding(moments.squares[position], moments, chosen.name)
    covariance[constant] = covariance[:, constant] = 0.0
    values, vectors = eigenvectors(covariance)
    values, rows = np.maximum(values[::-1], 0.0), np.ascontiguousarray(vectors.T[::-1])
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    rounding = eigenvalue_rounding(chosen.dim, EPSILON[moments.precision]) * values[0]
    return PrincipalComponents(
        space=chosen,
        mean=moments.means[position],
        components=rows * np.sign(largest),
        variances=values,
        rank=int(np.count_nonzero(values > rounding)),
    )
