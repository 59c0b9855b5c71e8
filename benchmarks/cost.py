"""What a pass costs, by a model of cores, disks and tasks, held against passes on this machine."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import click
from machine import blas_seconds, gflops, timed
from results import table, write

import crossgram as cg
from crossgram.plan import available_threads

_CALIBRATION = 800_000, 128
_SIZES = ((200_000, 512), (400_000, 512), (50_000, 2048), (400_000, 256))
_ROWS = (10**7, 10**8, 10**9, 10**10)
_TASK_SECONDS = 0.004
"""Of the scheduler and the client, a segment: measured by cluster.py."""


@dataclass(frozen=True)
class _Place:
    """Somewhere to run: cores or GPUs of a rate, what reads, and what an hour of it costs."""

    name: str
    units: int
    flops: float
    decode: float
    read: float
    dollars: float


def _seconds(place: _Place, rows: float, dim: int) -> dict[str, float]:
    """Return what each part of a pass takes by itself, in seconds; the largest is the pass."""
    size = rows * 2 * dim * 4
    work = rows * 3 * dim**2 / place.flops + size / place.decode
    segments = min(16_384, rows / 16_384)
    return {
        "compute": work / place.units,
        "read": size / place.read,
        "tasks": segments * _TASK_SECONDS if place.units > 8 else 0.0,
    }


@click.command()
def main() -> None:
    """Measure rates, predict passes, and run them."""
    with tempfile.TemporaryDirectory() as folder:
        rows, dim = _CALIBRATION
        work = rows * 3 * dim**2 / _rate(dim)
        bytes_per_second = rows * 8 * dim / (2 * _measured(Path(folder), rows, dim) - work)
        lines = []
        for rows, dim in _SIZES:
            here = _Place("here", 2, _rate(dim), bytes_per_second, float("inf"), 0.0)
            expected = max(_seconds(here, rows, dim).values())
            found = _measured(Path(folder), rows, dim)
            lines.append(
                [
                    f"{rows:,}",
                    f"{dim:,}",
                    f"{_rate(dim) / 1e9:.0f}",
                    f"{expected:.2f}",
                    f"{found:.2f}",
                    f"{found / expected - 1:+.0%}",
                ]
            )
    predicted = [
        line for dim in (512, 2048) for line in _predicted(dim, _rate(dim), bytes_per_second)
    ]
    write(
        "cost",
        "## What a pass costs: the model and passes on this machine\n\n"
        "Core seconds are flops over the rate of dsyrk and dgemm on all cores, and bytes over "
        f"{bytes_per_second / 1e9:.2f} GB/s of a core for decoding, casting and summing, which a "
        f"pass of {_CALIBRATION[1]} columns gave. Seconds of `accumulate` from page cache, 2 "
        "cores.\n\n"
        + table(["rows", "columns", "Gflop/s a core", "model", "measured", "off by"], lines)
        + "\n\nBy the model, of cores like these, with disks and prices as said:\n\n"
        + table(
            ["where", "columns", "rows", "TB read", "hours", "bottleneck", "GB a worker", "$"],
            predicted,
        ),
    )


@cache
def _rate(dim: int) -> float:
    """Return the flops per second of a core while all are busy."""
    return gflops(20_000, dim, dim, blas_seconds(20_000, dim, dim)) * 1e9 / available_threads()


def _measured(folder: Path, rows: int, dim: int) -> float:
    out = folder / f"{rows}-{dim}"
    cg.synth(out, rows=rows, source_dim=dim, target_dim=dim)
    pair = out / "a.zarr", out / "b.zarr"

    def run() -> None:
        cg.accumulate(pair, maps=[("a", "b")], remember=False)

    run()
    return median(timed(run) for _ in range(5))


def _predicted(dim: int, rate: float, decode: float) -> list[list[str]]:
    places = (
        _Place("laptop, 2 such cores, SSD of 2 GB/s", 2, rate, decode, 2e9, 0.0),
        _Place("1 machine of 64 such cores, 8 GB/s", 64, rate, decode, 8e9, 3.0),
        _Place("8 machines of 64, 10 GB/s each", 512, rate, decode, 80e9, 24.0),
        _Place("64 machines of 64, 400 GB/s together", 4096, rate, decode, 400e9, 192.0),
    )
    lines = []
    for place in places:
        for rows in _ROWS:
            parts = _seconds(place, rows, dim)
            name, seconds = max(parts.items(), key=lambda part: part[1])
            memory = 3 * 2 * 16 + 8 * 3 * 3 * dim**2 / 1e6
            lines.append(
                [
                    place.name,
                    f"{dim:,}",
                    f"10^{len(str(rows)) - 1}",
                    f"{rows * 8 * dim / 1e12:.2f}",
                    f"{seconds / 3600:.3g}",
                    name,
                    f"{(memory + 60) / 1000:.2f}",
                    f"{place.dollars * seconds / 3600:.2f}" if place.dollars else "-",
                ]
            )
    return lines


if __name__ == "__main__":
    main()
