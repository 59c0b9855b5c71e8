"""All pairs of many images: scores that are counted in bins, never stored, and exact thresholds.

Every pair is scored twice. First all scores are counted in fine bins; then those of the few bins in
which a threshold lies are collected, equal ones once, so that rates are as exact as if all had been
sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from crossgram.blas_threads import one_blas_thread
from crossgram.cluster import over_workers
from crossgram.devices import check_device, computing_on, to_device, to_host
from crossgram.errors import InputError, RunError
from crossgram.verification import OperatingPoint, Roc, allowed_false_accepts, equal_error_of

__all__ = ["TILE_BYTES", "BinnedScores", "score_all_pairs"]

_HALF = 1 << 15
"""Bins of scores above 0, and of those below: a power of two, so that to scale is exact."""

_BINS = 2 * _HALF + 2
_BLOCK, _GPU_BLOCK = 1024, 4096
_TASK_TILES = 16
"""Blocks that a worker of a cluster scores in one task."""

TILE_BYTES = 40 * _BLOCK**2 + 4 * _TASK_TILES * _BLOCK**2
"""That a task holds at most, beside the rows: a block's scores and bins, and collected scores."""


_FEW = 1 << 20
"""Scores that are collected before equal ones are put together."""


@dataclass(frozen=True)
class Tally:
    """Different scores, rising, and how often each came.

    Attributes
    ----------
    scores : ndarray, shape (m,), float32
    counts : ndarray of int, shape (m,)
    """

    scores: NDArray[np.float32]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, scores: NDArray[np.float32]) -> Tally:
        """Count scores, of any device."""
        if not scores.size:
            return cls(np.empty(0, np.float32), np.empty(0, np.int64))
        return cls(*map(to_host, np.unique(scores, return_counts=True)))

    @classmethod
    def joined(cls, tallies: Sequence[Tally]) -> Tally:
        """Count the scores of several together."""
        counts = np.concatenate([own.counts for own in tallies])
        scores, position = np.unique(
            np.concatenate([own.scores for own in tallies]), return_inverse=True
        )
        # as float64, exact to 2^53
        return cls(scores, np.bincount(position, counts, len(scores)).astype(np.int64))

    def reaching(self, thresholds: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return how many scores are as high as each threshold, or higher."""
        below = np.append(0, np.cumsum(self.counts))
        count: NDArray[np.int64] = below[-1] - below[np.searchsorted(self.scores, thresholds)]
        return count


@dataclass(frozen=True)
class BinnedScores:
    """Cosines of all pairs: their counts in bins, and those of some bins one by one.

    Attributes
    ----------
    genuine, impostor : ndarray of int, shape (bins,)
        Counts, by rising score.
    genuine_in, impostor_in : mapping of int to Tally
        Of the bins in which a threshold lies.
    """

    genuine: NDArray[np.int64]
    impostor: NDArray[np.int64]
    genuine_in: dict[int, Tally]
    impostor_in: dict[int, Tally]

    def area_under_curve(self) -> tuple[float, float]:
        """Return the area under the ROC curve, and how far it may be off.

        The order of scores within a bin is not known; half of it is assumed to be right.
        """
        below = np.append(0, np.cumsum(self.impostor)[:-1])
        total = int(self.genuine.sum()) * int(self.impostor.sum())
        right = sum(
            int(g) * (2 * int(b) + int(i))
            for g, b, i in zip(self.genuine, below, self.impostor, strict=True)
            if g
        )
        together = sum(int(g) * int(i) for g, i in zip(self.genuine, self.impostor, strict=True))
        return right / (2 * total), together / (2 * total)

    def roc_curve(self) -> Roc:
        """Return the points of the ROC curve at the borders of bins, which are exact."""
        border = (np.arange(_BINS, -1, -1) - _HALF) / _HALF
        rates = [
            np.append(0, np.cumsum(counts[::-1])) / counts.sum()
            for counts in (self.impostor, self.genuine)
        ]
        return Roc(border, *rates)

    def true_accepts_at(self, far: float) -> OperatingPoint:
        """Return what `verification.true_accepts_at` does, of all scores."""
        impostors = int(self.impostor.sum())
        allowed = allowed_false_accepts(far, impostors)
        if allowed < 1:
            raise InputError(
                f"far: {far:g} of {impostors} impostor pairs is less than one false accept"
            )
        own, above = _bin_of(self.impostor, allowed)
        inside = self.impostor_in[own]
        down = np.cumsum(inside.counts[::-1])
        threshold = inside.scores[::-1][np.searchsorted(down, allowed - above, "right")]
        higher = np.nextafter(threshold, np.float32(np.inf))
        false = above + int(inside.reaching(higher))
        true = int(self.genuine[own + 1 :].sum()) + int(self.genuine_in[own].reaching(higher))
        return OperatingPoint(
            far, float(threshold), true / int(self.genuine.sum()), false / impostors, false
        )

    def equal_error_rate(self) -> float:
        """Return what `verification.equal_error_rate` does, of all scores."""
        own = _crossing(self.genuine, self.impostor)
        genuine, impostor = int(self.genuine.sum()), int(self.impostor.sum())
        sides = ((self.genuine_in[own], self.genuine), (self.impostor_in[own], self.impostor))
        thresholds = np.unique(np.concatenate([inside.scores for inside, _ in sides]))[::-1]
        accepted = [
            np.append(0, inside.reaching(thresholds)) + int(counts[own + 1 :].sum())
            for inside, counts in sides
        ]
        return equal_error_of(accepted[1] / impostor, accepted[0] / genuine)


def score_all_pairs(
    probes: NDArray[np.float32],
    references: NDArray[np.float32],
    person: NDArray[np.int64],
    fars: Sequence[float],
    *,
    ordered: bool,
    threads: int,
    report: Callable[[int], None] = lambda pairs: None,
    client: Any = None,
    device: str = "cpu",
) -> BinnedScores:
    """Score every pair of different images, in constant memory beside the rows.

    Parameters
    ----------
    probes, references : ndarray, shapes (n, d), float32
        Of length 1, of the same images; sorted by person, most blocks are of impostors only.
    person : ndarray of int, shape (n,)
        Whom each image shows.
    fars : sequence of float
        Rates at which thresholds are wanted.
    ordered : bool
        Whether probe i meets reference j and probe j reference i, or each pair is scored once.
    threads : int
        Blocks to score side by side.
    report : callable
        Called with the number of pairs of each block, or of some blocks on a cluster, in each of
        the two passes.
    client : distributed.Client, optional
        Of a cluster whose workers score the blocks; each holds all rows.
    device : str
        Where blocks are scored, as `check_device` takes it: by each worker, if there are any.

    Raises
    ------
    InputError
        If there are no genuine or no impostor pairs.
    RunError
        If scores differ between the passes.
    """
    order = np.argsort(person, kind="stable")
    # scaled to bins, which is exact
    scaled = probes[order]
    scaled *= np.float32(_HALF)
    rows = _GPU_BLOCK if device.startswith("cuda") else _BLOCK
    pairs = _Pairs(scaled, references[order], person[order], ordered, device, rows)
    genuine, impostor = np.zeros((2, _BINS), np.int64)
    for own_genuine, own_impostor, count in pairs.over(_Counting(), threads, client):
        genuine += own_genuine
        impostor += own_impostor
        report(count)
    if not genuine.sum() or not impostor.sum():
        raise InputError("labels: no pairs of one person, or none of two")
    impostors = int(impostor.sum())
    allowed = [allowed_false_accepts(far, impostors) for far in fars]
    wanted = {_bin_of(impostor, own)[0] for own in allowed if own}
    wanted.add(_crossing(genuine, impostor))
    is_wanted = np.zeros(_BINS, bool)
    is_wanted[list(wanted)] = True
    found = _Collected(), _Collected()

    for *tallies, count in pairs.over(_Collecting(is_wanted), threads, client):
        for side, tally in zip(found, tallies, strict=True):
            side.add(tally)
        report(count)
    sides = [side.by_bin(wanted) for side in found]
    for counts, own in zip((genuine, impostor), sides, strict=True):
        if any(own[k].counts.sum() != counts[k] for k in wanted):
            raise RunError("scores of the same pairs differ between two passes; run again")
    return BinnedScores(genuine, impostor, sides[0], sides[1])


@dataclass(frozen=True)
class _Block:
    """Scaled scores of some pairs; `genuine` and `counted` are None where none or all are."""

    scores: NDArray[np.float32]
    genuine: NDArray[np.bool_] | None
    counted: NDArray[np.bool_] | None


_Part = TypeVar("_Part")
_Result = tuple[_Part, _Part, int]
"""Of genuine and of impostor pairs, and how many pairs there were."""


class _Work(Protocol[_Part]):
    """What becomes of scores."""

    def of(self, block: _Block) -> _Result[_Part]: ...

    def joined(self, found: Sequence[_Part]) -> _Part: ...


@dataclass(frozen=True)
class _Pairs:
    """Scaled probes and references, sorted by person; on which device so many rows meet at once."""

    probes: NDArray[np.float32]
    references: NDArray[np.float32]
    person: NDArray[np.int64]
    ordered: bool
    device: str
    block_rows: int

    def over(self, work: _Work[_Part], threads: int, client: Any) -> Iterator[_Result[_Part]]:
        """Yield what `work` gives for all blocks; a few run ahead."""
        starts = range(0, len(self.person), self.block_rows)
        tiles = [(i, j) for i in starts for j in starts if self.ordered or j >= i]
        if client is not None:
            tasks = (tiles[k : k + _TASK_TILES] for k in range(0, len(tiles), _TASK_TILES))
            yield from over_workers(client, _of_tiles, tasks, (self, work), large=True)
            return

        there = self.there()
        lanes = threads if there.device == "cpu" else 1

        def run(tile: tuple[int, int]) -> _Result[_Part]:
            with computing_on(there.device):
                return work.of(there.block(*tile))

        with one_blas_thread(), ThreadPoolExecutor(lanes, "crossgram-pairs") as pool:
            for first in range(0, len(tiles), 16 * lanes):
                yield from pool.map(run, tiles[first : first + 16 * lanes])

    def there(self) -> _Pairs:
        """Return the same where blocks are scored."""
        device = check_device(self.device)
        with computing_on(device):
            probes, references, person = (
                to_device(rows, device) for rows in (self.probes, self.references, self.person)
            )
        return replace(self, probes=probes, references=references, person=person, device=device)

    def block(self, i: int, j: int) -> _Block:
        rows, columns = (slice(start, start + self.block_rows) for start in (i, j))
        scores = self.probes[rows] @ self.references[columns].T
        left, right = self.person[rows], self.person[columns]
        genuine = counted = None
        # sorted, so that the ranges tell
        if left[0] <= right[-1] and right[0] <= left[-1]:
            genuine = left[:, None] == right
        if i == j:
            counted = np.ones_like(scores, dtype=bool)
            np.fill_diagonal(counted, False)
            if not self.ordered:
                counted = np.triu(counted)
        return _Block(scores, genuine, counted)


def _of_tiles(
    tiles: Sequence[tuple[int, int]], shared: tuple[_Pairs, _Work[_Part]]
) -> _Result[_Part]:
    pairs, work = shared
    there = pairs.there()
    with one_blas_thread(), computing_on(there.device):
        found = [work.of(there.block(*tile)) for tile in tiles]
    genuine, impostor, counts = zip(*found, strict=True)
    return work.joined(genuine), work.joined(impostor), sum(counts)


def _bins(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    # rounded down before the sum, which would round up
    shifted = np.floor(scores)
    shifted += np.float32(_HALF)
    return np.clip(shifted, 0, _BINS - 1, out=shifted).astype(np.intp)


def _split(block: _Block, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the values of genuine pairs, and of impostor pairs."""
    if block.counted is not None:
        genuine = block.counted if block.genuine is None else block.genuine & block.counted
        return values[genuine], values[block.counted & ~genuine]
    if block.genuine is not None:
        return values[block.genuine], values[~block.genuine]
    return values[:0, 0], values.ravel()


def _counts(bins: NDArray[np.intp]) -> NDArray[np.int64]:
    # CuPy has no largest of none
    return to_host(np.bincount(bins, minlength=_BINS)) if bins.size else np.zeros(_BINS, np.int64)


class _Counting:
    """Counts scores in all bins."""

    def of(self, block: _Block) -> _Result[NDArray[np.int64]]:
        genuine, impostor = _split(block, _bins(block.scores))
        return _counts(genuine), _counts(impostor), len(genuine) + len(impostor)

    def joined(self, found: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = np.sum(found, axis=0)
        return counts


@dataclass(frozen=True)
class _Collecting:
    """Gives the scores of some bins."""

    is_wanted: NDArray[np.bool_]

    def of(self, block: _Block) -> _Result[Tally]:
        genuine, impostor = _split(block, block.scores)
        is_wanted = np.asarray(self.is_wanted, like=block.scores)
        kept = [Tally.of(side[is_wanted[_bins(side)]]) for side in (genuine, impostor)]
        return kept[0], kept[1], len(genuine) + len(impostor)

    def joined(self, found: Sequence[Tally]) -> Tally:
        return Tally.joined(found)


class _Collected:
    """Scaled scores that came so far; memory goes by how many different ones there are."""

    def __init__(self) -> None:
        self._known = Tally.of(np.empty(0, np.float32))
        self._new: list[Tally] = []

    def add(self, scores: Tally) -> None:
        self._new.append(scores)
        if sum(len(own.scores) for own in self._new) > max(_FEW, len(self._known.scores)):
            self._put_together()

    def by_bin(self, wanted: set[int]) -> dict[int, Tally]:
        self._put_together()
        scores, counts = self._known.scores, self._known.counts
        own = _bins(scores)
        return {k: Tally(scores[own == k] / np.float32(_HALF), counts[own == k]) for k in wanted}

    def _put_together(self) -> None:
        self._known = Tally.joined([self._known, *self._new])
        self._new = []


def _bin_of(counts: NDArray[np.int64], position: int) -> tuple[int, int]:
    """Return the bin of a score by its position from above, and how many are in higher bins."""
    down = np.cumsum(counts[::-1])
    k = int(np.searchsorted(down, position, "right"))
    return len(counts) - 1 - k, int(down[k] - counts[::-1][k])


def _crossing(genuine: NDArray[np.int64], impostor: NDArray[np.int64]) -> int:
    """Return the bin in which false accepts become as frequent as false rejects."""
    down = [np.cumsum(counts[::-1]) / counts.sum() for counts in (genuine, impostor)]
    return len(genuine) - 1 - int(np.argmax(down[0] + down[1] - 1 >= 0))
