"""Images straight to moments: embeddings that are accumulated as they come, and not stored."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.accumulation import accumulate
from crossgram.errors import InputError
from crossgram.extraction.batches import BatchRanges, check_crops, decoded_batches
from crossgram.extraction.completion import write_bad_images
from crossgram.extraction.embedding import (
    EmbeddedBatch,
    Seconds,
    embedded_batches,
    geometries_of,
)
from crossgram.extraction.job import BadImage
from crossgram.extraction.lanes import lanes_for
from crossgram.extraction.options import Options
from crossgram.extraction.running import ModelLike, as_networks
from crossgram.extraction.sizing import find_batch_size, find_decoders
from crossgram.folds import FoldedMoments
from crossgram.images import Collection, ImageList, open_collection
from crossgram.moments import Moments
from crossgram.networks.loading import load_networks
from crossgram.networks.network import Network
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.row_file import RowFile
from crossgram.source import Source
from crossgram.spaces import signature_of
from crossgram.store import Column

__all__ = ["accumulate_images"]

_BATCHES_AHEAD = 2
_POLL_SECONDS = 0.1


def accumulate_images(
    images: str | Path,
    models: Sequence[ModelLike],
    *,
    extraction: Options | None = None,
    bad_image_table: str | Path | None = None,
    progress: ProgressCallback = ignore,
    **options: Any,
) -> Moments | FoldedMoments:
    """Return the moments of networks' embeddings of images, without storing the embeddings.

    Parameters
    ----------
    images, models
        As for `extract_with_report`.
    extraction : Options, optional
        Device, precision, batch size and others of the networks; not workers, scheduler, heads,
        and what is about stores.
    bad_image_table : path, optional
        Where to list images that cannot be used; their rows are left out of every space.
    progress : callable
        Called with a `Progress` after each batch, in another thread than the caller's.
    **options
        The fields of `crossgram.accumulation.Options`; not names, balance, join and threads.

    Returns
    -------
    Moments
        Or FoldedMoments, with `folds`.

    Raises
    ------
    InputError
        As `extract_with_report` and `accumulate`.
    """
    asked = extraction or Options()
    if asked.workers is not None or asked.scheduler is not None:
        raise InputError(
            "workers: given for images that are accumulated as they are embedded, in one process; "
            "extract them first"
        )
    for name in ("balance", "join", "threads", "names"):
        if options.pop(name, None):
            raise InputError(
                f"{name}: given for images that are accumulated as they are embedded; it is for "
                "stores, so extract them first"
            )
    given = as_networks(models)
    collection = open_collection(images)
    with (
        tempfile.TemporaryDirectory(prefix="crossgram-images-") as folder,
        lanes_for(given, asked.device, compiled=asked.compiled) as lanes,
    ):
        networks = load_networks(
            given, device=asked.device, precision=asked.precision, compiled=asked.compiled
        )
        listed = ImageList.write(collection, Path(folder) / "images")
        check_crops(collection, listed, {network.name: network.recipe for network in networks})
        stream = _ImageStream(collection, listed, networks, asked, lanes, Path(folder), progress)
        with closing(stream):
            moments = accumulate(
                stream.sources(), names=[own.name for own in given], threads=1, **options
            )
        if bad_image_table is not None:
            write_bad_images(stream.bad, listed, Path(bad_image_table))
    return moments


class _ImageStream:
    """Networks that run through the images once, and sources that read what they give in order.

    A thread of its own runs them a few batches ahead of the reading.
    """

    def __init__(
        self,
        collection: Collection,
        images: ImageList,
        networks: Sequence[Network],
        asked: Options,
        lanes: int,
        folder: Path,
        progress: ProgressCallback,
    ) -> None:
        self.bad: list[BadImage] = []
        self._collection, self._images, self._networks = collection, images, networks
        self._asked, self._lanes, self._progress = asked, lanes, progress
        self._dtype = np.dtype(asked.dtype)
        self._masks = [
            RowFile(folder / f"masked-{k}", (images.rows,), bool) for k in range(len(networks))
        ]
        self._size = asked.batch_size or find_batch_size(networks)
        self._decoders = (
            find_decoders(collection, images, networks, self._size)
            if asked.decoders is None
            else asked.decoders
        )
        self._batches = self._produced()
        self._embedded = 0
        self._left: EmbeddedBatch | None = None
        self._block = (0, 0)
        self._rows: list[NDArray[Any]] = []
        self._ends: dict[int, list[NDArray[Any]]] = {}

    def sources(self) -> list[Source]:
        """Return one source per network; they are read side by side, from the first row on."""
        return [
            Source(
                label=str(self._collection.root),
                rows=self._images.rows,
                dim=network.dim,
                dtype=self._dtype,
                chunk_rows=1,
                read=partial(self._read, k),
                ids=self._images.ids,
                labels=self._images.labels,
                masked=Column(self._masks[k], f"masked rows of {network.name}"),
                signature=signature_of(network.facts),
            )
            for k, network in enumerate(self._networks)
        ]

    def close(self) -> None:
        """End the thread that runs ahead."""
        self._batches.close()

    def _read(self, which: int, start: int, out: NDArray[Any]) -> None:
        stop = start + len(out)
        if stop - start == 1 and start in self._ends:
            out[0] = self._ends[start][which]
            return
        if self._block != (start, stop):
            if start != self._block[1]:
                raise InputError(
                    f"{self._collection.root}: embeddings that are not stored can be read once, in "
                    "order; extract them first"
                )
            self._rows = self._next_rows(stop - start)
            self._block = (start, stop)
        out[...] = self._rows[which]

    def _next_rows(self, count: int) -> list[NDArray[Any]]:
        rows = [np.empty((count, network.dim), self._dtype) for network in self._networks]
        filled = 0
        while filled < count:
            batch = self._left or next(self._batches)
            taken = min(count - filled, len(batch.rows[0]))
            for target, own in zip(rows, batch.rows, strict=True):
                target[filled : filled + taken] = own[:taken]
            rest = [own[taken:] for own in batch.rows]
            self._left = (
                EmbeddedBatch(batch.start + taken, batch.stop, rest) if len(rest[0]) else None
            )
            filled += taken
        return rows

    def _note(self, batch: EmbeddedBatch) -> None:
        """Keep what is asked for out of order: masks, and the first and the last row."""
        for bad in batch.bad:
            for mask, network in zip(self._masks, self._networks, strict=True):
                if bad.concerns(network.name):
                    mask[np.array([bad.row])] = np.array([True])
        self.bad += batch.bad
        for row in (0, self._images.rows - 1):
            if batch.start <= row < batch.stop:
                self._ends[row] = [own[row - batch.start].copy() for own in batch.rows]
        self._embedded += len(batch.rows[0])
        row_bytes = sum(network.dim for network in self._networks) * self._dtype.itemsize
        self._progress(
            Progress("embed", self._embedded, self._images.rows, self._embedded * row_bytes)
        )

    def _produced(self) -> Generator[EmbeddedBatch, None, None]:
        with _ahead(self._embed()) as batches:
            for batch in batches:
                self._note(batch)
                yield batch

    def _embed(self) -> Generator[EmbeddedBatch, None, None]:
        rows, asked = self._images.rows, self._asked
        decoded = decoded_batches(
            self._collection,
            self._images,
            geometries_of(self._networks),
            BatchRanges(range(1), rows, rows, self._size),
            decoders=self._decoders,
            pinned=any(network.device.type == "cuda" for network in self._networks),
        )
        embedded = embedded_batches(
            decoded,
            self._networks,
            self._images,
            self._dtype,
            stop_at_bad_image=asked.on_bad_image == "stop",
            lanes=self._lanes,
            seconds=Seconds(),
            refuse_hopeless=True,
        )
        with closing(decoded), closing(embedded):
            yield from embedded


@contextmanager
def _ahead(batches: Generator[EmbeddedBatch, None, None]) -> Iterator[Iterator[EmbeddedBatch]]:
    """Run an iterator in a thread of its own, a few items ahead; modes of torch are a thread's."""
    waiting: queue.Queue[EmbeddedBatch | BaseException | None] = queue.Queue(_BATCHES_AHEAD)
    stopping = threading.Event()

    def run() -> None:
        try:
            with closing(batches):
                for batch in batches:
                    waiting.put(batch)
                    if stopping.is_set():
                        break
            waiting.put(None)
        except BaseException as error:  # noqa: BLE001  (raised again by the reader)
            waiting.put(error)

    def items() -> Iterator[EmbeddedBatch]:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=run, name="crossgram-networks", daemon=True)
    thread.start()
    try:
        yield items()
    finally:
        stopping.set()
        while thread.is_alive():
            # it may be waiting for room
            try:
                waiting.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
        thread.join()
