"""The benchmark suites run, so small that their figures say nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import crossgram

SUITE = Path(__file__).parents[1] / "benchmarks" / "suite.py"


def test_every_benchmark_runs_beside_its_ceiling() -> None:
    # under xdist, pytest-benchmark would measure nothing
    inherited = {name: own for name, own in os.environ.items() if "XDIST" not in name}
    done = subprocess.run(
        [sys.executable, SUITE, "--form", "tiny", "--json"],
        capture_output=True,
        text=True,
        env={**inherited, "PYTHONPATH": str(Path(crossgram.__file__).parents[1])},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert Counter(own["group"] for own in found) == {
        "kernels": 9,
        "reading": 12,
        "accumulate": 8,
        "solve": 5,
        "apply": 2,
        "scoring": 4,
        "extraction": 1,
    }
    assert len({own["name"] for own in found}) == len(found)
    for own in found:
        assert own["rate"] == pytest.approx(own[own["rate_of"]] / own["median"])
        assert own["share"] == pytest.approx(own["rate"] / own["ceiling"])
        assert own["min"] <= own["median"]
