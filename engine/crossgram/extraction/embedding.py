"""Decoded batches through networks: rows of every space, and the images that have none."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossgram.errors import InputError, NonFiniteError
from crossgram.extraction.batches import DecodedBatch, geometry
from crossgram.extraction.job import BadImage
from crossgram.extraction.lanes import copies, in_lanes
from crossgram.images import ImageList, Recipe
from crossgram.networks.network import Network

__all__ = ["EmbeddedBatch", "Seconds", "embedded_batches", "geometries_of"]


_HOPELESS = 512
"""So many images without one finite row, and none before them, are the network's fault."""

_MEND_IMAGE = (
    "mend the image or take it away, or have such images recorded and masked "
    "(--on-bad-image record)"
)
_MEND_NETWORK = "mend the network, or choose a wider dtype or precision"


@dataclass
class Seconds:
    """Where the time of an extraction went.

    Attributes
    ----------
    waiting, networks, writing : float
        For decoded images, in networks, and for the disk; of lanes side by side, their mean.
    """

    waiting: float = 0.0
    networks: float = 0.0
    writing: float = 0.0

    def add(self, other: Seconds) -> None:
        """Add those of another process."""
        self.waiting += other.waiting
        self.networks += other.networks
        self.writing += other.writing


@dataclass(frozen=True)
class EmbeddedBatch:
    """Rows `start` to `stop` of every network.

    Attributes
    ----------
    start, stop : int
        Which.
    rows : list of ndarray, shape (stop - start, d)
        One per network, in the dtype asked for; NaN where an image has no embedding.
    bad : list of BadImage
        The images that have none.
    """

    start: int
    stop: int
    rows: list[NDArray[Any]]
    bad: list[BadImage] = field(default_factory=list)


def geometries_of(networks: Sequence[Network]) -> list[Recipe]:
    """Return what the networks' recipes want of an image, each once."""
    return list(dict.fromkeys(geometry(network.recipe) for network in networks))


def embedded_batches(
    batches: Iterable[Callable[[], DecodedBatch]],
    networks: Sequence[Network],
    images: ImageList,
    dtype: np.dtype[Any],
    *,
    stop_at_bad_image: bool,
    lanes: int,
    seconds: Seconds,
    refuse_hopeless: bool,
) -> Generator[EmbeddedBatch, None, None]:
    """Run networks over batches, and yield what they give in the order of the batches.

    Parameters
    ----------
    batches : iterable of callable
        Each gives a batch; called where the batch is embedded, which may decode it there.
    networks : sequence of Network
        What embeds them.
    images : ImageList
        The images' ids, for messages.
    dtype : dtype
        Of the rows.
    stop_at_bad_image : bool
        Whether an image without an embedding stops the run.
    lanes : int
        Batches to embed side by side.
    seconds : Seconds
        Added to.
    refuse_hopeless : bool
        Whether to stop at a network that gives no finite row for the first 512 images.

    Raises
    ------
    InputError
        If an image cannot be used and that is to stop the run, or a network cannot take them.
    NonFiniteError
        If a network is hopeless, or gives no finite row for an image that is to stop the run.
    """
    geometries = geometries_of(networks)
    positions = [geometries.index(geometry(own.recipe)) for own in networks]
    per_lane = copies(networks, lanes)

    def embed(lane: int, decode: Callable[[], DecodedBatch]) -> tuple[_Embedded, Seconds]:
        started = time.perf_counter()
        batch = decode()
        decoded = time.perf_counter()
        result = _run(per_lane[lane], batch, positions, images, dtype, stop_at_bad_image)
        return result, Seconds(decoded - started, time.perf_counter() - decoded)

    with ExitStack() as stack:
        # Pillow's, of what is odd in a file; here, because threads share the filters
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for network in chain.from_iterable(per_lane):
            stack.enter_context(network.evaluating())
        hopeless = Counter[str]()
        if refuse_hopeless:
            hopeless.update({network.name: 0 for network in networks})
        for (result, not_finite), spent in in_lanes(embed, _timed(batches, seconds), lanes):
            seconds.waiting += spent.waiting / lanes
            seconds.networks += spent.networks / lanes
            for network, rows, bad in zip(networks, result.rows, not_finite, strict=True):
                if network.name in hopeless:
                    hopeless[network.name] += len(bad)
                    if np.isfinite(rows).any():
                        del hopeless[network.name]
                    elif hopeless[network.name] >= _HOPELESS:
                        raise NonFiniteError(f"{_described(bad[0], images)}; {_MEND_NETWORK}")
            yield result


_Embedded = tuple[EmbeddedBatch, list[list[BadImage]]]
"""A batch, and per network the images that it gave no finite row for."""


def _timed(
    batches: Iterable[Callable[[], DecodedBatch]], seconds: Seconds
) -> Iterator[Callable[[], DecodedBatch]]:
    """Yield the items, and count how long they were waited for."""
    started = time.perf_counter()
    for batch in batches:
        seconds.waiting += time.perf_counter() - started
        yield batch
        started = time.perf_counter()


def _run(
    networks: Sequence[Network],
    batch: DecodedBatch,
    positions: Sequence[int],
    images: ImageList,
    dtype: np.dtype[Any],
    stop_at_bad_image: bool,
) -> _Embedded:
    result = EmbeddedBatch(batch.start, batch.stop, [], _unusable(batch, networks, positions))
    if stop_at_bad_image and result.bad:
        raise InputError(f"{_described(result.bad[0], images)}; {_MEND_IMAGE}")
    not_finite = []
    for network, position in zip(networks, positions, strict=True):
        rows, bad = _embed(network, batch, position, dtype)
        if bad and stop_at_bad_image:
            raise NonFiniteError(f"{_described(bad[0], images)}; {_MEND_NETWORK}")
        result.rows.append(rows)
        result.bad.extend(bad)
        not_finite.append(bad)
    return result, not_finite


def _unusable(
    batch: DecodedBatch, networks: Sequence[Network], positions: Sequence[int]
) -> list[BadImage]:
    bad = []
    for row in sorted({row for reasons in batch.unusable for row in reasons}):
        reasons = [reasons.get(row) for reasons in batch.unusable]
        if len(set(reasons)) == 1:
            bad.append(BadImage(row, None, str(reasons[0])))
        else:
            bad += [
                BadImage(row, network.name, str(reasons[position]))
                for network, position in zip(networks, positions, strict=True)
                if reasons[position] is not None
            ]
    return bad


def _embed(
    network: Network, batch: DecodedBatch, position: int, dtype: np.dtype[Any]
) -> tuple[NDArray[Any], list[BadImage]]:
    with network.inferring(), np.errstate(over="ignore"):
        rows = network.embed(batch.pixels[position]).numpy().astype(dtype)
    bad = []
    unusable = batch.unusable[position]
    finite = np.isfinite(rows).all(axis=1)
    for k in range(len(rows)):
        row = batch.start + k
        if row in unusable:
            rows[k] = np.nan
        elif not finite[k]:
            rows[k] = np.nan
            reason = f"{network.name} gives NaN, infinity or values too large for {dtype} for it"
            bad.append(BadImage(row, network.name, reason))
    return rows, bad


def _described(bad: BadImage, images: ImageList) -> str:
    (entry,) = images.entries(bad.row, bad.row + 1)
    return f"{entry.id}: {bad.reason}"
