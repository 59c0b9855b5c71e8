"""Evaluations on a cluster: the same figures as on one machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import succeeds
from distributed import Client

import crossgram as cg
from crossgram.cluster import cluster_client
from crossgram.errors import InputError, MemoryLimitError
from crossgram.evaluation import binned_scores, classifying, measuring, searching, verifying


@pytest.fixture(scope="module")
def two() -> Iterator[Client]:
    with cluster_client(2, None) as started:
        yield started


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """600 images of 60 people by two networks, gallery and probes, with maps between them."""
    folder = tmp_path_factory.mktemp("evaluated")
    rng = np.random.default_rng(0)
    people = rng.normal(size=(60, 12))
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    found = {}
    for part, images in (("gallery", 7), ("probes", 3)):
        labels = [f"p{k:02}" for k in range(60) for _ in range(images)]
        ids = [f"{part}/{k}" for k in range(len(labels))]
        rows = people.repeat(images, axis=0) + 0.8 * rng.normal(size=(60 * images, 12))
        masked = rng.random(len(rows)) < 0.05
        for name, matrix in (("a", np.eye(12)), ("b", turn)):
            path = folder / f"{part}-{name}.zarr"
            values = (rows @ matrix).astype(np.float32)
            values[masked] = np.nan
            with cg.EmbeddingStore.create(path, dim=12) as writer:
                writer.append(values, ids=ids, labels=labels, masked=masked)
            found[f"{part} {name}"] = path
    noise = turn + 0.1 * rng.normal(size=turn.shape)
    spaces = [cg.Space(name, 12) for name in "ab"]
    cg.LinearMap(noise.T, np.zeros(12), *spaces).save(folder / "map.safetensors")
    return found | {"map": folder / "map.safetensors"}


def test_identification(
    stores: dict[str, Path], two: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the same blocks here and there, of which the workers do not know that they are small
    monkeypatch.setattr(searching, "_GALLERY_BYTES", 8 * 12 * 31)
    two.run(_set, "searching", "_GALLERY_BYTES", 8 * 12 * 31)
    done: list[int] = []

    def identify(client: Client | None) -> cg.IdentificationReport:
        done.clear()
        return cg.identify(
            stores["probes a"],
            stores["gallery b"],
            linear_map=stores["map"],
            native=stores["probes b"],
            reembedded=stores["gallery a"],
            resamples=20,
            client=client,
            progress=lambda own: done.append(own.rows),
        )

    here = identify(None)
    assert 0.1 < here.searches[1].ranks[1] < 1
    assert identify(two) == here
    assert done[-1] == 2 * 4 * 420
    assert done == sorted(done)
    two.run(_set, "searching", "_GALLERY_BYTES", 8 << 20)


def test_classification(
    stores: dict[str, Path], two: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    head = cg.ClassifierHead(rng.normal(size=(60, 12)), np.zeros(60))
    monkeypatch.setattr(classifying, "_BLOCK_BYTES", 8 * 12 * 31)
    here, there = (
        cg.classify(
            stores["gallery a"],
            stores["gallery b"],
            head,
            linear_map=stores["map"],
            source_head=head,
            client=client,
        )
        for client in (None, two)
    )
    assert there == here
    assert here.images + here.left_out == 420


def test_verification_of_counted_pairs(
    stores: dict[str, Path], two: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (verifying, measuring):
        if hasattr(module, "MOST_PAIRS"):
            monkeypatch.setattr(module, "MOST_PAIRS", 1000)
    for module in (binned_scores,):
        monkeypatch.setattr(module, "_BLOCK", 37)
        monkeypatch.setattr(module, "_TASK_TILES", 5)
    two.run(_set, "binned_scores", "_BLOCK", 37)
    here, there = (
        cg.verify(
            stores["gallery a"],
            stores["gallery b"],
            linear_map=stores["map"],
            fars=[0.1, 0.01, 0.001],
            client=client,
        )
        for client in (None, two)
    )
    assert "too many pairs" in here.notes[0]
    assert there == here
    two.run(_set, "binned_scores", "_BLOCK", 1024)


def _set(module: str, name: str, value: Any) -> None:
    import importlib

    setattr(importlib.import_module(f"crossgram.evaluation.{module}"), name, value)


def test_what_no_worker_sees_is_refused(stores: dict[str, Path], two: Client) -> None:
    gallery = cg.EmbeddingStore.open(stores["gallery a"])
    assert gallery.labels is not None
    with pytest.raises(InputError, match="lies in this process, where no worker sees it"):
        cg.identify(
            stores["probes a"],
            in_memory(stores["gallery b"]),
            client=two,
        )


def in_memory(path: Path) -> Any:
    from dataclasses import replace

    from crossgram.source import open_source

    return replace(open_source(path), address=None)


def test_workers_with_too_little_memory_are_refused(
    stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=1, processes=False, memory_limit="40MB", dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as small,
        pytest.raises(MemoryLimitError, match="has 40 MB, its .* tasks at once hold"),
    ):
        cg.identify(stores["probes a"], stores["gallery a"], client=small)


def test_the_commands_take_workers(stores: dict[str, Path], tmp_path: Path) -> None:
    search = (stores["probes a"], stores["gallery b"], "--map", stores["map"], "--resamples", 0)
    here, there = (
        succeeds("evaluate", "identify", *search, *own, cwd=tmp_path)
        for own in ((), ("--workers", 2))
    )
    assert there == here
