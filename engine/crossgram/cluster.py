"""A Dask cluster: one that is started here, or one that is joined."""

from __future__ import annotations

import logging
import os
import platform
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import crossgram
from crossgram.devices import check_gpus_for
from crossgram.errors import CrossgramError, InputError, MemoryLimitError, RunError
from crossgram.fingerprint import fingerprint
from crossgram.locations import ObjectPath, locate
from crossgram.plan import smaller_chunks
from crossgram.resources import available_threads
from crossgram.source import Source, open_source
from crossgram.zarr_io import open_node

__all__ = [
    "WAITING_TASKS",
    "check_sees",
    "check_workers",
    "cluster_client",
    "opened_once",
    "outcome_of",
    "over_workers",
    "threads_of",
]

_CONNECT_SECONDS = 10
_DRAIN_SECONDS = 60
_OWN_DESCRIPTORS, _DESCRIPTORS_PER_WORKER = 64, 10
"""Of a process with a cluster: about 25 and 9 are measured, the rest is for what it reads."""

WAITING_TASKS = 2
"""Per thread of a worker: what it can begin at once when a task is done."""


@contextmanager
def cluster_client(
    workers: int | None, scheduler: str | None, device: str = "cpu"
) -> Iterator[Any]:
    """Give a client of a local cluster, or of the one at an address; None if neither is asked for.

    Parameters
    ----------
    workers : int, optional
        Processes to start here; they share the processors.
    scheduler : str, optional
        Address of a Dask scheduler, such as tcp://host:8786.
    device : str
        What workers that are started here compute on: with "cuda", each has a GPU of its own,
        which dask-cuda sees to.

    Raises
    ------
    InputError
        If both are given, Dask is not installed, or nobody answers at the address; on GPUs, if
        dask-cuda is not installed, or there are more workers than GPUs.
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
        _check_address(scheduler)
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
    _check_descriptors(workers or 1)
    started = _gpu_cluster(workers or 1) if device.startswith("cuda") else LocalCluster
    threads = str(max(1, available_threads() // (workers or 1)))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    settings = {
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(names, threads),
        # a worker may have processes of its own that decode
        "distributed.worker.daemon": False,
        # what each process asks itself many times a second takes the workers several percent
        "distributed.worker.profile.enabled": False,
        "distributed.worker.memory.monitor-interval": "500ms",
        "distributed.admin.tick.interval": "500ms",
        "distributed.admin.system-monitor.interval": "2s",
        "distributed.worker.preload": [__name__],
    }
    before = {name: os.environ.get(name) for name in names}
    try:
        with (
            dask.config.set(settings),
            started(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                # of workers that die, say: their tasks are done again
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster, set_as_default=False, direct_to_workers=True) as client,
        ):
            _restore_environment(before)
            yield client
    finally:
        _restore_environment(before)


def _restore_environment(before: dict[str, str | None]) -> None:
    """Take back what Dask sets here for workers to inherit, when it starts one and again later."""
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _gpu_cluster(workers: int) -> Any:
    """Return what starts workers that have a GPU each."""
    check_gpus_for(workers)
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise InputError(
            "workers: needs dask-cuda to give each a GPU of its own; pip install dask-cuda, or "
            "leave out --workers and use one GPU"
        ) from error
    return LocalCUDACluster


def _check_descriptors(workers: int) -> None:
    """Refuse a local cluster that would run out of files on the way, long after it is begun."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _OWN_DESCRIPTORS + _DESCRIPTORS_PER_WORKER * workers
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise InputError(
            f"workers: {workers} need {needed} open files, the limit of this process is {limit}; "
            f"raise it (ulimit -n {needed}), or give fewer workers"
        )


def _check_address(scheduler: str) -> None:
    """Refuse what is no address: a client that fails to connect to it takes long to give up."""
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend

    try:
        scheme, location = parse_address(scheduler)
        get_backend(scheme)
        parse_host_port(location)
    except ValueError as error:
        raise InputError(
            f"scheduler: nobody answers at {scheduler}, which is no address ({error}); expected "
            "one such as tcp://host:8786"
        ) from error


def dask_setup(_worker: Any) -> None:
    """Leave signals to stop, which all processes may get, to the one that started the workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def check_sees(client: Any, places: Sequence[str | Path]) -> None:
    """Refuse a cluster of which a worker does not see a path, or cannot read from a URL.

    Raises
    ------
    InputError
        Naming the worker and the place.
    """
    for worker, reasons in _asked(client, _why_each_is_unseen, list(map(str, places))).items():
        for place, why_not in zip(places, reasons, strict=True):
            if why_not is not None:
                raise InputError(f"{place}: the worker {worker} {why_not}")


def _why_each_is_unseen(places: Sequence[str]) -> list[str | None]:
    return list(map(_why_unseen, places))


def _why_unseen(place: str) -> str | None:
    """Return why this process does not see a path or URL, None if it does."""
    location = locate(place)
    if not isinstance(location, ObjectPath):
        if location.exists():
            return None
        return "does not see it; put it where all workers do, under the same name"
    try:
        open_node(location)
    except CrossgramError as error:
        return f"cannot read it with what its own environment says: {error}"
    return None


def check_workers(client: Any, sources: Sequence[Source], memory: int) -> None:
    """Refuse a cluster whose workers cannot do a pass, before it begins.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    sources : sequence of Source
        What is read; every worker must see what has an address.
    memory : int
        Bytes that a task holds.

    Raises
    ------
    InputError
        If a worker is of another version of crossgram, NumPy or Python, or does not see a source,
        or finds other rows under its name.
    MemoryLimitError
        If the tasks that a worker does at once do not fit its memory.
    """
    _check_versions(client)
    addresses = [source.address for source in sources if source.address is not None]
    check_sees(client, addresses)
    for worker, facts in client.scheduler_info(n_workers=-1)["workers"].items():
        limit, needed = facts["memory_limit"], memory * facts["nthreads"]
        if limit and needed > limit:
            advice = smaller_chunks(sources, limit // facts["nthreads"]) if sources else None
            raise MemoryLimitError(
                f"memory: the worker {worker} has {limit / 1e6:,.0f} MB, its {facts['nthreads']} "
                f"tasks at once hold {needed / 1e6:,.0f} MB; "
                f"{advice or 'give it more, or fewer threads'}"
            )
    _check_same(client, addresses)


def _check_same(client: Any, addresses: Sequence[str]) -> None:
    """Refuse workers that find something else at an address, as another disk or service has it."""
    own = _digests(addresses)
    for worker, theirs in _asked(client, _digests, addresses).items():
        for address, here, there in zip(addresses, own, theirs, strict=True):
            if here != there:
                raise InputError(
                    f"{address}: the worker {worker} finds other rows there than this machine; "
                    "give both the same disk, or the same service of objects"
                )


def _digests(addresses: Sequence[str]) -> list[str]:
    return [fingerprint(open_source(address), None).digest for address in addresses]


def _asked(client: Any, function: Callable[..., Any], *given: Any) -> dict[str, Any]:
    """Return what each worker answers; one that dies meanwhile gives none, and does no task."""
    from distributed.comm.core import CommClosedError

    found = client.run(function, *given, on_error="return")
    answers = {worker: own for worker, own in found.items() if not isinstance(own, CommClosedError)}
    for own in answers.values():
        if isinstance(own, BaseException):
            raise own
    return answers


def _check_versions(client: Any) -> None:
    own = _versions()
    try:
        found = _asked(client, _versions)
    except ModuleNotFoundError as error:
        raise InputError(
            f"workers: a worker has no crossgram ({error}); install the same version there"
        ) from error
    for worker, theirs in found.items():
        for name, version in own.items():
            if theirs[name] != version:
                raise InputError(
                    f"workers: {worker} has {name} {theirs[name]}, here is {version}; results "
                    "would not be the same: install the same versions everywhere"
                )


def _versions() -> dict[str, str]:
    return {
        "crossgram": crossgram.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
    }


def over_workers(
    client: Any,
    work: Callable[..., Any],
    items: Iterator[Any],
    shared: Any,
    *,
    large: bool = False,
    drained: bool = False,
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
        What they have in common.
    large : bool
        Send it to each worker once, and not with each item; it is then lost with the last worker.
    drained : bool
        Before a failure is raised, wait for the tasks that are out: of one that is running, only
        the result can be given up.
    """
    from distributed import as_completed

    sent = client.scatter(shared, broadcast=True, hash=False) if large else shared
    pending = set()

    def submit(count: int) -> list[Any]:
        taken = [item for _, item in zip(range(count), items, strict=False)]
        futures = [client.submit(work, item, sent, pure=False) for item in taken]
        pending.update(futures)
        return futures

    completed = as_completed(submit(threads_of(client) * (1 + WAITING_TASKS)), loop=client.loop)
    try:
        for future in completed:
            result = outcome_of(future)
            pending.discard(future)
            completed.update(submit(1))
            yield result
    finally:
        for future in pending if drained else ():
            with suppress(Exception):
                future.exception(timeout=_DRAIN_SECONDS)
        # of those that a cluster goes on with, nobody will ask for the result
        with suppress(Exception):
            client.cancel(list(pending), force=True)


@lru_cache(maxsize=64)
def opened_once(run: str, address: str) -> Source:
    """Open what a run reads, once per worker."""
    return open_source(address)


def threads_of(client: Any) -> int:
    """Return how many tasks a cluster does at once, at least 1."""
    return sum(client.nthreads().values()) or 1


def outcome_of(future: Any) -> Any:
    """Return what a task gave, or raise what it raised.

    Raises
    ------
    RunError
        If every worker that was given it died, it failed of the system, or the cluster is gone.
    """
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise RunError(
            f"a task was given to several workers, and each died of it ({error}); look into the "
            "workers' logs, give them more memory, and run again"
        ) from error
    except (CancelledError, OSError) as error:
        if future.status == "error":
            raise RunError(f"a task failed on its worker: {error}") from error
        raise RunError(
            f"the cluster was lost ({type(error).__name__}: {error}); start it and run again"
        ) from error
