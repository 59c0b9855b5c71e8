"""RESULTS.md says what the kept results say, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import crossgram

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The programs and their results, without RESULTS.md and the plots."""
    ignored = shutil.ignore_patterns("RESULTS.md", "*.svg", "__pycache__")
    return Path(shutil.copytree(BENCHMARKS, tmp_path / "benchmarks", ignore=ignored))


def run(program: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(crossgram.__file__).parents[1])}
    subprocess.run([sys.executable, program, "--repeats", "3"], check=True, env=environment)


def plots(folder: Path) -> set[str]:
    return {file.name for file in (folder / "results").glob("*.svg")}


def test_the_kept_results_give_the_page_byte_for_byte(copy: Path) -> None:
    run(copy / "render.py")
    assert (copy / "RESULTS.md").read_bytes() == (BENCHMARKS / "RESULTS.md").read_bytes()
    assert plots(copy) == plots(BENCHMARKS)


def test_the_same_data_give_the_same_plots(copy: Path) -> None:
    run(copy / "render.py")
    once = {name: (copy / "results" / name).read_bytes() for name in plots(copy)}
    run(copy / "render.py")
    assert once == {name: (copy / "results" / name).read_bytes() for name in plots(copy)}
    assert once


def test_a_program_replaces_its_section(copy: Path) -> None:
    """With what it ran on, and in its place on the page."""
    before = json.loads((copy / "results" / "start-up.json").read_text())
    (copy / "quick.py").write_text(
        "from results import table, write\n"
        "write('start-up', '## Quick\\n\\n' + table(['a'], [['1']]), {'a': 1})\n"
        "write('zz of no place', '## New\\n\\nIt took 1 s.')\n"
    )
    run(copy / "quick.py")
    after = json.loads((copy / "results" / "start-up.json").read_text())
    assert after["title"] == "Quick"
    assert after["body"] == ["| a |", "| --- |", "| 1 |"]
    assert after["data"] == {"a": 1}
    assert after["command"] == "python benchmarks/quick.py --repeats 3"
    assert after["machine"].keys() == before["machine"].keys()
    page = (copy / "RESULTS.md").read_text()
    assert before["title"] not in page
    ran_on = f"Python {after['machine']['Python']}, NumPy {after['machine']['NumPy']}"
    section = page[page.index("## Quick\n\n| a |\n| --- |\n| 1 |\n\nMeasured 2") :]
    assert ran_on in section.partition("\n\n## ")[0]
    assert page.index("## Quick") < page.index("## Memory") < page.index("## Layouts")
    assert page.rstrip().endswith("Command: `python benchmarks/quick.py --repeats 3`")
    assert "## New\n\nIt took 1 s.\n\nMeasured" in page
