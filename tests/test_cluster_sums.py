"""Passes on a cluster: the same bits as on one machine, whatever happens to its workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from distributed import Client
from ten_segments import ROWS, SEGMENT, assert_same_bits, write_stores

import crossgram as cg
from crossgram.cluster import cluster_client
from crossgram.errors import InputError, MemoryLimitError, NonFiniteError, PairingError


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module", params=[1, 2, 3])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with cluster_client(request.param, None) as started:
        yield started


@pytest.fixture(scope="module")
def two() -> Iterator[Client]:
    with cluster_client(2, None) as started:
        yield started


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"folds": 3, "group_by": "labels", "normalize": True},
        {"precision": "fast", "norms": True},
        {"balance": True},
    ],
    ids=["plain", "folds", "fast", "balance"],
)
def test_bits_are_those_of_one_machine(
    stores: list[Path], client: Client, options: dict[str, Any]
) -> None:
    rows: list[int] = []
    found = cg.accumulate(
        stores, client=client, progress=lambda done: rows.append(done.rows), **options
    )
    assert_same_bits(found, cg.accumulate(stores, **options))
    assert found.history[0].ids == cg.accumulate(stores).history[0].ids
    assert rows[-1] == ROWS
    assert rows == sorted(rows)


def test_seven_workers_that_are_threads(stores: list[Path]) -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=7, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as own,
    ):
        assert_same_bits(cg.accumulate(stores, client=own), cg.accumulate(stores))


def test_further_passes_are_made_there_too(tmp_path: Path, two: Client) -> None:
    cg.synth(tmp_path / "pair", rows=40_000, source_dim=24, target_dim=8, condition=1e6, dtype="f8")
    pair = tmp_path / "pair" / "a.zarr", tmp_path / "pair" / "b.zarr"
    here, there = (cg.fit(*pair, digits=14, client=own) for own in (None, two))
    assert here.certificate is not None
    assert here.certificate.passes > 2
    assert there.certificate == here.certificate
    np.testing.assert_array_equal(there.weight, here.weight)


class TestDaskArrays:
    def test_rows_stay_on_the_cluster(self, two: Client) -> None:
        here = os.getpid()

        def block(block_id: tuple[int, int]) -> np.ndarray:
            assert os.getpid() != here
            rng = np.random.default_rng(block_id[0])
            return rng.normal(size=(5000, 6)).astype("f4")

        x = da.map_blocks(
            block, chunks=((5000,) * 8, (6,)), dtype="f4", meta=np.empty((0, 0), "f4")
        )
        x = two.persist(x)
        y = (2 * x[:, :3] + 1).astype("f4")
        found = cg.accumulate([x, y], names=["x", "y"], client=two)
        expected = cg.accumulate(
            [two.compute(x).result(), two.compute(y).result()], names=["x", "y"]
        )
        assert found.rows == 40_000
        # of other blocks than in memory, so not to the last bit
        np.testing.assert_allclose(found.scatter("x", "y"), expected.scatter("x", "y"), rtol=1e-12)

    def test_moments_are_part_of_a_graph(self, stores: list[Path], two: Client) -> None:
        import dask

        delayed = dask.delayed(cg.accumulate)([str(path) for path in stores])
        whole = dask.delayed(cg.solve)(delayed, source="a", target="b")
        fitted = two.compute(whole).result()
        np.testing.assert_array_equal(fitted.weight, cg.fit(*stores).weight)


class TestFailures:
    def test_the_earliest_failure_is_raised(self, tmp_path: Path, two: Client) -> None:
        rows = np.ones((6 * SEGMENT, 3), "f4")
        rows[[SEGMENT + 7, 4 * SEGMENT]] = np.nan
        np.save(tmp_path / "x.npy", rows)
        with pytest.raises(NonFiniteError, match=rf"x\.npy: row {SEGMENT + 7} "):
            cg.accumulate([tmp_path / "x.npy", tmp_path / "x.npy"], client=two)

    def test_rows_of_other_images_are_found(self, tmp_path: Path, two: Client) -> None:
        for name, ids in (("a", "xyz"), ("b", "xzy")):
            with cg.EmbeddingStore.create(tmp_path / f"{name}.zarr", dim=2) as writer:
                writer.append(np.eye(3, 2, dtype="f4"), ids=list(ids))
        with pytest.raises(PairingError, match="row 1"):
            cg.accumulate([tmp_path / "a.zarr", tmp_path / "b.zarr"], client=two)

    def test_what_lies_in_this_process_is_refused(
        self, stores: list[Path], tmp_path: Path, two: Client
    ) -> None:
        with pytest.raises(InputError, match="array 2: lies in this process"):
            cg.accumulate([stores[0], np.ones((ROWS, 2))], client=two)
        # in the same order, there is nothing to be joined
        assert cg.accumulate(stores, join="ids", client=two).rows == ROWS
        for name, ids in (("a", "xyz"), ("b", "xzy")):
            with cg.EmbeddingStore.create(tmp_path / f"{name}.zarr", dim=2) as writer:
                writer.append(np.eye(3, 2, dtype="f4"), ids=list(ids))
        with pytest.raises(InputError, match=r"b\.zarr: is in another order, and was joined"):
            cg.accumulate([tmp_path / "a.zarr", tmp_path / "b.zarr"], join="ids", client=two)

    def test_workers_of_another_version_are_named(self, stores: list[Path]) -> None:
        def older() -> None:
            import crossgram

            crossgram.__version__ = "0.0.1"

        with cluster_client(1, None) as own:
            own.run(older)
            with pytest.raises(InputError, match=r"tcp://.* has crossgram 0\.0\.1, here is"):
                cg.accumulate(stores, client=own)

    def test_workers_without_the_memory_are_named(self, stores: list[Path]) -> None:
        from distributed import LocalCluster

        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=1,
                processes=False,
                dashboard_address=":0",
                memory_limit="20MB",
            ) as cluster,
            Client(cluster, set_as_default=False) as own,
            pytest.raises(MemoryLimitError, match="has 20 MB, its 1 tasks at once hold"),
        ):
            cg.accumulate(stores, client=own)

    def test_chunks_too_large_for_a_worker_are_named(self, tmp_path: Path) -> None:
        from distributed import LocalCluster

        with cg.EmbeddingStore.create(tmp_path / "x.zarr", 64, chunk_rows=100_000) as writer:
            writer.append(np.ones((100_000, 64), "f4"))
        said = r"x\.zarr has chunks of 100,000 rows, 26 MB each.* write it again with smaller ones"
        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=1,
                processes=False,
                dashboard_address=":0",
                memory_limit="40MB",
            ) as cluster,
            Client(cluster, set_as_default=False) as own,
            pytest.raises(MemoryLimitError, match=said),
        ):
            cg.accumulate([tmp_path / "x.zarr"], client=own)


def test_killed_workers_cost_nothing_but_time(stores: list[Path]) -> None:
    expected = cg.accumulate(stores)
    with cluster_client(2, None) as own:
        killed: list[int] = []

        def kill(progress: cg.Progress) -> None:
            # twice, whichever worker is there by then
            if len(killed) < 2 and progress.rows > (2 + 3 * len(killed)) * SEGMENT:
                # of one that is just being replaced there is no answer
                there = own.run(os.getpid, on_error="ignore").values()
                alive = [pid for pid in there if pid not in killed]
                os.kill(alive[0], signal.SIGKILL)
                killed.append(alive[0])

        found = cg.accumulate(stores, client=own, progress=kill)
    assert len(killed) == 2
    assert_same_bits(found, expected)
    assert found.rows == ROWS
    assert found.history[0].ids == expected.history[0].ids


class Wire:
    """A port that leads to another one, until it is cut: then all connections break."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        broken, self._ends = self._ends, []
        for end in broken:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        return len(broken) // 2

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._server.accept()
            except OSError:
                return
            other = socket.create_connection(("127.0.0.1", self._port))
            self._ends += [one, other]
            for pair in ((one, other), (other, one)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._server.close()
        self.cut()


def test_a_worker_behind_a_cut_wire_costs_nothing_but_time(stores: list[Path]) -> None:
    from distributed import LocalCluster

    expected = cg.accumulate(stores)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as own,
        closing(Wire(int(cluster.scheduler_address.rpartition(":")[2]))) as wire,
    ):
        command = [sys.executable, "-m", "distributed.cli.dask_worker", f"127.0.0.1:{wire.port}"]
        process = subprocess.Popen(
            [*command, "--nthreads", "1", "--no-dashboard"], stderr=subprocess.DEVNULL
        )
        try:
            own.wait_for_workers(2, timeout=60)
            cuts: list[int] = []

            def cut(progress: cg.Progress) -> None:
                if not cuts and progress.rows > 3 * SEGMENT:
                    cuts.append(wire.cut())

            found = cg.accumulate(stores, client=own, progress=cut)
            assert len(own.nthreads()) == 1
        finally:
            process.terminate()
            process.wait()
    assert cuts[0] >= 1
    assert_same_bits(found, expected)
    assert found.rows == ROWS
