"""Some thousand changed files of every kind are read or refused; benchmarks/fuzz.py tries more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import crossgram

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SLOW = "reports,hdf5,parquet,ingested stores"
"""Of which only the long form has cases."""


def test_changed_files_are_read_or_refused(tmp_path: Path) -> None:
    options = ["--cases", "1500", "--batch", "4", "--skip", SLOW, "--findings", tmp_path]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "fuzz.py", *map(str, options)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(crossgram.__file__).parents[1])},
        timeout=300,
    )
    assert "| all |" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
