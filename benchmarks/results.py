"""What programs measured, kept as data in results/, of which RESULTS.md is made."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import facts
from plots import draw, has_plot
from render import FOLDER, render

__all__ = ["keep_record", "record_of", "table", "write"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def record_of(name: str, text: str, data: Any = None) -> dict[str, Any]:
    """Return what is kept of a section; parameters are those of `write`."""
    heading, *body = text.splitlines()
    record: dict[str, Any] = {
        "name": name,
        "title": heading.removeprefix("## "),
        "body": body[1:],
        "machine": facts(),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }
    return record if data is None else {**record, "data": data}


def keep_record(record: Mapping[str, Any], folder: Path) -> None:
    """Write a record into a folder, by its name."""
    content = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / f"{record['name']}.json").write_text(f"{content}\n", encoding="utf-8")


def write(name: str, text: str, data: Any = None) -> None:
    """Print a section, keep it in results/, and make RESULTS.md again.

    Parameters
    ----------
    name : str
        Of the section; a run replaces the one before.
    text : str
        Markdown that begins with a heading of the second level.
    data : JSON value, optional
        The figures, of which a plot may draw some.
    """
    name = name.lower().replace(" ", "-")
    record = record_of(name, text, data)
    print(text)
    FOLDER.mkdir(exist_ok=True)
    keep_record(record, FOLDER)
    if has_plot(name):
        draw(name, data, FOLDER / f"{name}.svg")
    render()
