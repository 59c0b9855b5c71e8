"""All pairs of many images: how near their scoring comes to the rate of matrix products."""

from __future__ import annotations

import os
import time
from statistics import median

import click
import numpy as np
from machine import timed
from results import table, write
from scipy.linalg.blas import sgemm

from crossgram.evaluation.binned_scores import score_all_pairs
from crossgram.resources import PeakMemory

_DIM = 512
_PEOPLE = 5_000
_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_GEMM_ROWS = 4096


@click.command()
@click.option("--images", default=44_722, show_default=True, help="44,722 have 10^9 pairs.")
@click.option("--repeats", default=3, show_default=True)
def main(images: int, repeats: int) -> None:
    """Measure and write to RESULTS.md."""
    rng = np.random.default_rng(0)
    person = rng.integers(0, _PEOPLE, images)
    rows = rng.standard_normal((_PEOPLE, _DIM), np.float32)[person]
    rows += rng.standard_normal(rows.shape, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    threads = len(os.sched_getaffinity(0))
    lines = []
    for _ in range(repeats):
        ceiling = _sgemm_flops()
        memory = PeakMemory()
        # the first report of the second pass comes when half of all have been reported
        seen: list[tuple[float, int]] = [(time.perf_counter(), 0)]

        def note(pairs: int, seen: list[tuple[float, int]] = seen) -> None:
            seen.append((time.perf_counter(), seen[-1][1] + pairs))

        score_all_pairs(rows, rows, person, _FARS, ordered=False, threads=threads, report=note)
        ended = time.perf_counter()
        pairs = seen[-1][1] // 2
        half = next(at for at, count in seen if count >= pairs)
        first, whole = half - seen[0][0], ended - seen[0][0]
        flops = 2 * _DIM * pairs
        lines.append((pairs, ceiling, flops / first, 2 * flops / whole, whole, memory.bytes()))
    pairs, ceiling, first_rate, whole_rate, seconds, peak = (
        median(column) for column in zip(*lines, strict=True)
    )
    write(
        "all-pairs",
        "## Verification of all pairs\n\n"
        f"{images:,} images of {_PEOPLE:,} people, {_DIM} columns, float32; medians of {repeats}. "
        "Each pair is scored twice: counted in bins, then looked at again for the exact thresholds "
        f"at {len(_FARS)} false accept rates. The rate is that of the products' flops, of both "
        "passes; the ceiling is sgemm on all cores in the same run. Memory is the peak above the "
        "rows.\n\n"
        + table(
            ["pairs", "seconds", "sgemm", "first pass", "of sgemm", "both", "of sgemm", "memory"],
            [
                [
                    f"{pairs:,.0f}",
                    f"{seconds:.0f}",
                    f"{ceiling / 1e9:.0f} GF/s",
                    f"{first_rate / 1e9:.0f} GF/s",
                    f"{first_rate / ceiling:.0%}",
                    f"{whole_rate / 1e9:.0f} GF/s",
                    f"{whole_rate / ceiling:.0%}",
                    f"{peak / 1e6:.0f} MB",
                ]
            ],
        ),
    )


def _sgemm_flops() -> float:
    left = np.ones((_GEMM_ROWS, _DIM), np.float32, order="F")
    sgemm(1.0, left, left, trans_b=True)
    seconds = median(timed(lambda: sgemm(1.0, left, left, trans_b=True)) for _ in range(5))
    return 2 * _DIM * _GEMM_ROWS**2 / seconds


if __name__ == "__main__":
    main()
