"""Speed and accuracy of a fit of 200,000 rows, 512 to 512, beside other ways to the same map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import numpy as np
from data import FOLDER, P, Q, pair, read_into_cache
from machine import blas_seconds, gflops, timed
from peers import PEERS, qr_map
from results import table, write

import crossgram as cg


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--rows", default=200_000, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(folder: Path, rows: int, repeats: int) -> None:
    """Measure and write to RESULTS.md."""
    x, y, _ = pair(folder, rows)
    read_into_cache(x, y)
    exact = qr_map(x, y)
    runs: dict[str, Callable[[], np.ndarray]] = {
        "crossgram, exact": lambda: cg.fit(x, y).weight.T,
        "crossgram, exact, two passes": lambda: cg.fit(x, y, digits=9).weight.T,
        "crossgram, fast": lambda: cg.fit(x, y, precision="fast").weight.T,
    }
    runs |= {name: (lambda peer=peer: peer(x, y)) for name, peer in PEERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    errors: dict[str, float] = {}
    ceilings: list[float] = []
    for _ in range(repeats):
        for name, run in runs.items():
            ceilings.append(blas_seconds(rows, P, Q, repeats=1))
            found: list[np.ndarray] = []
            seconds[name].append(timed(lambda: found.append(run())))  # noqa: B023
            errors[name] = float(np.linalg.norm(found[0] - exact) / np.linalg.norm(exact))
    write(f"fit {rows}", _text(rows, repeats, seconds, errors, median(ceilings)))


def _text(
    rows: int,
    repeats: int,
    seconds: dict[str, list[float]],
    errors: dict[str, float],
    ceiling: float,
) -> str:
    lines = [
        [
            name,
            f"{median(times):.2f}",
            f"{min(times):.2f} to {max(times):.2f}",
            f"{ceiling / median(times):.0%}",
            f"{errors[name]:.1e}",
        ]
        for name, times in seconds.items()
    ]
    return (
        f"## Fit of {rows:,} rows, {P} to {Q}, float32, condition 3,000\n\n"
        f"From blosc-compressed stores in the page cache. The ceiling is dsyrk + dgemm on "
        f"resident float64 blocks, timed before every run: {ceiling:.2f} s "
        f"({gflops(rows, P, Q, ceiling):.0f} Gflop/s). Medians of {repeats}, taken in turn. The "
        f"error is that of M, relative, Frobenius, against a float64 QR.\n\n"
        + table(["", "seconds", "range", "of the ceiling", "error of M"], lines)
    )


if __name__ == "__main__":
    main()
