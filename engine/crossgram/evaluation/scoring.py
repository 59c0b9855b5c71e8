"""Scores of listed pairs of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import NonFiniteError
from crossgram.kernels.numpy import unit_rows

__all__ = ["METRICS", "as_wide", "prepared", "scores_of"]

_BLOCK_PAIRS = 8192


def _cosine(probes: NDArray[np.float64], references: NDArray[np.float64]) -> NDArray[np.float64]:
    cosines: NDArray[np.float64] = np.einsum("ij,ij->i", probes, references)
    return cosines


def _euclidean(probes: NDArray[np.float64], references: NDArray[np.float64]) -> NDArray[np.float64]:
    difference = probes - references
    distances: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return -distances


METRICS: Mapping[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]] = {
    "cosine": _cosine,
    "euclidean": _euclidean,
}
"""Similarities by name: the cosine, and the Euclidean distance with a minus sign."""


def prepared(rows: NDArray[np.floating], metric: str, name: str) -> NDArray[np.float64]:
    """Return rows as a metric takes them, float64: of length 1 for the cosine.

    Raises
    ------
    NonFiniteError
        If a row has no direction, or is not finite.
    """
    ready = unit_rows(rows) if metric == "cosine" else rows.astype(np.float64)
    finite = np.isfinite(ready).all(axis=1)
    if not finite.all():
        raise NonFiniteError(
            f"{name}: row {int(np.argmin(finite))} is zero or holds NaN or infinity and cannot be "
            "compared; mend it"
        )
    return ready


def as_wide(rows: NDArray[np.floating], dim: int) -> NDArray[np.floating]:
    """Return rows cut to a width, or filled up with zeros: what one has without a map."""
    result = np.zeros((len(rows), dim), rows.dtype)
    kept = min(dim, rows.shape[1])
    result[:, :kept] = rows[:, :kept]
    return result


def scores_of(
    probes: NDArray[np.float64],
    references: NDArray[np.float64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    metric: str,
) -> NDArray[np.float64]:
    """Return the score of each pair of a probe and a reference.

    Parameters
    ----------
    probes, references : ndarray, shapes (n, d), float64
        As `prepared` returns them.
    left, right : ndarray of int, shape (m,)
        Rows of the probes, and of the references.
    metric : {"cosine", "euclidean"}
        Which similarity.
    """
    score = METRICS[metric]
    return np.concatenate(
        [
            score(probes[left[own]], references[right[own]])
            for own in (
                slice(start, start + _BLOCK_PAIRS) for start in range(0, len(left), _BLOCK_PAIRS)
            )
        ]
    )
