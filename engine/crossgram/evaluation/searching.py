"""Probes searched in a gallery that streams by: the nearest entries, and the rank of the mates."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.blas_threads import one_blas_thread
from crossgram.cluster import opened_once, over_workers, threads_of
from crossgram.devices import check_device, row_products
from crossgram.evaluation.scoring import prepared
from crossgram.resources import available_threads
from crossgram.source import Source, address_of

__all__ = ["Probes", "Search", "search", "task_bytes"]

_NO_SCORE = -np.inf
_PROBE_BLOCK = 256
_FEW = 4
"""Times as many entries as are kept: fewer are sorted at once."""
_GALLERY_BYTES = 8 << 20
_TASKS = 8
"""Per thread of a cluster, in each of the two readings."""


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
    client: Any = None,
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
        Where cosines are computed, as `check_device` takes it: by each worker, if there are any.
    client : distributed.Client, optional
        Of a cluster whose workers read parts of the gallery; each holds all probes.

    Raises
    ------
    InputError
        If there is no such device, or workers cannot be used.
    """
    job = _Job(uuid.uuid4().hex, probes, gallery, nearest, device)
    found = _Found.nothing(len(probes.rows), nearest)
    for part in _parts(_find, job, people, usable, report, client):
        found.add(part)
    rank = np.where(found.mate > _NO_SCORE, 1, 0)
    for counts in _parts(_reaching, replace(job, found=found), people, usable, report, client):
        rank += counts
    return Search(found.mate, found.other, rank, found.rows)


def task_bytes(probes: NDArray[np.floating], dim: int, nearest: int) -> int:
    """Return about how many bytes a worker's task holds: all probes, a block, what was found."""
    rows: int = 8 * len(probes) * max(dim, probes.shape[1])
    scores = 32 * _PROBE_BLOCK * _block_rows(dim)
    return rows + 4 * _GALLERY_BYTES + scores + 16 * len(probes) * (nearest + 3)


@dataclass
class _Found:
    """The best that was found so far; `mate_row` and `content` are of the best mate."""

    mate: NDArray[np.float64]
    mate_row: NDArray[np.int64]
    content: NDArray[np.uint64]
    other: NDArray[np.float64]
    scores: NDArray[np.float64]
    rows: NDArray[np.int64]

    @classmethod
    def nothing(cls, probes: int, nearest: int) -> _Found:
        return cls(
            np.full(probes, _NO_SCORE),
            np.full(probes, -1),
            np.zeros(probes, np.uint64),
            np.full(probes, _NO_SCORE),
            np.full((probes, nearest), _NO_SCORE),
            np.full((probes, nearest), -1),
        )

    def add(self, part: _Found) -> None:
        """Take what another part of the gallery has, whichever comes first."""
        better = part.mate > self.mate
        better |= (part.mate == self.mate) & (part.mate_row < self.mate_row)
        for own, other in (
            (self.mate, part.mate),
            (self.mate_row, part.mate_row),
            (self.content, part.content),
        ):
            own[better] = other[better]
        np.maximum(self.other, part.other, out=self.other)
        scores = np.hstack([self.scores, part.scores])
        rows = np.hstack([self.rows, part.rows])
        order = np.lexsort((rows, -scores))[:, : self.scores.shape[1]]
        self.scores = np.take_along_axis(scores, order, axis=1)
        self.rows = np.take_along_axis(rows, order, axis=1)


@dataclass(frozen=True)
class _Job:
    """What the parts of a reading have in common; the gallery is an address for a worker."""

    run: str
    probes: Probes
    gallery: Source | str
    nearest: int
    device: str
    lanes: int = 1
    found: _Found | None = None
    report: Callable[[int], None] | None = None


@dataclass(frozen=True)
class _Part:
    """Some rows of the gallery, from `start` on."""

    start: int
    people: NDArray[np.int64]
    usable: NDArray[np.bool_]


_Work = Callable[[_Part, _Job], Any]


def _parts(
    work: _Work,
    job: _Job,
    people: NDArray[np.int64],
    usable: NDArray[np.bool_],
    report: Callable[[int], None],
    client: Any,
) -> Iterator[Any]:
    """Yield what some work gives for parts of the gallery: here for all of it at once."""
    gallery = job.gallery
    assert isinstance(gallery, Source)
    if client is None:
        here = replace(job, lanes=available_threads(), report=report)
        yield work(_Part(0, people, usable), here)
        return
    size = _block_rows(gallery.dim)
    blocks = -(-gallery.rows // size)
    rows = size * -(-blocks // (_TASKS * threads_of(client)))
    parts = (
        _Part(start, people[start : start + rows], usable[start : start + rows])
        for start in range(0, gallery.rows, rows)
    )
    there = replace(job, gallery=address_of(gallery))
    for found, count in over_workers(client, _on_worker, parts, (work, there), large=True):
        yield found
        report(count)


def _on_worker(part: _Part, shared: tuple[_Work, _Job]) -> tuple[Any, int]:
    work, job = shared
    return work(part, job), len(part.people)


def _find(part: _Part, job: _Job) -> _Found:
    probes = job.probes
    found = _Found.nothing(len(probes.rows), job.nearest)

    def look(own: slice, start: int, block: NDArray[np.floating], scores: _Scores) -> None:
        mates = np.where(scores.is_mate, scores.values, _NO_SCORE)
        first = mates.argmax(axis=1)
        better = np.flatnonzero(mates[np.arange(len(mates)), first] > found.mate[own])
        probe, entry = own.start + better, first[better]
        found.mate[probe] = mates[better, entry]
        found.mate_row[probe] = start + entry
        found.content[probe] = _contents(block[entry])
        others = np.where(scores.is_mate, _NO_SCORE, scores.values).max(axis=1)
        found.other[own] = np.maximum(found.other[own], others)
        found.scores[own], found.rows[own] = _merged(
            found.scores[own], found.rows[own], scores.values, start
        )

    _meet(part, job, look)
    return found


def _reaching(part: _Part, job: _Job) -> NDArray[np.int64]:
    """Return how many entries of others are as near as the best mate."""
    probes, found = job.probes, job.found
    assert found is not None
    counts = np.zeros(len(probes.rows), np.int64)
    # two sums of the same products in other orders differ by at most this: each is within d u of
    # the exact one, u = eps / 2 (Higham 2002, section 3.1), rows being of length 1
    margin = probes.rows.shape[1] * np.finfo(probes.rows.dtype).eps

    def look(own: slice, start: int, block: NDArray[np.floating], scores: _Scores) -> None:
        mate = found.mate[own, None]
        near = (scores.values >= mate - margin) & ~scores.is_mate
        near &= (scores.values > _NO_SCORE) & (mate > _NO_SCORE)
        probe, entry = np.nonzero(near)
        if not len(probe):
            return
        reaches = scores.values[near] >= mate[probe, 0]
        reaches |= _contents(block)[entry] == found.content[own][probe]
        counts[own] += np.bincount(probe[reaches], minlength=len(mate))

    _meet(part, job, look)
    return counts


def _contents(rows: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Return a number for each row, the same for the same numbers in it."""
    # plus 0, so that -0 becomes 0
    words = np.ascontiguousarray(rows + 0).view(np.uint32).astype(np.uint64)
    factors = np.random.default_rng(0).integers(1 << 63, size=words.shape[1], dtype=np.uint64)
    numbers: NDArray[np.uint64] = (words * (2 * factors + np.uint64(1))).sum(
        axis=1, dtype=np.uint64
    )
    return numbers


@dataclass(frozen=True)
class _Scores:
    """Scores of some probes with a block, -inf where there is none, and which are of mates."""

    values: NDArray[np.floating]
    is_mate: NDArray[np.bool_]


def _meet(
    part: _Part,
    job: _Job,
    look: Callable[[slice, int, NDArray[np.floating], _Scores], None],
) -> None:
    """Have every block of a part of the gallery looked at by all probes, some at a time.

    Products are of one thread each, so that they do not depend on how many there are.
    """
    probes = job.probes
    device = check_device(job.device)
    products = row_products(probes.rows, device)
    lanes = job.lanes if device == "cpu" else 1
    slices = [
        slice(first, min(first + _PROBE_BLOCK, len(probes.rows)))
        for first in range(0, len(probes.rows), _PROBE_BLOCK)
    ]
    with one_blas_thread(), ThreadPoolExecutor(lanes, "crossgram-search") as pool:
        for start, block in _blocks(part, job):
            stop = start + len(block)
            inside = slice(start - part.start, stop - part.start)
            people, missing = part.people[inside], np.flatnonzero(~part.usable[inside])

            def one(
                own: slice,
                start: int = start,
                block: NDArray[np.floating] = block,
                people: NDArray[np.int64] = people,
                missing: NDArray[np.intp] = missing,
            ) -> None:
                scores = products(own, block)
                scores[:, missing] = _NO_SCORE
                itself = probes.itself[own] - start
                here = np.flatnonzero((itself >= 0) & (itself < len(block)))
                scores[here, itself[here]] = _NO_SCORE
                is_mate = probes.person[own, None] == people
                look(own, start, block, _Scores(scores, is_mate))

            for _ in pool.map(one, slices):
                pass
            if job.report is not None:
                job.report(len(block))


def _blocks(part: _Part, job: _Job) -> Iterator[tuple[int, NDArray[np.floating]]]:
    gallery = job.gallery
    if isinstance(gallery, str):
        gallery = opened_once(job.run, gallery)
    size = _block_rows(gallery.dim)
    last = part.start + len(part.usable)
    for start in range(part.start, last, size):
        stop = min(start + size, last)
        block = np.empty((stop - start, gallery.dim), gallery.dtype)
        gallery.read(start, block)
        block[~part.usable[start - part.start : stop - part.start]] = 1
        numbers = np.arange(start, stop)
        yield (
            start,
            prepared(block, "cosine", gallery.label, job.probes.rows.dtype, numbers=numbers),
        )


def _block_rows(dim: int) -> int:
    return max(1, _GALLERY_BYTES // (8 * dim))


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
