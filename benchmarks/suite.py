"""The suites in test_*.py, and what they measured: rates, and shares of ceilings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from forms import FORMS, VARIABLE
from results import table, write

_UNITS: Mapping[str, tuple[float, str]] = {
    "flops": (1e9, "Gflop/s"),
    "bytes": (1e9, "GB/s"),
    "images": (1, "images/s"),
    "runs": (1, "/s"),
}
_ORDER = ("kernels", "reading", "accumulate", "solve", "apply", "scoring", "extraction")
_HEAD = ("", "median, ms", "best, ms", "rounds", "rate", "ceiling", "of the ceiling", "which is")


@click.command()
@click.option("--form", type=click.Choice(list(FORMS)), default="short", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures, and write nothing.")
def main(form: str, as_json: bool) -> None:
    """Measure and write to RESULTS.md."""
    found = [_reduced(own) for own in _measured(form)]
    found.sort(key=lambda own: _ORDER.index(own["group"]))
    if as_json:
        print(json.dumps(found))
        return
    sections = [
        f"### {group}\n\n{table(_HEAD, [_line(own) for own in members])}"
        for group, members in groupby(found, key=lambda own: own["group"])
    ]
    write(
        "suite" if form == "short" else f"suite-{form}",
        f"## The suites, {form} form\n\n"
        "Each benchmark has its ceiling measured before every round; rates are of medians. A share "
        "above 100 % is of a ceiling that was less quiet than what it bounds, or that does the "
        "work on fewer cores, as copies in memory do.\n\n" + "\n\n".join(sections),
        found,
    )


def _measured(form: str) -> list[dict[str, Any]]:
    """Return what pytest-benchmark says of each benchmark."""
    with TemporaryDirectory() as folder:
        kept = Path(folder) / "benchmarks.json"
        options = [
            "--override-ini=addopts=",
            "--override-ini=tmp_path_retention_policy=failed",
            "--quiet",
            "--benchmark-only",
            "--benchmark-disable-gc",
            "--benchmark-columns=median,rounds",
            f"--benchmark-json={kept}",
            f"--basetemp={folder}/kept",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", Path(__file__).parent, *options],
            env={**os.environ, VARIABLE: form},
            stdout=sys.stderr,
            check=False,
        )
        if done.returncode:
            sys.exit("suite: benchmarks failed, so that nothing is written")
        found: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))["benchmarks"]
        return found


def _reduced(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a benchmark that are kept."""
    stats, info = found["stats"], dict(found["extra_info"])
    counted, ceiling, name = (info.pop(own) for own in ("rate_of", "ceiling", "ceiling_name"))
    rate = info[counted] / stats["median"]
    return {
        "group": found["group"],
        "name": _called(found["name"]),
        "median": stats["median"],
        "min": stats["min"],
        "rounds": stats["rounds"],
        **info,
        "rate": rate,
        "rate_of": counted,
        "ceiling": ceiling,
        "ceiling_name": name,
        "share": rate / ceiling,
    }


def _called(name: str) -> str:
    what, _, parameters = name.removeprefix("test_").replace("_", " ").partition("[")
    return ", ".join([what, *filter(None, parameters.removesuffix("]").split("-"))])


def _line(own: Mapping[str, Any]) -> list[str]:
    divisor, unit = _UNITS[own["rate_of"]]
    return [
        own["name"],
        _figure(1000 * own["median"]),
        _figure(1000 * own["min"]),
        str(own["rounds"]),
        f"{_figure(own['rate'] / divisor)} {unit}",
        f"{_figure(own['ceiling'] / divisor)} {unit}",
        f"{own['share']:.0%}",
        own["ceiling_name"],
    ]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
