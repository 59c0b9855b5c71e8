"""crossgram moments merge, add and subtract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossgram_cli.options import output_option, reading_options
from crossgram_cli.shared import computes, emit, overwrite_option, progress_bar

if TYPE_CHECKING:
    from crossgram.revision import Revision

__all__ = ["command"]


@click.group("moments")
def command() -> None:
    """Change moments without reading again what they were made of.

    The result equals that of a fresh run over the rows that are then in it, up to rounding. The
    file records its history, which `crossgram inspect` shows.

    \b
    Example:  crossgram moments merge monday.st tuesday.st -o both.st
              crossgram moments add both.st a-wednesday.zarr b-wednesday.zarr -o three.st
              crossgram moments subtract three.st a.zarr b.zarr --labels people.txt -o fewer.st
    """


@command.command("merge")
@click.argument("moments", nargs=-1, required=True, type=click.Path())
@output_option
@overwrite_option
@computes
def merge(moments: tuple[str, ...], output: str, overwrite: bool, as_json: bool) -> None:
    """Combine the MOMENTS of shards, days or institutions, which need not share embeddings.

    They must be of the same spaces and blocks, and all with the same folds or all without.

    \b
    Example:  crossgram moments merge shard-1.st shard-2.st shard-3.st -o all.st
    """
    import crossgram as cg

    _check_output(output, overwrite, *moments)
    revision = cg.merge_moments([cg.load_moments(path) for path in moments], moments)
    _finish(revision, output, overwrite, as_json)


@command.command("add")
@click.argument("moments", type=click.Path())
@click.argument("stores", nargs=-1, required=True, type=click.Path())
@output_option
@reading_options
@overwrite_option
@computes
def add(
    moments: str,
    stores: tuple[str, ...],
    output: str,
    overwrite: bool,
    as_json: bool,
    **reading: Any,
) -> None:
    """Add the rows of STORES, one for each space of MOMENTS and in the same order.

    Blocks, normalisation, precision and folds are those of the file.

    \b
    Example:  crossgram moments add moments.st a-today.zarr b-today.zarr -o larger.st
    """
    import crossgram as cg

    _check_output(output, overwrite, moments, *stores)
    with progress_bar() as progress:
        revision = cg.add_rows(cg.load_moments(moments), stores, progress=progress, **reading)
    _finish(revision, output, overwrite, as_json)


@command.command("subtract")
@click.argument("moments", type=click.Path())
@click.argument("stores", nargs=-1, type=click.Path())
@click.option(
    "--ids",
    type=click.Path(),
    metavar="FILE",
    help="Remove only rows with these ids: a text file, one per line.",
)
@click.option(
    "--labels",
    type=click.Path(),
    metavar="FILE",
    help="Remove only rows with these labels (people): a text file, one per line.",
)
@click.option(
    "--moments",
    "other",
    type=click.Path(),
    metavar="OTHER",
    help="Remove the rows that this moments file is of, instead of rows of stores.",
)
@click.option(
    "--allow-unknown",
    is_flag=True,
    help="Warn, instead of refusing, where the history does not name what is to be removed; for "
    "rows that now lie in another store.",
)
@output_option
@reading_options
@overwrite_option
@computes
def subtract(
    moments: str,
    stores: tuple[str, ...],
    ids: str | None,
    labels: str | None,
    other: str | None,
    allow_unknown: bool,
    output: str,
    overwrite: bool,
    as_json: bool,
    **reading: Any,
) -> None:
    """Remove rows from MOMENTS: all of STORES, or some of them, or those of another file.

    STORES are those that were accumulated, in the same order; with --ids or --labels little
    besides the listed rows is read. Removing most of the rows costs digits, which is said.

    \b
    Example:  crossgram moments subtract moments.st a.zarr b.zarr --labels people.txt -o fewer.st
              crossgram moments subtract moments.st --moments monday.st -o fewer.st
    """
    import crossgram as cg
    from crossgram.selection import read_list

    if bool(stores) == (other is not None):
        raise click.UsageError("give either the STORES whose rows are to be removed or --moments")
    if other is not None and (ids or labels or _given(reading)):
        raise click.UsageError("--moments takes whole files; give STORES to choose rows of them")
    inputs = (path for path in (moments, *stores, other, ids, labels) if path is not None)
    _check_output(output, overwrite, *inputs)
    before = cg.load_moments(moments)
    if other is not None:
        revision = cg.subtract_moments(
            before, cg.load_moments(other), label=other, allow_unknown=allow_unknown
        )
    else:
        with progress_bar() as progress:
            revision = cg.subtract_rows(
                before,
                stores,
                ids=None if ids is None else read_list(ids),
                labels=None if labels is None else read_list(labels),
                allow_unknown=allow_unknown,
                progress=progress,
                **reading,
            )
    _finish(revision, output, overwrite, as_json)


def _given(reading: dict[str, Any]) -> bool:
    return any(value is not None for name, value in reading.items() if name != "on_nonfinite")


def _check_output(output: str, overwrite: bool, *inputs: str) -> None:
    from crossgram.output import check_output, refuse_overlap

    check_output(output, overwrite=overwrite)
    refuse_overlap(Path(output), *inputs)


def _finish(revision: Revision, output: str, overwrite: bool, as_json: bool) -> None:
    from crossgram.inspection import describe
    from crossgram_cli.text import aligned, moments_lines

    revision.moments.save(output, overwrite=overwrite)
    result = describe(output) | {
        "moments": output,
        "changed_rows": revision.rows,
        "digits_left": revision.digits,
        "warnings": list(revision.warnings),
    }
    shown = {name: value for name, value in result.items() if name != "warnings"}
    if revision.digits is not None:
        shown["digits_left"] = f"{revision.digits:.1f}"
    warnings = [("warning", text) for text in revision.warnings]
    emit(result, as_json, aligned([*moments_lines(shown), *warnings]))
