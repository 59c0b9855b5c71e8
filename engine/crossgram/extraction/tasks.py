"""Tasks of a job: images to rows on disk, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from crossgram.errors import RunError
from crossgram.extraction.batches import BatchRanges, decoded_batches
from crossgram.extraction.embedding import Seconds, embedded_batches, geometries_of
from crossgram.extraction.job import BadImage, Job
from crossgram.networks.network import Network
from crossgram.output import run_errors, uninterrupted
from crossgram.zarr_io import sync_rows, write_rows

__all__ = ["run_tasks"]


def run_tasks(
    job: Job,
    tasks: Sequence[int],
    networks: Sequence[Network],
    lanes: int,
    report: Callable[[int], None] = lambda rows: None,
    *,
    refuse_hopeless: bool = False,
) -> Seconds:
    """Embed the images of tasks; each leaves its mark when its rows are on disk.

    Parameters
    ----------
    job : Job
        What to do.
    tasks : sequence of int
        Which of its tasks, one after the other; images are decoded ahead across them.
    networks : sequence of Network
        Those of the job, loaded.
    lanes : int
        Batches to embed side by side.
    report : callable
        Called with the number of rows of each batch.
    refuse_hopeless : bool
        Whether nothing was done before, so that a network that gives nothing finite shows.
    """
    _check_is_there(job)
    stores = [_Target(job, network) for network in networks]
    seconds = Seconds()
    batches = decoded_batches(
        job.collection,
        job.images,
        geometries_of(networks),
        BatchRanges(tasks, job.task_rows, job.images.rows, job.running.batch_size),
        decoders=job.running.decoders,
        pinned=any(network.device.type == "cuda" for network in networks),
    )
    embedded = embedded_batches(
        batches,
        networks,
        job.images,
        stores[0].array.dtype,
        stop_at_bad_image=job.stop_at_bad_image,
        lanes=lanes,
        seconds=seconds,
        refuse_hopeless=refuse_hopeless,
    )
    bad: list[BadImage] = []
    # they end here, also after an error: the one its processes, the other what it has set
    with closing(batches), closing(embedded):
        for batch in embedded:
            for store, rows in zip(stores, batch.rows, strict=True):
                store.add(batch.start, rows)
            bad += batch.bad
            task = batch.start // job.task_rows
            if batch.stop == job.rows(task)[1]:
                started = time.perf_counter()
                _check_is_there(job)
                if not job.collection.root.exists():
                    raise RunError(
                        f"{job.collection.root}: is gone; bring it back and run again, what is "
                        "done is kept"
                    )
                with run_errors(job.work.path, "what is done is kept"):
                    for store in stores:
                        store.write(*job.rows(task))
                    job.finish(task, bad)
                bad = []
                seconds.writing += time.perf_counter() - started
            report(batch.stop - batch.start)
    return seconds


def _check_is_there(job: Job) -> None:
    """Stop the task of a run that was begun anew, before it makes the folder again."""
    if not job.work.path.exists():
        raise RunError(f"{job.work.path}: was removed; this run was stopped or begun anew")


class _Target:
    """A store that is being made; gathers the rows of a task."""

    def __init__(self, job: Job, network: Network) -> None:
        self.array = zarr.open_array(
            job.work.store(network.name) / "embeddings",
            mode="r+",
            config={"write_empty_chunks": True},
        )
        self._rows: NDArray[Any] = np.empty((job.task_rows, network.dim), self.array.dtype)
        self._task_rows = job.task_rows

    def add(self, start: int, rows: NDArray[Any]) -> None:
        inside = start % self._task_rows
        self._rows[inside : inside + len(rows)] = rows

    def write(self, start: int, stop: int) -> None:
        def put() -> None:
            write_rows(self.array, start, self._rows[: stop - start])
            sync_rows(self.array, start, stop)

        uninterrupted(put)
