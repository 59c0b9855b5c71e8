"""Sections of RESULTS.md, written by the programs that measured them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from machine import facts

__all__ = ["table", "write"]

_FILE = Path(__file__).parent / "RESULTS.md"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(name: str, text: str) -> None:
    """Print a section, and put it in place of the one of that name in RESULTS.md."""
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    section = f"{start}{text}\n\nMeasured {facts()}. Command: `{command}`\n{end}"
    print(section)
    content = _FILE.read_text(encoding="utf-8")
    before, found, rest = content.partition(start)
    if found:
        content = before + section + rest.partition(end)[2]
    else:
        content = content.rstrip("\n") + "\n\n" + section
    _FILE.write_text(content, encoding="utf-8")
