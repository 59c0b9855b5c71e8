"""Preconditioner: the affine change of rows that makes a second pass well conditioned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Preconditioner"]


@dataclass(frozen=True)
class Preconditioner:
    """Rows x of the source become (x - centre) R⁻¹, rows y of the target y - centre.

    With R the Cholesky factor of the Gram matrix of the pass before, the columns of the new rows
    are orthonormal up to the rounding of that pass.

    Attributes
    ----------
    centres : tuple of ndarray, shapes (p,) and (q,)
        Means of both spaces, or zeros where no intercept is fitted.
    triangle : ndarray, shape (p, p)
        R, upper triangular.
    constant : ndarray of bool, shape (p,)
        Columns that become 0, because they are nothing but rounding.
    """

    centres: tuple[NDArray[np.float64], NDArray[np.float64]]
    triangle: NDArray[np.float64]
    constant: NDArray[np.bool_]
