"""crossgram extract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossgram_cli.cluster import cluster_options
from crossgram_cli.models import model_options, pop_networks, pop_running, running_options
from crossgram_cli.options import layout_options
from crossgram_cli.shared import INTERRUPTED, computes, emit, overwrite_option, progress_bar

if TYPE_CHECKING:
    from crossgram.extraction import ExtractionReport

__all__ = ["command"]


@click.command("extract")
@click.argument("images", type=click.Path())
@click.argument("out", type=click.Path())
@model_options(required=True)
@click.option("--head", "heads", is_flag=True, help="Write the classifier that was cut off, too.")
@running_options("--device", "--precision")
@cluster_options
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "float64"]),
    default="float32",
    show_default=True,
    help="Of the store.",
)
@layout_options
@click.option(
    "--restart", is_flag=True, help="Throw away what an earlier run into OUT has done already."
)
@overwrite_option
@computes
def command(
    images: str,
    out: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Embed IMAGES with a network into the store OUT; with several, into one store each in OUT.

    IMAGES is a folder tree whose first folders are the labels; a .csv or .parquet list with the
    column path, and maybe id, label, box and landmarks; a .tar shard or a folder of them, as
    WebDataset has them; a .rec file with its .idx, as insightface distributes face sets, or a .bin
    file of pairs; LFW's pairs.txt beside the people's folders; IJB-C's name_5pts_score.txt, the
    images beside it or in ../loose_crop; a .npy or Zarr array of pixels.

    What is done is kept in OUT.partial until all is; after an interruption, the same command goes
    on from there.

    \b
    Example:  crossgram extract photos/ a.zarr --model torchvision:resnet50 \\
                  --model-weights resnet50-11ad3fa6.pth --head
              crossgram extract faces.rec stores/ --model old=onnx:old.onnx \\
                  --model new=onnx:new.onnx --recipe arcface-crops --flip sum --workers 2
    """
    from crossgram.output import beside

    try:
        from crossgram.extraction import extract_with_report

        networks, running = pop_networks(options), pop_running(options)
        with progress_bar() as progress:
            report = extract_with_report(
                images, networks, out, progress=progress, **running, **options
            )
    except KeyboardInterrupt:
        partial = beside(Path(out), "partial")
        if not partial.exists():
            raise
        click.echo(
            f"Interrupted: what is done is kept in {partial}; the same command goes on from there.",
            err=True,
        )
        click.get_current_context().exit(INTERRUPTED)
    emit(_result(report), as_json, _text(report))


def _result(report: ExtractionReport) -> dict[str, Any]:
    fresh = report.rows - report.resumed_rows
    return {
        "stores": {name: str(store.path) for name, store in report.stores.items()},
        "dims": {name: store.dim for name, store in report.stores.items()},
        "heads": {name: str(path) for name, path in report.heads.items()},
        "rows": report.rows,
        "bad_images": report.bad_images,
        "bad_image_table": None if report.bad_image_table is None else str(report.bad_image_table),
        "resumed_rows": report.resumed_rows,
        "batch_size": report.batch_size,
        "seconds": report.seconds,
        "rows_per_second": fresh / report.seconds,
        "waiting_seconds": report.spent.waiting,
        "network_seconds": report.spent.networks,
        "writing_seconds": report.spent.writing,
    }


def _text(report: ExtractionReport) -> str:
    from crossgram_cli.text import aligned

    lines = [
        (name, f"{store.path}: {store.rows:,} rows of {store.dim} {store.dtype}")
        for name, store in report.stores.items()
    ]
    lines += [(f"{name}'s head", str(path)) for name, path in report.heads.items()]
    if report.bad_images:
        plural = "s" if report.bad_images > 1 else ""
        masked = f"{report.bad_images:,} image{plural} that could not be used"
        lines.append(("masked", f"{masked}: see {report.bad_image_table}"))
    fresh, spent = report.rows - report.resumed_rows, report.spent
    resumed = f", {report.resumed_rows:,} rows of an earlier run" if report.resumed_rows else ""
    lines.append(
        ("time", f"{report.seconds:.1f} s, {fresh / report.seconds:,.0f} images/s{resumed}")
    )
    lines.append(
        (
            "spent",
            (
                f"{spent.networks:.1f} s in networks, {spent.waiting:.1f} s waiting for images, "
                f"{spent.writing:.1f} s writing, in batches of {report.batch_size}"
            ),
        )
    )
    return aligned(lines)
