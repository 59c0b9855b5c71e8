"""Peak memory of a fit against the plan, at 200,000 and at 2,000,000 rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from data import FOLDER, P, Q, pair
from results import table, write


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option("--rows", multiple=True, default=[200_000, 2_000_000], show_default=True)
def main(folder: Path, rows: tuple[int, ...]) -> None:
    """Measure and write to RESULTS.md."""
    lines = []
    for count in rows:
        x, y, _ = pair(folder, count)
        for options in ((), ("--threads", "1"), ("--folds", "5"), ("--digits", "9")):
            result = _fit(x, y, *options)
            peak, planned = result["peak_memory_bytes"], result["planned_memory_bytes"]
            lines.append(
                [
                    f"{count:,}",
                    " ".join(options),
                    f"{peak / 1e6:.0f} MB",
                    f"{planned / 1e6:.0f} MB",
                    f"{peak / planned:.2f}",
                    f"{result['seconds']:.1f}",
                ]
            )
    write(
        "memory",
        f"## Memory of a fit, {P} to {Q}, float32\n\n"
        "Peak of the resident set above the interpreter with imports, each in a process of its "
        "own, and what `plan` said before it.\n\n"
        + table(["rows", "options", "peak", "planned", "peak / planned", "seconds"], lines),
    )


def _fit(x: Path, y: Path, *options: str) -> dict[str, Any]:
    entry = [sys.executable, "-c", "from crossgram_cli.main import main; main()"]
    with TemporaryDirectory() as folder:
        arguments = ["fit", str(x), str(y), "-o", f"{folder}/map", "--json", *options]
        done = subprocess.run(entry + arguments, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()
