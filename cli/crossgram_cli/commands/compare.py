"""crossgram compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crossgram_cli.cluster import cluster, cluster_options
from crossgram_cli.options import FiniteRange, row_options
from crossgram_cli.shared import (
    check_reports,
    computes,
    emit,
    overwrite_option,
    progress_bar,
    write_csv,
)

if TYPE_CHECKING:
    from crossgram.comparison import Comparison

__all__ = ["command"]

_LONGEST_NAME = 13


@click.command("compare")
@click.argument("data", nargs=-1, required=True, type=click.Path(), metavar="MOMENTS | S1 S2 ...")
@click.option(
    "--name",
    "names",
    multiple=True,
    help="What to call a space, once per store, in order; by default the stores' file names.",
)
@click.option(
    "--variance",
    type=FiniteRange(0, 1, min_open=True),
    default=0.99,
    show_default=True,
    help="Share of variance of the principal directions that SVCCA keeps.",
)
@click.option(
    "--regularization",
    type=FiniteRange(min=0),
    default=0.0,
    show_default=True,
    help="For CCA and PWCCA, add so many times a space's mean variance to every direction: 0.01 "
    "steadies them where rows are few.",
)
@click.option("--csv", "csv_file", type=click.Path(), help="Write the table to this CSV file.")
@click.option(
    "--plot", type=click.Path(), help="Draw heat maps in this .svg, .png or .pdf; needs matplotlib."
)
@row_options
@cluster_options
@overwrite_option
@computes
@click.pass_context
def command(
    ctx: click.Context,
    /,
    data: tuple[str, ...],
    names: tuple[str, ...],
    variance: float,
    regularization: float,
    csv_file: str | None,
    plot: str | None,
    workers: int | None,
    scheduler: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare every pair of spaces: R2 of the maps, CKA, CCA, Procrustes distance.

    Give a MOMENTS file of `crossgram accumulate`, or two or more stores of the same images, which
    are read once; what says how rows are read is for stores only.

    \b
    R2             share of the target's variance that the map from the source explains
    cycle          share of the source's variance that returns from the map there and the map back
    CKA            linear CKA; unbiased: not raised by few rows (of MOMENTS made with --norms)
    CCA            mean canonical correlation; SVCCA: of the principal directions of both;
                   PWCCA: weighted by what they carry of the source
    Procrustes     squared distance after the best rotation and scale, 0 the same, 2 unrelated

    \b
    Example:  crossgram compare a.zarr b.zarr c.zarr --plot spaces.svg
              crossgram accumulate a.zarr b.zarr c.zarr --norms -o moments.safetensors
              crossgram compare moments.safetensors --csv spaces.csv
    """
    import crossgram as cg
    from crossgram.heat_maps import write_heat_maps

    read = [*data, *filter(None, [options["weights"]])]
    check_reports(csv_file, plot, read, overwrite=overwrite)
    given = {name: value for name, value in options.items() if _is_given(ctx, name)}
    if names:
        given["names"] = names
    with cluster(workers, scheduler, options["device"]) as client, progress_bar() as progress:
        if client is not None:
            given["client"] = client
        compared = cg.compare(
            data[0] if len(data) == 1 else data,
            variance=variance,
            regularization=regularization,
            progress=progress,
            **given,
        )
    if csv_file is not None:
        write_csv(compared.pairs, csv_file, overwrite=overwrite)
    if plot is not None:
        write_heat_maps(compared, plot, overwrite=overwrite)
    emit(compared.to_dict() | {"csv": csv_file, "plot": plot}, as_json, _text(compared))


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _text(compared: Comparison) -> str:
    """Return a table of spaces and one of pairs; of long names, the pairs have the numbers."""
    from crossgram.comparison import MEASURES
    from crossgram_cli.text import aligned, columns

    spaces = [
        [
            str(k),
            space.name,
            f"{space.dim:,}",
            f"{space.rank:,}",
            f"{space.condition:.3g}",
            f"{space.components:,}",
        ]
        for k, space in enumerate(compared.spaces, 1)
    ]
    called = {name: name for _, name, *_ in spaces}
    if max(map(len, called)) > _LONGEST_NAME:
        called = {name: number for number, name, *_ in spaces}
    pairs = [
        [
            called[pair.source],
            called[pair.target],
            *(_figure(getattr(pair, measure)) for measure in MEASURES),
        ]
        for pair in compared.pairs
    ]
    top = ["source", "target", "R2", "cycle", "CKA", "unbiased", "CCA", "SVCCA", "PWCCA"]
    settings = [
        ("rows", f"{compared.rows:,}"),
        ("SVCCA", f"of {compared.variance:.4g} of the variance"),
    ]
    if compared.regularization:
        settings.append(("CCA, PWCCA", f"regularization {compared.regularization:g}"))
    notes = [("note", note) for note in compared.notes]
    return "\n\n".join(
        [
            columns([["", "space", "dim", "rank", "condition", "SVCCA keeps"], *spaces], text=2),
            columns([[*top, "Procrustes"], *pairs], text=2),
            aligned([*settings, *notes]),
        ]
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
