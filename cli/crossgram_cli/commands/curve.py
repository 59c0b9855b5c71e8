"""crossgram curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from crossgram_cli.cluster import cluster, cluster_options
from crossgram_cli.options import normalize_only_option, row_options
from crossgram_cli.shared import (
    check_reports,
    computes,
    emit,
    overwrite_option,
    progress_bar,
    write_csv,
)

if TYPE_CHECKING:
    from crossgram.curves import CurvePoint, LearningCurve

__all__ = ["command"]


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return [int(number) for number in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: write it like 100,1000,10000") from error


@click.command("curve")
@click.argument("x", type=click.Path())
@click.argument("y", type=click.Path())
@click.option(
    "--sizes",
    callback=_numbers,
    metavar="N,N,...",
    help="Numbers of pairs; by default twelve, from max(16, columns / 8) to all that are not held "
    "out.",
)
@click.option(
    "--ranks",
    callback=_numbers,
    metavar="R,R,...",
    help="Ranks of the maps of all training rows; by default 512,256,128,64,32,16,8 as far as the "
    "spaces have them.",
)
@click.option(
    "--held-out",
    type=float,
    default=0.2,
    show_default=True,
    help="Share of the labels (people) that are held out; without labels, of the ids or else rows.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Another one draws other rows."
)
@click.option("--csv", "csv_file", type=click.Path(), help="Write both curves to this CSV file.")
@click.option(
    "--plot", type=click.Path(), help="Draw them in this .svg, .png or .pdf; needs matplotlib."
)
@row_options
@normalize_only_option
@cluster_options
@overwrite_option
@computes
def command(
    x: str,
    y: str,
    normalize: bool,
    normalize_only: str | None,
    csv_file: str | None,
    plot: str | None,
    workers: int | None,
    scheduler: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """How many pairs of X and Y are enough for a map, and how many directions.

    One pass: some rows are held out, maps are fitted to random samples of the others, each of
    which contains the smaller ones, and tried on the rows held out.

    \b
    plain          least squares
    ridge          with a ridge; its strength by generalised cross-validation of the sample
    rotation       the best rotation or reflection, scaled
    rank           the best map of that rank, of all rows that are not held out, with their ridge
    AUC, TAR       with labels: cosines of mapped rows with rows of Y, of up to 2,000 rows held out,
                   up to 20 of a label; TAR is the share of pairs of one label that are accepted
                   where 1 % of other pairs are

    \b
    Example:  crossgram curve a.zarr b.zarr --plot curve.svg
              crossgram curve a.zarr b.zarr --sizes 500,5000,50000 --csv curve.csv
    """
    import crossgram as cg
    from crossgram.curve_plot import write_curve_plot

    read = [x, y, *filter(None, [options["weights"]])]
    check_reports(csv_file, plot, read, overwrite=overwrite)
    with cluster(workers, scheduler, options["device"]) as client, progress_bar() as progress:
        curve = cg.learning_curve(
            x,
            y,
            normalize=normalize_only or normalize,
            client=client,
            progress=progress,
            **options,
        )
    if csv_file is not None:
        write_csv([*curve.points, *curve.ranks], csv_file, overwrite=overwrite)
    if plot is not None:
        write_curve_plot(curve, plot, overwrite=overwrite)
    emit(curve.to_dict() | {"csv": csv_file, "plot": plot}, as_json, _text(curve))


def _text(curve: LearningCurve) -> str:
    from crossgram_cli.text import aligned, columns

    tables = [_of_sizes(curve)]
    if curve.scored_rows:
        tables.append(_recognition_of_sizes(curve))
    tables.append(_of_ranks(curve))
    return "\n\n".join([*(columns(table, text=0) for table in tables), aligned(_facts(curve))])


def _of_sizes(curve: LearningCurve) -> list[list[str]]:
    from crossgram.curves import METHODS

    top = ["pairs", *(f"R2 {name}" for name in METHODS.values()), "ridge strength"]
    return [top] + [
        [
            f"{points[0].rows:,}",
            *(_figure(point.r2) for point in points),
            *(f"{point.ridge:.3g}" for point in points if point.method == "ridge"),
        ]
        for points in _by_size(curve)
    ]


def _recognition_of_sizes(curve: LearningCurve) -> list[list[str]]:
    from crossgram.curves import METHODS

    top = [f"{measure} {name}" for measure in ("AUC", "TAR") for name in METHODS.values()]
    return [["pairs", *top]] + [
        [
            f"{points[0].rows:,}",
            *(_figure(point.auc) for point in points),
            *(_figure(point.tar) for point in points),
        ]
        for points in _by_size(curve)
    ]


def _of_ranks(curve: LearningCurve) -> list[list[str]]:
    top = ["rank", "R2"] + (["AUC", "TAR"] if curve.scored_rows else [])
    return [top] + [
        [f"{point.rank:,}", *map(_figure, (point.r2, point.auc, point.tar))][: len(top)]
        for point in curve.ranks
    ]


def _by_size(curve: LearningCurve) -> list[Sequence[CurvePoint]]:
    from crossgram.curves import METHODS

    count = len(METHODS)
    return [curve.points[k : k + count] for k in range(0, len(curve.points), count)]


def _facts(curve: LearningCurve) -> list[tuple[str, str]]:
    from crossgram.curves import METHODS
    from crossgram.sampling import MOST_OF_A_LABEL

    rows = f"{curve.training_rows:,}, and {curve.held_out_rows:,} held out by {curve.held_out_by}"
    if curve.skipped:
        rows += f" ({curve.skipped:,} more left out, masked or not finite)"
    ends = (f"{space.name} ({space.dim})" for space in (curve.source, curve.target))
    facts = [("from, to", " to ".join(ends)), ("rows", rows)]
    if curve.scored_rows:
        native = f"AUC {_figure(curve.native_auc)}, TAR {_figure(curve.native_tar)}"
        scored = (
            f"pairs of {curve.scored_rows:,} held-out rows, at most {MOST_OF_A_LABEL} of a label; "
            f"TAR at FAR {curve.far:g}"
        )
        facts += [("recognition", scored), ("", f"{curve.target.name} itself: {native}")]
    enough = curve.enough
    largest = enough.rows == max(point.rows for point in curve.points)
    within = (
        "the most that were tried: more may do better" if largest else "within 0.01 of the best"
    )
    reached = f"R2 {_figure(enough.r2)} with {METHODS[enough.method]}, {within}"
    facts.append(("enough", f"{enough.rows:,} pairs: {reached}"))
    return facts + [("note", note) for note in curve.notes]


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value > -100 else f"{value:.1e}"
