"""How passes scale from one to two Dask workers, and what the scheduler takes of many segments."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
from results import table, write

import crossgram as cg
from crossgram import plan
from crossgram.checkpoint import clear_checkpoint
from crossgram.cluster import cluster_client
from crossgram.kernels import RUN_TILES, tile_rows_of

_REPEATS = 5
_DIM = 512
_SMALL, _SMALL_ROWS = 8, 1024
_SEGMENT_ROWS = RUN_TILES * tile_rows_of("cpu")


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="Of the stores for scaling.")
@click.option("--segments", default=10_000, show_default=True, help="For the scheduler's share.")
def main(rows: int, segments: int) -> None:
    """Measure on synthetic stores in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        pair = Path(folder) / "pair"
        cg.synth(pair, rows=rows, source_dim=_DIM, target_dim=_DIM)
        spaces = [pair / "a.zarr", pair / "b.zarr"]
        alone, beside = (_processes(spaces, count) for count in (1, 2))
        seconds = {
            "no cluster, 1 thread": _seconds(spaces, threads=1),
            "1 process on a core": alone,
            "2 processes on a core and all rows each": beside,
        }
        for workers in (1, 2):
            with cluster_client(workers, None) as client:
                for core, address in enumerate(client.nthreads()):
                    client.run(_stay_on, core, workers=[address])
                name = f"{workers} worker{'s' if workers > 1 else ''}"
                seconds[name] = _seconds(spaces, client=client)
                if workers == 2:
                    kept = Path(folder) / "kept"
                    seconds[f"{name}, checkpoint"] = _seconds(
                        spaces, client=client, checkpoint=kept
                    )
        one = seconds["1 worker"] * _SEGMENT_ROWS / rows
        overhead = _overhead(Path(folder), segments, one)
    efficiency = seconds["1 worker"] / (2 * seconds["2 workers"])
    write(
        "cluster",
        "## Dask workers\n\n"
        f"`accumulate` of {rows:,} rows, {_DIM} and {_DIM} columns of float32, from page cache; "
        f"medians of {_REPEATS}. Each worker is kept to a core of its own.\n\n"
        + table(
            ["", "seconds", "rows/s"],
            [[name, f"{own:.2f}", f"{rows / own:,.0f}"] for name, own in seconds.items()],
        )
        + f"\n\nEfficiency from 1 to 2 workers: {efficiency:.1%}. That of two processes with "
        f"nothing in common but the machine: {alone / beside:.1%}.\n\n" + overhead,
    )


def _processes(spaces: list[Path], count: int) -> float:
    """Return the seconds of a pass by each of some processes at once, kept to a core each."""
    spawned = get_context("spawn")
    ready, found = spawned.Barrier(count), spawned.SimpleQueue()
    processes = [
        spawned.Process(target=_put_seconds, args=(core, spaces, ready, found))
        for core in range(count)
    ]
    for process in processes:
        process.start()
    seconds = statistics.mean(found.get() for _ in processes)
    for process in processes:
        process.join()
    return seconds


def _put_seconds(core: int, spaces: list[Path], ready: Any, found: Any) -> None:
    _stay_on(core)
    ready.wait()
    found.put(_seconds(spaces, threads=1))


def _stay_on(core: int) -> None:
    """Keep this process, its readers and decoders included, to one core."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def _seconds(spaces: list[Path], **options: Any) -> float:
    measured = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        cg.accumulate(spaces, remember=False, **options)
        if "checkpoint" in options:
            clear_checkpoint(options["checkpoint"])
        measured.append(time.perf_counter() - started)
    # the first opens files and starts threads
    return statistics.median(measured[1:])


def _overhead(folder: Path, segments: int, segment_seconds: float) -> str:
    """Return what the scheduler, the client and merging here take, of many small segments."""
    pair = folder / "narrow"
    rows = segments * _SMALL_ROWS
    cg.synth(pair, rows=rows, source_dim=_SMALL, target_dim=_SMALL, chunk_rows=_SMALL_ROWS)
    spaces = [pair / "a.zarr", pair / "b.zarr"]
    with (
        patch.object(plan, "RUN_TILES", 1),
        patch.object(plan, "_MOST_SEGMENTS", segments),
        cluster_client(2, None) as client,
    ):
        assert cg.plan_fit(*spaces).segments == segments
        started, used = time.perf_counter(), time.process_time()
        cg.accumulate(spaces, remember=False, client=client)
        seconds, used = time.perf_counter() - started, time.process_time() - used
    each = used / segments
    return (
        f"{segments:,} segments of {_SMALL_ROWS:,} rows of {_SMALL} and {_SMALL} columns on 2 "
        f"workers: {seconds:.1f} s. The process that has the scheduler and the client took "
        f"{1000 * each:.2f} ms of a processor a segment; a segment of {_SEGMENT_ROWS:,} rows of "
        f"{_DIM} and {_DIM} columns takes a worker {1000 * segment_seconds:.0f} ms, so that of a "
        f"run of as many of those on 2 workers it is {2 * each / segment_seconds:.1%}."
    )


if __name__ == "__main__":
    main()
