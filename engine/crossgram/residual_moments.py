"""Sums of residuals and of their products with the source's rows, to about 100 bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.accumulator import row_weights
from crossgram.double_double import Pair, add, product, split, times, two_sum
from crossgram.errors import CorruptDataError
from crossgram.kernels.numpy import unit_rows
from crossgram.row_checks import finite_rows, unmasked_tiles
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

    def to_parts(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
        """Return the arrays by name, and nothing else."""
        high, low = self.products
        return {"high": high, "low": low, "squares": self.squares}, {}

    @classmethod
    def from_parts(
        cls, tensors: Mapping[str, NDArray[np.float64]], facts: Mapping[str, Any], label: str
    ) -> ResidualMoments:
        """Make it of what `to_parts` returned.

        Raises
        ------
        CorruptDataError
            If an array is missing; the message begins with `label`.
        """
        try:
            return cls((tensors["high"], tensors["low"]), tensors["squares"])
        except KeyError as error:
            raise CorruptDataError(f"{label}: has no array {error}") from error


_TILE_ROWS = 256
"""Fewer than of a tile of products: their slices are held too, up to five of every value."""


_STRIP = 128
"""Outputs at a time, which bounds the memory of products besides their sums."""


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
        masked: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add rows; parameters and errors as for `Accumulator.add`."""
        rows = len(blocks[0])
        checked = np.ones(rows) if weights is None else row_weights(weights, rows)
        for tile in unmasked_tiles(rows, masked, _TILE_ROWS):
            self._add_tile(
                [block[tile] for block in blocks],
                checked[tile],
                [own[tile] for own in row_numbers],
            )

    def moments(self, spent: ResidualMoments | None = None) -> ResidualMoments:
        """Return the sums over the rows added, and start again from none.

        Parameters
        ----------
        spent : ResidualMoments, optional
            Of the same shapes, needed no longer: what is added next is summed in their memory.
        """
        sums = self._sums
        self._reset(spent)
        return sums

    def _reset(self, spent: ResidualMoments | None = None) -> None:
        if spent is not None:
            for array in (*spent.products, spent.squares):
                array.fill(0.0)
            self._sums = spent
            return
        p, q = self._coefficients.shape
        sums = np.zeros((1 + p, 1 + q)), np.zeros((1 + p, 1 + q))
        self._sums = ResidualMoments(sums, np.zeros(q))

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
        left = np.hstack([ones, x])
        left_low = None if x_low is None else np.hstack([nothing, x_low])
        right, right_low = np.hstack([weights[:, None], high]), np.hstack([nothing, low])
        for columns in _strips(right.shape[1]):
            sums = product(left, right[:, columns], a_low=left_low, b_low=right_low[:, columns])
            before = self._sums.products[0][:, columns], self._sums.products[1][:, columns]
            for part, total in zip(self._sums.products, add(before, sums), strict=True):
                part[:, columns] = total
        self._sums.squares += np.einsum("i,ij,ij->j", weights, residuals[0], residuals[0])

    def _residuals(
        self,
        x: NDArray[np.float64],
        x_low: NDArray[np.float64] | None,
        y: NDArray[np.float64],
        y_low: NDArray[np.float64] | None,
    ) -> Pair:
        # powers of two that make columns alike, so that no value of a row hides the others
        _, exponents = np.frexp(np.abs(x).max(axis=0, initial=0.0))
        rows = np.ldexp(x, -exponents).T
        rows_low = None if x_low is None else np.ldexp(x_low, -exponents).T
        residuals = np.empty_like(y), np.empty_like(y)
        for columns in _strips(y.shape[1]):
            scaled = np.ldexp(self._coefficients[:, columns], exponents[:, None])
            mapped = product(rows, scaled, a_low=rows_low)
            own = add(two_sum(y[:, columns], -self._bias[columns]), (-mapped[0], -mapped[1]))
            if y_low is not None:
                own = add(own, (y_low[:, columns], np.zeros_like(own[0])))
            residuals[0][:, columns], residuals[1][:, columns] = own
        return residuals


def _strips(columns: int) -> Iterator[slice]:
    return (slice(start, start + _STRIP) for start in range(0, columns, _STRIP))
