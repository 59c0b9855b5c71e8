"""A Dask cluster: one that is started here, or one that is joined."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crossgram.errors import InputError, RunError
from crossgram.plan import available_threads

__all__ = ["check_sees", "cluster_client", "over_workers"]

_CONNECT_SECONDS = 10
_WAITING_TASKS = 2
"""Per thread of a worker: what it can begin at once when a task is done."""


@contextmanager
def cluster_client(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """Give a client of a local cluster, or of the one at an address; None if neither is asked for.

    Parameters
    ----------
    workers : int, optional
        Processes to start here; they share the processors.
    scheduler : str, optional
        Address of a Dask scheduler, such as tcp://host:8786.

    Raises
    ------
    InputError
        If both are given, Dask is not installed, or nobody answers at the address.
    """
    if workers is None and scheduler is None:
        yield None
        return
    if workers is not None and scheduler is not None:
        raise InputError("workers: given with a scheduler, which has its own; give one of the two")
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError("workers: needs Dask; pip install 'crossgram[cluster]'") from error
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"scheduler: nobody answers at {scheduler} ({error}); start one with `dask "
                "scheduler`, or give its address"
            ) from error
        with client:
            try:
                client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
            except TimeoutError as error:
                raise InputError(
                    f"scheduler: {scheduler} has no workers; start some with `dask worker "
                    f"{scheduler}`"
                ) from error
            yield client
        return
    if workers is not None and workers < 1:
        raise InputError(f"workers: {workers} given, expected at least 1")
    threads = str(max(1, available_threads() // (workers or 1)))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    settings = {
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(names, threads),
        # a worker may have processes of its own that decode
        "distributed.worker.daemon": False,
        "distributed.worker.preload": [__name__],
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            # of workers that die, say: their tasks are done again
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def dask_setup(_worker: Any) -> None:
    """Leave signals to stop, which all processes may get, to the one that started the workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def check_sees(client: Any, paths: Sequence[Path]) -> None:
    """Refuse a cluster of which a worker does not see a path.

    Raises
    ------
    InputError
        Naming the worker and the path.
    """
    for path in paths:
        for worker, is_there in client.run(os.path.exists, str(path)).items():
            if not is_there:
                raise InputError(
                    f"{path}: the worker {worker} does not see it; put it where all workers do, "
                    "under the same name"
                )


def over_workers(
    client: Any, work: Callable[..., Any], items: Iterator[Any], shared: Any, *, large: bool = False
) -> Iterator[Any]:
    """Yield what `work(item, shared)` gives for each item, in the order in which they are done.

    A task whose worker dies is given to another one; its failure is raised here, and `RunError` if
    every worker that was given it died, or the cluster is gone.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    work : callable
        A function of a module.
    items : iterator
        Only a few are handed out ahead.
    shared : object
        Sent with each item; or to each worker once, if it is large, and then lost with the last
        worker.
    """
    from concurrent.futures import CancelledError

    from distributed import KilledWorker, as_completed

    sent = client.scatter(shared, broadcast=True, hash=False) if large else shared
    threads = sum(client.nthreads().values()) or 1
    pending = set()

    def submit(count: int) -> list[Any]:
        taken = [item for _, item in zip(range(count), items, strict=False)]
        futures = [client.submit(work, item, sent, pure=False) for item in taken]
        pending.update(futures)
        return futures

    completed = as_completed(submit(threads * (1 + _WAITING_TASKS)), loop=client.loop)
    try:
        for future in completed:
            try:
                result = future.result()
            except KilledWorker as error:
                raise RunError(
                    f"a task was given to several workers, and each died of it ({error}); look "
                    "into the workers' logs, give them more memory, and run again"
                ) from error
            except (CancelledError, OSError) as error:
                if future.status == "error":
                    raise RunError(f"a task failed on its worker: {error}") from error
                raise RunError(
                    f"the cluster was lost ({type(error).__name__}: {error}); start it and run "
                    "again"
                ) from error
            pending.discard(future)
            completed.update(submit(1))
            yield result
    finally:
        # of those that a cluster goes on with, nobody will ask for the result
        with suppress(Exception):
            client.cancel(list(pending), force=True)
