"""Sums of residuals and of their products with the source's rows, to about 100 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.accumulator import row_weights
from crossgram.double_double import Pair, add, product, split, times, two_sum
from crossgram.kernels.numpy import unit_rows
from crossgram.row_checks import finite_rows
from crossgram.spaces import Space

__all__ = ["ResidualAccumulator", "ResidualMoments"]


@dataclass
class ResidualMoments:
    """What the next correction of a map is computed from: a monoid under `absorb`.

    With rows x and residuals r = y - x M - b of weight w, and a 1 before each row and each
    residual, this is Σ w [1 x]ᵀ [1 r].

    Attributes
    ----------
    products : pair of ndarray, shape (1 + p, 1 + q)
        Weight and Σ w r in the first row, Σ w x in the first column, Σ w xᵀ r in the rest.
    squares : ndarray, shape (q,)
        Σ w r².
    """

    products: Pair
    squares: NDArray[np.float64]

    def absorb(self, other: ResidualMoments) -> None:
        """Add the sums of other rows."""
        self.products = add(self.products, other.products)
        self.squares = self.squares + other.squares


_TILE_ROWS = 256
"""Fewer than of a tile of products: their slices are held too, up to five of every value."""


class ResidualAccumulator:
    """Adds up blocks of rows, tile by tile.

    Parameters
    ----------
    spaces : (Space, Space)
        Source and target.
    coefficients, bias : ndarray, shapes (p, q) and (q,)
        The map whose residuals are summed.
    skip_nonfinite : bool
        Leave rows out that hold NaN or infinity, instead of raising.
    labels : sequence of str
        What messages call the spaces' data.
    """

    def __init__(
        self,
        spaces: Sequence[Space],
        coefficients: NDArray[np.float64],
        bias: NDArray[np.float64],
        *,
        skip_nonfinite: bool,
        labels: Sequence[str],
    ) -> None:
        self._spaces = tuple(spaces)
        self._coefficients, self._bias = coefficients, bias
        self._skip_nonfinite = skip_nonfinite
        self._labels = labels
        self._reset()

    def add(
        self,
        blocks: Sequence[NDArray[Any]],
        *,
        weights: NDArray[np.float64] | None,
        row_numbers: Sequence[NDArray[np.int64]],
    ) -> None:
        """Add rows; parameters and errors as for `Accumulator.add`."""
        rows = len(blocks[0])
        checked = np.ones(rows) if weights is None else row_weights(weights, rows)
        for start in range(0, rows, _TILE_ROWS):
            tile = slice(start, start + _TILE_ROWS)
            self._add_tile(
                [block[tile] for block in blocks],
                checked[tile],
                [own[tile] for own in row_numbers],
            )

    def moments(self) -> ResidualMoments:
        """Return the sums over the rows added, and start again from none."""
        sums = self._sums
        self._reset()
        return sums

    def _reset(self) -> None:
        p, q = self._coefficients.shape
        zeros = np.zeros((1 + p, 1 + q))
        self._sums = ResidualMoments((zeros, zeros), np.zeros(q))

    def _add_tile(
        self,
        blocks: list[NDArray[Any]],
        weights: NDArray[np.float64],
        numbers: Sequence[NDArray[np.int64]],
    ) -> None:
        (x, x_low), (y, y_low) = (
            split(unit_rows(block) if space.normalized else block)
            for space, block in zip(self._spaces, blocks, strict=True)
        )
        if not np.isfinite(x.sum() + y.sum()):
            keep = finite_rows(
                blocks, self._spaces, self._labels, numbers, skip=self._skip_nonfinite
            )
            if keep.any():
                kept = [block[keep] for block in blocks]
                self._add_tile(kept, weights[keep], [own[keep] for own in numbers])
            return
        residuals = self._residuals(x, x_low, y, y_low)
        high, low = times(weights[:, None], residuals[0])
        low = low + weights[:, None] * residuals[1]
        ones, nothing = np.ones((len(x), 1)), np.zeros((len(x), 1))
        products = product(
            np.hstack([ones, x]),
            np.hstack([weights[:, None], high]),
            a_low=None if x_low is None else np.hstack([nothing, x_low]),
            b_low=np.hstack([nothing, low]),
        )
        squares = np.einsum("i,ij,ij->j", weights, residuals[0], residuals[0])
        self._sums.absorb(ResidualMoments(products, squares))

    def _residuals(
        self,
        x: NDArray[np.float64],
        x_low: NDArray[np.float64] | None,
        y: NDArray[np.float64],
        y_low: NDArray[np.float64] | None,
    ) -> Pair:
        # powers of two that make columns alike, so that no value of a row hides the others
        _, exponents = np.frexp(np.abs(x).max(axis=0, initial=0.0))
        scaled = np.ldexp(self._coefficients, exponents[:, None])
        mapped = product(
            np.ldexp(x, -exponents).T,
            scaled,
            a_low=None if x_low is None else np.ldexp(x_low, -exponents).T,
        )
        residuals = add(two_sum(y, -self._bias), (-mapped[0], -mapped[1]))
        return residuals if y_low is None else add(residuals, (y_low, np.zeros_like(y_low)))
