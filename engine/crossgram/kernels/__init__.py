"""Array work of one tile of rows: a module or class per kind of device, with the same few names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from crossgram.devices import check_device, gpu_number

__all__ = ["RUN_TILES", "Kernels", "backend_of", "kernels_of", "tile_rows_of"]

RUN_TILES = 16
"""Tiles about one shift at most, which bounds what cancels when it is corrected for."""

_TILE_ROWS = {"cpu": 1024, "cuda": 16_384}


class Kernels(Protocol):
    """What one lane computes with; arrays "there" are the device's, all others the host's.

    Rows come in by `upload`, within `staging`; tiles made of them are added up within `products`,
    which on a GPU runs while the next tile is being staged. Each tile goes into the set of tiles
    that `turn` tells, which `products` moves on when it ends.

    Attributes
    ----------
    tile_sets : int
        Sets of tiles that take turns.
    turn : int
        Which of them is to be filled next.
    """

    @property
    def tile_sets(self) -> int: ...  # noqa: D102
    @property
    def turn(self) -> int: ...  # noqa: D102

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """Return zeros there."""

    def host_buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return memory of the host from which rows can be uploaded at full rate."""
        ...

    def staging(self) -> AbstractContextManager[None]:
        """Have what follows make a tile, once the products of the one before it there are done."""
        ...

    def products(self) -> AbstractContextManager[None]:
        """Have what follows add up what was staged before, without being waited for."""
        ...

    def upload(self, array: NDArray[Any]) -> Any:
        """Return an array there; where it is there already, itself."""

    def to_host(
        self, arrays: Sequence[Any], into: Sequence[NDArray[Any]] | None = None
    ) -> list[NDArray[Any]]:
        """Return arrays from there, once they are computed; into a `host_buffer` each, if given."""
        ...

    def provisional_shift(
        self, rows: Any, weights: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """Return what to shift rows like these by, shape (dim,): the mean, or 0 if it is small."""
        ...

    def unit_rows(self, block: Any) -> Any:
        """Return the rows divided by their Euclidean lengths, float64; a zero row becomes NaN."""

    def centre(self, block: Any, shift: NDArray[Any], out: Any) -> None:
        """Write block - shift into `out`, computed in the wider of the dtypes of both."""

    def scale_rows(self, z: Any, factors: NDArray[Any]) -> None:
        """Multiply each row of `z` by its factor."""

    def clear_columns(self, z: Any, which: NDArray[np.bool_]) -> None:
        """Set columns of `z` to 0, but for NaN and infinity, which become NaN."""

    def solve_triangle(self, z: Any, triangle: Any) -> None:
        """Replace the rows of z (rows, p) by those of z R⁻¹, R (p, p) being upper triangular."""

    def weighted_sum(self, weights: NDArray[Any], z: Any) -> Any:
        """Return the column sums of the rows of `z`, each times its weight, shape (p,), float64."""

    def add_gram(self, z: Any, out: Any, scratch: Any | None) -> None:
        """Add the upper triangle of zᵀz to `out` (p, p); float32 rows go through `scratch`."""

    def add_cross(self, x: Any, y: Any, out: Any, scratch: Any | None) -> None:
        """Add xᵀy to `out` (p, q); float32 rows go through `scratch`."""

    def add_squares(self, z: Any, out: Any) -> None:
        """Add the sums of squares of the columns of `z` to `out` (p,)."""

    def add_norms(
        self,
        tiles: Sequence[Any],
        fourth: NDArray[np.float64],
        third: Sequence[NDArray[np.float64]],
    ) -> None:
        """Add Σ a_i a_j to `fourth` (K, K) and Σ a_i z_j to `third` (K, dim) of each space.

        a_i is the squared length of a row of tile i. Both sums are the host's.
        """

    def clear(self, array: Any) -> None:
        """Set an array there to 0."""


def tile_rows_of(device: str) -> int:
    """Return the rows of one product, enough for the device to run at full rate.

    Parameters
    ----------
    device : str
        "cpu", or "cuda:K".
    """
    return _TILE_ROWS[device.partition(":")[0]]


def kernels_of(device: str) -> Kernels:
    """Return what a lane computes with, which is its own.

    Parameters
    ----------
    device : str
        "cpu", or "cuda:K".

    Raises
    ------
    InputError
        If CuPy or the GPU is missing.
    """
    if device == "cpu":
        from crossgram.kernels import numpy

        return numpy
    check_device(device)
    from crossgram.kernels.cupy import GpuKernels

    return GpuKernels(gpu_number(device))


def backend_of(device: str, precision: str) -> str:
    """Return what multiplies rows on a device here, as a certificate names it.

    Parameters
    ----------
    device : str
        "cpu", or "cuda:K" as `check_device` returns it.
    precision : {"exact", "fast"}
        Of the products; float32 ones are never made of slices.
    """
    if device == "cpu":
        return "numpy"
    from crossgram.kernels.cupy import GpuKernels

    by_slices = precision == "exact" and GpuKernels(gpu_number(device)).by_slices
    return "cupy, int8 slices" if by_slices else "cupy"
