"""Sums of squared row lengths times rows and times each other: what unbiased CKA needs besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.spaces import Pair

__all__ = ["NormMoments"]

_Vectors = Sequence[NDArray[np.float64]]


@dataclass(frozen=True)
class NormMoments:
    """Third and fourth sums of the rows of K spaces about one point of each, float64.

    With a_i = ||z_i||², the squared length of a row's part in space i about that point, these are
    Σ a_i a_j and Σ a_i z_j over the rows. `Moments` keeps them about the means, where no digits
    cancel; like every sum they add under merging, once both are about the same point.

    Attributes
    ----------
    fourth : ndarray, shape (K, K)
        Σ a_i a_j.
    third : tuple of ndarray, shape (K, dim_j)
        Of each space j, Σ a_i z_j in row i.
    """

    fourth: NDArray[np.float64]
    third: tuple[NDArray[np.float64], ...]

    @classmethod
    def zeros(cls, dims: Sequence[int]) -> NormMoments:
        """Return the sums over no rows, the identity of `plus`."""
        count = len(dims)
        return cls(np.zeros((count, count)), tuple(np.zeros((count, dim)) for dim in dims))

    def moved(
        self,
        moves: _Vectors,
        rows: float,
        squares: _Vectors,
        blocks: Mapping[Pair, NDArray[np.float64]],
    ) -> NormMoments:
        """Return the sums of z + move, where these are of rows z that sum to zero.

        Parameters
        ----------
        moves : sequence of ndarray, shape (dim,)
            One per space.
        rows : float
            Number of rows.
        squares, blocks
            Diagonals and blocks of the scatter of the same rows, as in `Moments`; every block.

        Notes
        -----
        With d_i the moves, D_i = ||d_i||², T_i = tr S_ii and n rows, a_i + 2 d_i · z_i + D_i takes
        the place of a_i, so that Σ a_i z_j grows by T_i d_j + 2 S_ji d_i + n D_i d_j, and Σ a_i a_j
        by 2 d_j · Σ a_i z_j + 2 d_i · Σ a_j z_i + T_i D_j + T_j D_i + 4 d_iᵀ S_ij d_j + n D_i D_j.
        """
        step = _Step.of(moves, rows, squares, blocks)
        return NormMoments(
            self.fourth + step.fourth(self.third),
            tuple(sums + lift for sums, lift in zip(self.third, step.third, strict=True)),
        )

    def centred(
        self,
        offsets: _Vectors,
        rows: float,
        squares: _Vectors,
        blocks: Mapping[Pair, NDArray[np.float64]],
    ) -> NormMoments:
        """Undo `moved`: return the sums about the means, where these are of rows of mean `offset`.

        The scatter is about the means, too.
        """
        step = _Step.of(offsets, rows, squares, blocks)
        third = tuple(sums - lift for sums, lift in zip(self.third, step.third, strict=True))
        return NormMoments(self.fourth - step.fourth(third), third)

    def plus(self, other: NormMoments, sign: float = 1.0) -> NormMoments:
        """Return the sums over the rows of both, about the same point; or without the other's."""
        return NormMoments(
            self.fourth + sign * other.fourth,
            tuple(
                mine + sign * theirs for mine, theirs in zip(self.third, other.third, strict=True)
            ),
        )

    def copy(self) -> NormMoments:
        """Return sums that share no memory with these."""
        return NormMoments(self.fourth.copy(), tuple(sums.copy() for sums in self.third))

    def is_finite(self) -> bool:
        """Tell whether no sum overflowed."""
        return all(bool(np.isfinite(array).all()) for array in (self.fourth, *self.third))

    def to_parts(self) -> dict[str, NDArray[np.float64]]:
        """Return the arrays by name."""
        return {
            "norms.fourth": self.fourth,
            **{f"norms.third.{j}": sums for j, sums in enumerate(self.third)},
        }

    @classmethod
    def from_parts(
        cls, tensors: Mapping[str, NDArray[Any]], dims: Sequence[int]
    ) -> NormMoments | None:
        """Return what `to_parts` gave, None where there is nothing of it.

        Raises
        ------
        KeyError, ValueError
            If a part is missing, or not a finite float64 array of its shape.
        """
        if not any(name.startswith("norms.") for name in tensors):
            return None
        norms = cls(
            tensors["norms.fourth"], tuple(tensors[f"norms.third.{j}"] for j in range(len(dims)))
        )
        expected = cls.zeros(dims).to_parts()
        for name, array in norms.to_parts().items():
            if array.shape != expected[name].shape or array.dtype != np.float64:
                raise ValueError(f"{name} is {array.dtype} {array.shape}")
        if not norms.is_finite():
            raise ValueError("a sum of norms is NaN or infinity")
        return norms


@dataclass(frozen=True)
class _Step:
    """What moving rows that sum to zero adds to their sums."""

    moves: _Vectors
    third: tuple[NDArray[np.float64], ...]
    _even: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        moves: _Vectors,
        rows: float,
        squares: _Vectors,
        blocks: Mapping[Pair, NDArray[np.float64]],
    ) -> _Step:
        count = len(moves)
        lengths = np.array([move @ move for move in moves])
        traces = np.array([own.sum() for own in squares])
        pulled = [
            np.array(
                [
                    moves[i] @ blocks[i, j] if i <= j else blocks[j, i] @ moves[i]
                    for i in range(count)
                ]
            )
            for j in range(count)
        ]
        third = tuple(
            np.outer(traces + rows * lengths, move) + 2 * pull
            for move, pull in zip(moves, pulled, strict=True)
        )
        mixed = np.outer(traces, lengths)
        bilinear = np.column_stack([pull @ move for move, pull in zip(moves, pulled, strict=True)])
        even = mixed + mixed.T + 4 * bilinear + rows * np.outer(lengths, lengths)
        return cls(moves, third, even)

    def fourth(self, third: _Vectors) -> NDArray[np.float64]:
        """Return what is added to Σ a_i a_j, given the sums Σ a_i z_j before the move."""
        tilted = np.column_stack(
            [sums @ move for move, sums in zip(self.moves, third, strict=True)]
        )
        return np.asarray(self._even + 2 * (tilted + tilted.T))
