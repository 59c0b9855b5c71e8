"""What a pass costs, by a model of cores, disks and tasks, held against passes on this machine."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import click
import numpy as np
from machine import blas_seconds, gflops, timed
from results import table, write
from scipy.optimize import nnls

import crossgram as cg
from crossgram.resources import available_threads

_CALIBRATION = ((800_000, 128), (400_000, 384))
_SIZES = ((400_000, 256), (200_000, 512), (400_000, 512), (100_000, 1024), (50_000, 2048))
_ROWS = (10**7, 10**8, 10**9, 10**10)
_SEGMENT = _MOST_SEGMENTS = 16_384
_TASK_SECONDS = 0.004
"""Of the scheduler and the client, a segment: measured by cluster.py."""


@dataclass(frozen=True)
class _Core:
    """What a core does: flops a second, and the seconds that a byte and a row cost besides."""

    flops: float
    byte: float
    row: float

    def seconds(self, rows: float, dim: int) -> float:
        """Return what the products, decoding, casting and summing of some rows take."""
        return rows * (3 * dim**2 / self.flops + self.byte * 8 * dim + self.row)


@dataclass(frozen=True)
class _Place:
    """Somewhere to run: cores, what they read from, and what an hour of it costs."""

    name: str
    units: int
    read: float
    dollars: float


@dataclass(frozen=True)
class _Gpus:
    """GPUs, with figures of data sheets: nothing here was measured, nor run on them."""

    name: str
    count: int
    cores: int
    read: float
    dollars: float

    flops = 50e12
    """float64 products of an H100 or H200, of 67e12 that its sheet says."""

    copy = 50e9
    """Bytes a second from pinned memory, PCIe 5."""


def _parts(place: _Place, core: _Core, rows: float, dim: int) -> dict[str, float]:
    """Return what each part of a pass takes by itself, in seconds; the largest is the pass."""
    segments = min(_MOST_SEGMENTS, math.ceil(rows / _SEGMENT))
    each = max(_SEGMENT, rows / segments)
    # whoever is free takes the next one, the last of which is shorter
    rounds, over = divmod(rows // each, place.units)
    busiest = (rounds + 1) * each if over else rounds * each + rows % each
    return {
        "compute": core.seconds(busiest, dim),
        "read": rows * 8 * dim / place.read,
        "tasks": _tasks(rows) if place.units > 8 else 0.0,
    }


def _gpu_parts(place: _Gpus, core: _Core, rows: float, dim: int) -> dict[str, float]:
    size = rows * 8 * dim
    return {
        "products": rows * 3 * dim**2 / (place.flops * place.count),
        "copies": size / (place.copy * place.count),
        "decoding": (core.byte * size + core.row * rows) / place.cores,
        "read": size / place.read,
        "tasks": _tasks(rows) if place.count > 1 else 0.0,
    }


def _tasks(rows: float) -> float:
    return min(_MOST_SEGMENTS, math.ceil(rows / _SEGMENT)) * _TASK_SECONDS


@click.command()
def main() -> None:
    """Measure rates, predict passes, and run them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        byte, row = _calibrated(folder)
        lines = []
        for rows, dim in _SIZES:
            here = _Place("here", available_threads(), float("inf"), 0.0)
            core = _Core(_rate(dim), byte, row)
            expected = max(_parts(here, core, rows, dim).values())
            found = _measured(folder, rows, dim)
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
    cores = {dim: _Core(_rate(dim), byte, row) for dim in (512, 2048)}
    sizes = " and ".join(f"{dim:,}" for _, dim in _CALIBRATION)
    write(
        "cost",
        "## What a pass costs: the model and passes on this machine\n\n"
        "Core seconds are flops over the rate of dsyrk and dgemm on all cores, "
        f"{1e9 * byte:.2f} ns a byte and {1e6 * row:.2f} µs a row for decoding, casting and "
        f"summing, which passes of {sizes} columns gave; a core takes one segment of "
        f"{_SEGMENT:,} rows after the other. Seconds of `accumulate` from page cache, "
        f"{available_threads()} cores.\n\n"
        + table(["rows", "columns", "Gflop/s a core", "model", "measured", "off by"], lines)
        + "\n\nBy the model, of cores like these, with disks and prices as said:\n\n"
        + table(_HEAD, [line for dim, core in cores.items() for line in _predicted(dim, core)])
        + "\n\nOn GPUs, by data sheets - 50 Tflop/s of float64 products and 50 GB/s from pinned "
        "memory each, decoding by cores like these - and nothing of it measured:\n\n"
        + table(_HEAD, [line for dim, core in cores.items() for line in _on_gpus(dim, core)]),
    )


_HEAD = ["where", "columns", "rows", "TB read", "hours", "bottleneck", "GB a worker", "$"]


def _calibrated(folder: Path) -> tuple[float, float]:
    """Return the seconds of a core for a byte, and for a row, besides the products."""
    besides, amounts = [], []
    for rows, dim in _CALIBRATION:
        seconds = available_threads() * _measured(folder, rows, dim)
        besides.append(seconds - rows * 3 * dim**2 / _rate(dim))
        amounts.append([8.0 * dim * rows, float(rows)])
    byte, row = nnls(np.array(amounts), np.array(besides))[0].tolist()
    return byte, row


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


def _predicted(dim: int, core: _Core) -> list[list[str]]:
    places = (
        _Place("laptop, 2 such cores, SSD of 2 GB/s", 2, 2e9, 0.0),
        _Place("1 machine of 64 such cores, 8 GB/s", 64, 8e9, 3.0),
        _Place("8 machines of 64, 10 GB/s each", 512, 80e9, 24.0),
        _Place("64 machines of 64, 400 GB/s together", 4096, 400e9, 192.0),
    )
    memory = 60 + 3 * 2 * 16 + 8 * 3 * 3 * dim**2 / 1e6
    return [
        _line(place.name, dim, rows, _parts(place, core, rows, dim), memory, place.dollars)
        for place in places
        for rows in _ROWS
    ]


def _on_gpus(dim: int, core: _Core) -> list[list[str]]:
    places = (
        _Gpus("1 GPU, 16 cores, SSD of 7 GB/s", 1, 16, 7e9, 4.0),
        _Gpus("8 GPUs, 128 cores, 8 SSDs of 7 GB/s", 8, 128, 56e9, 32.0),
        _Gpus("64 GPUs, 8 such machines", 64, 1024, 448e9, 256.0),
    )
    # on the device: blocks as read and as cast, and sums
    memory = 3 * 2 * 16 + 3 * 2 * 32 + 8 * 3 * dim**2 / 1e6
    return [
        _line(place.name, dim, rows, _gpu_parts(place, core, rows, dim), memory, place.dollars)
        for place in places
        for rows in _ROWS
    ]


def _line(
    name: str, dim: int, rows: int, parts: dict[str, float], memory: float, dollars: float
) -> list[str]:
    bottleneck, seconds = max(parts.items(), key=lambda part: part[1])
    return [
        name,
        f"{dim:,}",
        f"10^{len(str(rows)) - 1}",
        f"{rows * 8 * dim / 1e12:.2f}",
        f"{seconds / 3600:.3g}",
        bottleneck,
        f"{memory / 1000:.2f}",
        f"{dollars * seconds / 3600:.2f}" if dollars else "-",
    ]


if __name__ == "__main__":
    main()
