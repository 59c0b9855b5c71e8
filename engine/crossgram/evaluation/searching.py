"""Probes searched in a gallery that streams by: the nearest entries, and the rank of the mates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossgram.devices import row_products
from crossgram.evaluation.scoring import prepared
from crossgram.source import Source

__all__ = ["Probes", "Search", "search"]

_NO_SCORE = -np.inf
_PROBE_BLOCK = 1024
_FEW = 4
"""Times as many entries as are kept: fewer are sorted at once."""
_GALLERY_BYTES = 8 << 20


@dataclass(frozen=True)
class Probes:
    """What is searched for.

    Attributes
    ----------
    rows : ndarray, shape (m, d), floating
        Of length 1.
    person : ndarray of int, shape (m,)
        Whom each shows.
    itself : ndarray of int, shape (m,)
        The gallery's row of the same image, which is not to be found; -1 without one.
    """

    rows: NDArray[np.floating]
    person: NDArray[np.int64]
    itself: NDArray[np.int64]


@dataclass(frozen=True)
class Search:
    """What a search of every probe finds.

    Attributes
    ----------
    mate, other : ndarray, shape (m,)
        Score of the best entry of the same person, and of another; -inf without one.
    rank : ndarray of int, shape (m,)
        1 and how many entries of other people reach the best one of the same, or have the very
        same embedding, whatever rounding makes of their scores; 0 without one.
    nearest : ndarray of int, shape (m, k)
        Rows of the k best entries, the best first; of equal scores, the one that comes first.
    """

    mate: NDArray[np.float64]
    other: NDArray[np.float64]
    rank: NDArray[np.int64]
    nearest: NDArray[np.int64]


def search(
    probes: Probes,
    gallery: Source,
    people: NDArray[np.int64],
    usable: NDArray[np.bool_],
    nearest: int,
    report: Callable[[int], None] = lambda rows: None,
    device: str = "cpu",
) -> Search:
    """Search the cosines of all probes with all entries of a gallery, which is read twice.

    Parameters
    ----------
    probes : Probes
        In memory.
    gallery : Source
        Read in blocks.
    people : ndarray of int, shape (n,)
        Whom each entry shows; -1 for somebody whom no probe does.
    usable : ndarray of bool, shape (n,)
        Entries that there are.
    nearest : int
        How many entries to name for each probe, at most as many as there are.
    report : callable
        Called with the number of rows of each block that was read.
    device : str
        Where cosines are computed, as `check_device` returns it.
    """
    products = row_products(probes.rows, device)
    count = len(probes.rows)
    mate, other = np.full((2, count), _NO_SCORE)
    contents = np.zeros(count, np.uint64)
    best = np.full((count, nearest), _NO_SCORE)
    rows = np.full((count, nearest), -1, np.int64)
    for start, block in _blocks(gallery, usable, probes.rows.dtype, report):
        for own, scores, is_mate in _scored(probes, products, start, block, people, usable):
            mates = np.where(is_mate, scores, _NO_SCORE)
            first = mates.argmax(axis=1)
            better = np.flatnonzero(mates[np.arange(len(mates)), first] > mate[own])
            mate[own.start + better] = mates[better, first[better]]
            contents[own.start + better] = _contents(block[first[better]])
            other[own] = np.maximum(other[own], np.where(is_mate, _NO_SCORE, scores).max(axis=1))
            best[own], rows[own] = _merged(best[own], rows[own], scores, start)
    rank = np.where(mate > _NO_SCORE, 1, 0)
    # two sums of the same products in other orders differ by at most this: each is within d u of
    # the exact one, u = eps / 2 (Higham 2002, section 3.1), rows being of length 1
    margin = gallery.dim * np.finfo(probes.rows.dtype).eps
    for start, block in _blocks(gallery, usable, probes.rows.dtype, report):
        for own, scores, is_mate in _scored(probes, products, start, block, people, usable):
            near = (scores >= (mate[own, None] - margin)) & ~is_mate & (scores > _NO_SCORE)
            near[rank[own] == 0] = False
            probe, entry = np.nonzero(near)
            theirs = _contents(block) if len(probe) else contents
            probe += own.start
            reaching = scores[near] >= mate[probe]
            reaching |= theirs[entry] == contents[probe]
            rank += np.bincount(probe[reaching], minlength=count)
    return Search(mate, other, rank, rows)


def _contents(rows: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Return a number for each row, the same for the same numbers in it."""
    # plus 0, so that -0 becomes 0
    words = np.ascontiguousarray(rows + 0).view(np.uint32).astype(np.uint64)
    factors = np.random.default_rng(0).integers(1 << 63, size=words.shape[1], dtype=np.uint64)
    numbers: NDArray[np.uint64] = (words * (2 * factors + np.uint64(1))).sum(
        axis=1, dtype=np.uint64
    )
    return numbers


def _blocks(
    gallery: Source,
    usable: NDArray[np.bool_],
    dtype: np.dtype[np.floating],
    report: Callable[[int], None],
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    size = max(1, _GALLERY_BYTES // (8 * gallery.dim))
    for start in range(0, gallery.rows, size):
        stop = min(start + size, gallery.rows)
        block = np.empty((stop - start, gallery.dim), gallery.dtype)
        gallery.read(start, block)
        block[~usable[start:stop]] = 1
        yield start, prepared(block, "cosine", gallery.label, dtype)
        report(stop - start)


_Scored = tuple[slice, NDArray[np.floating], NDArray[np.bool_]]


def _scored(
    probes: Probes,
    products: Callable[[slice, NDArray[np.floating]], NDArray[np.floating]],
    start: int,
    block: NDArray[np.floating],
    people: NDArray[np.int64],
    usable: NDArray[np.bool_],
) -> Iterator[_Scored]:
    """Yield some probes, their scores with a block, -inf where there is none, and the mates."""
    stop = start + len(block)
    missing = np.flatnonzero(~usable[start:stop])
    for first in range(0, len(probes.rows), _PROBE_BLOCK):
        own = slice(first, min(first + _PROBE_BLOCK, len(probes.rows)))
        scores = products(own, block)
        scores[:, missing] = _NO_SCORE
        itself = probes.itself[own]
        here = np.flatnonzero((itself >= start) & (itself < stop))
        scores[here, itself[here] - start] = _NO_SCORE
        yield own, scores, probes.person[own, None] == people[start:stop]


def _merged(
    best: NDArray[np.float64], rows: NDArray[np.int64], scores: NDArray[np.floating], start: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the best of what was found before, and of a block that begins at `start`."""
    count = best.shape[1]
    better = scores > best[:, -1, None]
    if scores.shape[1] > count and np.count_nonzero(better) > _FEW * best.size:
        better &= scores >= np.partition(scores, -count, axis=1)[:, -count, None]
    probe, entry = np.nonzero(better)
    if not len(probe):
        return best, rows
    # what was there before comes first, and entries in their order, so that of equal ones it stays
    owner = np.concatenate([np.repeat(np.arange(len(best)), count), probe])
    score = np.concatenate([best.ravel(), scores[probe, entry].astype(np.float64)])
    row = np.concatenate([rows.ravel(), entry + start])
    order = np.lexsort((-score, owner))
    first = np.searchsorted(owner[order], np.arange(len(best)))
    kept = order[first[:, None] + np.arange(count)]
    return score[kept], row[kept]
