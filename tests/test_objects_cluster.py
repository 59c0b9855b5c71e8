"""Stores in buckets with workers, schedulers and checkpoints, and in every command that reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import refused, succeeds
from distributed import Client
from object_server import Fault, Proxy, bucket_environment, proxy, upload
from people import write_people
from ten_segments import assert_same_bits

import crossgram as cg
from crossgram.cluster import cluster_client
from crossgram.errors import InputError, NonFiniteError, RunError

ROWS, SEGMENT = 70_000, 16_384
CHUNK = "GET .*/embeddings/c/"


@pytest.fixture(scope="module")
def before() -> Iterator[Proxy]:
    """Return the proxy that this process and all workers reach the bucket through."""
    with bucket_environment() as patch, proxy(os.environ["AWS_ENDPOINT_URL"]) as told:
        patch.setenv("AWS_ENDPOINT_URL", told.url)
        patch.setenv("AWS_MAX_ATTEMPTS", "3")
        yield told


@pytest.fixture
def faulty(before: Proxy) -> Iterator[Proxy]:
    before.requests.clear()
    yield before
    before.faults = []
    before.go_on.clear()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("stores")
    rng = np.random.default_rng(0)
    for name, dim in (("a", 12), ("b", 7)):
        with cg.EmbeddingStore.create(folder / f"{name}.zarr", dim, chunk_rows=SEGMENT) as writer:
            labels = np.arange(ROWS) % 997 if name == "a" else None
            writer.append(rng.normal(size=(ROWS, dim)).astype("f4"), labels=labels)
    return [folder / "a.zarr", folder / "b.zarr"]


@pytest.fixture(scope="module")
def urls(before: Proxy, pair: list[Path]) -> list[str]:
    return [upload(path, f"pair/{path.name}") for path in pair]


@pytest.fixture(scope="module")
def two(before: Proxy) -> Iterator[Client]:
    with cluster_client(2, None) as started:
        yield started


@pytest.mark.parametrize("options", [{}, {"folds": 3, "group_by": "labels"}], ids=["one", "folds"])
def test_workers_give_the_bits_of_one_machine(
    pair: list[Path], urls: list[str], faulty: Proxy, two: Client, options: dict[str, Any]
) -> None:
    faulty.faults = [Fault("busy", rf"{CHUNK}3/0"), Fault("cut", rf"{CHUNK}2/0")]
    assert_same_bits(cg.accumulate(urls, client=two, **options), cg.accumulate(pair, **options))
    assert faulty.done


def test_commands_take_workers_a_scheduler_and_a_checkpoint(
    pair: list[Path], urls: list[str], two: Client, tmp_path: Path
) -> None:
    expected = cg.fit(*pair)
    running = ("--scheduler", two.scheduler.address)
    for kind, options in {"scheduler": running, "workers": ("--workers", 2)}.items():
        out = f"{kind}.safetensors"
        succeeds("fit", *urls, "-o", out, *options, "--checkpoint", "kept", cwd=tmp_path)
        np.testing.assert_array_equal(cg.LinearMap.load(tmp_path / out).weight, expected.weight)
        assert not (tmp_path / "kept").exists()


class TestCheckpoints:
    @pytest.mark.parametrize("on_workers", [False, True], ids=["threads", "workers"])
    def test_a_run_that_the_service_stopped_goes_on(
        self,
        pair: list[Path],
        urls: list[str],
        faulty: Proxy,
        two: Client,
        tmp_path: Path,
        on_workers: bool,
    ) -> None:
        options: dict[str, Any] = {"checkpoint": tmp_path / "kept"}
        options |= {"client": two} if on_workers else {"threads": 1}

        def go_on(progress: cg.Progress) -> None:
            if progress.rows >= 2 * SEGMENT:
                faulty.go_on.set()

        faulty.faults = [Fault("held", r"a\.zarr/embeddings/c/3/0", 1000)]
        with pytest.raises(RunError, match=rf"{urls[0]}/embeddings/c/3/0: .* 503"):
            cg.accumulate(urls, progress=go_on, **options)
        assert list(tmp_path.glob("kept/pass-0/*.safetensors"))
        faulty.faults = []
        faulty.requests.clear()
        found = cg.accumulate(urls, **options)
        assert_same_bits(found, cg.accumulate(pair))
        # of workers, tasks of the first run may still be at it
        assert on_workers or faulty.count(rf"{CHUNK}[12]/0") == 0

    def test_copies_on_disk_are_the_same_to_it(
        self, pair: list[Path], urls: list[str], faulty: Proxy, tmp_path: Path
    ) -> None:
        def stop(progress: cg.Progress) -> None:
            if progress.rows > ROWS // 2:
                raise KeyboardInterrupt

        kept = tmp_path / "kept"
        with pytest.raises(KeyboardInterrupt):
            cg.accumulate(urls, checkpoint=kept, progress=stop)
        assert_same_bits(cg.accumulate(pair, checkpoint=kept), cg.accumulate(pair))

    def test_the_folder_is_on_this_machine(self, urls: list[str], tmp_path: Path) -> None:
        message = refused(
            "fit", *urls, "-o", "m.safetensors", "--checkpoint", f"{urls[0]}-kept", cwd=tmp_path
        )
        assert f"{urls[0]}-kept: only stores are read and written there" in message
        assert list(tmp_path.iterdir()) == []


class TestWorkers:
    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "403 Forbidden, SignatureDoesNotMatch"),
            ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, "cannot be read"),
            ({"AWS_MAX_ATTEMPTS": "many"}, "AWS_MAX_ATTEMPTS: 'many' found"),
        ],
        ids=["credentials", "endpoint", "setting"],
    )
    def test_one_that_cannot_read_is_named_before_the_run(
        self, urls: list[str], faulty: Proxy, two: Client, setting: dict[str, str], said: str
    ) -> None:
        worker = next(iter(two.nthreads()))
        kept = two.run(_set, setting, workers=[worker])[worker]
        try:
            with pytest.raises(
                InputError, match=rf"{urls[0]}: the worker {worker} cannot .*{said}"
            ):
                cg.accumulate(urls, client=two)
        finally:
            two.run(_set, kept, workers=[worker])
        assert faulty.count(CHUNK) == 0

    def test_one_that_finds_other_rows_is_named_before_the_run(
        self, urls: list[str], pair: list[Path], two: Client, tmp_path: Path
    ) -> None:
        with cg.EmbeddingStore.create(tmp_path / "other.zarr", 7, chunk_rows=SEGMENT) as writer:
            writer.append(np.ones((ROWS, 7), "f4"))
        with bucket_environment() as patch:
            upload(pair[0], "pair/a.zarr")
            upload(tmp_path / "other.zarr", "pair/b.zarr")
            reached = {name: own for name, own in os.environ.items() if name.startswith("AWS_")}
            patch.undo()
            worker = next(iter(two.nthreads()))
            kept = two.run(_set, reached, workers=[worker])[worker]
            try:
                with pytest.raises(
                    InputError, match=rf"{urls[1]}: the worker {worker} finds other rows there"
                ):
                    cg.accumulate(urls, client=two)
            finally:
                two.run(_set, kept, workers=[worker])
            cg.accumulate(urls, client=two)

    def test_what_is_lost_is_named_as_on_one_machine(
        self, urls: list[str], faulty: Proxy, two: Client
    ) -> None:
        faulty.faults = [Fault("closed", r"b\.zarr/embeddings/c/2/0", 1000)]
        with pytest.raises(RunError, match=rf"{urls[1]}/embeddings/c/2/0: cannot be read"):
            cg.accumulate(urls, client=two)
        rows = np.ones((SEGMENT + 10, 3), "f4")
        rows[SEGMENT + 7, 0] = np.nan
        with cg.EmbeddingStore.create(f"{urls[0]}-nan", 3, chunk_rows=4096) as writer:
            writer.append(rows)
        with pytest.raises(NonFiniteError, match=rf"{urls[0]}-nan: row {SEGMENT + 7} "):
            cg.accumulate([f"{urls[0]}-nan"], client=two)


def _set(values: dict[str, str | None]) -> dict[str, str | None]:
    """Set variables of a process, or remove them; return what they were."""
    kept = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    return kept


class TestEveryCommand:
    """Says of stores in a bucket what it says of them on disk."""

    @pytest.fixture(scope="class")
    @classmethod
    def people(cls, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
        return write_people(tmp_path_factory.mktemp("people"))

    @pytest.fixture(scope="class")
    @classmethod
    def theirs(cls, before: Proxy, people: list[Path]) -> list[str]:
        return [upload(path, f"people/{path.name}") for path in people]

    def test_compare(self, people: list[Path], theirs: list[str], two: Client) -> None:
        assert cg.compare(theirs, client=two).pairs == cg.compare(people).pairs

    def test_curve(self, people: list[Path], theirs: list[str], two: Client) -> None:
        found = cg.learning_curve(*theirs[:2], client=two)
        assert found.points == cg.learning_curve(*people[:2]).points

    def test_atlas(
        self, people: list[Path], theirs: list[str], two: Client, tmp_path: Path
    ) -> None:
        cg.atlas(people, tmp_path / "disk", resamples=5)
        cg.atlas(theirs, tmp_path / "bucket", resamples=5, client=two)
        tables = [tmp_path / name / "figures.csv" for name in ("disk", "bucket")]
        assert tables[0].read_text() == tables[1].read_text()

    def test_evaluate(self, people: list[Path], theirs: list[str], tmp_path: Path) -> None:
        cg.fit(*people[:2]).save(tmp_path / "m.safetensors")
        for command in ("verify", "identify"):
            found, expected = (
                succeeds(
                    *("evaluate", command, *stores[:2], "--map", "m.safetensors"),
                    *("--fitted-on", stores[0], "--allow-overlap", "--resamples", 5),
                    cwd=tmp_path,
                )
                for stores in (theirs, people)
            )
            assert _told(found) == _told(expected)


def _told(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a command says, without where stores lie."""
    return {name: value for name, value in result.items() if name not in _PLACES}


_PLACES = (
    "overlaps",
    "gallery_overlaps",
    "source",
    "target",
    "probes",
    "gallery",
    "seconds",
    "notes",
)
