"""From blocks of rows to the moments of a run of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossgram.double_double import two_sum
from crossgram.errors import InputError, WidthMismatchError
from crossgram.kernels import RUN_TILES, Kernels, kernels_of, tile_rows_of
from crossgram.moments import Moments
from crossgram.norm_moments import NormMoments
from crossgram.preconditioner import Preconditioner
from crossgram.row_checks import finite_rows, unmasked_tiles
from crossgram.spaces import Pair, Space

__all__ = ["Accumulator", "Workspace", "row_weights"]

_STRIP = 64
"""Of 512 to 2,048 columns as many rows stay in the nearer caches, and so does a square of it."""

_SMALLEST_NORMS = float(np.sqrt(np.finfo(np.float64).tiny) / np.finfo(np.float64).eps)
_SMALLEST_SQUARES = float(np.finfo(np.float64).tiny / np.finfo(np.float64).eps)
_OUTWEIGHS = 16


@dataclass(frozen=True)
class Workspace:
    """What a lane computes with, and memory of its tiles, which accumulators that take turns share.

    Attributes
    ----------
    kernels : Kernels
        Of the lane.
    tile_rows : int
        Rows of a tile.
    tiles : list of lists of arrays there, shape (tile_rows, dim)
        For each turn, centred rows of each space, in the dtype of the products.
    scratch : dict of Pair to an array there, shape (dim_i, dim_j), or None
        Products of one tile where they are float32; None where they are added in place.
    landing : dict of Pair to ndarray, shape (dim_i, dim_j)
        Memory of the host to which sums come from a device; of none that are there already.
    """

    kernels: Kernels
    tile_rows: int
    tiles: list[list[Any]]
    scratch: dict[Pair, Any | None]
    landing: dict[Pair, NDArray[np.float64]]

    @classmethod
    def allocate(
        cls,
        spaces: Sequence[Space],
        pairs: Iterable[Pair],
        precision: str,
        device: str = "cpu",
        tile_rows: int | None = None,
    ) -> Workspace:
        """Allocate what accumulators of these blocks and this precision need.

        Parameters
        ----------
        spaces, pairs, precision
            As for an accumulator.
        device : str
            "cpu", or "cuda:K" as `check_device` returns it.
        tile_rows : int, optional
            Rows of a tile; by default as many as the device needs to run at full rate.

        Raises
        ------
        MemoryLimitError
            If the device has no memory left for it.
        """
        dims = [space.dim for space in spaces]
        shapes = {(i, j): (dims[i], dims[j]) for i, j in pairs}
        exact = precision == "exact"
        dtype = np.float64 if exact else np.float32
        kernels, rows = kernels_of(device), tile_rows or tile_rows_of(device)
        return cls(
            kernels,
            rows,
            [
                [kernels.allocate((rows, dim), dtype) for dim in dims]
                for _ in range(kernels.tile_sets)
            ],
            {
                pair: None if exact else kernels.allocate(shape, dtype)
                for pair, shape in shapes.items()
            },
            {
                pair: kernels.host_buffer(shape, np.float64)
                for pair, shape in shapes.items()
                if device != "cpu"
            },
        )


class Accumulator:
    """Gram and cross products of rows about a provisional shift, corrected at the end.

    The shift is the weighted mean of the first tile, or 0 where that is small beside the spread of
    every column. With z = x - shift, G = Σ w z zᵀ, s = Σ w z, W = Σ w, the scatter about the true
    mean is G - s sᵀ / W: the shifted-data algorithm of Chan, Golub and LeVeque (The American
    Statistician, 1983, section 3). Because the shift is, or is near, a mean of some of the same
    rows, the diagonal of G is at most about (rows / tile rows) times that of the scatter, which
    bounds what can cancel: a run ends after `RUN_TILES` tiles and is merged with those before it.
    Where weights are uneven, a tile that outweighs all before it begins a run too.

    Parameters
    ----------
    spaces : sequence of Space
        The spaces, in the order in which blocks are given.
    pairs : iterable of Pair
        The blocks to accumulate.
    precision : {"exact", "fast"}
        float64 products, or float32 products of centred tiles added in float64.
    skip_nonfinite : bool
        Leave rows out that hold NaN or infinity in any space, instead of raising.
    labels : sequence of str, optional
        What messages call the spaces' data; by default the spaces' names.
    workspace : Workspace, optional
        Of the same spaces, pairs and precision; by default one of its own.
    norms : bool
        Keep the sums that unbiased CKA needs too; of every block and rows of weight 1 only.
    preconditioner : Preconditioner, optional
        Of the first space, source, and the second, target: what their rows become first. It takes
        the place of the shift.
    """

    def __init__(
        self,
        spaces: Sequence[Space],
        pairs: Iterable[Pair],
        *,
        precision: str = "exact",
        skip_nonfinite: bool = False,
        labels: Sequence[str] | None = None,
        workspace: Workspace | None = None,
        norms: bool = False,
        preconditioner: Preconditioner | None = None,
    ) -> None:
        self._spaces = tuple(spaces)
        self._precision = precision
        self._skip_nonfinite = skip_nonfinite
        self._labels = tuple(labels or (space.name for space in spaces))
        dims = [space.dim for space in self._spaces]
        self._dtype = np.float64 if precision == "exact" else np.float32
        wanted = sorted(pairs)
        self._work = workspace or Workspace.allocate(self._spaces, wanted, precision)
        self._run_rows = RUN_TILES * self._work.tile_rows
        kernels = self._work.kernels
        self._shifts = [np.zeros(dim) for dim in dims]
        self._sums = [np.zeros(dim) for dim in dims]
        self._squares = [kernels.allocate((dim,), np.float64) for dim in dims]
        self._blocks = {(i, j): kernels.allocate((dims[i], dims[j]), np.float64) for i, j in wanted}
        self._norms = NormMoments.zeros(dims) if norms else None
        self._preconditioner = preconditioner
        if preconditioner is not None:
            with kernels.staging():
                self._triangle = kernels.upload(preconditioner.triangle)
        self._rows = self._skipped = 0
        self._weight = 0.0
        self._earlier: Moments | None = None

    def add(
        self,
        blocks: Sequence[NDArray[Any]],
        *,
        weights: ArrayLike | None = None,
        row_numbers: Sequence[NDArray[np.int64]] | None = None,
        masked: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add rows, the same images in every block.

        Parameters
        ----------
        blocks : sequence of ndarray, shape (rows, dim)
            One per space.
        weights : array, shape (rows,), optional
            Non-negative weights.
        row_numbers : sequence of ndarray, shape (rows,), optional
            What messages call the rows of each space; by default 0, 1, ...
        masked : ndarray of bool, shape (rows,), optional
            Rows that hold no embedding in some space: left out and counted, whatever they hold.

        Raises
        ------
        WidthMismatchError, InputError
            If the shapes, dtypes or weights are not as described.
        NonFiniteError
            At the first row that holds NaN or infinity, unless they are to be skipped.
        """
        rows = self._check(blocks)
        if weights is not None and self._norms is not None:
            raise InputError(
                "weights: norms are kept of rows of weight 1 only, for unbiased CKA; leave out the "
                "weights or the norms"
            )
        checked = None if weights is None else row_weights(weights, rows)
        numbers = row_numbers or [np.arange(rows)] * len(self._spaces)
        if masked is not None:
            self._skipped += int(np.count_nonzero(masked))
        for tile in unmasked_tiles(rows, masked, self._work.tile_rows):
            self._add_tile(
                [block[tile] for block in blocks],
                None if checked is None else checked[tile],
                [own[tile] for own in numbers],
            )

    def moments(self, spent: Moments | None = None) -> Moments:
        """Return the moments of the rows added, and start again from none.

        Parameters
        ----------
        spent : Moments, optional
            Of the same blocks, needed no longer: their memory becomes that of the moments. New
            pages cost several times what is written to them.
        """
        latest, earlier = self._take(spent), self._earlier
        self._earlier = None
        if earlier is None:
            return latest
        earlier.absorb(latest)
        return earlier

    def _take(self, spent: Moments | None = None) -> Moments:
        weight = self._weight
        kernels = self._work.kernels
        with kernels.products():
            raw_squares = kernels.to_host(self._squares)
            raw = dict(zip(self._blocks, self._brought(), strict=True))
        means, tails = ([np.zeros(space.dim) for space in self._spaces] for _ in range(2))
        squares = [np.zeros(space.dim) for space in self._spaces]
        if spent is None:
            blocks = {pair: np.empty_like(block) for pair, block in raw.items()}
        else:
            blocks = spent.blocks
        if weight == 0:
            for block in blocks.values():
                block.fill(0.0)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                for k, sums in enumerate(self._sums):
                    means[k][:], tails[k][:] = two_sum(self._shifts[k], sums / weight)
                    squares[k][:] = np.maximum(raw_squares[k] - sums * (sums / weight), 0.0)
                for (i, j), block in raw.items():
                    _corrected(block, self._sums[i], self._sums[j] / weight, blocks[i, j])
                    if i == j:
                        _mirror(blocks[i, j])
                        squares[i][:] = blocks[i, i].diagonal()
        result = Moments.of_arrays(
            self._spaces,
            self._rows,
            weight,
            means,
            tails,
            squares,
            blocks,
            self._skipped,
            self._precision,
            self._centred_norms(squares, blocks),
        )
        self._refuse_underflow(
            [raw[k, k].diagonal() if (k, k) in raw else own for k, own in enumerate(raw_squares)]
        )
        self._reset()
        result.check_finite("accumulate")
        return result

    def _brought(self) -> list[NDArray[np.float64]]:
        """Return the blocks of the host, valid until the next are brought there."""
        landing = self._work.landing
        into = [landing[pair] for pair in self._blocks] if landing else None
        return self._work.kernels.to_host(list(self._blocks.values()), into)

    def _refuse_underflow(self, raw_squares: Sequence[NDArray[np.float64]]) -> None:
        for k, (label, squares) in enumerate(zip(self._labels, raw_squares, strict=True)):
            lost = (squares < _SMALLEST_SQUARES) & (self._sums[k] != 0)
            if lost.any():
                raise InputError(
                    f"{label}: column {int(np.argmax(lost))} varies by so little that its squares "
                    "underflow float64; multiply the rows by a constant first"
                )
            if self._norms is not None and 0 < squares.sum() < _SMALLEST_NORMS:
                raise InputError(
                    f"{label}: rows are so short that fourth powers of their lengths underflow "
                    "float64; leave the norms out, or multiply the rows by a constant first"
                )

    def _centred_norms(
        self, squares: list[NDArray[np.float64]], blocks: dict[Pair, NDArray[np.float64]]
    ) -> NormMoments | None:
        if self._norms is None:
            return None
        offsets = [sums / max(self._weight, 1.0) for sums in self._sums]
        with np.errstate(over="ignore", invalid="ignore"):
            return self._norms.centred(offsets, self._weight, squares, blocks)

    def _reset(self) -> None:
        self._rows = self._skipped = 0
        self._weight = 0.0
        for sums in self._sums:
            sums.fill(0.0)
        kernels = self._work.kernels
        with kernels.products():
            for array in (*self._squares, *self._blocks.values()):
                kernels.clear(array)
        if self._norms is not None:
            for array in (self._norms.fourth, *self._norms.third):
                array.fill(0.0)

    def _add_tile(
        self,
        blocks: list[NDArray[Any]],
        weights: NDArray[np.float64] | None,
        numbers: Sequence[NDArray[np.int64]],
    ) -> None:
        rows = len(blocks[0])
        with np.errstate(over="ignore"):  # refused when the moments are taken
            weight = rows if weights is None else float(weights.sum())
        if self._rows >= self._run_rows or 0 < _OUTWEIGHS * self._weight < weight:
            self._close_run()
        roots = (
            np.ones(rows, self._dtype) if weights is None else np.sqrt(weights).astype(self._dtype)
        )
        kernels = self._work.kernels
        with kernels.staging(), np.errstate(invalid="ignore", over="ignore"):
            tiles = self._stage(blocks, roots, weights)
            sums = kernels.to_host([kernels.weighted_sum(roots, tile) for tile in tiles])
            are_finite = all(np.isfinite(column_sums).all() for column_sums in sums)
            if are_finite and self._norms is not None:
                kernels.add_norms(tiles, self._norms.fourth, self._norms.third)
        if not are_finite:
            keep = finite_rows(
                blocks, self._spaces, self._labels, numbers, skip=self._skip_nonfinite
            )
            self._skipped += int(rows - keep.sum())
            if keep.any():
                self._add_tile(
                    [block[keep] for block in blocks],
                    None if weights is None else weights[keep],
                    [own[keep] for own in numbers],
                )
            return
        with kernels.products():
            for k, tile in enumerate(tiles):
                self._sums[k] += sums[k]
                if (k, k) not in self._blocks:
                    kernels.add_squares(tile, self._squares[k])
            for (i, j), block in self._blocks.items():
                if i == j:
                    kernels.add_gram(tiles[i], block, self._work.scratch[i, i])
                else:
                    kernels.add_cross(tiles[i], tiles[j], block, self._work.scratch[i, j])
        self._rows += rows if weights is None else int(np.count_nonzero(weights))
        self._weight += weight

    def _close_run(self) -> None:
        run = self._take()
        if self._earlier is None:
            self._earlier = run
        else:
            self._earlier.absorb(run)

    def _stage(
        self,
        blocks: list[NDArray[Any]],
        roots: NDArray[Any],
        weights: NDArray[np.float64] | None,
    ) -> list[Any]:
        kernels = self._work.kernels
        tiles = []
        for k, (space, block) in enumerate(zip(self._spaces, blocks, strict=True)):
            there = kernels.upload(block)
            values = kernels.unit_rows(there) if space.normalized else there
            if self._weight == 0 and self._preconditioner is None:
                # a number of the tile's own dtype, so that shifting by it adds no rounding
                self._shifts[k][:] = kernels.provisional_shift(values, weights).astype(self._dtype)
            tile = self._work.tiles[kernels.turn][k][: len(roots)]
            self._transform(k, values, tile)
            if weights is not None:
                kernels.scale_rows(tile, roots)
            tiles.append(tile)
        return tiles

    def _transform(self, k: int, values: Any, tile: Any) -> None:
        kernels = self._work.kernels
        if self._preconditioner is None:
            kernels.centre(values, self._shifts[k], tile)
            return
        kernels.centre(values, self._preconditioner.centres[k], tile)
        if k == 0:
            kernels.clear_columns(tile, self._preconditioner.constant)
            kernels.solve_triangle(tile, self._triangle)

    def _check(self, blocks: Sequence[NDArray[Any]]) -> int:
        if len(blocks) != len(self._spaces):
            raise InputError(
                f"{len(blocks)} blocks of rows given, the moments are of {len(self._spaces)} spaces"
            )
        rows = len(np.atleast_1d(blocks[0]))
        for label, space, block in zip(self._labels, self._spaces, blocks, strict=True):
            if block.ndim != 2 or block.shape[1] != space.dim:
                raise WidthMismatchError(
                    f"{label}: rows of shape {block.shape} given, expected {space.dim} columns"
                )
            if block.dtype.kind != "f":
                raise InputError(f"{label}: dtype {block.dtype} given, expected floats")
            if len(block) != rows:
                raise InputError(
                    f"{label}: {len(block)} rows given, {self._labels[0]} has {rows}; "
                    "row i must be the same image in every space"
                )
        return rows


def row_weights(weights: ArrayLike, rows: int) -> NDArray[np.float64]:
    """Return one finite, non-negative weight per row, or raise `InputError`."""
    checked = np.asarray(weights, dtype=np.float64)
    if checked.shape != (rows,):
        raise InputError(f"weights: shape {checked.shape} given, expected ({rows},)")
    if not np.isfinite(checked).all() or (checked < 0).any():
        raise InputError("weights: must be finite and not negative")
    return checked


def _corrected(
    gram: NDArray[np.float64],
    sums: NDArray[np.float64],
    delta: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    for start in range(0, len(gram), _STRIP):
        rows = slice(start, start + _STRIP)
        np.multiply.outer(sums[rows], delta, out=out[rows])
        np.subtract(gram[rows], out[rows], out=out[rows])


def _mirror(matrix: NDArray[np.float64]) -> None:
    """Copy the upper triangle onto the lower, square by square, as it is read across the rows."""
    for start in range(0, len(matrix), _STRIP):
        rows = slice(start, start + _STRIP)
        for left in range(0, start, _STRIP):
            columns = slice(left, left + _STRIP)
            matrix[rows, columns] = matrix[columns, rows].T
        corner = matrix[rows, rows]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
