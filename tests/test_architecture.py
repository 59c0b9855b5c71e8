"""Imports point down the list of modules in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import crossgram

ENGINE = Path(crossgram.__file__).parent
LIST = Path(__file__).parents[1] / "docs" / "architecture.md"


def lines_of_modules() -> dict[str, int]:
    """Return which line of the list each module is on."""
    rows = [line.split("|")[1] for line in LIST.read_text("utf-8").splitlines() if "| `" in line]
    return {
        name.strip("/"): number
        for number, row in enumerate(rows)
        for name in re.findall(r"`([^`]+)`", row)
    }


def imports(module: Path) -> Iterator[str]:
    """Yield the modules of the library that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("crossgram"):
            _, *parts = str(node.module).split(".")
            yield from parts[:1] or [alias.name for alias in node.names]


def test_every_module_has_a_line_and_imports_none_above_it() -> None:
    listed = lines_of_modules()
    upwards = []
    files = [path for path in ENGINE.rglob("*.py") if path.name != "__init__.py"]
    for path in files:
        own = path.relative_to(ENGINE).parts[0].removesuffix(".py")
        assert own in listed
        upwards += [
            f"{own} -> {name}" for name in imports(path) if listed.get(name, 99) < listed[own]
        ]
    assert len(files) > 30
    # the method that adds rows to moments is a shorthand for what accumulates them
    assert upwards == ["moments -> accumulator"]
