"""crossgram evaluate classify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossgram_cli.cluster import cluster, cluster_options
from crossgram_cli.commands.evaluate.options import names_option, split_options
from crossgram_cli.shared import computes, emit, progress_bar

if TYPE_CHECKING:
    from crossgram.evaluation import ClassificationReport

__all__ = ["classify"]


@click.command("classify")
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option(
    "--head",
    type=click.Path(),
    required=True,
    help="The classifier of TARGET's network, as `crossgram extract --head` writes it.",
)
@click.option("--map", "linear_map", type=click.Path(), help="From SOURCE to TARGET.")
@click.option(
    "--source-head",
    type=click.Path(),
    help="The classifier of SOURCE's network, to see what its own embeddings give.",
)
@click.option(
    "--classes",
    "classes_file",
    type=click.Path(),
    help="A text file with the label of each class, a line each, in the head's order. By default "
    "labels that are whole numbers are the classes, and others are in the order of their names.",
)
@names_option
@split_options
@cluster_options
@computes
def classify(
    source: str,
    target: str,
    classes_file: str | None,
    names: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify embeddings by TARGET's head: its own ones, SOURCE's mapped to it, and unmapped.

    SOURCE and TARGET are stores of the same labelled images, in the same order.

    \b
    Example:  crossgram evaluate classify a.zarr b.zarr --map a-to-b.safetensors \\
                  --head b.zarr.head.safetensors --source-head a.zarr.head.safetensors
    """
    import crossgram as cg

    classes = None if classes_file is None else _lines(Path(classes_file))
    with cluster(workers, scheduler) as client, progress_bar() as progress:
        report = cg.classify(
            source,
            target,
            options.pop("head"),
            names=names or None,
            classes=classes,
            client=client,
            progress=progress,
            **options,
        )
    emit(report.to_dict(), as_json, _text(report))


def _lines(path: Path) -> list[str]:
    from crossgram.errors import InputError

    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error


def _text(report: ClassificationReport) -> str:
    from crossgram_cli.text import aligned, columns

    table = [["embeddings by head", "top-1", "top-5", "agreement", "top-1 lost", "top-5 lost"]]
    for own in report.classifications:
        shares = [*own.top.values(), own.agreement]
        lost = [f"{points:+.2f}" for points in own.loss.values()]
        table.append([own.embeddings, *(f"{100 * share:.2f}" for share in shares), *lost])
    left_out = f", {report.left_out:,} without an embedding left out" if report.left_out else ""
    lines = [
        ("figures", "in percent; lost in points; agreement with what TARGET's own embedding gives"),
        ("images", f"{report.images:,} of {report.classes:,} classes{left_out}"),
        *(("note", note) for note in report.notes),
    ]
    return f"{columns(table, text=1)}\n\n{aligned(lines)}"
