"""Results as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossgram.certificate import Certificate
    from crossgram.linear_map import LinearMap

__all__ = [
    "aligned",
    "certificate_lines",
    "columns",
    "flattened",
    "map_lines",
    "moments_lines",
    "size",
]


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def columns(rows: Sequence[Sequence[str]], *, text: int) -> str:
    """Return a table: the first `text` columns to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k < text else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def size(count: float) -> str:
    """Return a number of bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def map_lines(fitted: LinearMap, path: str) -> list[tuple[str, str]]:
    """Return what a map is and how good, as names and values."""
    assert fitted.certificate is not None
    ends = (f"{space.name} ({space.dim})" for space in (fitted.source, fitted.target))
    return [("map", path), ("from, to", " to ".join(ends)), *certificate_lines(fitted.certificate)]


def certificate_lines(certificate: Certificate) -> list[tuple[str, str]]:
    """Return what a certificate says, as names and values."""
    rows = f"{certificate.rows:,}"
    if certificate.skipped:
        rows += f" ({certificate.skipped:,} more left out, masked or not finite)"
    lines = [
        ("rows", rows),
        ("R2", f"{certificate.r2:.6f}"),
    ]
    if certificate.cross_validated_r2 is not None:
        lines.append(
            ("held-out R2", f"{certificate.cross_validated_r2:.6f} ({certificate.folds} folds)")
        )
    ridge = f"ridge {certificate.ridge:g}"
    if certificate.ridge_chosen_by != "caller":
        ridge += f" by {certificate.ridge_chosen_by}"
    lines += [
        ("rank", f"{certificate.rank} of {certificate.source_dim}"),
        ("condition", f"{certificate.condition:.3g}"),
        ("digits", f"{certificate.digits:.1f} of the map are correct, by estimate"),
        (
            "method",
            (
                f"{certificate.method}, {'an' if certificate.intercept else 'no'} intercept, "
                f"{ridge}, {certificate.precision} on {certificate.backend}"
                + (f", {certificate.passes} passes" if certificate.passes > 1 else "")
            ),
        ),
    ]
    return lines + [("note", note) for note in certificate.notes]


def flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested JSON values as dotted names and values; items of a list have a line each."""
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            lines += [(prefix + name if k == 0 else "", _inline(v)) for k, v in enumerate(value)]
        elif value is not None:
            lines.append((prefix + name, _inline(value)))
    return lines


def moments_lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what moments are, as names and values; a line for each step of their history."""
    facts = _signed({name: value for name, value in result.items() if name != "history"})
    for name in ("source", "target"):
        if name in facts:
            facts[name] = _signed(facts[name])
    if "spaces" in facts:
        facts["spaces"] = [_signed(space) for space in facts["spaces"]]
    remembered = facts.pop("remembers", None)
    lines = flattened(facts)
    if remembered is not None:
        lines.append(("remembers", _remembered(remembered)))
    for k, step in enumerate(result.get("history", ())):
        rows = (
            f"{step['rows']:,} rows of {', '.join(i['path'] for i in step['inputs']) or 'no name'}"
        )
        options = ", ".join(
            f"{name} {_inline(value)}" for name, value in step["options"].items() if value
        )
        made = f"{step['time']}  {step['operation']} {rows} (crossgram {step['version']}"
        lines.append(("" if k else "history", f"{made}{options and '; '}{options})"))
    return lines


def _remembered(facts: Mapping[str, Any]) -> str:
    """Say what images and people a file tells that it was made of."""
    known = []
    for name, own in facts.items():
        if own is not None:
            sampled = own["kept"] < own["different"]
            about, sample = ("about ", f" by a sample of {own['kept']:,}") if sampled else ("", "")
            known.append(f"{about}{own['different']:,} {name}{sample}")
    if not known:
        return "no images or people that it was made of"
    return f"{' and '.join(known)} that it was made of"


def _signed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a space or a store is, its signature cut to what tells it at a glance."""
    shown = {name: value for name, value in facts.items() if name != "signature"}
    signature = facts.get("signature")
    if signature is not None:
        size = _inline(signature["recipe"].get("size"))
        shown["signature"] = f"weights {signature['weights_sha256'][:12]}, images {size}"
    return shown


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_inline(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " x ".join(_inline(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
