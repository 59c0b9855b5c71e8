"""A pass over the workers of a cluster: a task per segment, merges as tasks, in the fixed tree."""

from __future__ import annotations

import copy
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from crossgram.blas_threads import one_blas_thread
from crossgram.cluster import WAITING_TASKS, check_workers, opened_once, outcome_of, threads_of
from crossgram.errors import InputError
from crossgram.grouping import Assign, assigner_to
from crossgram.merge_tree import MergeTree, merge_folds
from crossgram.pairing import check_ids
from crossgram.plan import Segment
from crossgram.segment_sums import Accumulating, Sums, Work, add_block
from crossgram.source import Source, address_of
from crossgram.stream import Slot, StreamFailure, make_ring, read_blocks

__all__ = ["Apart", "KeptTree", "sums_on_cluster"]

_MOST_GROUPS = 64
"""Runs of segments whose sums are merged by workers and then come here: a worker that is lost takes
no more with it than what it has of a few of these."""

_MERGES_FIRST = 1


@dataclass(frozen=True)
class Apart:
    """What rows are weighed by and divided into.

    Attributes
    ----------
    weights : ndarray, shape (rows,), or None
        Of all rows.
    folds : int
        Sets of sums to keep apart.
    by : str or None
        What workers find a row's fold by, "rows", "ids" or "labels"; None if `assign` tells it.
    assign : Assign or None
        Which fold rows are in; None if workers find it, or there is one fold.
    """

    weights: NDArray[np.float64] | None
    folds: int
    by: str | None
    assign: Assign | None


@dataclass(frozen=True)
class KeptTree(Generic[Sums]):
    """Sums that are merged segment by segment, and kept.

    Attributes
    ----------
    tree : MergeTree
        What merges and keeps them.
    done : frozenset of int
        Segments that are in it already.
    """

    tree: MergeTree[list[Sums]]
    done: frozenset[int]


@dataclass(frozen=True)
class _Job(Generic[Sums]):
    """What the tasks of a pass have in common."""

    run: str
    work: Work[Sums]
    addresses: tuple[str | None, ...]
    folds: int
    by: str | None


@dataclass(frozen=True)
class _Part:
    """What a task has of its own."""

    segment: Segment
    weights: NDArray[np.float64] | None
    assigned: NDArray[np.int64] | None


def sums_on_cluster(
    client: Any,
    work: Work[Sums],
    sources: Sequence[Source],
    apart: Apart,
    report: Callable[[int], None],
    kept: KeptTree[Sums] | None = None,
) -> list[Sums]:
    """Return the sums of all rows, one per fold: the same, bit for bit, as of one machine.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    work : Work
        Which sums.
    sources : sequence of Source
        Paired rows, that workers can open, or Dask arrays.
    apart : Apart
        Weights and folds.
    report : callable
        Called with the rows of each segment that is done.
    kept : KeptTree, optional
        What merges sums here, segment by segment, and keeps them; by default workers merge first.

    Raises
    ------
    InputError
        If a source is in this process only, or workers cannot be used: they do not see a source,
        are of another version, or have too little memory. Of the kind that fits, the failure in
        the earliest segment.
    RunError
        If workers die of a task, or the cluster is lost.
    """
    addresses = tuple(None if own.blocks is not None else address_of(own) for own in sources)
    check_workers(client, sources, work.plan.planned_memory_bytes)
    job = _Job(uuid.uuid4().hex, work, addresses, apart.folds, apart.by)
    return _Run(client, job, sources, apart, kept).sums(report)


class _Run(Generic[Sums]):
    """The tasks of a pass: which are out, and what became of those that are done."""

    def __init__(
        self,
        client: Any,
        job: _Job[Sums],
        sources: Sequence[Source],
        apart: Apart,
        kept: KeptTree[Sums] | None,
    ) -> None:
        from distributed import as_completed

        self._client, self._plan = client, job.work.plan
        self._sources, self._apart = sources, apart
        # a task of its own, so that it is made again if all who have it are lost
        self._job = client.submit(_as_it_is, job, pure=False)
        self._groups: _Groups[Sums] = _Groups(client, self._plan.segments, kept)
        # what has been begun and is not on disk is lost with the client: no more than a task each
        self._keeps = kept is not None
        done = frozenset[int]() if kept is None else kept.done
        self._numbers = iter([k for k in range(self._plan.segments) if k not in done])
        self._segments: dict[Any, int] = {}
        self._roots: dict[Any, int] = {}
        self._failures: dict[int, InputError] = {}
        self._completed = as_completed(loop=client.loop)

    def sums(self, report: Callable[[int], None]) -> list[Sums]:
        waiting = 0 if self._keeps else WAITING_TASKS
        self._hand_out(threads_of(self._client) * (1 + waiting))
        try:
            for future in self._completed:
                if future in self._roots:
                    self._groups.merge(self._roots.pop(future), outcome_of(future))
                    self._hand_out(int(self._keeps))
                elif self._is_done(future):
                    segment = self._plan.segment(self._segments[future])
                    report(segment.stop - segment.start)
                    self._collect(future)
            if self._failures:
                raise self._failures[min(self._failures)]
            return self._groups.result()
        finally:
            out = [*self._segments, *self._roots]
            if out:
                self._client.cancel(out, force=True)

    def _hand_out(self, count: int) -> None:
        for index in islice(self._numbers, count):
            segment = self._plan.segment(index)
            rows = _rows_of(self._client, self._sources, segment)
            future = self._client.submit(
                _segment, _part(self._apart, segment), self._job, *rows, pure=False
            )
            self._segments[future] = index
            self._completed.add(future)

    def _is_done(self, future: Any) -> bool:
        """Tell whether a segment's sums are there; keep why not, if the input is to blame."""
        # of a result that was lost meanwhile, another worker makes it again
        if future.status != "finished":
            try:
                outcome_of(future)
            except InputError as error:
                self._failures[self._segments.pop(future)] = error
                # those that are out, before it, may fail too
                self._numbers = iter([])
                return False
        return True

    def _collect(self, future: Any) -> None:
        index = self._segments.pop(future)
        group, root = self._groups.add(index, future)
        if root is not None:
            self._roots[root] = group
            self._completed.add(root)
        self._hand_out(int(not self._keeps))


class _Groups(Generic[Sums]):
    """The lower part of the tree, of tasks, and the upper part, which is merged here."""

    def __init__(self, client: Any, segments: int, kept: KeptTree[Sums] | None) -> None:
        self._client = client
        self._segments = segments
        self._size = 1
        while kept is None and self._size * _MOST_GROUPS < segments:
            self._size *= 2
        self._lower: dict[int, MergeTree[Any]] = {}
        self._missing: dict[int, int] = {}
        groups = -(-segments // self._size)
        self._upper: MergeTree[list[Sums]]
        if kept is None:
            self._upper = MergeTree(groups, merge_folds)
        else:
            self._upper = kept.tree

    def add(self, index: int, future: Any) -> tuple[int, Any]:
        """Add the sums of a segment; return its group, and its sums if it is whole by this one."""
        group, place = divmod(index, self._size)
        if group not in self._lower:
            leaves = min(self._size, self._segments - group * self._size)
            self._lower[group] = MergeTree(leaves, self._merge_task)
            self._missing[group] = leaves
        self._lower[group].add(place, future)
        self._missing[group] -= 1
        return group, None if self._missing[group] else self._lower.pop(group).result()

    def merge(self, group: int, sums: list[Sums]) -> None:
        """Add the sums of a whole group."""
        self._upper.add(group, sums)

    def result(self) -> list[Sums]:
        """Return the sums of all groups."""
        return self._upper.result()

    def _merge_task(self, left: Any, right: Any) -> Any:
        return self._client.submit(_merged, left, right, pure=False, priority=_MERGES_FIRST)


def _part(apart: Apart, segment: Segment) -> _Part:
    rows = segment.start, segment.stop
    return _Part(
        segment,
        None if apart.weights is None else apart.weights[slice(*rows)],
        None if apart.assign is None else apart.assign(*rows),
    )


def _rows_of(client: Any, sources: Sequence[Source], segment: Segment) -> list[Any]:
    """Return, of sources that are Dask arrays, the rows of a segment, which stay on the cluster."""
    return [
        client.compute(source.blocks[segment.start : segment.stop])
        for source in sources
        if source.address is None
    ]


def _as_it_is(job: _Job[Sums]) -> _Job[Sums]:
    return job


def _segment(part: _Part, job: _Job[Sums], *arrays: NDArray[Any]) -> list[Sums]:
    """Return the sums of a segment, one per fold; what each worker does."""
    plan, segment = job.work.plan, part.segment
    given = iter(arrays)
    opened = [None if own is None else opened_once(job.run, own) for own in job.addresses]
    sources = [
        _from_rows(next(given), segment, plan.rows, label) if own is None else own
        for own, label in zip(opened, job.work.labels, strict=True)
    ]
    assign: Assign | None = None
    if part.assigned is not None:
        assign = partial(_slice, part.assigned, segment.start)
    elif job.folds > 1 and job.by is not None:
        assign = assigner_to(sources, job.folds, job.by)
    weigh = None if part.weights is None else partial(_slice, part.weights, segment.start)
    ring, accumulators = _memory_of(job, sources)
    blocks = read_blocks(
        sources,
        [segment],
        block_rows=plan.block_rows,
        ring=ring,
        check=partial(check_ids, sources),
    )
    cause: BaseException | None = None
    try:
        with one_blas_thread(), closing(blocks):
            for block in blocks:
                add_block(block, accumulators, sources, weigh, assign)
    except StreamFailure as failure:
        cause = failure.cause
    if cause is not None:
        # by itself: what refers to it could not be sent
        raise cause
    found = [each.moments() for each in accumulators]
    # not after a failure, which leaves sums of a part of the segment in them
    _memory.kept = job.run, ring, accumulators
    return found


_memory = threading.local()
"""Of each thread of a worker: ring and accumulators, whose pages cost a tenth of a segment."""


def _memory_of(
    job: _Job[Sums], sources: Sequence[Source]
) -> tuple[list[Slot], Sequence[Accumulating[Sums]]]:
    run, ring, accumulators = getattr(_memory, "kept", (None, [], []))
    _memory.kept = None, [], []
    if run != job.run:
        plan = job.work.plan
        ring = make_ring(sources, plan.block_rows, plan.ring_blocks, plan.device)
        accumulators = job.work.accumulators(job.folds)
    return ring, accumulators


def _merged(left: list[Sums], right: list[Sums]) -> list[Sums]:
    # what a task was given belongs to the worker
    return merge_folds(copy.deepcopy(left), right)


def _from_rows(array: NDArray[Any], segment: Segment, rows: int, label: str) -> Source:
    def read(start: int, out: NDArray[Any]) -> None:
        out[:] = array[start - segment.start : start - segment.start + len(out)]

    return Source(label, rows, array.shape[1], array.dtype, 1, read)


def _slice(values: NDArray[Any], first: int, start: int, stop: int) -> NDArray[Any]:
    return values[start - first : stop - first]
