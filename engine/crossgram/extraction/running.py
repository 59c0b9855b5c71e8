"""extract: a collection of images through networks, into embedding stores."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

import crossgram
from crossgram.cluster import check_sees, cluster_client, over_workers
from crossgram.errors import InputError
from crossgram.extraction.batches import check_crops
from crossgram.extraction.completion import Outputs, complete
from crossgram.extraction.embedding import Seconds
from crossgram.extraction.job import Job, Running, WorkFolder
from crossgram.extraction.lanes import lanes_for
from crossgram.extraction.options import Options
from crossgram.extraction.partial import (
    Begun,
    changed_file,
    finished,
    locked,
    partial_folder,
    prepare_folder,
)
from crossgram.extraction.sizing import find_batch_size, find_decoders
from crossgram.extraction.tasks import run_tasks
from crossgram.images import Collection, ImageList, Recipe, open_collection
from crossgram.locations import local
from crossgram.networks.loading import GivenNetwork, load_networks
from crossgram.networks.network import Network, choose_device
from crossgram.networks.spec import NetworkSpec, check_names
from crossgram.output import refuse_overlap
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.resources import available_threads
from crossgram.store import EmbeddingStore
from crossgram.store_writer import Layout

__all__ = [
    "ExtractionReport",
    "ModelLike",
    "as_networks",
    "extract",
    "extract_with_report",
]

ModelLike = str | NetworkSpec | GivenNetwork
"""A spec as on the command line, or one that is parsed, or a module with its recipe."""


@dataclass(frozen=True)
class ExtractionReport:
    """What an extraction made.

    Attributes
    ----------
    stores : mapping of str to EmbeddingStore
        By network.
    heads : mapping of str to Path
        The classifier heads that were written, by network.
    rows : int
        Images.
    bad_images : int
        Images that at least one network has no embedding of.
    bad_image_table : Path or None
        Which and why.
    resumed_rows : int
        Images that an earlier run had done.
    batch_size : int
        Images that went through a network at a time.
    seconds : float
        Wall time.
    spent : Seconds
        Where it went; of several workers, the sum.
    """

    stores: Mapping[str, EmbeddingStore]
    heads: Mapping[str, Path]
    rows: int
    bad_images: int
    bad_image_table: Path | None
    resumed_rows: int
    batch_size: int
    seconds: float
    spent: Seconds


def extract(
    images: str | Path,
    model: ModelLike | torch.nn.Module,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    network: str | None = None,
    progress: ProgressCallback = ignore,
    **options: Any,
) -> EmbeddingStore:
    """Embed images with one network, into an embedding store.

    Parameters
    ----------
    images : path
        A folder tree and others: see `crossgram.images.open_collection`.
    model : str, NetworkSpec, GivenNetwork or torch.nn.Module
        A spec such as "torchvision:resnet50"; or a module that takes (batch, channels, height,
        width) float32 on the device of its parameters and gives (batch, d), which is run in
        evaluation mode and left in the mode it was in.
    out : path
        The new store; it appears when it is complete.
    recipe : Recipe, optional
        What is done to an image before the network sees it; needed with a module.
    network : str, optional
        Its name, by default that of the spec or of the module's class.
    progress : callable
        Called with a `Progress` after each batch, or task of a worker.
    **options
        `crossgram.extraction.Options`.

    Returns
    -------
    EmbeddingStore
        Rows in the order of the collection, with ids, labels where it has them, and a mask where
        images could not be used.

    Raises
    ------
    CrossgramError
        As `extract_with_report`.
    """
    given: ModelLike
    if isinstance(model, torch.nn.Module):
        if recipe is None:
            raise InputError("recipe: none given, but a module does not say how it takes images")
        given = GivenNetwork(network or type(model).__name__, model, recipe)
    else:
        given = NetworkSpec.parse(model) if isinstance(model, str) else model
        given = replace(given, name=network or given.name)
        if recipe is not None:
            given = replace(given, recipe=recipe)
    report = extract_with_report(images, [given], out, progress=progress, **options)
    (store,) = report.stores.values()
    return store


def extract_with_report(
    images: str | Path,
    models: Sequence[ModelLike],
    out: str | Path,
    *,
    progress: ProgressCallback = ignore,
    **options: Any,
) -> ExtractionReport:
    """Embed images with any number of networks over one decoding, and say how it went.

    What is done is kept in `out`.partial; the same call goes on from there after an interruption,
    whatever the number of workers, and gives the same rows.

    Parameters
    ----------
    images : path
        A folder tree and others: see `crossgram.images.open_collection`.
    models : sequence of str, NetworkSpec or GivenNetwork
        The networks.
    out : path
        Of one network, its store; of several, a folder with one each. It appears when it is
        complete.
    progress : callable
        Called with a `Progress` after each batch, or task of a worker.
    **options
        `crossgram.extraction.Options`.

    Raises
    ------
    InputError
        If there are no images, a network cannot be loaded or does not take them, or an earlier run
        was of another model, recipe or image list.
    WidthMismatchError
        If a network does not give one row of the same width for each image.
    NonFiniteError
        If a network gives nothing finite.
    OutputExistsError
        If an output exists and is not to be overwritten.
    """
    started = time.perf_counter()
    asked = Options(**options)
    given = as_networks(models)
    outputs = Outputs(local(out), [network.name for network in given])
    collection = open_collection(images)
    refuse_overlap(outputs.out, collection.root)
    if collection.shares_files and collection.root.resolve() in outputs.out.resolve().parents:
        raise InputError(
            f"{outputs.out}: lies among the files of {collection.root}, which are then no longer "
            "one kind of collection; choose another output"
        )
    folder = partial_folder(outputs.out)
    outputs.check(overwrite=asked.overwrite)
    with (
        cluster_client(asked.workers, asked.scheduler) as client,
        lanes_for(given, asked.device, compiled=asked.compiled) as lanes,
    ):
        networks = load_networks(
            given, device=asked.device, precision=asked.precision, compiled=asked.compiled
        )
        with locked(folder):
            job, begun = _begin(
                folder, collection, given, networks, asked, on_cluster=client is not None
            )
            todo = job.unfinished()
            resumed = job.images.rows - job.rows_of(todo)
            report = _reporter(job, networks, asked, resumed, progress)
            if client is None:
                spent = run_tasks(job, todo, networks, lanes, report, refuse_hopeless=begun.is_new)
            else:
                spent = _run_on_cluster(client, job, todo, report)
            facts = {own.name: _provenance(own, collection, asked) for own in networks}
            heads = {n.name: n.head for n in networks if asked.heads and n.head is not None}
            _check_unchanged(job, begun)
            bad = complete(job, outputs, facts, heads, overwrite=asked.overwrite)
            finished(folder)
    return ExtractionReport(
        stores={name: EmbeddingStore.open(outputs.store(name)) for name in outputs.names},
        heads={name: outputs.head(name) for name in heads},
        rows=job.images.rows,
        bad_images=len({image.row for image in bad}),
        bad_image_table=outputs.bad_images if bad else None,
        resumed_rows=resumed,
        batch_size=min(job.running.batch_size, job.task_rows, job.images.rows),
        seconds=time.perf_counter() - started,
        spent=spent,
    )


def as_networks(models: Sequence[ModelLike]) -> list[NetworkSpec | GivenNetwork]:
    """Return the networks that a caller named, none of them twice."""
    given = [NetworkSpec.parse(model) if isinstance(model, str) else model for model in models]
    if not given:
        raise InputError("model: none given; give at least one network")
    check_names([network.name for network in given])
    return given


def _begin(
    folder: Path,
    collection: Collection,
    given: Sequence[NetworkSpec | GivenNetwork],
    networks: Sequence[Network],
    asked: Options,
    *,
    on_cluster: bool,
) -> tuple[Job, Begun]:
    """Make the folder of the job, or find what an earlier run has done of it."""
    if asked.heads and all(network.head is None for network in networks):
        raise InputError(
            f"heads: asked for, but no classifier was cut off {', '.join(n.name for n in networks)}"
            "; leave it out, or take the layer penultimate"
        )

    for network in networks:
        if repeated := sorted(network.facts.keys() & (asked.provenance or {})):
            raise InputError(
                f"provenance: holds {repeated[0]!r}, which is recorded of {network.name} as it is; "
                "take another name"
            )

    def layouts(images: ImageList) -> dict[str, Layout]:
        return {network.name: asked.layout(network.dim, images.rows) for network in networks}

    def choose(images: ImageList) -> tuple[dict[str, Layout], int]:
        check_crops(collection, images, {network.name: network.recipe for network in networks})
        return layouts(images), asked.batch_size or find_batch_size(networks)

    record = {
        "made_by": _made_by(),
        "networks": {network.name: _facts_of(network) for network in networks},
        **asked.to_record(),
    }
    begun = prepare_folder(folder, collection, record, choose, restart=asked.restart)
    batch_size = asked.batch_size or begun.batch_size
    decoders = asked.decoders
    if decoders is None and on_cluster:
        decoders = _decoders_on_cluster(asked.device)
    elif decoders is None:
        decoders = find_decoders(collection, begun.images, networks, batch_size)
    work = WorkFolder(begun.work.path.absolute())
    # not opened anew: what is in its folder may have become of another kind
    placed: Collection = replace(cast(Any, collection), root=collection.root.absolute())
    job = Job(
        work=work,
        collection=placed,
        images=replace(begun.images, path=work.images),
        networks=[own.absolute() if isinstance(own, NetworkSpec) else own for own in given],
        facts=[_comparable(network) for network in networks],
        task_rows=math.lcm(*(layout.unit_rows for layout in layouts(begun.images).values())),
        stop_at_bad_image=asked.on_bad_image == "stop",
        running=Running(
            device=asked.device,
            precision=asked.precision,
            compiled=asked.compiled,
            batch_size=batch_size,
            decoders=decoders,
            # workers of a cluster that is joined have been given theirs already
            spread=asked.workers is not None,
        ),
        token=uuid.uuid4().hex,
    )
    return job, begun


def _comparable(network: Network) -> dict[str, Any]:
    """Return what must be the same of a network wherever it is loaded."""
    return _facts_of(network) | {"dim": network.dim}


def _facts_of(network: Network) -> dict[str, Any]:
    """Return what is known of a network, but for how it was named: its digest tells it."""
    return {name: fact for name, fact in network.facts.items() if name != "model"}


def _check_unchanged(job: Job, begun: Begun) -> None:
    if not job.collection.shares_files:
        return
    changed = changed_file(job.collection, begun.time_ns)
    if changed is not None:
        raise InputError(
            f"{changed}: changed while its images were embedded, so that some rows may be of what "
            "it was; begin anew (--restart)"
        )


def _decoders_on_cluster(device: str) -> int:
    """Return how many processes decode images beside a worker.

    One on a CPU has one processor for all; those on GPUs share the processors.
    """
    if choose_device(device).type == "cpu":
        return 0
    return max(1, available_threads() // torch.cuda.device_count())


def _reporter(
    job: Job,
    networks: Sequence[Network],
    asked: Options,
    resumed: int,
    progress: ProgressCallback,
) -> Callable[[int], None]:
    row_bytes = sum(network.dim for network in networks) * np.dtype(asked.dtype).itemsize
    done = resumed

    def report(rows: int) -> None:
        nonlocal done
        done += rows
        progress(Progress("extract", done, job.images.rows, done * row_bytes))

    if resumed:
        report(0)
    return report


def _provenance(network: Network, collection: Collection, asked: Options) -> dict[str, Any]:
    return {
        "made_by": _made_by(),
        "images": str(collection.root),
        **network.facts,
        **(asked.provenance or {}),
    }


def _made_by() -> str:
    return f"crossgram {crossgram.__version__} extract"


def _run_on_cluster(
    client: Any, job: Job, tasks: Sequence[int], report: Callable[[int], None]
) -> Seconds:
    check_sees(client, [job.work.path, job.collection.root])
    spent = Seconds()
    holds_modules = any(isinstance(own, GivenNetwork) for own in job.networks)
    done = over_workers(client, _run_on_worker, iter(tasks), job, large=holds_modules)
    for rows, seconds in done:
        spent.add(seconds)
        report(rows)
    return spent


_worker_lock = threading.Lock()
_loaded: dict[str, list[Network]] = {}
"""The networks of the job that this worker is at work on, by its token."""


def _run_on_worker(task: int, job: Job) -> tuple[int, Seconds]:
    # a worker with several threads would run one module in all of them at once
    running = job.running
    with (
        _worker_lock,
        lanes_for(job.networks, running.device, compiled=running.compiled) as lanes,
    ):
        if job.token not in _loaded:
            _loaded.clear()
            loaded = load_networks(
                job.networks,
                device=_own_device(running),
                precision=running.precision,
                compiled=running.compiled,
            )
            _check_same(loaded, job)
            _loaded[job.token] = loaded
        return job.rows_of([task]), run_tasks(job, [task], _loaded[job.token], lanes)


def _check_same(loaded: Sequence[Network], job: Job) -> None:
    """Refuse networks that are others here than where the run was begun."""
    for network, expected in zip(loaded, job.facts, strict=True):
        found = _comparable(network)
        for name in {**expected, **found}:
            if expected.get(name) != found.get(name):
                raise InputError(
                    f"{network.name}: a worker in {Path.cwd()} loads it with {name} "
                    f"{found.get(name)!r}, this run was begun with {expected.get(name)!r}; give "
                    "all workers the same code and files, and make its weights from no random "
                    "numbers"
                )


def _own_device(running: Running) -> str:
    if not running.spread or running.device not in ("auto", "cuda"):
        return running.device
    if choose_device(running.device).type == "cpu":
        return "cpu"
    from distributed import get_worker

    return f"cuda:{int(get_worker().name) % torch.cuda.device_count()}"
