"""crossgram extract in real processes: killed, interrupted, and on a Dask cluster."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from command_line import ENTRY, interrupted, refused, succeeds
from photographs import RECIPE, network, write_images
from PIL import Image
from strategies import rows_of

import crossgram as cg
from crossgram import cluster
from crossgram.networks.loading import GivenNetwork

IDS = [f"{person:02}/{number}.png" for person in range(12) for number in range(10)]
NETWORKS = """
import time
import torch
from crossgram import Recipe

def _made(seed, dim, pause, recipe):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Linear(recipe.channels * recipe.size[0] * recipe.size[1], dim)
            with torch.no_grad():
                self.body.weight.normal_(generator=torch.Generator().manual_seed(seed))
                self.body.bias.zero_()
        def forward(self, batch):
            time.sleep(pause)
            return self.body(batch.flatten(1))
    net = Net()
    net.recipe = recipe
    return net

def a(): return _made(1, 4, 0.0, Recipe((8, 6), 3, (0.5,) * 3, (0.25,) * 3))
def b(): return _made(2, 3, 0.0, Recipe((5, 5), 1, (0.5,), (0.25,)))
def random(): return _made(time.time_ns() % 2**31, 3, 0.0, Recipe((5, 5), 1, (0.5,), (0.25,)))
def slow_a(): return _made(1, 4, 0.03, Recipe((8, 6), 3, (0.5,) * 3, (0.25,) * 3))
"""
OPTIONS = ("--chunk-rows", 4, "--batch-size", 4)
BOTH = ("--model", "a=nets:slow_a", "--model", "b=nets:b", *OPTIONS)


def filled(folder: Path) -> Path:
    """Write the images, one of them spoilt, and the module of networks."""
    write_images(folder / "images", IDS)
    (folder / "images" / IDS[50]).write_bytes(b"spoilt")
    (folder / "nets.py").write_text(NETWORKS)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stores of a run that nothing stopped, which others are only compared to."""
    folder = filled(tmp_path_factory.mktemp("whole"))
    succeeds("extract", "images", "whole", *BOTH, cwd=folder)
    return folder / "whole"


def stores(out: Path) -> dict[str, cg.EmbeddingStore]:
    return {name: cg.EmbeddingStore.open(out / f"{name}.zarr") for name in "ab"}


def assert_same(found: Path, expected: Path) -> None:
    """Every row of every store is the same image's, to the last bit."""
    for name, store in stores(found).items():
        other = stores(expected)[name]
        store.validate()
        assert list(store.ids.read(0, store.rows)) == IDS
        assert list(store.labels.read(0, store.rows)) == [one.split("/")[0] for one in IDS]
        assert np.flatnonzero(store.masked.read(0, store.rows)).tolist() == [50]
        np.testing.assert_array_equal(rows_of(store), rows_of(other))


@pytest.fixture
def refused_here(
    folder: Path, refused_here: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run in the folder; a scheduler or workers that do not answer are waited for a second."""
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)

    def run(*arguments: object) -> str:
        try:
            return refused_here(*arguments, cwd=folder)
        finally:
            sys.modules.pop("nets", None)

    return run


def started(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*ENTRY, *map(str, arguments)], cwd=cwd, stderr=subprocess.PIPE, text=True
    )


def wait_for_tasks(folder: Path, out: str, count: int, process: subprocess.Popen[str]) -> bool:
    """Wait until so many tasks are done; False if the run ended before."""
    deadline = time.monotonic() + 60
    while len(list((folder / f"{out}.partial").glob("*/done/*.json"))) < count:
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return True


class TestOutcome:
    def test_one_network_gives_a_store(self, folder: Path) -> None:
        result = succeeds("extract", "images", "a.zarr", "--model", "nets:a", cwd=folder)
        store = cg.EmbeddingStore.open(folder / "a.zarr")
        assert (store.rows, store.dim) == (120, 4)
        assert result["stores"] == {"a": "a.zarr"}
        assert (result["rows"], result["bad_images"]) == (120, 1)
        assert result["bad_image_table"] == "a.zarr.bad-images.csv"
        assert IDS[50] in (folder / "a.zarr.bad-images.csv").read_text()
        assert store.provenance["model"] == "nets:a"

    def test_options_by_name_are_for_that_network(self, folder: Path) -> None:
        grey = cg.Recipe((8, 6), 3, (0.1,) * 3, (0.5,) * 3, interpolation="nearest")
        (folder / "own.json").write_text(json.dumps(grey.to_dict()))
        succeeds(
            *("extract", "images", "out", *BOTH),
            *("--recipe", "a=own.json", "--layer", "b=body", "--flip", "concatenate"),
            cwd=folder,
        )
        facts = {name: store.provenance for name, store in stores(folder / "out").items()}
        assert facts["a"]["recipe"] == grey.to_dict() | {"flip": "concatenate"}
        assert facts["b"]["recipe"]["size"] == [5, 5]
        assert (facts["a"]["layer"], facts["b"]["layer"]) == ("output", "body")
        assert [store.dim for store in stores(folder / "out").values()] == [8, 6]

    def test_the_classifier_is_written_beside_the_store(self, folder: Path) -> None:
        result = succeeds(
            *("extract", "images", "a.zarr", "--model", "nets:a", "--layer", "penultimate"),
            *("--head", *OPTIONS),
            cwd=folder,
        )
        assert result["heads"] == {"a": "a.zarr.head.safetensors"}
        head = cg.ClassifierHead.load(folder / "a.zarr.head.safetensors")
        store = cg.EmbeddingStore.open(folder / "a.zarr")
        succeeds("extract", "images", "whole.zarr", "--model", "nets:a", *OPTIONS, cwd=folder)
        logits = rows_of(cg.EmbeddingStore.open(folder / "whole.zarr"))
        # float32 sums of 144 products of order 1
        np.testing.assert_allclose(head.logits(rows_of(store)), logits, atol=1e-4)

    def test_the_classifier_of_another_network_does_not_stay(self, folder: Path) -> None:
        model = ("extract", "images", "a.zarr", "--model", "nets:a", "--layer")
        succeeds(*model, "penultimate", "--head", *OPTIONS, cwd=folder)
        assert (folder / "a.zarr.head.safetensors").exists()
        succeeds(*model, "output", "--overwrite", *OPTIONS, cwd=folder)
        assert not (folder / "a.zarr.head.safetensors").exists()

    def test_a_value_that_is_the_networks_name_is_a_value(
        self, refused_here: Callable[..., str]
    ) -> None:
        model = ("--model", "facenet-crops=nets:slow_a", "--recipe", "facenet-crops")
        said = refused_here("extract", "images", "a.zarr", *model)
        assert "cannot take a batch of shape (2, 3, 160, 160)" in said


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--model", "nonsense"), "'nonsense' given, expected torchvision:NAME"),
            (("--model", "nets:none"), "nets has no callable 'none'"),
            (("--model", "onnx:none.onnx"), "none.onnx is no file"),
            (("--model", "torchvision:resnet18"), "no weights given"),
            (("--model", "nets:a", "--recipe", "none"), "'none' is neither a preset"),
            (("--model", "nets:a", "--layer", "head"), "has no layer 'head'"),
            (("--model", "nets:a", "--layer", "body", "--layer", "output"), "has 'body' already"),
            (("--model", "nets:a", "--device", "cuda:9"), "finds 0 GPUs"),
            (("--model", "nets:a", "--scheduler", "tcp://127.0.0.1:1"), "nobody answers"),
            (("--model", "nets:a", "--workers", 2, "--scheduler", "x:1"), "one of the two"),
            ((), "Missing option '--model'"),
        ],
    )
    def test_a_wrong_argument_is_named(
        self,
        folder: Path,
        arguments: tuple[object, ...],
        message: str,
        refused_here: Callable[..., str],
    ) -> None:
        said = refused_here("extract", "images", "a.zarr", *arguments)
        assert message in " ".join(said.split())
        assert sorted(path.name for path in folder.glob("*")) in (
            ["images", "nets.py"],
            ["__pycache__", "images", "nets.py"],
        )

    def test_images_that_are_not_there_are_named(self, folder: Path) -> None:
        said = refused("extract", "none", "a.zarr", "--model", "nets:a", cwd=folder)
        assert "none: no such file or folder" in said


class TestInterruption:
    @pytest.mark.parametrize("more", [(), ("--decoders", 1), ("--workers", 2)])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_keeps_what_is_done_and_says_how_to_go_on(
        self, folder: Path, whole: Path, number: signal.Signals, more: tuple[object, ...]
    ) -> None:
        said = interrupted(
            *("extract", "images", "out", *BOTH, *more),
            cwd=folder,
            number=number,
            once="out.partial/*/done/*1.json",
        )
        assert "out.partial; the same command goes on from there" in said
        assert "Traceback" not in said
        result = succeeds("extract", "images", "out", *BOTH, cwd=folder)
        assert 4 <= result["resumed_rows"] < 120
        assert_same(folder / "out", whole)

    @pytest.mark.parametrize("workers", [None, 2])
    def test_killed_again_and_again_gives_the_same_rows(
        self, folder: Path, whole: Path, workers: int | None
    ) -> None:
        arguments = ["extract", "images", "out", *BOTH]
        arguments += [] if workers is None else ["--workers", workers]
        kills = 0
        for done in (3, 8, 17):
            process = started(*arguments, cwd=folder)
            if wait_for_tasks(folder, "out", done, process):
                family = [psutil.Process(process.pid)]
                family += family[0].children(recursive=True)
                for one in family:
                    one.kill()
                kills += 1
            process.communicate()
        assert kills == 3
        result = succeeds("extract", "images", "out", *BOTH, cwd=folder)
        assert result["resumed_rows"] >= 17 * 4
        assert_same(folder / "out", whole)

    def test_killed_alone_leaves_no_lock_with_the_processes_that_decode(self, folder: Path) -> None:
        arguments = ("extract", "images", "out", *BOTH, "--decoders", 2)
        process = started(*arguments, cwd=folder)
        assert wait_for_tasks(folder, "out", 3, process)
        decoders = psutil.Process(process.pid).children(recursive=True)
        for decoder in decoders:
            decoder.suspend()
        process.kill()
        process.wait()
        try:
            assert succeeds(*arguments, cwd=folder)["resumed_rows"] >= 3 * 4
        finally:
            for decoder in decoders:
                with contextlib.suppress(psutil.NoSuchProcess):
                    decoder.kill()


class TestCluster:
    @pytest.mark.parametrize("count", [1, 2])
    def test_a_worker_that_is_killed_costs_only_its_tasks(
        self, folder: Path, whole: Path, count: int
    ) -> None:
        process = started("extract", "images", "out", *BOTH, "--workers", count, cwd=folder)
        assert wait_for_tasks(folder, "out", 4, process)
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "spawn_main" in " ".join(child.cmdline())
        ]
        assert len(workers) == count
        workers[0].kill()
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert_same(folder / "out", whole)

    def test_a_cluster_at_an_address_is_joined(
        self, folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from distributed import LocalCluster

        monkeypatch.syspath_prepend(folder)
        with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as own:
            address = ("--scheduler", own.scheduler_address)
            result = succeeds("extract", "images", "out", *BOTH, *address, cwd=folder)
        assert result["rows"] == 120
        assert_same(folder / "out", whole)

    def test_modules_are_sent_to_the_workers(self, folder: Path) -> None:
        given = [GivenNetwork("net", network(), RECIPE)]
        options = {"batch_size": 4, "chunk_rows": 4}
        alone = cg.extract_with_report(folder / "images", given, folder / "alone.zarr", **options)
        spread = cg.extract_with_report(
            folder / "images", given, folder / "spread.zarr", workers=2, **options
        )
        np.testing.assert_array_equal(
            *(rows_of(report.stores["net"]) for report in (alone, spread))
        )

    def test_a_network_that_is_another_one_on_a_worker_is_refused(self, folder: Path) -> None:
        said = refused(
            *("extract", "images", "a.zarr", "--model", "nets:random", *OPTIONS, "--workers", 1),
            cwd=folder,
        )
        assert "random: a worker in" in said
        assert "loads it with weights_sha256" in said

    def test_a_cluster_without_workers_is_refused(self, refused_here: Callable[..., str]) -> None:
        from distributed import LocalCluster

        with LocalCluster(n_workers=0, dashboard_address=None) as empty:
            address = empty.scheduler_address
            said = refused_here("extract", "images", "out", *BOTH, "--scheduler", address)
        assert f"{address} has no workers" in said


class TestAccumulateFromImages:
    def test_gives_the_moments_of_the_stores(self, folder: Path) -> None:
        succeeds("extract", "images", "out", *BOTH, cwd=folder)
        folds = ("--folds", 3, "--group-by", "labels")
        succeeds(
            *("accumulate", "out/a.zarr", "out/b.zarr", "-o", "stored.safetensors", *folds),
            cwd=folder,
        )
        result = succeeds(
            *("accumulate", "--from-images", "images", "--model", "a=nets:a"),
            *("--model", "b=nets:b", "--batch-size", 4, "-o", "straight.safetensors", *folds),
            cwd=folder,
        )
        assert (result["rows"], result["skipped"]) == (119, 1)
        assert result["bad_image_table"] == "straight.safetensors.bad-images.csv"
        stored, straight = (
            cg.load_moments(folder / f"{name}.safetensors") for name in ("stored", "straight")
        )
        for fold, other in zip(stored.folds, straight.folds, strict=True):
            np.testing.assert_array_equal(fold.scatter("a", "b"), other.scatter("a", "b"))
            np.testing.assert_array_equal(fold.means[0], other.means[0])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "give STORES, or --from-images"),
            (("--from-images", "images"), "--from-images and --model go together"),
            (("x.zarr", "--model", "nets:a"), "--from-images and --model go together"),
            (("x.zarr", "--flip", "sum"), "--flip: for --from-images, not for STORES"),
            (
                ("x.zarr", "--decoders", 0, "--model-device", "cpu"),
                "--model-device, --decoders: for --from",
            ),
            (
                ("--from-images", "images", "--model", "nets:a", "--balance"),
                "balance: given for images",
            ),
            (
                ("--from-images", "images", "--model", "nets:a", "--name", "x"),
                "write --model NAME=SPEC",
            ),
        ],
    )
    def test_what_does_not_fit_together_is_refused(
        self,
        folder: Path,
        arguments: tuple[object, ...],
        message: str,
        refused_here: Callable[..., str],
    ) -> None:
        said = refused_here("accumulate", *arguments, "-o", "m.safetensors")
        assert message in said
        assert not (folder / "m.safetensors").exists()

    def test_a_table_of_something_else_is_kept(self, folder: Path) -> None:
        (folder / "m.safetensors.bad-images.csv").write_text("mine")
        said = refused(
            *("accumulate", "--from-images", "images", "--model", "nets:a", "-o", "m.safetensors"),
            cwd=folder,
        )
        assert "m.safetensors.bad-images.csv: already exists" in said

    def test_a_bad_image_stops_it_if_asked_for(self, folder: Path) -> None:
        said = refused(
            *("accumulate", "--from-images", "images", "--model", "nets:a", "-o", "m.safetensors"),
            *("--on-bad-image", "stop"),
            cwd=folder,
        )
        assert f"{IDS[50]}: cannot be decoded" in said
        assert not (folder / "m.safetensors").exists()


def test_an_image_larger_than_memory_allows_is_masked(folder: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(folder / "images" / IDS[7])
    result = succeeds("extract", "images", "a.zarr", "--model", "nets:a", *OPTIONS, cwd=folder)
    assert result["bad_images"] == 2
    assert "pixels" in (folder / "a.zarr.bad-images.csv").read_text()
