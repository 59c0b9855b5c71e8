"""Speed, memory and correct digits of fits, crossgram's beside those of other packages."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from data import FOLDER, pair, read_into_cache
from machine import blas_seconds, gflops
from numpy.typing import NDArray
from peers import OURS, PEERS, blocks, design
from results import table, write

import crossgram as cg
from crossgram.plan import parse_bytes
from crossgram.resources import available_threads

_SIZES = ("200000x512", "1000000x512", "200000x2048")
_LIMIT = 3600
_OUT_OF_MEMORY = re.compile(r"MemoryError|an(no|')t allocate|bad_alloc|can't start new thread")
"""What NumPy, PyTorch, C++ and Python say; a thread that cannot start has no room for its stack."""

_SHARE = 5 / 6
"""Of the machine's memory, that a peer may take; the rest is for the stores in the page cache."""

_PROGRAM = Path(__file__).parent / "peers.py"


@dataclass
class _Runs:
    """What a peer took, run for run, or why it has no map."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    digits: list[float] = field(default_factory=list)
    failed: str | None = None

    def are_enough(self, rounds: int, patience: int) -> bool:
        """Tell whether there were as many as were asked for, or as may take so many seconds."""
        if self.failed or not self.seconds:
            return bool(self.failed)
        return len(self.seconds) >= min(rounds, max(1, patience // max(self.seconds)))

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        if self.failed:
            return {"failed": self.failed}
        return {
            "seconds": self.seconds,
            "median_seconds": median(self.seconds),
            "peak_bytes": max(self.peak_bytes),
            "digits": min(self.digits),
        }


def _size(_context: object, _parameter: object, given: Sequence[str]) -> list[tuple[int, int]]:
    sizes = []
    for text in given:
        rows, _, columns = text.partition("x")
        if not (rows.isdecimal() and columns.isdecimal()):
            raise click.BadParameter(f"{text!r} given, expected ROWSxCOLUMNS, as in {_SIZES[0]}")
        sizes.append((int(rows), int(columns)))
    return sizes


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    default=_SIZES,
    show_default=True,
    callback=_size,
    help="ROWSxCOLUMNS; source and target are as wide.",
)
@click.option("--rounds", default=5, show_default=True)
@click.option(
    "--patience", default=300, show_default=True, help="Seconds that all runs of a peer may take."
)
@click.option("--memory", help="That a peer may map, such as 8GiB.  [default: 5/6 of all]")
@click.option("--only", multiple=True, type=click.Choice([*PEERS]), help="Instead of all.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures, and write nothing.")
def main(
    folder: Path,
    sizes: list[tuple[int, int]],
    rounds: int,
    patience: int,
    memory: str | None,
    only: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure and write to RESULTS.md, a section for each size."""
    names = only or tuple(PEERS)
    room = int(_SHARE * _machine_memory()) if memory is None else parse_bytes(memory)
    conditions = {
        "memory": room,
        "threads": available_threads(),
        "rounds": rounds,
        "patience": patience,
    }
    measured = []
    for rows, columns in sizes:
        found = conditions | _measured(folder, rows, columns, rounds, patience, names, room)
        measured.append(found)
        if not as_json:
            write(f"side by side {rows}x{columns}", _text(found), found)
    if as_json:
        print(json.dumps(measured))


def _measured(
    folder: Path,
    rows: int,
    columns: int,
    rounds: int,
    patience: int,
    names: Sequence[str],
    room: int,
) -> dict[str, Any]:
    """Run all peers in turn, round by round, so that what slows the machine meets all alike."""
    x, y, _ = pair(folder, rows, columns, columns)
    read_into_cache(x, y)
    _say(f"{rows:,} rows, {columns} columns: the reference")
    exact, agreed = _reference(x, y)
    runs = {name: _Runs() for name in names}
    ceilings = []
    with TemporaryDirectory() as place:
        small = Path(place) / "small"
        cg.synth(small, rows=1000, source_dim=8, target_dim=8)
        for number in range(rounds):
            ceilings.append(blas_seconds(rows, columns, columns, repeats=1))
            for name in random.Random(number).sample(names, len(names)):
                if not runs[name].are_enough(rounds, patience):
                    read_into_cache(x, y)
                    _run(name, [str(room), small, x.parent], exact, runs[name])
                    _say(f"round {number + 1} of {rounds}: {name}: {runs[name].to_dict()}")
    peers = {name: own.to_dict() for name, own in runs.items()}
    return {
        "rows": rows,
        "columns": columns,
        "ceiling_seconds": median(ceilings),
        "reference_digits_of_qr": agreed,
        "peers": peers,
        "fastest": _fastest(peers),
    }


def _run(name: str, given: Sequence[str | Path], exact: NDArray[np.float64], runs: _Runs) -> None:
    """Run a peer once, in a process of its own."""
    threads = str(available_threads())
    own = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    with TemporaryDirectory() as place:
        out = Path(place) / "map.npy"
        command = [sys.executable, _PROGRAM, name, *given, out]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=_LIMIT,
                env=os.environ | own,
            )
        except subprocess.TimeoutExpired:
            runs.failed = f"not done after {_LIMIT} s"
            return
        if done.returncode:
            runs.failed = _reason(done.returncode, done.stderr)
            _say(done.stderr)
            return
        taken = json.loads(done.stdout.splitlines()[-1])
        runs.seconds.append(taken["seconds"])
        runs.peak_bytes.append(taken["peak_bytes"])
        runs.digits.append(_digits(np.load(out), exact))


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _reason(code: int, said: str) -> str:
    if code == -signal.SIGKILL or _OUT_OF_MEMORY.search(said):
        return "out of memory"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"failed: {said.strip().splitlines()[-1]}"


def _digits(found: NDArray[Any], exact: NDArray[np.float64]) -> float:
    """Return the correct digits of the worst column of a map."""
    errors = np.linalg.norm(found - exact, axis=0) / np.linalg.norm(exact, axis=0)
    worst = np.nan_to_num(errors.max(), nan=1.0)
    # none, not -0
    return float(-np.log10(np.clip(worst, np.finfo(float).eps, 1))) + 0.0


def _reference(x: Path, y: Path) -> tuple[NDArray[np.float64], float]:
    """Return crossgram's map of 14 digits, and how many a QR agrees to, kept beside the data.

    Of 200,000 rows of 2,048 columns they take longer than most peers.
    """
    kept = x.parent / "reference.npz"
    if not kept.exists():
        exact = cg.fit(x, y, digits=14).weight.T
        np.savez(kept, exact=exact, agreed=_digits(_qr_map(x, y), exact))
    with np.load(kept) as found:
        return found["exact"], float(found["agreed"])


def _qr_map(x: Path, y: Path) -> NDArray[np.float64]:
    """Solve by QR in float64, block by block, which squares no condition number.

    The triangular factor of [1 X Y] is updated with each block (Golub and Van Loan, Matrix
    Computations, section 5.3); its parts give the least-squares problem R M = Q'Y.
    """
    factor: NDArray[np.float64] | None = None
    unknowns = 0
    for first, second in blocks(x, y):
        unknowns = first.shape[1] + 1
        block = np.concatenate([design(first, np.float64), second], axis=1)
        stacked = block if factor is None else np.concatenate([factor, block])
        factor = np.linalg.qr(stacked, mode="r")
    assert factor is not None
    return np.linalg.solve(factor[:unknowns, :unknowns], factor[:unknowns, unknowns:])[1:]


def _fastest(peers: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the fastest other package of six digits or more, and of fewer, over crossgram."""
    others = {name: own for name, own in peers.items() if name not in OURS and "failed" not in own}
    found = []
    for kind, ours in zip(("six digits or more", "fewer digits"), OURS, strict=True):
        rivals = [name for name, own in others.items() if (own["digits"] >= 6) == (ours == OURS[0])]
        if rivals and "median_seconds" in peers.get(ours, {}):
            best = min(rivals, key=lambda name: others[name]["median_seconds"])
            ratio = others[best]["median_seconds"] / peers[ours]["median_seconds"]
            found.append({"of": kind, "peer": best, "over": ours, "ratio": ratio})
    return found


def _text(data: dict[str, Any]) -> str:
    return (
        f"## Side by side with other packages, {data['rows']:,} rows, {data['columns']:,} to "
        f"{data['columns']:,}\n\n"
        "From Zarr stores of float32 in the page cache to the map, with an intercept, condition "
        f"3,000, by {data['threads']} threads, each run in a process "
        "of its own that has mapped a small pair before; medians of runs taken in turn, peers in "
        "another order each round. A peer whose runs together would take more than "
        f"{data['patience']} seconds has fewer of them. Peaks are of the resident set, above that "
        "after the small pair; "
        f"{data['memory'] / 2**30:.1f} GiB may be mapped above it. Digits are -log10 of the "
        "relative error of the worst column of M, against crossgram's map of 14 digits. "
        "Arithmetic is float64 where nothing else is said; ridges are 1e-12. All read through "
        "zarrs.\n\n" + _figures(data)
    )


def _figures(size: dict[str, Any]) -> str:
    rows, columns, ceiling = size["rows"], size["columns"], size["ceiling_seconds"]
    ours = size["peers"].get(OURS[0], {}).get("median_seconds")
    lines = [_line(name, own, ours, size["rounds"]) for name, own in size["peers"].items()]
    ratios = [
        f"Of the others with {best['of']} the fastest is {best['peer']}: {best['ratio']:.2f} times "
        f"the seconds of {best['over']}."
        for best in size["fastest"]
    ]
    return (
        f"The ceiling, dsyrk + dgemm on resident float64 blocks, timed each round: {ceiling:.2f} s "
        f"({gflops(rows, columns, columns, ceiling):.0f} Gflop/s). "
        f"A float64 QR and the reference agree to {size['reference_digits_of_qr']:.1f} digits.\n\n"
        + table(["", "seconds", "range", "x crossgram, exact", "peak MB", "digits"], lines)
        + "".join(f"\n\n{ratio}" for ratio in ratios)
    )


def _line(name: str, own: dict[str, Any], ours: float | None, rounds: int) -> list[str]:
    if "failed" in own:
        return [name, own["failed"], "", "", "", ""]
    seconds, typical = own["seconds"], own["median_seconds"]
    fewer = "" if len(seconds) == rounds else f" ({len(seconds)} of {rounds} runs)"
    return [
        name,
        f"{typical:.2f}",
        f"{min(seconds):.2f} to {max(seconds):.2f}{fewer}",
        f"{typical / ours:.2f}" if ours else "",
        f"{own['peak_bytes'] / 1e6:,.0f}",
        f"{own['digits']:.1f}",
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
