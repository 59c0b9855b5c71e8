"""RESULTS.md and its plots, made of what programs kept in results/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plots import draw, has_plot, kind_of

__all__ = ["FOLDER", "render"]

FOLDER = Path(__file__).parent / "results"

_HEADER = """\
# Measured

Every section was written by the program named under it; nothing here is typed by hand. Shares are \
of ceilings measured on the same machine in the same run. `benchmarks/render.py` makes this file \
of those in [results/](results), which have the figures as data.
"""
_NO_GPU = """\
## On a GPU

No GPU has run any of it yet: none of the passes, solutions, maps and scores of `--device cuda` \
has been measured. [gpu_check.sh](gpu_check.sh) does that where there is one; the file gpu.json \
that it makes belongs into [results/](results).
"""
_ORDER = (
    "gpu",
    "side-by-side",
    "suite-full",
    "suite",
    "scaling",
    "cold",
    "start-up",
    "memory",
    "store-layouts",
    "nist",
    "conditions",
    "extraction",
    "faces",
    "all-pairs",
    "merge-tree",
    "cluster",
    "cost",
    "objects",
    "kills",
    "soak",
    "checksums",
    "fuzzing",
    "mutations",
)
"""Sections, with those whose names go on after them; those of other names follow."""


def render() -> None:
    """Write RESULTS.md."""
    records = sorted(_records(), key=lambda own: (_place(own["name"]), own["name"]))
    has_gpu = any(own["name"] == "gpu" for own in records)
    text = "\n".join([_HEADER, *([] if has_gpu else [_NO_GPU]), *map(_section, records)])
    (FOLDER.parent / "RESULTS.md").write_text(text, encoding="utf-8")


def _records() -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in FOLDER.glob("*.json")]


def _place(name: str) -> int:
    kind = kind_of(name, _ORDER)
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def _section(record: dict[str, Any]) -> str:
    name, title, machine = record["name"], record["title"], record["machine"]
    plot = ["", f"![{title}](results/{name}.svg)"] if has_plot(name) else []
    measured = (
        f"Measured {machine['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory GiB']} GiB, Python {machine['Python']}, NumPy {machine['NumPy']}, "
        f"zarr {machine['zarr']}, {machine['BLAS']}. Command: `{record['command']}`"
    )
    return "\n".join([f"## {title}", "", *record["body"], *plot, "", measured, ""])


def main() -> None:
    """Draw every plot again, and write RESULTS.md."""
    for record in _records():
        if has_plot(record["name"]):
            draw(record["name"], record["data"], FOLDER / f"{record['name']}.svg")
    render()


if __name__ == "__main__":
    main()
