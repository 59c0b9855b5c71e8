"""crossgram evaluate verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crossgram_cli.cluster import cluster, cluster_options
from crossgram_cli.commands.evaluate.options import (
    device_option,
    fars_option,
    interval_options,
    interval_text,
    intervals_text,
    names_option,
    split_options,
)
from crossgram_cli.shared import computes, emit, progress_bar

if TYPE_CHECKING:
    from crossgram.evaluation import Pooling, Verification, VerificationReport

__all__ = ["verify"]


@click.command("verify")
@click.argument("source", type=click.Path())
@click.argument("target", required=False, type=click.Path())
@click.option("--map", "linear_map", type=click.Path(), help="From SOURCE to TARGET.")
@click.option("--back", type=click.Path(), help="A map from TARGET to SOURCE, to see both ways.")
@click.option(
    "--pairs",
    type=click.Path(),
    help="LFW's pairs.txt, a .csv with left, right (ids), same (1 or 0) and maybe fold, or "
    "insightface's .bin file; by default all pairs of the images, by their labels. With "
    "--templates, a .txt of lines of two templates and 1 or 0.",
)
@click.option(
    "--templates",
    type=click.Path(),
    help="Compare templates of images, as IJB-B and IJB-C do: a .txt of lines of an image, its "
    "template and its media, such as ijbc_face_tid_mid.txt. Embeddings of images are mapped "
    "first; a template is the sum over its media of the mean over the images of each.",
)
@click.option(
    "--normalize-images",
    is_flag=True,
    help="With --templates: divide embeddings by their lengths, after the map and before they are "
    "pooled (N of IJB's switches; F, image and mirrored image, is extract's --flip sum).",
)
@click.option(
    "--detector-scores",
    type=click.Path(),
    help="With --templates: multiply embeddings by the scores in this list, such as "
    "ijbc_name_5pts_score.txt, before they are pooled (D).",
)
@names_option
@click.option(
    "--metric",
    type=click.Choice(["cosine", "euclidean"]),
    default="cosine",
    show_default=True,
    help="How alike two embeddings are.",
)
@fars_option
@click.option(
    "--tar",
    type=click.Choice(["conservative", "nearest", "interpolate"]),
    default="conservative",
    show_default=True,
    help="How it is read off: at the lowest threshold that keeps the rate; at the point of "
    "scikit-learn's curve nearest to it, as insightface does; between the points.",
)
@interval_options
@split_options
@device_option
@cluster_options
@computes
def verify(
    source: str,
    target: str | None,
    names: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Tell pairs of images of one person from pairs of two.

    With SOURCE alone, within its space. With TARGET, the same images in the same order by another
    network: within each space; the source mapped to the target against the target, and against
    itself; and unmapped, cut or filled up with zeros, as the floor. Figures across spaces stand
    beside what is lost against the reference's own space, in points. More than 20 million pairs
    are scored by the workers of a cluster, if there is one.

    \b
    Example:  crossgram evaluate verify a.zarr --pairs pairs.txt
              crossgram evaluate verify a.zarr b.zarr --map a-to-b.safetensors \\
                  --back b-to-a.safetensors --fitted-on a-train.zarr
              crossgram evaluate verify a.zarr b.zarr --map a-to-b.safetensors \\
                  --templates ijbc_face_tid_mid.txt --pairs ijbc_template_pair_label.txt \\
                  --detector-scores ijbc_name_5pts_score.txt
    """
    import crossgram as cg

    with cluster(workers, scheduler, options["device"]) as client, progress_bar() as progress:
        report = cg.verify(
            source, target, names=names or None, client=client, progress=progress, **options
        )
    emit(report.to_dict(), as_json, _text(report))


def _text(report: VerificationReport) -> str:
    from crossgram_cli.text import aligned, columns

    fars = [point.far for point in report.comparisons[0].operating_points]
    has_accuracy = report.comparisons[0].accuracy is not None
    top = ["AUC", "EER", *(["accuracy"] if has_accuracy else []), *(f"TAR@{far:g}" for far in fars)]
    figures = [["comparison", *top]]
    losses = [["lost, in points", *top]]
    for own in report.comparisons:
        name = own.comparison if own.probe == "both" else f"{own.comparison}, {own.probe} probes"
        cells = []
        for figure, value in own.figures().items():
            spread = _spread(own, figure)
            cells.append(f"{100 * value:.2f}{spread}")
        figures.append([name, *_ordered(own, cells)])
        if own.native is not None:
            lost = [
                f"{value:+.2f}{interval_text(own.loss_intervals.get(figure), 1)}"
                for figure, value in own.loss.items()
            ]
            losses.append([name, *_ordered(own, lost)])
    tables = [columns(figures, text=1)]
    if len(losses) > 1:
        tables.append(columns(losses, text=1))
    left_out = f", {report.left_out:,} without an embedding left out" if report.left_out else ""
    lines = [
        ("figures", f"in percent{intervals_text(report)}"),
        ("images", f"{report.images:,} of {report.people:,} people{left_out}"),
        *_pooling_lines(report.pooling),
        ("pairs", f"{report.genuine_pairs:,} genuine, {report.impostor_pairs:,} impostor"),
        *(("note", note) for note in report.notes),
    ]
    return "\n\n".join([*tables, aligned(lines)])


def _pooling_lines(pooling: Pooling | None) -> list[tuple[str, str]]:
    if pooling is None:
        return []
    images = "divided by its length" if pooling.normalized_images else "with its length"
    images += ", times the detector's score" if pooling.detector_scores else ", without a score"
    return [
        ("templates", f"{pooling.templates:,} of {pooling.media:,} media"),
        ("pooled", f"after the map, each image's embedding {images}"),
    ]


def _ordered(own: Verification, cells: list[str]) -> list[str]:
    """Put accuracy behind the equal error rate."""
    return cells if own.accuracy is None else [*cells[:2], cells[-1], *cells[2:-1]]


def _spread(own: Verification, figure: str) -> str:
    if figure == "accuracy" and own.accuracy is not None:
        return f" +- {100 * own.accuracy.standard_error:.2f}"
    return interval_text(own.intervals.get(figure), 100)
