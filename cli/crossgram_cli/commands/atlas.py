"""crossgram atlas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossgram_cli.cluster import cluster, cluster_options
from crossgram_cli.commands.evaluate.options import fars_option, names_option
from crossgram_cli.options import FiniteRange, forget_option, solve_options, unweighted_row_options
from crossgram_cli.shared import computes, emit, overwrite_option, progress_bar

if TYPE_CHECKING:
    from crossgram.atlases import Atlas

__all__ = ["command"]

_MOST_NOTES = 5
"""On maps."""

_SHOWN = ("rank-1", "area_under_curve", "top-1", "held_out_r2")
"""Of the tables of a report, those that are printed too."""


@click.command("atlas")
@click.argument("spaces", nargs=-1, required=True, type=click.Path(), metavar="S1 S2 ...")
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder to make.")
@names_option
@click.option(
    "--try-on",
    multiple=True,
    type=click.Path(),
    help="A store of other images to try the maps on, once per space, in order; by default people "
    "are held out of the fit for it.",
)
@click.option(
    "--head",
    "heads",
    multiple=True,
    type=click.Path(),
    help="The classifier of a network, once per space, in order, to classify what is tried on; "
    "labels are then classes, not people.",
)
@click.option(
    "--held-out",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the people (of images without labels: images) to hold out.",
)
@click.option(
    "--most-images",
    type=click.IntRange(2),
    default=2000,
    show_default=True,
    help="Of those held out, try recognition on so many images at most: whole people, at most 20 "
    "images each.",
)
@fars_option
@click.option(
    "--resamples",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Draws of people for the confidence intervals; 0 for none.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of what is held out, and of the draws.",
)
@click.option("--allow-overlap", is_flag=True, help="Try maps also on what they were fitted on.")
@click.option(
    "--no-report",
    "with_report",
    flag_value=False,
    default=True,
    help="Leave out report.html, which `crossgram report` can make later; it needs matplotlib.",
)
@solve_options
@unweighted_row_options
@forget_option
@cluster_options
@overwrite_option
@computes
def command(
    spaces: tuple[str, ...],
    output: str,
    names: tuple[str, ...],
    with_report: bool,
    workers: int | None,
    scheduler: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Map every space to every other one, in one pass, try all maps, and report.

    S1 S2 ... are stores of the same images by different networks. The folder has the report
    (report.html), all figures by source and target (figures.csv, atlas.json), the maps, and the
    moments that they were solved from.

    \b
    Example:  crossgram atlas a.zarr b.zarr c.zarr -o atlas
              crossgram atlas a-train.zarr b-train.zarr -o atlas \\
                  --try-on a-test.zarr --try-on b-test.zarr
    """
    import crossgram as cg
    from crossgram.reporting import check_report

    if with_report:
        check_report()
    with cluster(workers, scheduler, options["device"]) as client, progress_bar() as progress:
        made = cg.atlas(
            spaces,
            output,
            names=names or None,
            client=client,
            overwrite=overwrite,
            progress=progress,
            **options,
        )
    if with_report:
        cg.write_report(output)
    emit({"atlas": output, **made.to_dict()}, as_json, _text(made, output))


def _text(made: Atlas, folder: str) -> str:
    from crossgram.atlases.tables import matrices_of
    from crossgram.atlases.words import basis, headline, map_notes, split_in_words
    from crossgram.reporting.names import Names
    from crossgram_cli.text import aligned, columns

    names = Names(made.names)
    parts = ["\n".join([*headline(made), *basis(made)])]
    for matrix in (own for own in matrices_of(made) if own.name in _SHOWN):
        top = [f"{matrix.title}, from / to", *map(names.short, made.names)]
        rows = [
            [names.numbered(source), *(matrix.text(source, target) for target in made.names)]
            for source in made.names
        ]
        parts.append(columns([top, *rows], text=1))
    files = sorted(path.name for path in Path(folder).iterdir())
    lines = [
        ("figures", "in percent, but R2; on the diagonal those of a network by itself"),
        ("split", split_in_words(made)),
        *(("note", note) for note in (*made.notes, *_first(map_notes(made)))),
        ("atlas", f"{folder}: {', '.join(files)}"),
    ]
    return "\n\n".join([*parts, aligned(lines)])


def _first(notes: list[str]) -> list[str]:
    more = len(notes) - _MOST_NOTES
    last = [f"{more:,} more on maps, with their certificates"] if more > 0 else []
    return [*notes[:_MOST_NOTES], *last]
