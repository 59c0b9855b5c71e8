"""Programs of benchmarks/ that take hours or a quiet machine still run, at sizes of no interest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

# of the packages that the tests have anyway
EXACT = ["NumPy loop, float64", "dask.array.linalg.lstsq (TSQR)", "scikit-learn Ridge, float64"]
ROUGH = ["NumPy loop, float32", "PyTorch loop, float32"]


def figures(program: str, *options: object) -> Any:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / program, "--json", *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_packages_side_by_side(tmp_path: Path) -> None:
    names = ["crossgram, exact", "crossgram, fast", *EXACT, *ROUGH]
    only = [f"--only={name}" for name in names]
    options = ["--folder", tmp_path, "--size", "3000x16", "--rounds", 1]
    (size,) = figures("side_by_side.py", *options, *only)
    assert list(size["peers"]) == names
    # of 15.95, QR costs log10 of the condition number of 3,000, and products twice that
    assert size["reference_digits_of_qr"] > 15.95 - 3.5 - 1.5
    for name in ["crossgram, exact", *EXACT]:
        assert size["peers"][name]["digits"] > 15.95 - 7 - 1.5, name
    for name in ROUGH:
        assert size["peers"][name]["digits"] < 7.2 - 3.5, name
    exact, rough = size["fastest"]
    assert (exact["peer"] in EXACT, rough["peer"] in ROUGH) == (True, True)
    assert exact["ratio"] == pytest.approx(
        min(size["peers"][name]["median_seconds"] for name in EXACT)
        / size["peers"]["crossgram, exact"]["median_seconds"]
    )


def test_what_does_not_fit_the_memory_is_listed(tmp_path: Path) -> None:
    # float64 rows with a column of ones take 52 MB
    options = ["--folder", tmp_path, "--size", "100000x64", "--rounds", 2, "--memory", "50MB"]
    (size,) = figures("side_by_side.py", *options, "--only=numpy.linalg.lstsq")
    assert size["peers"] == {"numpy.linalg.lstsq": {"failed": "out of memory"}}
    assert size["fastest"] == []


def test_scaling() -> None:
    values = {"rows": [20_000, 80_000], "columns": [16, 32], "spaces": [2]}
    sweeps = [f"--sweep={name}={','.join(map(str, own))}" for name, own in values.items()]
    found = figures("scaling.py", "--repeats", 2, *sweeps)["sweeps"]
    assert {name: own["values"] for name, own in found.items()} == values
    for own in found.values():
        assert [len(runs) for runs in own["runs"]] == [2] * len(own["values"])
    assert found["rows"]["fixed"] == {"columns": 128, "spaces": 2, "folds": 1}
    # one line through two points is the line between them
    slopes = found["rows"]["exponents"]["accumulate"]
    assert slopes["overall"] == pytest.approx(slopes["at the end"])
    assert found["spaces"]["exponents"]["accumulate"] is None
