"""crossgram fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossgram_cli.cluster import cluster, cluster_options
from crossgram_cli.options import (
    FiniteRange,
    checkpoint_option,
    forget_option,
    normalize_only_option,
    output_option,
    pass_options,
    solve_options,
)
from crossgram_cli.shared import computes, emit, overwrite_option, progress_bar

if TYPE_CHECKING:
    from crossgram.fitting import FitReport

__all__ = ["command"]

_CEILING_SECONDS = 0.2


@click.command("fit")
@click.argument("x", type=click.Path())
@click.argument("y", type=click.Path())
@output_option
@solve_options
@pass_options
@click.option(
    "--digits",
    type=FiniteRange(0, 15),
    default=6.0,
    show_default=True,
    help="Correct digits of a least-squares map: rows are read again as often as it takes and "
    "helps; 0 reads them once.",
)
@normalize_only_option
@cluster_options
@checkpoint_option
@click.option("--moments", type=click.Path(), help="Keep the moments too, in this file.")
@forget_option
@overwrite_option
@computes
def command(
    x: str,
    y: str,
    output: str,
    normalize: bool,
    normalize_only: str | None,
    folds: int | None,
    moments: str | None,
    workers: int | None,
    scheduler: str | None,
    checkpoint: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit the map from X to Y, two networks' embeddings of the same images.

    X and Y are stores, plain two-dimensional Zarr arrays or .npy files. They are read once,
    and again where digits are missing; row i must be the same image in both.

    \b
    Example:  crossgram fit a.zarr b.zarr -o a-to-b.safetensors
              crossgram fit a.zarr b.zarr -o a-to-b.safetensors --folds 5 --group-by labels
              crossgram fit a.zarr b.zarr -o a-to-b.safetensors --scheduler tcp://head:8786
    """
    import crossgram as cg
    from crossgram.checkpoint import clear_checkpoint
    from crossgram.output import check_output, refuse_overlap

    for path in (output, moments):
        if path is not None:
            check_output(path, overwrite=overwrite)
            refuse_overlap(Path(path), x, y, *filter(None, [options["weights"]]))
    if moments is not None:
        refuse_overlap(Path(moments), output)
    with cluster(workers, scheduler, options["device"]) as client, progress_bar() as progress:
        report = cg.fit_with_report(
            x,
            y,
            normalize=normalize_only or normalize,
            folds=folds or 0,
            progress=progress,
            record=moments is not None,
            checkpoint=checkpoint,
            client=client,
            **options,
        )
    report.map.save(output, overwrite=overwrite)
    if moments is not None:
        report.moments.save(moments, overwrite=overwrite)
    if checkpoint is not None:
        clear_checkpoint(checkpoint)
    result = report.to_dict() | {"map": output, "moments": moments}
    if as_json and report.plan.device == "cpu" and client is None:
        result |= _ceiling(report)
    emit(result, as_json, _text(report, output, moments))


def _ceiling(report: FitReport) -> dict[str, float]:
    """Return the rate of this run's products at best, and the share of the run they would take."""
    from crossgram.ceilings import product_rate

    rate = product_rate(report.plan, _CEILING_SECONDS)
    return {
        "ceiling_flops_per_second": rate,
        "share_of_ceiling": report.plan.flops / rate / report.seconds,
    }


def _text(report: FitReport, output: str, moments: str | None) -> str:
    from crossgram_cli.text import aligned, map_lines, size

    plan = report.plan
    lines = [
        *map_lines(report.map, output),
        (
            "time",
            (
                f"{report.seconds:.2f} s, {plan.rows / report.seconds:,.0f} rows/s, "
                f"{size(plan.bytes_to_read / report.seconds)}/s"
            ),
        ),
        (
            "memory",
            (
                f"{size(report.peak_memory_bytes)} at its peak, "
                f"{size(plan.planned_memory_bytes)} planned"
            ),
        ),
    ]
    if moments is not None:
        lines.append(("moments", moments))
    return aligned(lines)
