"""Mapping a whole store."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray
from zarr.core.sync import sync as wait_for
from zarr.storage import LocalStore

import crossgram
from crossgram.blas_threads import one_blas_thread
from crossgram.cluster import check_sees, check_workers, opened_once, over_workers
from crossgram.devices import check_device_name
from crossgram.errors import InputError, NonFiniteError, WidthMismatchError
from crossgram.linear_map import LinearMap
from crossgram.locations import Location, ObjectPath, locate
from crossgram.output import refuse_overlap
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.resources import available_threads
from crossgram.source import Source, SourceLike, address_of, masked_rows, open_source
from crossgram.spaces import check_signature
from crossgram.store import EmbeddingStore
from crossgram.store_writer import Layout, StoreWriter
from crossgram.zarr_io import write_rows

__all__ = ["apply"]

_BLOCK_BYTES = 4 << 20
"""Of rows that are read and mapped at once, if chunks are no larger: what stays in the caches."""

_FAR_BYTES = 16 << 20
"""Of rows that are read at once where that costs requests, many at a time, or a cluster's task."""

_PART_BYTES = 64 << 20
"""Of mapped rows, that a task may hold so that chunks of both stores are whole."""

_HELD = 3
"""Times of rows and mapped rows that a task holds: as such, cast, and encoded."""


def apply(
    linear_map: LinearMap | str | Path,
    source: SourceLike,
    out: str | Location,
    *,
    overwrite: bool = False,
    device: str = "cpu",
    client: Any = None,
    progress: ProgressCallback = ignore,
    **layout: Any,
) -> EmbeddingStore:
    """Map every row of a store into a new store; ids, labels and mask come along.

    Parameters
    ----------
    linear_map : LinearMap or path
        The map.
    source : source-like, shape (n, p)
        Rows of the map's source space.
    out : path or URL
        The new store; it appears when it is complete.
    overwrite : bool
        Replace what stands at `out`.
    device : str
        Where products are computed: "cpu"; "cuda", or "cuda:1" for the second GPU; or "auto", a GPU
        where there is one. A GPU's results differ in their last bits. Workers look for their own.
    client : distributed.Client, optional
        Of a Dask cluster whose workers map the rows and write them to `out`, which they must
        see; to the same bits, if chunks of both stores end at the same rows now and then.
    progress : callable
        Called with a `Progress` after each part, of whole chunks of the new store.
    **layout
        `codec`, `chunk_rows` and `shard_rows` of the new store.

    Returns
    -------
    EmbeddingStore
        float64 if the source is, else float32.

    Raises
    ------
    WidthMismatchError
        If the rows are not as wide as the map takes.
    InputError
        If they were made by another network or recipe than the map was fitted for, or workers
        cannot be used.
    NonFiniteError
        If a row that is not masked holds NaN or infinity, and so cannot be mapped; `out` is not
        written.
    OutputExistsError
        If `out` exists and `overwrite` is false.
    """
    paths = [
        given for given in (linear_map, source) if isinstance(given, str | os.PathLike | ObjectPath)
    ]
    # of a relative path, workers may be elsewhere
    place = locate(out) if client is None else locate(out).absolute()
    refuse_overlap(place, *paths)
    mapping = linear_map if isinstance(linear_map, LinearMap) else LinearMap.load(linear_map)
    rows = open_source(source, "rows")
    if rows.address is not None:
        refuse_overlap(place, rows.address)
    if rows.dim != mapping.source.dim:
        raise WidthMismatchError(
            f"{rows.label} has {rows.dim} columns, the map from {mapping.source.name} to "
            f"{mapping.target.name} takes {mapping.source.dim}; use the network it was fitted for"
        )
    check_signature(mapping.source, rows.signature, rows.label)
    check_device_name(device)
    applied = None if client is not None else _Applied.of(mapping, device)
    kind = "float64" if rows.dtype.itemsize >= 8 else "float32"
    is_near = client is None and not rows.fetched and not isinstance(place, ObjectPath)
    written = Layout.of(mapping.target.dim, dtype=kind, **layout).unit_rows
    cut = _Cut.of(rows, written, mapping.target.dim, is_near)
    created = EmbeddingStore.create(
        place,
        mapping.target.dim,
        dtype=kind,
        provenance=_provenance(mapping, rows.label),
        overwrite=overwrite,
        rows=rows.rows,
        **layout,
    )
    if applied is not None:
        with created as writer:
            _write(writer, applied, rows, cut, progress)
    else:
        held = cut.read * rows.dim * rows.dtype.itemsize + cut.part * mapping.target.dim * 8
        check_workers(client, [rows], _HELD * held)
        address = address_of(rows)
        with created as writer:
            job = _Job(uuid.uuid4().hex, mapping, device, address, writer.array, cut)
            _write_on_cluster(writer, job, rows, client, progress)
    return EmbeddingStore.open(out)


@dataclass(frozen=True)
class _Cut:
    """How many rows a task writes, reads at once, and maps at once, at most.

    Rows that are read at once are whole blocks, so that the same rows are mapped together, to the
    same bits, wherever they are read and written.
    """

    part: int
    read: int
    block: int

    @classmethod
    def of(cls, rows: Source, written: int, dim: int, is_near: bool) -> _Cut:
        """Cut rows that are mapped to `dim` columns, of which `written` are stored together."""
        chunk_bytes = rows.chunk_rows * rows.dim * rows.dtype.itemsize
        chunks = max(1, _BLOCK_BYTES // chunk_bytes)
        blocks = 1 if is_near else max(1, _FAR_BYTES // (chunks * chunk_bytes))
        block = chunks * rows.chunk_rows
        return cls(_part_rows(written, blocks * block, dim), blocks * block, block)

    def pieces(self, rows: int, most: int) -> Iterator[slice]:
        """Cut rows that were read at once into blocks, and blocks into pieces of at most `most`."""
        for start in range(0, rows, self.block):
            stop = min(start + self.block, rows)
            for first in range(start, stop, most):
                yield slice(first, min(first + most, stop))


def _part_rows(unit: int, block_rows: int, dim: int) -> int:
    """Return the rows of a task: whole chunks of the new store, and if they fit, whole blocks.

    Where they do not, it has many rows, so that few chunks are decoded for two tasks.
    """
    both = math.lcm(unit, block_rows)
    if both * dim * 8 <= _PART_BYTES:
        return both
    return unit * max(1, _PART_BYTES // (8 * dim * unit))


@dataclass(frozen=True)
class _Applied:
    """What maps rows, and the wider of what it takes and gives."""

    to: Callable[[ArrayLike], NDArray[Any]]
    columns: int

    @classmethod
    def of(cls, mapping: LinearMap, device: str) -> _Applied:
        return cls(mapping.on_device(device), max(mapping.source.dim, mapping.target.dim))


def _write(
    writer: StoreWriter,
    applied: _Applied,
    rows: Source,
    cut: _Cut,
    progress: ProgressCallback,
) -> None:
    work = partial(_write_part, writer.array, applied, rows, cut)
    with (
        one_blas_thread(),
        ThreadPoolExecutor(available_threads(), "crossgram-apply") as pool,
    ):
        try:
            _report(pool.map(work, _parts(rows.rows, cut.part)), rows, progress)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    writer.copy_columns(rows.ids, rows.labels, rows.masked)


def _parts(rows: int, part_rows: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, part_rows):
        yield start, min(start + part_rows, rows)


def _report(counts: Iterable[int], rows: Source, progress: ProgressCallback) -> None:
    done = 0
    for count in counts:
        done += count
        progress(Progress("apply", done, rows.rows, done * rows.dim * rows.dtype.itemsize))


@dataclass(frozen=True)
class _Job:
    """What the tasks of a cluster have in common."""

    run: str
    mapping: LinearMap
    device: str
    address: str
    array: zarr.Array[Any]
    cut: _Cut


def _write_on_cluster(
    writer: StoreWriter,
    job: _Job,
    rows: Source,
    client: Any,
    progress: ProgressCallback,
) -> None:
    storage = writer.array.store
    if isinstance(storage, LocalStore):
        check_sees(client, [storage.root])
    parts = _parts(rows.rows, job.cut.part)
    _report(over_workers(client, _map_part, parts, job, large=True, drained=True), rows, progress)
    writer.copy_columns(rows.ids, rows.labels, rows.masked)


def _map_part(part: tuple[int, int], job: _Job) -> int:
    if not wait_for(job.array.store.exists(f"{job.array.path}/zarr.json")):
        raise InputError(
            f"{job.array.store}: is not there on this worker, where its rows were to be written; "
            "give a place that all workers see"
        )
    rows = opened_once(job.run, job.address)
    applied = _Applied.of(job.mapping, job.device)
    with one_blas_thread():
        return _write_part(job.array, applied, rows, job.cut, part)


def _write_part(
    array: zarr.Array[Any], applied: _Applied, rows: Source, cut: _Cut, part: tuple[int, int]
) -> int:
    """Map the rows from a start to a stop and write them; return how many.

    One thread reads, maps, encodes and writes them: what it makes stays in its caches.
    """
    first, last = part
    found = np.empty((last - first, array.shape[1]), array.dtype)
    values = np.empty((min(cut.read, last - first), rows.dim), rows.dtype)
    most = max(1, _BLOCK_BYTES // (8 * applied.columns))
    for start in range(first, last, cut.read):
        read = values[: last - start]
        rows.read(start, read)
        masked = masked_rows([rows], start, start + len(read))
        into = found[start - first :]
        for own in cut.pieces(len(read), most):
            hidden = None if masked is None else masked[own]
            into[own] = _mapped(applied, read[own], hidden, rows.label, start + own.start)
    write_rows(array, first, found, threads=1)
    return last - first


def _mapped(
    applied: _Applied,
    rows: NDArray[Any],
    masked: NDArray[np.bool_] | None,
    label: str,
    start: int,
) -> NDArray[Any]:
    """Map some rows, the first of which is `start` of the store."""
    with np.errstate(over="ignore", invalid="ignore"):
        mapped = applied.to(rows)
        _refuse_nonfinite(mapped, rows, masked, label, start)
    if masked is not None:
        mapped[masked] = np.nan
    return mapped


def _refuse_nonfinite(
    mapped: NDArray[Any],
    rows: NDArray[Any],
    masked: NDArray[np.bool_] | None,
    label: str,
    start: int,
) -> None:
    if np.isfinite(mapped.sum()):
        return
    finite = np.isfinite(mapped).all(axis=1)
    if masked is not None:
        finite |= masked
    if not finite.all():
        row = int(np.argmin(finite))
        if not np.isfinite(rows[row]).all():
            why = "it holds NaN or infinity"
        elif not rows[row].any():
            why = "it holds only zeros, and the map takes rows of length 1"
        else:
            why = "it holds values too large"
        raise NonFiniteError(
            f"{label}: row {start + row} cannot be mapped, {why}; make the store again without it"
        )


def _provenance(mapping: LinearMap, label: str) -> dict[str, Any]:
    return {
        "made_by": f"crossgram {crossgram.__version__} apply",
        "mapped_from": label,
        "source": mapping.source.name,
        "target": mapping.target.name,
    }
