"""Scores of listed pairs of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from crossgram.errors import NonFiniteError
from crossgram.kernels.numpy import unit_rows

__all__ = ["METRICS", "as_wide", "prepared", "scores_of"]

_BLOCK_PAIRS = 8192
_BLOCK_ROWS = 8192


_Metric = Callable[[NDArray[np.floating], NDArray[np.floating]], NDArray[np.floating]]


def _cosine(probes: NDArray[np.floating], references: NDArray[np.floating]) -> NDArray[np.floating]:
    cosines: NDArray[np.floating] = np.einsum("ij,ij->i", probes, references)
    return cosines


def _euclidean(
    probes: NDArray[np.floating], references: NDArray[np.floating]
) -> NDArray[np.floating]:
    difference = probes - references
    distances: NDArray[np.floating] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return -distances


METRICS: Mapping[str, _Metric] = {
    "cosine": _cosine,
    "euclidean": _euclidean,
}
"""Similarities by name: the cosine, and the Euclidean distance with a minus sign."""


def prepared(
    rows: NDArray[np.floating],
    metric: str,
    name: str,
    dtype: DTypeLike = np.float64,
    *,
    numbers: NDArray[np.int64] | None = None,
) -> NDArray[Any]:
    """Return rows as a metric takes them: of length 1 for the cosine.

    Parameters
    ----------
    rows : ndarray, shape (n, d), floating
        Embeddings.
    metric : {"cosine", "euclidean"}
        Which similarity.
    name : str
        Whose they are, for messages.
    dtype : dtype
        To round to in the end.
    numbers : ndarray of int, shape (n,), optional
        What messages call the rows; by default 0, 1, ...

    Raises
    ------
    NonFiniteError
        If a row has no direction, or is not finite.
    """
    ready = np.empty(rows.shape, dtype)
    for start in range(0, len(rows), _BLOCK_ROWS):
        own = slice(start, start + _BLOCK_ROWS)
        ready[own] = unit_rows(rows[own]) if metric == "cosine" else rows[own]
        finite = np.isfinite(ready[own]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise NonFiniteError(
                f"{name}: row {row if numbers is None else numbers[row]} is zero or holds NaN or "
                "infinity and cannot be compared; mend it"
            )
    return ready


def as_wide(rows: NDArray[np.floating], dim: int) -> NDArray[np.floating]:
    """Return rows cut to a width, or filled up with zeros: what one has without a map."""
    result = np.zeros((len(rows), dim), rows.dtype)
    kept = min(dim, rows.shape[1])
    result[:, :kept] = rows[:, :kept]
    return result


def scores_of(
    probes: NDArray[np.floating],
    references: NDArray[np.floating],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    metric: str,
) -> NDArray[np.float64]:
    """Return the score of each pair of a probe and a reference.

    Parameters
    ----------
    probes, references : ndarray, shapes (n, d), floating
        As `prepared` returns them.
    left, right : ndarray of int, shape (m,)
        Rows of the probes, and of the references.
    metric : {"cosine", "euclidean"}
        Which similarity.
    """
    score = METRICS[metric]
    scores: NDArray[np.float64] = np.concatenate(
        [
            score(probes[left[own]], references[right[own]])
            for own in (
                slice(start, start + _BLOCK_PAIRS) for start in range(0, len(left), _BLOCK_PAIRS)
            )
        ]
    )
    return scores
