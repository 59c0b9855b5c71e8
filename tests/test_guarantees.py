"""docs/guarantees.md names tests, and these are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"


@cache
def names_in(file: Path) -> frozenset[str]:
    """Return the tests of a module, as pytest names them."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (part for part in node.body if isinstance(part, ast.FunctionDef))
            found |= {f"{node.name}::{part.name}" for part in inner}
    return frozenset(name for name in found if name.split("::")[-1].startswith("test"))


def named(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`(test_\w+\.py)::([\w:]+)`", text)


def test_every_test_that_is_named_is_there() -> None:
    there = [(TESTS / file).exists() for file, _ in named(PAGE.read_text("utf-8"))]
    assert len(there) > 50
    lost = [
        f"{file}::{test}"
        for file, test in named(PAGE.read_text("utf-8"))
        if not (TESTS / file).exists() or test not in names_in(TESTS / file)
    ]
    assert lost == []


def test_every_promise_names_a_test() -> None:
    promises = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("- ")]
    assert len(promises) > 30
    assert [line for line in promises if not named(line)] == []
