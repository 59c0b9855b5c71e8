"""crossgram demo."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from crossgram_cli.shared import computes, emit, overwrite_option, progress_bar

if TYPE_CHECKING:
    from crossgram.demonstration import ClosedSet, Demonstration, OpenSet, Verification

__all__ = ["command"]

_WIDTH = 88


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(),
    default="crossgram-demo",
    show_default=True,
    help="Directory for images, stores and maps; one that an earlier demo made is replaced.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of the split into learnt and held-out images, and of the training.",
)
@overwrite_option
@computes
def command(out: str, seed: int, overwrite: bool, as_json: bool) -> None:
    """Show the whole story on real images, in about a minute, without a download.

    Two different networks learn 1,797 handwritten digits. Linear maps are fitted between their
    embeddings, and tried on images that neither the networks nor the maps have seen: first of
    digits that the networks know, then of digits that are new to them.

    \b
    Example:  crossgram demo
              crossgram demo --out elsewhere --seed 1 --json
    """
    from crossgram.demonstration import demonstrate

    with progress_bar() as progress:
        found = demonstrate(out, seed=seed, overwrite=overwrite, progress=progress)
    program = "crossgram" if shutil.which("crossgram") else sys.argv[0]
    emit(found.to_dict(), as_json, _text(found, program))


def _text(found: Demonstration, program: str) -> str:
    networks = [
        f"  network {name.upper()}  {facts.design}: {facts.dim} numbers per image, "
        f"{facts.parameters:,} weights"
        for name, facts in found.networks.items()
    ]
    parts = [
        "\n".join(["Two networks that read handwritten digits", *networks]),
        *_closed_parts(found.closed_set),
        *_open_parts(found.open_set),
        _files(found, program),
    ]
    return "\n\n".join(parts)


def _closed_parts(result: ClosedSet) -> tuple[str, str, str]:
    title = (
        f"1. Digits that both networks know: {result.held_out_images} new images classified "
        f"correctly (networks and maps learnt from {result.learnt_images:,} others)"
    )
    rows = [
        ("its own classifier", result.own),
        ("the other's classifier, through the fitted map", result.mapped),
        ("the other's classifier, through a map made of the two classifiers", result.head_mapped),
        ("the other's classifier, no map (cut, or filled with zeros)", result.unmapped),
    ]
    table = _table(
        ("who reads the embeddings", "of A", "of B"),
        [(name, _percent(share["a"]), _percent(share["b"])) for name, share in rows],
    )
    a, b = (
        f"{_percent(result.mapped[name])} with the map, {_percent(result.unmapped[name])} without"
        for name in "ab"
    )
    words = (
        f"A's embeddings in B's classifier: right on {a}. B's in A's: {b}. The map made of the "
        "two classifiers gives each network its own result by construction: a check of the "
        "arithmetic, no evidence that the spaces are alike."
    )
    return _paragraph(title), table, _paragraph(words, "   ")


def _open_parts(result: OpenSet) -> tuple[str, str, str]:
    title = (
        f"2. Digits that nobody knows: do two images show the same digit? "
        f"({result.held_out_images} images of 7, 8 and 9; networks and map learnt from "
        f"{result.learnt_images:,} images of 0 to 6 only)"
    )
    rows = [
        ("A with A", result.own["a"]),
        ("B with B", result.own["b"]),
        ("A through the map, with B", result.mapped),
        ("A filled with zeros, with B", result.unmapped),
    ]
    table = _table(
        (
            "which embeddings are compared",
            "AUC",
            "equal error",
            f"hits at {result.mapped.operating_point.far:.0%} false alarms",
        ),
        [(name, *_figures(verification)) for name, verification in rows],
    )
    hits = [
        _percent(verification.operating_point.true_accept_rate)
        for verification in (result.mapped, result.own["a"], result.own["b"])
    ]
    words = (
        "AUC is 1 for perfect comparisons and 0.5 for guessing. Within its own space A has "
        f"{result.own['a'].area_under_curve:.3f} and B {result.own['b'].area_under_curve:.3f}; A "
        f"compared with B has {result.mapped.area_under_curve:.3f} with the map and "
        f"{result.unmapped.area_under_curve:.3f} without. At few false alarms: "
        f"{hits[0]} hits with the map, {hits[1]} and {hits[2]} within A and B."
    )
    return _paragraph(title), table, _paragraph(words, "   ")


def _figures(found: Verification) -> tuple[str, str, str]:
    return (
        f"{found.area_under_curve:.3f}",
        _percent(found.equal_error_rate),
        _percent(found.operating_point.true_accept_rate),
    )


def _files(found: Demonstration, program: str) -> str:
    from crossgram_cli.text import aligned

    folder = found.directory / "closed-set"
    fitted, rows = folder / "atlas/maps/a-to-b.safetensors", folder / "held-out" / "a.zarr"
    files = [
        ("  images", f"{folder / 'images'}"),
        ("  networks", f"{folder / 'a.safetensors'}, b.safetensors"),
        ("  embeddings", f"{folder / 'learnt'}, held-out"),
        ("  maps", f"{fitted}, b-to-a.safetensors"),
        ("  part 2", f"{found.directory / 'open-set'}, the same"),
        ("  all figures", f"{found.directory / 'demo.json'}"),
    ]
    lines = [
        f"Made in {found.seconds:.0f} s:",
        aligned(files),
        "",
        "Next: look at the map, put A's held-out embeddings into B's space, embed the images again",
        f"  {program} inspect {fitted}",
        f"  {program} apply {fitted} \\",
        f"      {rows} a-in-b.zarr",
        f"  {program} extract {folder / 'images' / 'held-out'} a-again.zarr \\",
        "      --model crossgram.demonstration.networks:a_of_10 --layer penultimate \\",
        f"      --model-weights {folder / 'a.safetensors'}",
    ]
    reports = [found.directory / part / "atlas/report.html" for part in ("closed-set", "open-set")]
    lines += ["", "The reports, to open in a browser:", *(f"  {path}" for path in reports)]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _paragraph(words: str, first_indent: str = "") -> str:
    return textwrap.fill(
        words, _WIDTH, initial_indent=first_indent, subsequent_indent="   ", break_on_hyphens=False
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "   ".join(
            [f"   {row[0]:<{widths[0]}}"]
            + [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in (head, *rows)
    ]
    return "\n".join([lines[0], f"   {'-' * (len(lines[0]) - 3)}", *lines[1:]])
