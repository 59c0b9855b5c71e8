"""What this machine does at best with some stores, and how near a pass over them comes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from crossgram.accumulation import Options, Pass, prepared
from crossgram.blas_threads import blas_in_words, one_blas_thread
from crossgram.kernels import numpy as kernels
from crossgram.kernels import tile_rows_of
from crossgram.plan import Plan
from crossgram.progress import Progress, ProgressCallback, ignore
from crossgram.source import Source, SourceLike
from crossgram.stream import stream_segments

__all__ = ["Bench", "bench", "product_rate"]

_SECONDS = 1.0
_MOST_READ = 2 << 30
_COPIED_BYTES = 32 << 20
_READ_BYTES = 1 << 20
_REPEATS = 3
_STEPS = ("disk", "page cache", "copy", "decoding", "products", "pass")


@dataclass(frozen=True)
class Bench:
    """A pass beside what bounds it.

    Attributes
    ----------
    rows : int
        Of the stores.
    threads : int
        That the pass has.
    precision : {"exact", "fast"}
        Of its products.
    blas : str
        What multiplies: its name, version and kernels.
    disk, cache : float or None
        Bytes a second of the stored chunks, read by one thread, after the page cache let go of them
        and from it; None of what is not on a disk here.
    copy : float
        Bytes a second from memory to memory, by all threads.
    decode : float
        Bytes a second of rows, decoded by all threads' readers and not used.
    flops : float
        A second, of the products of resident rows on all threads.
    ceilings : mapping of str to float
        The same in rows a second: disk, page cache, decoding, products; and decoding and products
        one after the other, which is what processors that do both can reach.
    rows_per_second : float
        Of the pass, from page cache; the median.
    share : float
        Of the lowest ceiling but the disk's, which the pass does not read from.
    bottleneck : str
        Which ceiling that is.
    """

    rows: int
    threads: int
    precision: str
    blas: str
    disk: float | None
    cache: float | None
    copy: float
    decode: float
    flops: float
    ceilings: Mapping[str, float]
    rows_per_second: float
    share: float
    bottleneck: str

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


def bench(
    x: SourceLike,
    y: SourceLike,
    *,
    precision: str = "exact",
    threads: int | None = None,
    progress: ProgressCallback = ignore,
) -> Bench:
    """Measure what bounds a pass over two stores on this machine, and the pass.

    Parameters
    ----------
    x, y : source-like, shapes (n, p) and (n, q)
        Source and target of a map; what is read is what a fit of them would read.
    precision, threads
        As for `fit`.
    progress : callable
        Called with a `Progress` after each step.

    Returns
    -------
    Bench

    Raises
    ------
    InputError
        Of the kind that fits, as `fit` does.
    """
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(Progress("bench", done, len(_STEPS), 0))

    names = ("source", "target")
    options = Options(
        names=names, maps=[names], precision=precision, threads=threads, remember=False
    )
    with prepared([x, y], options) as ready:
        plan, sources = ready.plan, ready.sources
        files = [file for source in sources for file in _files(source)]
        sizes = sum(file.stat().st_size for file in files)
        disk = _read_rate(files, cold=True)
        step()
        cache = _read_rate(files, cold=False)
        step()
        copy = _copy_rate(plan.threads)
        step()
        decode = _decoding_rate(plan, sources)
        step()
        flops = product_rate(plan, _SECONDS)
        step()
        rows = _pass_rate(ready)
        step()
    stored = {
        name: rate * plan.rows / sizes
        for name, rate in (("disk", disk), ("page cache", cache))
        if rate is not None
    }
    decoding = decode * plan.rows / plan.bytes_to_read
    products = flops * plan.rows / plan.flops
    ceilings = {
        **stored,
        "decoding": decoding,
        "products": products,
        "decoding and products": 1 / (1 / decoding + 1 / products),
    }
    bounds = {name: own for name, own in ceilings.items() if name != "disk"}
    bottleneck = min(bounds, key=lambda name: bounds[name])
    return Bench(
        plan.rows,
        plan.threads,
        precision,
        blas_in_words(),
        disk,
        cache,
        copy,
        decode,
        flops,
        ceilings,
        rows,
        rows / bounds[bottleneck],
        bottleneck,
    )


def _files(source: Source) -> Iterator[Path]:
    """Yield the files that rows of a source are in, if they are on a disk here."""
    place = Path(source.address or "")
    if place.is_file():
        yield place
    elif source.address is not None and place.is_dir():
        folder = place / "embeddings" if (place / "embeddings").is_dir() else place
        yield from sorted(file for file in folder.rglob("*") if file.is_file())


def _read_rate(files: Sequence[Path], *, cold: bool) -> float | None:
    """Return the bytes a second of files read one after the other, until there were enough."""
    buffer = bytearray(_READ_BYTES)
    count, seconds = 0, 0.0
    for file in files:
        if count >= _MOST_READ:
            break
        descriptor = os.open(file, os.O_RDONLY)
        try:
            if cold and hasattr(os, "posix_fadvise"):
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            while taken := os.readv(descriptor, [buffer]):
                count += taken
            seconds += time.perf_counter() - started
        finally:
            os.close(descriptor)
    return count / seconds if count else None


def _copy_rate(threads: int) -> float:
    def work() -> Callable[[], float]:
        source, target = (np.ones(_COPIED_BYTES // 8) for _ in range(2))

        def once() -> float:
            np.copyto(target, source)
            return float(source.nbytes)

        return once

    return _rate(work, threads, _SECONDS)


def product_rate(plan: Plan, seconds: float) -> float:
    """Return the flops a second of the products of a pass, of rows in the cache, on its threads.

    Parameters
    ----------
    plan : Plan
        Of the pass, on the processor.
    seconds : float
        For which they are measured.
    """
    dtype = np.float64 if plan.precision == "exact" else np.float32
    dims = [space.dim for space in plan.spaces]
    tile_rows = tile_rows_of("cpu")

    def work() -> Callable[[], float]:
        rng = np.random.default_rng(0)
        tiles = [rng.standard_normal((tile_rows, dim)).astype(dtype) for dim in dims]
        sums = {(i, j): np.zeros((dims[i], dims[j])) for i, j in plan.pairs}
        scratch = {
            pair: None if plan.precision == "exact" else np.zeros_like(own, dtype)
            for pair, own in sums.items()
        }
        flops = plan.flops / plan.rows * tile_rows

        def once() -> float:
            for (i, j), own in sums.items():
                if i == j:
                    kernels.add_gram(tiles[i], own, scratch[i, j])
                else:
                    kernels.add_cross(tiles[i], tiles[j], own, scratch[i, j])
            return flops

        return once

    return _rate(work, plan.threads, seconds)


def _rate(work: Callable[[], Callable[[], float]], threads: int, seconds: float) -> float:
    """Return what threads do a second together, each of them something of its own."""
    amounts = [0.0] * threads
    ready = threading.Barrier(threads + 1)

    def run(k: int) -> None:
        once = work()
        once()
        ready.wait()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            amounts[k] += once()

    running = [threading.Thread(target=run, args=(k,)) for k in range(threads)]
    with one_blas_thread():
        for thread in running:
            thread.start()
        ready.wait()
        started = time.perf_counter()
        for thread in running:
            thread.join()
    return sum(amounts) / (time.perf_counter() - started)


def _decoding_rate(plan: Plan, sources: Sequence[Source]) -> float:
    def run() -> None:
        stream_segments(
            plan, sources, lambda: lambda block: None, check=None, progress=lambda rows: None
        )

    return plan.bytes_to_read / _median_seconds(run)


def _pass_rate(ready: Pass) -> float:
    return ready.plan.rows / _median_seconds(ready.collect)


def _median_seconds(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return median(seconds)
