"""How long it takes until the library is imported and the help is shown."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from statistics import median

from machine import timed
from results import table, write

_REPEATS = 11
_COMMANDS = {
    "python -c pass": "pass",
    "python -c 'import crossgram'": "import crossgram",
    "crossgram --help": "from crossgram_cli.main import main; main(['--help'])",
    "crossgram fit --help": "from crossgram_cli.main import main; main(['fit', '--help'])",
}


def main() -> None:
    """Measure and write to RESULTS.md."""
    lines = []
    for name, code in _COMMANDS.items():
        process = partial(
            subprocess.run, [sys.executable, "-c", code], capture_output=True, check=True
        )
        times = [timed(process) for _ in range(_REPEATS)]
        lines.append([name, f"{median(times):.3f}", f"{max(times):.3f}"])
    write(
        "start-up",
        "## Start-up, whole processes\n\n"
        + table(["", f"median seconds of {_REPEATS}", "worst"], lines),
    )


if __name__ == "__main__":
    main()
