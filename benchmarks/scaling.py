"""Time and memory of a pass and a map against rows, columns, spaces, folds and threads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from results import table, write
from scaling_point import Point

from crossgram.resources import available_threads

_PROGRAM = Path(__file__).parent / "scaling_point.py"
_QUANTITIES = ("accumulate", "solve", "peak_bytes")


@dataclass(frozen=True)
class _Sweep:
    """Points that differ in one of their fields."""

    name: str
    values: tuple[int, ...]
    base: Point

    def points(self) -> list[Point]:
        """Return the points, of rising values."""
        return [replace(self.base, **{self.name: value}) for value in self.values]

    def fixed(self) -> dict[str, int]:
        """Return the other fields, as far as they are set."""
        fields = asdict(self.base) | {self.name: None}
        return {name: value for name, value in fields.items() if value is not None}


_SWEEPS = {
    sweep.name: sweep
    for sweep in (
        _Sweep(
            "rows",
            (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000),
            Point(rows=10_000, columns=128),
        ),
        # two segments, which are what threads share: less would leave one of two idle
        _Sweep(
            "columns",
            (64, 128, 256, 512, 1024, 2048, 4096, 8192),
            Point(rows=32_768, columns=64),
        ),
        _Sweep("spaces", (2, 3, 4, 6, 8, 10), Point(rows=50_000, columns=256)),
        _Sweep("folds", (1, 2, 3, 5, 10), Point(rows=100_000, columns=256)),
        _Sweep(
            "threads",
            tuple(2**k for k in range(available_threads().bit_length())),
            Point(rows=200_000, columns=512),
        ),
    )
}


def _sweeps(_context: object, _parameter: object, given: Sequence[str]) -> list[_Sweep]:
    sweeps = []
    for text in given:
        name, _, listed = text.partition("=")
        values = listed.split(",") if listed else []
        if name not in _SWEEPS or not all(value.isdecimal() and int(value) for value in values):
            raise click.BadParameter(
                f"{text!r} given, expected one of {', '.join(_SWEEPS)}, or with values of it: "
                "rows=1000,2000"
            )
        sweep = _SWEEPS[name]
        sweeps.append(replace(sweep, values=tuple(sorted(map(int, values))) or sweep.values))
    return sweeps


@click.command()
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    default=tuple(_SWEEPS),
    show_default=True,
    callback=_sweeps,
    help="NAME, or NAME=VALUE,VALUE,...",
)
@click.option("--repeats", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures, and write nothing.")
def main(sweeps: list[_Sweep], repeats: int, as_json: bool) -> None:
    """Measure and write to RESULTS.md."""
    taken: dict[Point, list[dict[str, float]]] = {}
    for number in range(repeats):
        for point in (point for sweep in sweeps for point in sweep.points()):
            taken.setdefault(point, []).append(_taken(point))
            print(
                f"{number + 1} of {repeats}: {point}: {taken[point][-1]}",
                file=sys.stderr,
                flush=True,
            )
    data = {"repeats": repeats, "sweeps": {sweep.name: _swept(sweep, taken) for sweep in sweeps}}
    if as_json:
        print(json.dumps(data))
    else:
        write("scaling", _text(data), data)


def _taken(point: Point) -> dict[str, float]:
    """Run a point in a process of its own."""
    command = [sys.executable, _PROGRAM, json.dumps(asdict(point))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    taken: dict[str, float] = json.loads(done.stdout)
    return taken


def _swept(sweep: _Sweep, taken: dict[Point, list[dict[str, float]]]) -> dict[str, Any]:
    medians = {
        name: [median(own[name] for own in taken[point]) for point in sweep.points()]
        for name in _QUANTITIES
    }
    return {
        "fixed": sweep.fixed(),
        "values": list(sweep.values),
        "medians": medians,
        "runs": [taken[point] for point in sweep.points()],
        "exponents": {name: _exponents(sweep.values, own) for name, own in medians.items()},
    }


def _exponents(values: Sequence[int], found: Sequence[float]) -> dict[str, float] | None:
    """Return k of found ~ valuesᵏ by least squares of logarithms, and between the last two."""
    if len(values) < 2:
        return None
    x, y = np.log(values), np.log(np.maximum(found, 1e-6))
    return {
        "overall": float(np.polyfit(x, y, 1)[0]),
        "at the end": float((y[-1] - y[-2]) / (x[-1] - x[-2])),
    }


def _text(data: dict[str, Any]) -> str:
    return (
        "## Scaling of a pass and a map\n\n"
        "`accumulate` of all pairs of spaces, and `solve` of the first to the second, float32 rows "
        "from a resident block, given again and again: nothing is read or decoded. Each point in a "
        "process of its own that has made a small map before; peaks are above that and the "
        f"resident rows. Medians of {data['repeats']}, taken in turn. Exponents are of powers "
        "fitted to all points, and between the last two. Threads share segments of 16,384 rows; "
        "solving has all threads of BLAS.\n\n"
        + "\n\n".join(_section(name, sweep) for name, sweep in data["sweeps"].items())
    )


def _section(name: str, sweep: dict[str, Any]) -> str:
    seconds, solving, peaks = (sweep["medians"][quantity] for quantity in _QUANTITIES)
    lines = [
        [f"{value:,}", f"{first:.3g}", f"{second:.3g}", f"{peak / 1e6:,.0f}"]
        for value, first, second, peak in zip(sweep["values"], seconds, solving, peaks, strict=True)
    ]
    for which in ("overall", "at the end"):
        own = [sweep["exponents"][quantity] for quantity in _QUANTITIES]
        if all(own):
            lines.append([f"exponent, {which}", *(f"{each[which]:.2f}" for each in own)])
    fixed = ", ".join(f"{other} {value:,}" for other, value in sweep["fixed"].items())
    head = [name, "accumulate, s", "solve, s", "peak MB"]
    return f"### {name.capitalize()}: {fixed}\n\n{table(head, lines)}"


if __name__ == "__main__":
    main()
