"""Reading ahead: runs of rows into a ring of blocks, and threads that consume them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.blas_threads import one_blas_thread
from crossgram.kernels import kernels_of
from crossgram.plan import Plan, Segment
from crossgram.source import Source, masked_rows

__all__ = ["Block", "Slot", "StreamFailure", "make_ring", "read_blocks", "stream_segments"]

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Block:
    """Rows of every source, valid until the next block is asked for.

    Attributes
    ----------
    rows : list of ndarray, shape (stop - start, dim)
        One per source.
    start, stop : int
        Which rows.
    segment : Segment
        What they are part of.
    masked : ndarray of bool, shape (stop - start,), or None
        Which of them hold no embedding in some source; None where no source has a mask.
    """

    rows: list[NDArray[Any]]
    start: int
    stop: int
    segment: Segment
    masked: NDArray[np.bool_] | None = None

    @property
    def is_last(self) -> bool:
        """Whether the segment ends here."""
        return self.stop == self.segment.stop


Check = Callable[[int, int], None]
"""Called with the row range of a block once it has been read; raises to stop the run."""


class StreamFailure(Exception):  # noqa: N818  (never leaves the library)
    """Why reading stopped, and in which segment."""

    def __init__(self, segment: int, cause: BaseException) -> None:
        super().__init__(segment, cause)
        self.segment = segment
        self.cause = cause


Slot = list[NDArray[Any]]
"""Memory for a block of every source."""


def make_ring(
    sources: Sequence[Source], block_rows: int, blocks: int, device: str = "cpu"
) -> list[Slot]:
    """Return memory for some blocks of so many rows, for what computes on a device."""
    kernels = kernels_of(device)
    return [
        [kernels.host_buffer((block_rows, source.dim), source.dtype) for source in sources]
        for _ in range(blocks)
    ]


def read_blocks(
    sources: Sequence[Source],
    segments: Iterable[Segment],
    *,
    block_rows: int,
    ring: Sequence[Slot],
    check: Check | None = None,
) -> Generator[Block, None, None]:
    """Yield the rows of segments block by block; a thread reads ahead into preallocated memory.

    Parameters
    ----------
    sources : sequence of Source
        Where from.
    segments : iterable of Segment
        Which rows.
    block_rows : int
        Of a block.
    ring : sequence of Slot
        The memory, of `make_ring`, and of this call alone until it ends.
    check : callable, optional
        Called with the row range of each block.

    Raises
    ------
    StreamFailure
        With what the reader or the check raised, after the blocks before it.
    """
    free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
    full: queue.SimpleQueue[tuple[Slot, Block] | StreamFailure | None] = queue.SimpleQueue()
    for slot in ring:
        free.put(slot)

    def read_ahead() -> None:
        position = 0
        try:
            for start, stop, segment in _cut(segments, block_rows):
                position = segment.index
                slot = free.get()
                if slot is None:
                    return
                rows = [array[: stop - start] for array in slot]
                for source, array in zip(sources, rows, strict=True):
                    source.read(start, array)
                if check is not None:
                    check(start, stop)
                masked = masked_rows(sources, start, stop)
                full.put((slot, Block(rows, start, stop, segment, masked)))
            full.put(None)
        except BaseException as error:  # noqa: BLE001  (raised again by the consumer)
            full.put(StreamFailure(position, error))

    reader = threading.Thread(target=read_ahead, name="crossgram-reader", daemon=True)
    reader.start()
    try:
        while (item := full.get()) is not None:
            if isinstance(item, StreamFailure):
                raise item
            slot, block = item
            yield block
            free.put(slot)
    finally:
        free.put(None)
        reader.join()


def _cut(segments: Iterable[Segment], block_rows: int) -> Iterator[tuple[int, int, Segment]]:
    for segment in segments:
        for start in range(segment.start, segment.stop, block_rows):
            yield start, min(start + block_rows, segment.stop), segment


class _Segments:
    """Hands out segments in order, and none after one that failed."""

    def __init__(self, plan: Plan, done: Collection[int]) -> None:
        self._plan = plan
        self._done = done
        self._lock = threading.Lock()
        self._next = 0
        self._end = plan.segments

    def __iter__(self) -> Iterator[Segment]:
        while True:
            with self._lock:
                if self._next >= self._end:
                    return
                index, self._next = self._next, self._next + 1
            if index not in self._done:
                yield self._plan.segment(index)

    def stop_before(self, index: int) -> None:
        with self._lock:
            self._end = min(self._end, index)

    def is_wanted(self, index: int) -> bool:
        return index < self._end


def stream_segments(
    plan: Plan,
    sources: Sequence[Source],
    consume: Callable[[], Callable[[Block], None]],
    *,
    check: Check | None,
    progress: Callable[[int], None],
    done: Collection[int] = (),
) -> None:
    """Read every segment of a plan and give its blocks, in order, to a consumer.

    Each of the plan's threads has a consumer of its own, a reader that runs ahead of it, and
    products on one BLAS thread: nothing that is computed depends on how many threads there are.

    Parameters
    ----------
    plan : Plan
        What to read and with how many threads.
    sources : sequence of Source
        Where from.
    consume : callable
        Makes the consumer of one thread.
    check : callable
        Called by the readers with the row range of each block.
    progress : callable
        Called in the caller's thread with the rows finished since the last call.
    done : collection of int
        Segments to leave out.

    Raises
    ------
    CrossgramError
        The failure in the earliest segment; segments before it have been consumed.
    """
    segments = _Segments(plan, done)
    finished: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    failures: list[tuple[int, BaseException]] = []

    def work() -> None:
        current = 0
        try:
            consumer = consume()
            blocks = read_blocks(
                sources,
                segments,
                block_rows=plan.block_rows,
                ring=make_ring(sources, plan.block_rows, plan.ring_blocks, plan.device),
                check=check,
            )
            with closing(blocks):
                for block in blocks:
                    current = block.segment.index
                    if not segments.is_wanted(current):
                        break
                    consumer(block)
                    finished.put(block.stop - block.start)
        except StreamFailure as failure:
            failures.append((failure.segment, failure.cause))
            segments.stop_before(failure.segment)
        except BaseException as error:  # noqa: BLE001  (raised again by the caller's thread)
            failures.append((current, error))
            segments.stop_before(current)
        finally:
            finished.put(None)

    threads = [
        threading.Thread(target=work, name=f"crossgram-{k}", daemon=True)
        for k in range(plan.threads)
    ]
    with one_blas_thread(), _running(threads, segments):
        _report(finished, len(threads), progress)
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]


@contextmanager
def _running(threads: Sequence[threading.Thread], segments: _Segments) -> Iterator[None]:
    """Run threads to their end; after an exception, to that of what they are working on."""
    try:
        for thread in threads:
            thread.start()
        yield
    except BaseException:
        segments.stop_before(0)
        raise
    finally:
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def _report(
    finished: queue.SimpleQueue[int | None], running: int, progress: Callable[[int], None]
) -> None:
    while running:
        try:
            rows = finished.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if rows is None:
            running -= 1
        else:
            progress(rows)
