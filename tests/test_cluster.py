"""Tasks over the workers of a Dask cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from distributed import Client, LocalCluster

import crossgram as cg
from crossgram.cluster import cluster_client, over_workers
from crossgram.resources import available_threads

ASKED: list[int] = []
GO_ON = threading.Event()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A cluster of one worker that is a thread of this process, and sees what is in it."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as own,
    ):
        yield own


def double(item: int, shared: int) -> int:
    return 2 * item + shared


def fail(item: int, shared: int) -> int:
    raise PermissionError(13, "Permission denied", f"/data/{item}")


def wait(item: int, shared: int) -> int:
    ASKED.append(item)
    if item:
        GO_ON.wait(30)
    return item


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "_NUM_THREADS" in name}


def tasks_that_wait(dask_worker: Any) -> int:
    return len(dask_worker.state.ready)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_item_is_done_once(client: Client) -> None:
    for large in (False, True):
        found = over_workers(client, double, iter(range(50)), 1, large=large)
        assert sorted(found) == list(range(1, 101, 2))


def test_what_a_worker_cannot_read_is_not_a_lost_cluster(client: Client) -> None:
    with pytest.raises(cg.RunError, match=r"a task failed on its worker: .*Permission denied"):
        next(over_workers(client, fail, iter([1]), 0))


def test_what_nobody_waits_for_any_longer_is_not_begun(client: Client) -> None:
    ASKED.clear()
    GO_ON.clear()
    found: Any = over_workers(client, wait, iter(range(9)), 0)
    assert next(found) == 0
    wait_until(lambda: len(ASKED) == 2 and any(client.run(tasks_that_wait).values()))
    found.close()
    wait_until(lambda: not any(client.run(tasks_that_wait).values()))
    GO_ON.set()
    assert client.submit(double, 1, 0).result() == 2
    assert ASKED == [0, 1]


@pytest.mark.parametrize("address", ["nonsense", "foo://127.0.0.1:8786", "tcp://127.0.0.1"])
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    started = time.monotonic()
    with (
        pytest.raises(cg.InputError, match=f"nobody answers at {address}, which is no address"),
        cluster_client(None, address),
    ):
        pass
    # not after the seconds that a client would try to connect
    assert time.monotonic() - started < 5


def test_what_workers_inherit_does_not_stay_in_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    before = environment()
    with cluster_client(1, None) as started:
        assert environment() == before
        (theirs,) = started.run(environment).values()
        assert theirs["OPENBLAS_NUM_THREADS"] == str(available_threads())
        # one that dies is started again, by the same way
        ((address, pid),) = started.run(os.getpid).items()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: bool(set(started.nthreads()) - {address}))
    assert environment() == before
