"""crossgram evaluate identify and gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from crossgram_cli.cluster import cluster, cluster_options
from crossgram_cli.commands.evaluate.options import (
    device_option,
    interval_options,
    interval_text,
    intervals_text,
    names_option,
    split_options,
)
from crossgram_cli.options import FiniteRange, with_options
from crossgram_cli.shared import computes, emit, progress_bar

if TYPE_CHECKING:
    from crossgram.evaluation import Identification, IdentificationReport

__all__ = ["gate", "identify"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_RANKS = (1, 5, 10)
_FPIRS = (1e-1, 1e-2, 1e-3)
_NOT_MET = 3


def _search_options(native_needed: bool) -> Callable[[_Command], _Command]:
    options = [
        click.argument("probes", type=click.Path()),
        click.argument("gallery", type=click.Path()),
        click.option(
            "--map",
            "linear_map",
            type=click.Path(),
            required=native_needed,
            help="From the space of PROBES to that of GALLERY.",
        ),
        click.option(
            "--native",
            type=click.Path(),
            required=native_needed,
            help="The images of PROBES by GALLERY's network: its search is what is to be kept.",
        ),
        click.option(
            "--reembedded",
            type=click.Path(),
            help="The images of GALLERY by the network of PROBES: its nearest entries are what is "
            "to be found.",
        ),
        names_option,
        click.option(
            "--rank",
            "ranks",
            type=click.IntRange(1),
            multiple=True,
            default=_RANKS,
            show_default="1, 5, 10",
            help="To give the CMC at. Repeatable.",
        ),
        click.option(
            "--fpir",
            "fpirs",
            type=FiniteRange(0, 1, min_open=True, max_open=True),
            multiple=True,
            default=_FPIRS,
            show_default="1e-1 to 1e-3",
            help="False positive identification rate to give TPIR and threshold at. Repeatable.",
        ),
        click.option(
            "--nearest",
            type=click.IntRange(1),
            default=10,
            show_default=True,
            help="Entries to compare with those of the re-embedded gallery.",
        ),
        device_option,
    ]
    return lambda command: with_options(command, options)


@click.command("identify")
@_search_options(native_needed=False)
@interval_options
@split_options
@cluster_options
@computes
def identify(as_json: bool, **options: Any) -> None:
    """Search GALLERY for every image of PROBES: the migration of a face database.

    Both have labels. The gallery is streamed; of a probe's own image, by its id, none is found.
    Beside the share of searches that succeed stand what is kept of the native search, and the
    threshold for each false positive rate: a threshold of one space does not hold in another.

    \b
    rank-k         of people who are enrolled, the share whose best entry is among the k first
    TPIR@FPIR      the share whose best entry is the first and above the threshold that lets so
                   many searches for people who are not enrolled through

    \b
    Example:  crossgram evaluate identify a-probes.zarr b-gallery.zarr \\
                  --map a-to-b.safetensors --native b-probes.zarr --reembedded a-gallery.zarr
    """
    report = _run(options)
    emit(report.to_dict(), as_json, _text(report))


@click.command("gate")
@_search_options(native_needed=True)
@click.option(
    "--min",
    "least",
    type=FiniteRange(0),
    required=True,
    help="Share of the native search's figure that must be kept, such as 0.98.",
)
@click.option(
    "--figure",
    default="rank-1",
    show_default=True,
    help="Which: rank-1 and others of --rank, tpir@0.01 and others of --fpir.",
)
@interval_options
@split_options
@cluster_options
@computes
@click.pass_context
def gate(ctx: click.Context, /, least: float, figure: str, as_json: bool, **options: Any) -> None:
    """Search as `identify` does, and fail with exit status 3 if the map keeps too little.

    \b
    Example:  crossgram evaluate gate a-probes.zarr b-gallery.zarr --map a-to-b.safetensors \\
                  --native b-probes.zarr --min 0.98 --figure rank-1
    """
    report = _run(options)
    mapped = report.searches[1]
    if figure not in mapped.kept:
        raise click.BadParameter(
            f"{figure!r} is not among the figures: {', '.join(mapped.kept)}", param_hint="--figure"
        )
    kept = mapped.kept[figure]
    is_met = kept >= least
    verdict = {"figure": figure, "kept": kept, "min": least, "met": is_met}
    interval = interval_text(mapped.kept_intervals.get(figure), 100)
    emit(
        {**report.to_dict(), "gate": verdict},
        as_json,
        f"{'met' if is_met else 'NOT met'}: {mapped.search} keeps {100 * kept:.2f} %{interval} of "
        f"the {figure} of {report.native}, at least {100 * least:g} % is asked for",
    )
    if not is_met:
        ctx.exit(_NOT_MET)


def _run(options: dict[str, Any]) -> IdentificationReport:
    import crossgram as cg

    names = options.pop("names") or None
    workers, scheduler = options.pop("workers"), options.pop("scheduler")
    with cluster(workers, scheduler, options["device"]) as client, progress_bar() as progress:
        return cg.identify(
            options.pop("probes"),
            options.pop("gallery"),
            names=names,
            client=client,
            progress=progress,
            **options,
        )


def _text(report: IdentificationReport) -> str:
    from crossgram_cli.text import aligned, columns

    first = report.searches[0]
    top = [
        *(f"rank-{rank}" for rank in first.ranks),
        *(f"TPIR@{point.fpir:g}" for point in first.open_set),
    ]
    figures, kept, thresholds = [["search", *top]], [["kept", *top]], [["threshold"]]
    thresholds[0] += [f"FPIR {point.fpir:g}" for point in first.open_set]
    lists = [["nearest entries", "found", "lists changed"]]
    for own in report.searches:
        figures.append([own.search, *_cells(own, own.figures(), own.intervals)])
        if own.kept:
            kept.append([own.search, *_cells(own, own.kept, own.kept_intervals)])
        thresholds.append([own.search, *(f"{point.threshold:.4f}" for point in own.open_set)])
        if own.recall is not None and own.changed_lists is not None:
            lists.append([own.search, f"{100 * own.recall:.2f}", f"{100 * own.changed_lists:.2f}"])
    tables: list[Sequence[Sequence[str]]] = [figures, kept, thresholds, lists]
    left_out = f", {report.left_out:,} without an embedding left out" if report.left_out else ""
    lines = [
        ("figures", f"in percent{intervals_text(report)}"),
        ("probes", f"{report.probes:,}, of people who are enrolled {report.mated:,}{left_out}"),
        ("gallery", f"{report.gallery:,} entries"),
        ("false positives", f"in {report.non_mated_searches:,} searches: {report.non_mated}"),
    ]
    if len(lists) > 1:
        lines.append(("nearest entries", f"the {report.nearest} first"))
    lines += [("note", note) for note in report.notes]
    shown = [columns(table, text=1) for table in tables if len(table) > 1 and len(table[0]) > 1]
    return "\n\n".join([*shown, aligned(lines)])


def _cells(own: Identification, values: Any, spreads: Any) -> list[str]:
    return [
        f"{100 * values[name]:.2f}{interval_text(spreads.get(name), 100)}"
        if name in values
        else "-"
        for name in own.figures()
    ]
